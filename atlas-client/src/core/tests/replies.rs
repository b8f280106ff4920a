//! What is believed, and how calls end.

use super::*;

#[test]
fn row_33_f_forged_replies_are_never_accepted() {
    let mut rig = Rig::byzantine();
    let call = rig.call("a");
    for forged in ["x", "y", "x"] {
        rig.results(3, 1, &[forged]);
    }
    rig.results(0, 1, &["A"]);
    // Not a replica at all.
    rig.results(4, 1, &["x"]);
    rig.results(u32::MAX, 1, &["x"]);
    assert_eq!(rig.take_done(), []);
    rig.results(1, 1, &["A"]);
    assert_eq!(rig.take_done(), [(call, Ok(bytes("A")))]);
}

#[test]
fn row_33_a_liar_opens_no_session_and_ends_none() {
    let mut rig = Rig::new(config(FaultModel::Byzantine, 4));
    rig.call("a");
    rig.say(3, Reply::Opened(SessionId(66)));
    rig.say(3, Reply::Opened(SessionId(66)));
    rig.say(2, Reply::Opened(SESSION));
    assert_eq!(rig.core.session(), None);
    rig.say(1, Reply::Opened(SESSION));
    rig.say(3, Reply::SessionExpired(SESSION));
    rig.say(3, Reply::SessionExpired(SESSION));
    assert_eq!(rig.core.session(), Some(SESSION));
}

#[test]
fn a_vote_counts_once_however_often_a_replica_repeats_it() {
    let mut rig = Rig::byzantine();
    rig.calls(3);
    for _ in 0..4 {
        rig.results(2, 1, &["a", "b", "c"]);
        rig.results(2, 2, &["b"]);
    }
    assert_eq!(rig.take_done(), []);
}

#[test]
fn srds21_ordered_calls_wait_for_a_quorum_where_reads_are_not_ordered() {
    let mut reading = config(FaultModel::Byzantine, 4);
    reading.unordered_reads = true;
    let mut rig = Rig::open(reading);
    rig.call("a");
    rig.results(0, 1, &["A"]);
    rig.results(1, 1, &["A"]);
    assert_eq!(rig.take_done(), []);
    rig.results(2, 1, &["A"]);
    assert_eq!(rig.take_done().len(), 1);
}

#[test]
fn a_crash_cluster_s_first_reply_is_enough() {
    let mut rig = Rig::open(config(FaultModel::Crash, 3));
    let call = rig.call("a");
    rig.results(2, 1, &["A"]);
    assert_eq!(rig.take_done(), [(call, Ok(bytes("A")))]);
}

#[test]
fn partial_replies_from_caches_count_where_they_lie() {
    let mut rig = Rig::byzantine();
    rig.call("1");
    rig.calls(4);
    // Two bundles, 1 and 2 to 5; runs that begin before, end behind and lie across them.
    rig.results(1, 1, &["1", "2", "3"]);
    rig.results(2, 3, &["3", "4", "5", "6", "7"]);
    rig.results(3, 1, &["1"]);
    let done: Vec<Bytes> = rig
        .take_done()
        .into_iter()
        .map(|(_, result)| result.unwrap())
        .collect();
    assert_eq!(done, [bytes("3"), bytes("1")]);
    rig.results(0, 2, &["2", "3", "4", "5"]);
    let done: Vec<Bytes> = rig
        .take_done()
        .into_iter()
        .map(|(_, result)| result.unwrap())
        .collect();
    assert_eq!(done, [bytes("2"), bytes("4"), bytes("5")]);
}

#[test]
fn bundles_may_be_answered_out_of_order() {
    let mut rig = Rig::byzantine();
    let (one, two) = (rig.call("1"), rig.call("2"));
    for replica in [0, 3] {
        rig.results(replica, 2, &["two"]);
    }
    assert_eq!(rig.take_done(), [(two, Ok(bytes("two")))]);
    for replica in [2, 3] {
        rig.results(replica, 1, &["one"]);
    }
    assert_eq!(rig.take_done(), [(one, Ok(bytes("one")))]);
    rig.take_sent();
    rig.call("3");
    assert_eq!(rig.take_bundle().acknowledged(), OpNumber(2));
}

#[test]
fn an_expired_session_leaves_its_calls_in_doubt_and_later_ones_get_a_new_one() {
    let mut rig = Rig::byzantine();
    let lost = rig.call("1");
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    rig.take_sent();
    rig.say(1, Reply::SessionExpired(SESSION));
    assert_eq!(rig.take_done(), []);
    rig.say(2, Reply::SessionExpired(SESSION));
    let request = RequestId {
        client: rig.core.id(),
        session: SESSION,
        operation: OpNumber(1),
    };
    let doubt = Doubt::SessionExpired;
    let error = CallError::UnknownOutcome { request, doubt };
    assert_eq!(rig.take_done(), [(lost, Err(error))]);
    // The read had no effect: it goes on in the next session.
    assert!(rig.take_bundle().opens_session());
    let late = rig.call("2");
    // A replica that lags behind still takes the old one for open.
    for replica in 0..4 {
        rig.say(replica, Reply::Opened(SESSION));
    }
    assert_eq!(rig.core.session(), None);
    for replica in 0..2 {
        rig.say(replica, Reply::Opened(SessionId(8)));
    }
    let bundle = rig.take_bundle();
    assert_eq!(
        (bundle.session(), bundle.first()),
        (SessionId(8), OpNumber(1))
    );
    assert_eq!(bundle.operations(), [bytes("r"), bytes("2")]);
    // Results under the old session's name do not count for the new one.
    for replica in 0..4 {
        rig.results(replica, 1, &["old", "old"]);
    }
    assert_eq!(rig.take_done(), []);
    for replica in 0..2 {
        let (session, first) = (SessionId(8), OpNumber(1));
        rig.say(
            replica,
            Reply::Results {
                session,
                first,
                results: vec![ok("R"), ok("2")],
            },
        );
    }
    assert_eq!(
        rig.take_done(),
        [(read, Ok(bytes("R"))), (late, Ok(bytes("2")))]
    );
}

#[test]
fn an_operation_whose_reply_is_forgotten_is_in_doubt_and_a_read_is_called_again() {
    let mut rig = Rig::byzantine();
    let write = rig.call("1");
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    rig.take_sent();
    let forgotten = |count: usize| Reply::Results {
        session: SESSION,
        first: OpNumber(1),
        results: vec![OperationResult::Forgotten; count],
    };
    rig.say(1, forgotten(2));
    assert_eq!(rig.take_done(), [], "one replica alone may lie");
    rig.say(2, forgotten(2));
    let request = RequestId {
        client: rig.core.id(),
        session: SESSION,
        operation: OpNumber(1),
    };
    let doubt = Doubt::Forgotten;
    let error = CallError::UnknownOutcome { request, doubt };
    assert!(!error.is_retry_safe());
    assert_eq!(rig.take_done(), [(write, Err(error))]);
    let again = rig.take_bundle();
    assert_eq!(again.operations(), [bytes("r")]);
    assert_eq!(
        (again.first(), again.acknowledged()),
        (OpNumber(3), OpNumber(2))
    );
    for replica in 0..2 {
        rig.results(replica, 3, &["R"]);
    }
    assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
    assert_eq!(rig.core.outstanding(), 0);
}

#[test]
fn deadlines_tell_what_was_sent_from_what_was_not() {
    let mut rig = Rig::new(config(FaultModel::Byzantine, 4));
    let unsent = rig.call("1");
    rig.pass(Duration::from_secs(11));
    assert_eq!(rig.take_done(), [(unsent, Err(CallError::TimedOut))]);
    let mut rig = Rig::byzantine();
    rig.call("0");
    let sent = rig
        .core
        .call_until(rig.now.after(Duration::from_secs(1)), bytes("1"));
    rig.poll();
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    rig.pass(Duration::from_millis(1100));
    let request = RequestId {
        client: rig.core.id(),
        session: SESSION,
        operation: OpNumber(2),
    };
    let doubt = Doubt::Deadline;
    let error = CallError::UnknownOutcome { request, doubt };
    assert!(!error.is_retry_safe());
    assert_eq!(rig.take_done(), [(sent, Err(error))]);
    rig.pass(Duration::from_secs(10));
    let done = rig.take_done();
    assert!(done.contains(&(read, Err(CallError::TimedOut))), "{done:?}");
}

#[test]
fn what_was_given_up_is_sent_on_while_others_wait_behind_it_and_silent_without() {
    let mut rig = Rig::byzantine();
    rig.core
        .call_until(rig.now.after(Duration::from_secs(1)), bytes("1"));
    rig.poll();
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.take_done().len(), 1);
    rig.take_sent();
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.take_sent(), [], "nobody waits");
    assert_eq!(rig.core.next_deadline(), Time::NEVER);
    // The gap that the lost operation leaves must be filled before this one can run.
    let second = rig.call("2");
    rig.pass(Duration::from_secs(3));
    let firsts: Vec<u64> = rig
        .take_sent()
        .iter()
        .map(|(_, message)| decode(message).first().0)
        .collect();
    assert!(firsts.contains(&1) && firsts.contains(&2), "{firsts:?}");
    // The later one's result shows that the earlier one was executed.
    for replica in 0..2 {
        rig.results(replica, 2, &["2"]);
    }
    assert_eq!(rig.take_done(), [(second, Ok(bytes("2")))]);
    rig.call("3");
    assert_eq!(rig.take_bundle().acknowledged(), OpNumber(2));
}

#[test]
fn closing_tells_every_call_what_is_known_of_it() {
    let mut rig = Rig::byzantine();
    let sent = rig.call("1");
    let read = rig.core.read(rig.now, bytes("r"), Consistency::Stale);
    rig.poll();
    let waiting = rig.core.call(rig.now, bytes("2"));
    rig.core.close();
    let late = rig.call("3");
    let request = RequestId {
        client: rig.core.id(),
        session: SESSION,
        operation: OpNumber(1),
    };
    let unknown = CallError::UnknownOutcome {
        request,
        doubt: Doubt::Closed,
    };
    let closed = || Err(CallError::Closed);
    let expected = [
        (waiting, closed()),
        (read, closed()),
        (sent, Err(unknown)),
        (late, closed()),
    ];
    assert_eq!(rig.take_done(), expected);
    assert_eq!(rig.core.outstanding(), 0);
    assert_eq!(rig.core.next_deadline(), Time::NEVER);
}

#[test]
fn agreed_errors_are_the_result() {
    let mut rig = Rig::byzantine();
    let calls = rig.calls(3);
    for replica in 0..2 {
        let results = vec![
            OperationResult::InvalidRequest,
            OperationResult::ApplicationFailed,
            OperationResult::ReplyTooLarge,
        ];
        rig.say(
            replica,
            Reply::Results {
                session: SESSION,
                first: OpNumber(1),
                results,
            },
        );
    }
    use crate::error::ApplicationError::{Failed, InvalidRequest, ReplyTooLarge};
    let expected = [InvalidRequest, Failed, ReplyTooLarge].map(|e| Err(CallError::Application(e)));
    assert_eq!(
        rig.take_done(),
        calls.into_iter().zip(expected).collect::<Vec<_>>()
    );
}

#[test]
fn votes_of_a_liar_who_floods_take_bounded_memory() {
    let mut rig = Rig::byzantine();
    rig.calls(2);
    let large = Bytes::from(vec![1; 1 << 20]);
    for round in 0..1000u64 {
        let lie = OperationResult::Ok(large.slice(..1 + (round as usize % 1000)));
        let first = OpNumber(round % 3);
        let results = vec![lie; 1 + round as usize % 3];
        rig.say(
            3,
            Reply::Results {
                session: SESSION,
                first,
                results,
            },
        );
        rig.say(
            3,
            Reply::Read {
                id: round,
                result: ok("lie"),
                at: SeqNo(1),
            },
        );
        rig.say(3, Reply::Opened(SessionId(round)));
    }
    assert_eq!(rig.take_done(), []);
    drop(rig.core.poll(rig.now));
    // All that is left of a thousand lies are digests: the frame they came in is held by nobody.
    assert!(large.is_unique());
    for replica in 0..2 {
        rig.results(replica, 1, &["A", "B"]);
    }
    assert_eq!(rig.take_done().len(), 2);
}
