//! Exactly once.

use crate::common::*;
use atlas_common::{NodeId, OpNumber, ReplicaSet, SessionId};
use atlas_core::Limits;
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::session::SessionUpdate;
use atlas_smr_execution::{Execute, Executor};
use bytes::Bytes;
use std::sync::Arc;

fn opened(clients: u64) -> Executor<Totals> {
    opened_at(NodeId(0), clients)
}

fn opened_at(replica: NodeId, clients: u64) -> Executor<Totals> {
    let mut config = config(limits());
    config.replica = replica;
    let mut executor = Executor::new(Totals, config);
    let bundles: Vec<_> = (1..=clients).map(open).collect();
    let replies = apply(&mut executor, &bundles);
    let expected: Vec<_> = (1..=clients).map(|n| Reply::Opened(SessionId(n))).collect();
    assert_eq!(replies, expected);
    executor
}

#[test]
fn a_duplicate_is_answered_from_the_cache_and_never_executed_again() {
    let mut executor = opened(1);
    let bundle = bundle(1, 1, 1, &[Request::Add(1, 5), Request::Add(1, 6)]);
    let answer = vec![results(1, 1, vec![number(5), number(11)])];
    assert_eq!(apply(&mut executor, std::slice::from_ref(&bundle)), answer);
    // In a later decision, and twice in one.
    assert_eq!(
        apply(&mut executor, &[bundle.clone(), bundle]),
        [answer.clone(), answer.clone()].concat()
    );
    assert_eq!(executor.state().updates, 2);
    assert_eq!(executor.counters().duplicates, 4);
    let again = executor.retransmit(client(1), SessionId(1), OpNumber(1), OpNumber(2));
    assert_eq!(again, answer);
}

/// Room for three replies of 250 bytes, of which two are left when an eighth is made free.
fn forgetful() -> Executor<Totals> {
    let limits = Limits {
        replies_bytes_max: 1000,
        ..limits()
    };
    Executor::new(Totals, config(limits))
}

fn fill(first: u64, count: usize) -> Bytes {
    bundle(1, 1, first, &vec![Request::Fill(250 - 3); count])
}

#[test]
fn a_reply_that_is_no_longer_kept_is_said_to_be_and_never_made_again() {
    let filled = ok(&Answer::Filled(vec![7; 250 - 3].into()));
    let forgotten = OperationResult::Forgotten;
    let mut executor = forgetful();
    apply(&mut executor, &[open(1)]);
    let whole = apply(&mut executor, &[fill(1, 3)]);
    let whole: Vec<_> = whole.into_iter().flat_map(of_reply).collect();
    assert_eq!(whole, vec![filled.clone(); 3], "the first answer is whole");
    // The next decision is one too many.
    assert_eq!(apply(&mut executor, &[fill(4, 1)]).len(), 1);
    assert_eq!(executor.counters().replies_forgotten, 2);
    assert!(executor.sessions().kept_bytes() <= 1000);
    let expected = [forgotten.clone(), forgotten, filled];
    let asked = executor.retransmit(client(1), SessionId(1), OpNumber(1), OpNumber(3));
    assert_eq!(asked, [results(1, 1, expected.to_vec())]);
    let again = apply(&mut executor, &[fill(1, 3)]);
    assert_eq!(again, [results(1, 1, expected.to_vec())]);
    assert_eq!(executor.state().updates, 4);

    // One that was restored from a checkpoint says the same.
    let image = executor.snapshot().into_image(64).unwrap();
    let mut restored = forgetful();
    let blobs = image.blobs();
    restored
        .install_parts(&image.id, &image.descriptor, &blobs)
        .unwrap();
    assert_eq!(restored.sessions(), executor.sessions());
    let asked = restored.retransmit(client(1), SessionId(1), OpNumber(1), OpNumber(3));
    assert_eq!(asked, [results(1, 1, expected.to_vec())]);
    let next = [fill(5, 2)];
    assert_eq!(apply(&mut restored, &next), apply(&mut executor, &next));
    assert_eq!(restored.state_digest(), executor.state_digest());
}

fn of_reply(reply: Reply) -> Vec<OperationResult> {
    match reply {
        Reply::Results { results, .. } => results,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bundle_that_repeats_some_operations_runs_only_the_new_ones() {
    let mut executor = opened(1);
    apply(
        &mut executor,
        &[bundle(1, 1, 1, &[Request::Add(1, 1), Request::Add(1, 2)])],
    );
    let overlap = bundle(
        1,
        1,
        2,
        &[Request::Add(1, 2), Request::Add(1, 4), Request::Add(1, 8)],
    );
    assert_eq!(
        apply(&mut executor, &[overlap]),
        [results(1, 2, vec![number(3), number(7), number(15)])]
    );
}

#[test]
fn a_gap_is_skipped_without_a_reply_and_filled_later() {
    let mut executor = opened(1);
    let late = bundle(1, 1, 2, &[Request::Add(1, 1)]);
    assert_eq!(apply(&mut executor, std::slice::from_ref(&late)), []);
    assert_eq!((executor.counters().gaps, executor.state().updates), (1, 0));
    let early = bundle(1, 1, 1, &[Request::Add(1, 10)]);
    assert_eq!(
        apply(&mut executor, &[early, late]),
        [
            results(1, 1, vec![number(10)]),
            results(1, 2, vec![number(11)])
        ]
    );
}

#[test]
fn a_closed_session_is_answered_as_such_and_never_executed() {
    let mut executor = opened(3);
    // There is room for three: a fourth closes the one longest unused.
    let decision = decision(2, 0, &[open(4), bundle(1, 1, 1, &[Request::Add(1, 1)])]);
    let applied = executor.apply(&decision);
    let expired = Reply::SessionExpired(SessionId(1));
    assert_eq!(
        applied.replies,
        [
            (client(4), Reply::Opened(SessionId(4))),
            (client(1), expired.clone())
        ]
    );
    assert_eq!(applied.sessions[0], SessionUpdate::Closed(SessionId(1)));
    assert_eq!(applied.last_given, SessionId(4));
    assert_eq!(executor.state().updates, 0);
    let mut asked =
        |session| executor.retransmit(client(1), SessionId(session), OpNumber(1), OpNumber(1));
    assert_eq!(asked(1), [expired]);
    assert_eq!(asked(5), [], "not open yet, as far as this replica knows");
}

#[test]
fn a_session_serves_its_own_client_only() {
    let mut executor = opened(2);
    let stolen = bundle(2, 1, 1, &[Request::Add(1, 1)]);
    assert_eq!(apply(&mut executor, &[stolen]), []);
    apply(&mut executor, &[bundle(1, 1, 1, &[Request::Add(1, 1)])]);
    assert_eq!(executor.state().updates, 1);
    let mut asked =
        |instance| executor.retransmit(client(instance), SessionId(1), OpNumber(1), OpNumber(1));
    assert_eq!(asked(2), []);
    assert_eq!(asked(1), [results(1, 1, vec![number(1)])]);
}

#[test]
fn bundles_that_were_decoded_before_execute_like_those_that_were_not() {
    let raw = [
        open(1),
        Bytes::from_static(b"no bundle"),
        bundle(1, 1, 1, &[Request::Add(1, 1), Request::Random]),
    ];
    let plain = decision(1, 5, &raw);
    let mut decoded = plain.clone();
    let decode = |raw: &Bytes| RequestBundle::decode(raw.clone(), &genesis(), &limits()).ok();
    decoded.bundles = Some(Arc::new(raw.iter().filter_map(decode).collect()));
    let (mut first, mut second) = (executor(), executor());
    assert_eq!(first.apply(&plain).replies, second.apply(&decoded).replies);
    assert_eq!(first.state_digest(), second.state_digest());
    assert_eq!(first.state().updates, 2);
}

#[test]
fn a_decision_that_was_executed_before_does_nothing() {
    let mut executor = opened(1);
    let again = decision(1, 0, &[open(2)]);
    let applied = executor.apply(&again);
    assert_eq!(
        (applied.replies, applied.last_given),
        (vec![], SessionId(1))
    );
    assert_eq!(executor.sessions().len(), 1);
}

#[test]
#[should_panic(expected = "without gaps")]
fn a_decision_is_never_left_out() {
    executor().apply(&decision(2, 0, &[]));
}

#[test]
fn a_bundle_is_answered_by_the_replicas_that_it_names() {
    let add = [encoded(&Request::Add(1, 5))];
    let bundle = bundle_for(ReplicaSet::only(NodeId(3)), 1, 1, 1, &add);
    for replica in [NodeId(0), NodeId(3)] {
        let mut executor = opened_at(replica, 1);
        let replies = apply(&mut executor, std::slice::from_ref(&bundle));
        assert_eq!(executor.state().updates, 1);
        let expected = [results(1, 1, vec![number(5)])];
        assert_eq!(
            replies,
            if replica == NodeId(3) {
                &expected[..]
            } else {
                &[]
            }
        );
    }
}

#[test]
fn a_replica_that_is_not_named_answers_the_client_that_asks_it_before_or_after_the_execution() {
    let mut executor = opened(2);
    let add = [encoded(&Request::Add(1, 5))];
    let bundle = |first| bundle_for(ReplicaSet::only(NodeId(3)), 1, 1, first, &add);
    assert_eq!(apply(&mut executor, &[bundle(1)]), []);
    let five = results(1, 1, vec![number(5)]);
    let mut ask =
        |number| executor.retransmit(client(1), SessionId(1), OpNumber(number), OpNumber(number));
    assert_eq!(ask(1), [five]);
    assert_eq!(ask(3), []);
    // It is owed the answers up to what it asked for, and no further.
    assert_eq!(
        apply(&mut executor, &[bundle(2)]),
        [results(1, 2, vec![number(10)])]
    );
    assert_eq!(
        apply(&mut executor, &[bundle(3)]),
        [results(1, 3, vec![number(15)])]
    );
    assert_eq!(apply(&mut executor, &[bundle(4)]), []);
    // Another client's asking opens nothing.
    executor.retransmit(client(2), SessionId(1), OpNumber(5), OpNumber(5));
    assert_eq!(apply(&mut executor, &[bundle(5)]), []);
}
