//! Exactly once.

use crate::common::*;
use atlas_common::{OpNumber, SessionId};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::Reply;
use atlas_smr_core::session::SessionUpdate;
use atlas_smr_execution::{Execute, Executor};
use bytes::Bytes;
use std::sync::Arc;

fn opened(clients: u64) -> Executor<Totals> {
    let mut executor = executor();
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
    let asked =
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
    let asked =
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
