//! What operations see, and what becomes of them.

use crate::common::*;
use atlas_common::{OpNumber, SessionId};
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_execution::{Execute, Executor};
use bytes::Bytes;
use proptest::prelude::*;

fn run(requests: &[Request]) -> (Executor<Totals>, Vec<Reply>) {
    let mut executor = executor();
    let replies = apply(&mut executor, &[open(1), bundle(1, 1, 1, requests)]);
    (executor, replies[1..].to_vec())
}

#[test]
fn a_panic_is_a_result_like_any_other_and_the_same_everywhere() {
    let requests = [
        Request::Add(1, 1),
        Request::AddAndPanic(1, 10),
        Request::Add(1, 100),
    ];
    let (first, replies) = run(&requests);
    let expected = vec![
        number(1),
        OperationResult::ApplicationFailed,
        // What was written before the panic is gone.
        number(101),
    ];
    assert_eq!(replies, [results(1, 1, expected)]);
    assert_eq!(first.counters().application_failures, 1);
    let (second, _) = run(&requests);
    assert_eq!(first.state_digest(), second.state_digest());
}

#[test]
fn bytes_that_are_no_request_and_replies_that_are_too_large_are_results() {
    let mut executor = executor();
    let garbage = Bytes::from_static(b"\xff\xff\xff");
    let operations = [
        garbage,
        encoded(&Request::Fill(300)),
        encoded(&Request::Add(1, 1)),
    ];
    let replies = apply(&mut executor, &[open(1), raw_bundle(1, 1, 1, &operations)]);
    let expected = vec![
        OperationResult::InvalidRequest,
        OperationResult::ReplyTooLarge,
        number(1),
    ];
    assert_eq!(replies[1], results(1, 1, expected));
    let counters = executor.counters();
    assert_eq!(
        (
            counters.invalid_requests,
            counters.replies_too_large,
            counters.operations
        ),
        (1, 1, 3)
    );
}

#[test]
fn results_that_do_not_fit_a_frame_come_in_several_replies() {
    let fill = |bytes| ok(&Answer::Filled(vec![7; bytes].into()));
    let (mut executor, replies) = run(&[200, 200, 200, 10].map(Request::Fill));
    let expected = [
        results(1, 1, vec![fill(200), fill(200)]),
        results(1, 3, vec![fill(200), fill(10)]),
    ];
    assert_eq!(replies, expected);
    let again = executor.retransmit(client(1), SessionId(1), OpNumber(1), OpNumber(4));
    assert_eq!(again, expected);
}

#[test]
fn a_read_answers_from_the_state_and_cannot_harm_it() {
    let (executor, _) = run(&[Request::Add(1, 7)]);
    let before = executor.state_digest();
    assert_eq!(executor.read(&encoded(&Request::Total(1))), number(7));
    assert_eq!(
        executor.read(&encoded(&Request::Add(1, 1))),
        OperationResult::ApplicationFailed
    );
    assert_eq!(executor.read(b"\xff"), OperationResult::InvalidRequest);
    assert_eq!(
        executor.read(&encoded(&Request::Fill(1000))),
        OperationResult::ReplyTooLarge
    );
    assert_eq!(executor.state_digest(), before);
}

#[test]
fn agreed_time_never_goes_backwards() {
    let mut executor = executor();
    let time = [Request::Time];
    let mut shown = Vec::new();
    executor.apply(&decision(1, 0, &[open(1)]));
    for (index, proposed) in (1..).zip([500, 300, 0, 501]) {
        let decision = decision(1 + index, proposed, &[bundle(1, 1, index, &time)]);
        shown.extend(executor.apply(&decision).replies);
        assert!(executor.time().unix_millis >= proposed);
    }
    let expected = (1..).zip([500, 500, 500, 501]);
    let expected: Vec<_> = expected
        .map(|(index, time)| (client(1), results(1, index, vec![number(time)])))
        .collect();
    assert_eq!(shown, expected);
}

#[test]
fn random_numbers_are_the_same_on_every_replica_and_new_for_every_operation() {
    let (_, first) = run(&[Request::Random, Request::Random]);
    let (_, second) = run(&[Request::Random, Request::Random]);
    assert_eq!(first, second);
    let Reply::Results { results, .. } = &first[0] else {
        panic!("{first:?}")
    };
    assert_ne!(results[0], results[1]);
    // Another batch, other numbers.
    let (_, other) = run(&[Request::Random, Request::Time]);
    let Reply::Results {
        results: others, ..
    } = &other[0]
    else {
        panic!("{other:?}")
    };
    assert_ne!(results[0], others[0]);
}

proptest! {
    #[test]
    fn equal_decisions_give_equal_replies_sessions_and_digests(decisions in any_decisions()) {
        let (mut first, mut second) = (executor(), executor());
        for decision in &decisions {
            let (one, other) = (first.apply(decision), second.apply(decision));
            prop_assert_eq!(one.replies, other.replies);
            prop_assert_eq!(one.sessions, other.sessions);
        }
        prop_assert_eq!(first.state_digest(), second.state_digest());
        prop_assert_eq!(first.sessions(), second.sessions());
    }
}
