//! What is sent, when, to whom.

use super::*;

#[test]
fn a_first_call_opens_a_session_and_goes_out_when_it_is_open() {
    let mut rig = Rig::new(config(FaultModel::Byzantine, 4));
    assert_eq!(rig.core.next_deadline(), Time::NEVER);
    let call = rig.call("a");
    assert!(rig.take_bundle().opens_session());
    rig.say(0, Reply::Opened(SESSION));
    assert_eq!(rig.take_sent(), []);
    rig.say(1, Reply::Opened(SESSION));
    let bundle = rig.take_bundle();
    assert_eq!((bundle.session(), bundle.first()), (SESSION, OpNumber(1)));
    rig.results(0, 1, &["A"]);
    assert_eq!(rig.take_done(), []);
    rig.results(1, 1, &["A"]);
    assert_eq!(rig.take_done(), [(call, Ok(bytes("A")))]);
    assert_eq!(rig.core.next_deadline(), Time::NEVER);
}

#[test]
fn a_lone_call_goes_to_the_leader_at_once() {
    let mut rig = Rig::byzantine();
    rig.call("a");
    assert_eq!(rig.sent[0].0, Some(NodeId(0)));
    assert_eq!(rig.take_bundle().operations(), [bytes("a")]);
}

#[test]
fn calls_gather_behind_what_is_in_flight_and_share_one_signature() {
    let mut rig = Rig::byzantine();
    let before = rig.signatures();
    for i in 0..250 {
        rig.call(&i.to_string());
    }
    // 1, 1, 2, 4: as many as are in flight already, in at most four bundles; 242 wait.
    let sizes: Vec<usize> = rig
        .take_sent()
        .iter()
        .map(|(_, message)| decode(message).operations().len())
        .collect();
    assert_eq!(sizes, [1, 1, 2, 4]);
    for replica in 0..2 {
        rig.results(replica, 1, &["x"]);
    }
    let sizes: Vec<usize> = rig
        .take_sent()
        .iter()
        .map(|(_, message)| decode(message).operations().len())
        .collect();
    assert_eq!(sizes, [242]);
    assert_eq!(rig.signatures() - before, 5);
}

#[test]
fn hundreds_of_callers_who_call_again_settle_on_one_signature_for_all() {
    let mut rig = Rig::byzantine();
    for i in 0..250 {
        rig.call(&i.to_string());
    }
    let mut signatures = 0;
    for _ in 0..10 {
        let before = rig.signatures();
        let sent = rig.take_sent();
        for (_, message) in &sent {
            let bundle = decode(message);
            for replica in 0..2 {
                let results = bundle.operations().iter().map(|_| ok("x")).collect();
                let (session, first) = (SESSION, bundle.first());
                rig.core.on_message(
                    rig.now,
                    NodeId(replica),
                    ReplyMessage {
                        hint: rig.hint,
                        reply: Reply::Results {
                            session,
                            first,
                            results,
                        },
                    },
                );
            }
        }
        // Every caller that is answered calls again before the driver polls.
        let mut answered = 0;
        while let Some(Output::Completed { .. }) = rig.core.next_output() {
            answered += 1;
        }
        rig.calls(answered);
        signatures = rig.signatures() - before;
    }
    assert_eq!(signatures, 1);
    assert_eq!(rig.take_bundle().operations().len(), 250);
}

#[test]
fn a_bundle_keeps_to_the_limits_of_the_cluster() {
    let mut small = config(FaultModel::Byzantine, 4);
    small.limits.operation_bytes_max = 1000;
    small.limits.bundle_bytes_max = 2100;
    small.limits.bundle_operations_max = 3;
    let mut rig = Rig::open(small);
    for size in [1000, 1000, 10, 10, 10, 10] {
        rig.core.call(rig.now, Bytes::from(vec![0; size]));
    }
    rig.poll();
    let bundles: Vec<RequestBundle> = rig
        .take_sent()
        .iter()
        .map(|(_, message)| decode(message))
        .collect();
    let sizes: Vec<usize> = bundles
        .iter()
        .map(|bundle| bundle.operations().len())
        .collect();
    assert_eq!(sizes, [1, 3]);
    assert!(bundles.iter().all(|bundle| bundle.raw().len() <= 2100));
    let large = rig.core.call(rig.now, Bytes::from(vec![0; 1001]));
    rig.poll();
    let error = CallError::TooLarge {
        found_bytes: 1001,
        limit_bytes: 1000,
    };
    assert_eq!(rig.take_done(), [(large, Err(error))]);
}

#[test]
fn what_is_in_flight_stays_within_the_replies_that_replicas_keep() {
    let mut narrow = config(FaultModel::Byzantine, 4);
    narrow.limits.bundle_operations_max = 4;
    narrow.limits.session_replies_max = 10;
    let mut rig = Rig::open(narrow);
    rig.calls(30);
    let in_flight = |rig: &mut Rig| -> Vec<(u64, u64)> {
        let sent = rig.take_sent();
        sent.iter()
            .map(|(_, m)| (decode(m).first().0, decode(m).last().0))
            .collect()
    };
    assert_eq!(in_flight(&mut rig), [(1, 4), (5, 8), (9, 10)]);
    // The oldest holds the window, whatever came behind it.
    for replica in 0..2 {
        rig.results(replica, 5, &["x"; 4]);
    }
    assert_eq!(in_flight(&mut rig), []);
    for replica in 0..2 {
        rig.results(replica, 1, &["x"; 4]);
    }
    assert_eq!(in_flight(&mut rig), [(11, 14), (15, 18)]);
    assert_eq!(rig.take_done().len(), 8);
}

#[test]
fn trap_a_lost_message_is_sent_again_to_all_the_same_bytes() {
    let mut rig = Rig::byzantine();
    let call = rig.call("a");
    let first = rig.take_sent();
    assert_eq!(first[0].0, Some(NodeId(0)));
    rig.pass(Duration::from_secs(9));
    let again = rig.take_sent();
    assert!(again.len() >= 4, "only {} times in 9 s", again.len());
    for (to, message) in &again {
        assert_eq!((to, message), (&None, &first[0].1));
    }
    for replica in [2, 3] {
        rig.results(replica, 1, &["A"]);
    }
    assert_eq!(rig.take_done(), [(call, Ok(bytes("A")))]);
}

#[test]
fn trap_a_lost_request_for_a_session_is_sent_again() {
    let mut rig = Rig::new(config(FaultModel::Byzantine, 4));
    rig.call("a");
    let first = rig.take_sent();
    rig.pass(Duration::from_secs(5));
    let again = rig.take_sent();
    assert!(again.len() >= 2 && again.iter().all(|sent| sent == &first[0]));
}

#[test]
fn retransmission_backs_off_to_its_cap() {
    let mut patient = config(FaultModel::Byzantine, 4);
    patient.call_timeout = Duration::from_secs(100);
    let mut rig = Rig::open(patient);
    rig.call("a");
    rig.take_sent();
    rig.pass(Duration::from_secs(50));
    let backing_off = rig.take_sent().len();
    rig.pass(Duration::from_secs(49));
    assert_eq!(rig.take_sent().len(), 10, "one every 5 s");
    assert!((10..25).contains(&backing_off), "{backing_off}");
}

#[test]
fn a_lying_hint_costs_one_time_out_not_the_client() {
    let mut rig = Rig::byzantine();
    rig.hint = LeaderHint {
        view: View(900),
        leader: Some(NodeId(3)),
    };
    rig.results(3, 1, &["x"]);
    rig.hint = LeaderHint {
        view: View(0),
        leader: Some(NodeId(0)),
    };
    rig.call("a");
    assert_eq!(rig.sent[0].0, Some(NodeId(0)), "one replica's word");
    // The true leader is mute towards this client: what comes next goes to all.
    rig.pass(Duration::from_secs(1));
    rig.results(1, 1, &["A"]);
    rig.results(2, 1, &["A"]);
    rig.take_sent();
    rig.call("b");
    assert_eq!(rig.sent[0].0, None);
}

#[test]
fn when_the_connection_to_the_leader_is_lost_all_are_asked_at_once() {
    let mut rig = Rig::byzantine();
    rig.call("a");
    let first = rig.take_sent();
    rig.core.disconnected(NodeId(0));
    rig.poll();
    assert_eq!(rig.take_sent(), [(None, first[0].1.clone())]);
    rig.call("b");
    assert_eq!(rig.take_sent()[0].0, None);
    rig.core.connected(NodeId(0));
    rig.results(1, 1, &["x", "x"]);
    rig.results(2, 1, &["x", "x"]);
    rig.call("c");
    assert_eq!(rig.take_sent()[0].0, Some(NodeId(0)));
}

#[test]
fn too_many_calls_are_refused_as_busy() {
    let mut narrow = config(FaultModel::Byzantine, 4);
    narrow.calls_waiting_max = 2;
    let mut rig = Rig::new(narrow);
    for _ in 0..2 {
        rig.call("x");
    }
    let third = rig.call("x");
    assert_eq!(
        rig.take_done(),
        [(third, Err(CallError::Busy { waiting: 2 }))]
    );
    let mut small = config(FaultModel::Byzantine, 4);
    small.bytes_waiting_max = small.limits.operation_bytes_max;
    let mut rig = Rig::new(small);
    rig.core.call(rig.now, Bytes::from(vec![0; 1 << 20]));
    let second = rig.call("x");
    assert_eq!(
        rig.take_done(),
        [(second, Err(CallError::Busy { waiting: 1 }))]
    );
}

/// Whom the next bundle names.
fn named(rig: &mut Rig) -> Vec<u32> {
    rig.take_sent();
    rig.call("a");
    let repliers = rig.take_bundle().repliers();
    repliers.members().map(|replica| replica.0).collect()
}

#[test]
fn a_bundle_names_as_many_repliers_as_have_to_agree_the_leader_among_them() {
    // The instance is 9, so the client's own replica is number 1.
    assert_eq!(named(&mut Rig::byzantine()), [0, 1]);
    let mut reading = config(FaultModel::Byzantine, 4);
    reading.unordered_reads = true;
    assert_eq!(named(&mut Rig::open(reading)), [0, 1, 2]);
    assert_eq!(named(&mut Rig::open(config(FaultModel::Crash, 5))), [0]);
    let mut leaderless = Rig::open(config(FaultModel::Crash, 3));
    leaderless.hint.leader = None;
    (0..3).for_each(|replica| leaderless.say(replica, Reply::Opened(SESSION)));
    assert!(named(&mut leaderless).is_empty(), "the first answer counts");
}

#[test]
fn a_mute_replier_costs_one_time_out_and_is_passed_over() {
    let mut rig = Rig::byzantine();
    assert_eq!(named(&mut rig), [0, 1]);
    rig.results(0, 1, &["b"]);
    rig.pass(Duration::from_millis(501));
    let sent = rig.take_sent();
    assert!(sent.len() == 1 && sent[0].0.is_none(), "{sent:?}");
    rig.results(2, 1, &["b"]);
    assert_eq!(rig.take_done().len(), 1);
    assert_eq!(named(&mut rig), [0, 2]);
}

#[test]
fn repliers_that_contradict_each_other_are_both_passed_over() {
    let mut rig = Rig::byzantine();
    assert_eq!(named(&mut rig), [0, 1]);
    rig.results(0, 1, &["b"]);
    rig.results(1, 1, &["LIE"]);
    rig.pass(Duration::from_millis(501));
    rig.results(2, 1, &["b"]);
    assert_eq!(rig.take_done().len(), 1);
    while rig.core.leader.target() == Target::All {}
    assert_eq!(named(&mut rig), [2, 3]);
}

#[test]
fn when_the_connection_to_a_replier_is_lost_all_are_asked_at_once() {
    let mut rig = Rig::byzantine();
    assert_eq!(named(&mut rig), [0, 1]);
    rig.core.disconnected(NodeId(1));
    rig.poll();
    let sent = rig.take_sent();
    assert!(sent.len() == 1 && sent[0].0.is_none(), "{sent:?}");
    rig.core.disconnected(NodeId(2));
    rig.poll();
    assert_eq!(rig.take_sent(), [], "all were asked already");
}
