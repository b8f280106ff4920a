//! Unordered reads.

use super::*;
use atlas_smr_core::client_message::ReadRequest;

fn read_of(message: &ClientMessage) -> &ReadRequest {
    let ClientMessage::Read(read) = message else {
        panic!("no read: {message:?}")
    };
    read
}

fn reading() -> Rig {
    let mut config = config(FaultModel::Byzantine, 4);
    config.unordered_reads = true;
    Rig::open(config)
}

fn answer(rig: &mut Rig, replica: u32, call: CallId, text: &str) {
    rig.say(
        replica,
        Reply::Read {
            id: call.0,
            result: ok(text),
            at: SeqNo(5),
        },
    );
}

#[test]
fn a_linearizable_read_takes_a_quorum_of_equal_answers() {
    let mut rig = reading();
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    let sent = rig.take_sent();
    assert_eq!((sent.len(), sent[0].0), (1, None));
    assert_eq!(read_of(&sent[0].1).operation, bytes("r"));
    for replica in [0, 1, 1, 1] {
        answer(&mut rig, replica, read, "R");
    }
    assert_eq!(rig.take_done(), []);
    answer(&mut rig, 3, read, "R");
    assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
    answer(&mut rig, 2, read, "R");
    assert_eq!(rig.take_done(), []);
}

#[test]
fn a_read_that_replicas_disagree_on_refuse_or_ignore_is_ordered() {
    let disagree: &dyn Fn(&mut Rig, CallId) = &|rig, read| {
        for (replica, text) in [(0, "old"), (1, "new"), (2, "old"), (3, "new")] {
            answer(rig, replica, read, text);
        }
    };
    let refuse: &dyn Fn(&mut Rig, CallId) = &|rig, read| {
        rig.say(0, Reply::ReadRefused(read.0));
        rig.say(0, Reply::ReadRefused(read.0));
        assert_eq!(rig.take_sent(), []);
        rig.say(1, Reply::ReadRefused(read.0));
    };
    let ignore: &dyn Fn(&mut Rig, CallId) = &|rig, _| rig.pass(Duration::from_millis(201));
    for case in [disagree, refuse, ignore] {
        let mut rig = reading();
        let read = rig
            .core
            .read(rig.now, bytes("r"), Consistency::Linearizable);
        rig.poll();
        rig.take_sent();
        case(&mut rig, read);
        assert_eq!(rig.take_bundle().operations(), [bytes("r")]);
        for replica in 0..3 {
            rig.results(replica, 1, &["R"]);
        }
        assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
    }
}

#[test]
fn linearizable_reads_are_ordered_where_the_cluster_says_so() {
    let mut rig = Rig::byzantine();
    rig.core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    assert_eq!(rig.take_bundle().operations(), [bytes("r")]);
}

#[test]
fn a_stale_read_asks_f_plus_1_then_all_then_the_order() {
    let mut rig = Rig::byzantine();
    let read = rig.core.read(rig.now, bytes("r"), Consistency::Stale);
    rig.poll();
    let asked: Vec<_> = rig
        .take_sent()
        .iter()
        .map(|(to, _)| to.unwrap().0)
        .collect();
    assert_eq!(asked, [1, 2]);
    answer(&mut rig, 1, read, "old");
    answer(&mut rig, 2, read, "new");
    let sent = rig.take_sent();
    assert_eq!((sent.len(), sent[0].0), (1, None));
    assert_eq!(read_of(&sent[0].1).id, read.0);
    answer(&mut rig, 3, read, "x");
    answer(&mut rig, 0, read, "y");
    assert_eq!(rig.take_bundle().operations(), [bytes("r")]);
    for replica in 0..2 {
        rig.results(replica, 1, &["R"]);
    }
    assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
}

#[test]
fn a_crash_cluster_reads_from_one_replica_and_asks_others_when_it_is_mute() {
    let mut config = config(FaultModel::Crash, 3);
    config.unordered_reads = true;
    let mut rig = Rig::open(config);
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    assert_eq!(rig.take_sent()[0].0, Some(NodeId(0)), "the leader");
    rig.pass(Duration::from_millis(201));
    assert_eq!(rig.take_sent()[0].0, None);
    answer(&mut rig, 2, read, "R");
    assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
}
