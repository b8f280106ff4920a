//! What is kept has a bound, and what is not kept is known to be gone.

use super::*;
use crate::bundle::UnsignedBundle;
use atlas_common::crypto::{KeyPair, PublicKey, Signature, Signer};
use atlas_common::{Digest, ReplicaSet};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug)]
struct NoSigner;

impl Signer for NoSigner {
    fn public_key(&self) -> PublicKey {
        PublicKey([1; 32])
    }

    fn sign(&self, _: &Digest) -> Signature {
        Signature([0; 64])
    }
}

const OVERHEAD_BYTES: usize = 64;

fn genesis() -> Digest {
    Digest::of(b"cluster")
}

fn limits(replies_bytes_max: usize) -> Limits {
    Limits {
        sessions_max: 3,
        session_replies_max: 20,
        replies_bytes_max,
        ..Limits::default()
    }
}

fn client(instance: u64) -> ClientId {
    ClientId {
        key: PublicKey([1; 32]),
        instance,
    }
}

fn open(table: &mut SessionTable, instance: u64, seq: u64) -> SessionId {
    let open = RequestBundle::open(client(instance), &genesis(), &KeyPair::from_seed(&[1; 32]));
    match table.admit(&open, SeqNo(seq)) {
        Admission::Opened { session, .. } => session,
        other => panic!("{other:?}"),
    }
}

/// A bundle of `count` operations from `first` on.
fn bundle(instance: u64, session: SessionId, first: u64, seen: u64, count: usize) -> RequestBundle {
    let says = UnsignedBundle {
        client: client(instance),
        session,
        first: OpNumber(first),
        acknowledged: OpNumber(seen),
        repliers: ReplicaSet::default(),
        operations: &vec![Bytes::from_static(b"x"); count],
    };
    RequestBundle::new(&says, &genesis(), &NoSigner)
}

fn reply(bytes: usize) -> OperationResult {
    OperationResult::Ok(vec![7; bytes].into())
}

/// Runs a bundle whose replies have these sizes.
fn run(table: &mut SessionTable, instance: u64, session: SessionId, seq: u64, replies: &[usize]) {
    let first = table.last(session).unwrap().next();
    let bundle = bundle(instance, session, first.0, 0, replies.len());
    let admission = table.admit(&bundle, SeqNo(seq));
    assert_eq!(admission, Admission::Run { from: first });
    for bytes in replies {
        table.record(session, reply(*bytes));
    }
}

fn all(table: &SessionTable, session: SessionId) -> Vec<OperationResult> {
    let last = table.last(session).unwrap();
    let kept = table.cached(session, OpNumber(1), last);
    kept.map(|(_, results)| results).unwrap_or_default()
}

#[test]
fn those_that_keep_the_most_give_up_their_oldest() {
    let mut table = SessionTable::new(&limits(800));
    let small = open(&mut table, 1, 1);
    let large = open(&mut table, 2, 1);
    run(&mut table, 1, small, 2, &[36, 36]);
    run(&mut table, 2, large, 3, &[136, 136, 136]);
    assert_eq!((table.settle(), table.kept_bytes()), (0, 800));
    run(&mut table, 2, large, 4, &[1]);
    assert_eq!(table.settle(), 1);
    // The goal is 700; 200 are the small one's.
    assert_eq!(table.kept_bytes(), 200 + 400 + 65);
    assert_eq!(all(&table, small), [reply(36), reply(36)]);
    let forgotten = OperationResult::Forgotten;
    assert_eq!(
        all(&table, large),
        [forgotten, reply(136), reply(136), reply(1)]
    );
}

#[test]
fn what_one_decision_brings_beyond_the_bound_is_not_kept() {
    let mut table = SessionTable::new(&limits(500));
    let session = open(&mut table, 1, 1);
    run(&mut table, 1, session, 2, &[186, 186, 100, 1]);
    let forgotten = OperationResult::Forgotten;
    let expected = [reply(186), reply(186), forgotten.clone(), forgotten];
    assert_eq!(all(&table, session), expected);
    table.settle();
    run(&mut table, 1, session, 3, &[10]);
    assert_eq!(all(&table, session)[4], reply(10));
}

#[test]
fn what_was_acknowledged_and_what_is_too_old_is_forgotten_and_never_runs_again() {
    let mut table = SessionTable::new(&limits(10_000));
    let session = open(&mut table, 1, 1);
    run(&mut table, 1, session, 2, &[1; 20]);
    run(&mut table, 1, session, 3, &[2, 2]);
    let forgotten = OperationResult::Forgotten;
    let (first, results) = table.cached(session, OpNumber(1), OpNumber(3)).unwrap();
    let expected = vec![forgotten.clone(), forgotten.clone(), reply(1)];
    assert_eq!((first, results), (OpNumber(1), expected));
    let again = bundle(1, session, 1, 22, 22);
    let admission = table.admit(&again, SeqNo(4));
    let from = OpNumber(23);
    assert_eq!(admission, Admission::Run { from });
    assert_eq!(
        (all(&table, session), table.kept_bytes()),
        (vec![forgotten; 22], 0)
    );
    assert_eq!(table.cached(session, OpNumber(23), OpNumber(24)), None);
}

/// Something that happens to the table.
#[derive(Clone, Debug)]
enum Event {
    Open(u64),
    /// A client's next bundle, or one that was sent before, which says that all but so many were seen.
    Bundle {
        instance: u64,
        back: u64,
        unseen: u64,
        replies: Vec<usize>,
    },
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    let replies = proptest::collection::vec(0usize..600, 1..8);
    prop_oneof![
        1 => (0u64..6).prop_map(Event::Open),
        6 => (0u64..6, 0u64..5, 0u64..30, replies).prop_map(|(instance, back, unseen, replies)| {
            Event::Bundle { instance, back, unseen, replies }
        }),
        2 => Just(Event::Settle),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_bytes_kept_stay_within_the_bound(
        events in proptest::collection::vec(event(), 1..200),
        bound in 600usize..6000,
    ) {
        let limits = limits(bound);
        let mut table = SessionTable::new(&limits);
        let mut sessions = BTreeMap::<u64, SessionId>::new();
        let mut new_bytes = 0;
        for (seq, event) in (1..).zip(events) {
            match event {
                Event::Open(instance) => {
                    sessions.insert(instance, open(&mut table, instance, seq));
                }
                Event::Bundle { instance, back, unseen, replies } => {
                    let Some(&session) = sessions.get(&instance) else { continue };
                    let Some(last) = table.last(session) else { continue };
                    let first = last.next().0.saturating_sub(back).max(1);
                    let seen = last.0.saturating_sub(unseen);
                    let bundle = bundle(instance, session, first, seen, replies.len());
                    let Admission::Run { from } = table.admit(&bundle, SeqNo(seq)) else {
                        panic!("not run")
                    };
                    prop_assert_eq!(from, last.next());
                    for ((number, _), bytes) in bundle.numbered().zip(replies) {
                        if number >= from {
                            table.record(session, reply(bytes));
                            new_bytes += OVERHEAD_BYTES;
                        }
                    }
                    let answered = table.cached(session, bundle.first(), bundle.last());
                    let (from, results) = answered.unwrap();
                    prop_assert_eq!((from, results.len()), (bundle.first(), bundle.operations().len()));
                }
                Event::Settle => {
                    table.settle();
                    new_bytes = 0;
                    prop_assert!(table.kept_bytes() <= bound);
                }
            }
            // Before the end of a decision it may be twice as much, and marks of what was not kept.
            prop_assert!(table.kept_bytes() <= 2 * bound + new_bytes);
            let mut counted = 0;
            for session in table.sessions.values() {
                prop_assert!(session.results.len() <= limits.session_replies_max);
                counted += session.results.iter().map(kept::cost).sum::<usize>();
            }
            prop_assert_eq!(counted, table.kept_bytes());
        }
    }
}
