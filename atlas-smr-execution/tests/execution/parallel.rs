//! Operations in parallel: nothing but the time they take may differ.

use crate::cells::*;
use crate::common::*;
use atlas_core::Limits;
use atlas_smr_execution::{
    Application, ApplicationData, Decision, DivisibleMap, Execute, ExecutionContext, ExecutionPool,
    Executor, ReadWriteSet,
};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use proptest::prelude::*;
use std::sync::LazyLock;
use std::time::Duration;

/// Of 1 to 8 threads.
static POOLS: LazyLock<Vec<ExecutionPool>> =
    LazyLock::new(|| (1..=8).map(|n| ExecutionPool::eager(n).unwrap()).collect());

fn any_change() -> impl Strategy<Value = Change> {
    let cells = || proptest::collection::vec(0u8..40, 0..3);
    let end = prop_oneof![
        8 => Just(End::Well),
        1 => Just(End::Panic),
        1 => Just(End::Unencodable),
        1 => Just(End::Large),
    ];
    let declared = prop::bool::weighted(0.9);
    (cells(), cells(), 0u64..100, end, declared).prop_map(|(from, to, amount, end, declared)| {
        Change {
            from,
            to,
            amount,
            end,
            declared,
        }
    })
}

/// Mostly what runs; and openings, evictions, duplicates, gaps, others' sessions, nonsense.
fn any_bundle() -> impl Strategy<Value = Bytes> {
    let changes = proptest::collection::vec(any_change(), 1..4);
    prop_oneof![
        1 => (0u64..8).prop_map(open),
        16 => (0u64..8, 0u64..3, changes).prop_map(|(client, first, changes)| {
            let operations: Vec<Bytes> = changes.iter().map(change_bytes).collect();
            raw_bundle(client, client + 1, 1 + first, &operations)
        }),
        1 => Just(raw_bundle(1, 2, 1, &[Bytes::from_static(b"\xff\xff")])),
        1 => Just(Bytes::from_static(b"no bundle")),
    ]
}

fn workload() -> impl Strategy<Value = Vec<Decision>> {
    let batch = proptest::collection::vec(any_bundle(), 0..24);
    proptest::collection::vec(batch, 1..6).prop_map(|decisions| {
        let opens: Vec<Bytes> = (0..6).map(open).collect();
        let all = std::iter::once(opens).chain(decisions);
        (1..)
            .zip(all)
            .map(|(seq, bundles)| decision(seq, seq, &bundles))
            .collect()
    })
}

fn roomy() -> Limits {
    Limits {
        // Fewer than clients, so that some are evicted.
        sessions_max: 6,
        // Less than the replies of a decision, at times.
        replies_bytes_max: 1500,
        ..limits()
    }
}

fn same<S: Cells>(decisions: &[Decision], pool: &ExecutionPool) -> Result<(), TestCaseError> {
    let mut sequential = cells::<S>(roomy());
    let mut parallel = cells::<S>(roomy()).with_pool(pool.clone());
    for decision in decisions {
        let (one, other) = (sequential.apply(decision), parallel.apply(decision));
        prop_assert_eq!(one.replies, other.replies);
        prop_assert_eq!(one.sessions, other.sessions);
        prop_assert_eq!(one.operations, other.operations);
        prop_assert_eq!(sequential.state_digest(), parallel.state_digest());
    }
    prop_assert_eq!(sequential.counters(), parallel.counters());
    prop_assert_eq!(sequential.progress(), parallel.progress());
    Ok(())
}

proptest! {
    #[test]
    fn in_parallel_everything_is_as_in_sequence(decisions in workload(), threads in 0usize..8) {
        same::<DivisibleMap>(&decisions, &POOLS[threads])?;
        same::<Plain>(&decisions, &POOLS[threads])?;
    }
}

#[test]
fn a_session_that_is_evicted_has_its_earlier_operations_answered() {
    let limits = Limits {
        sessions_max: 1,
        ..limits()
    };
    let change = Change {
        to: vec![1],
        amount: 5,
        declared: true,
        ..Change::default()
    };
    let run = raw_bundle(1, 1, 1, &[change_bytes(&change)]);
    let decisions = [decision(1, 0, &[open(1)]), decision(2, 0, &[run, open(2)])];
    let mut sequential = cells::<DivisibleMap>(limits.clone());
    let mut parallel = cells::<DivisibleMap>(limits).with_pool(POOLS[1].clone());
    for decision in &decisions {
        let (one, other) = (sequential.apply(decision), parallel.apply(decision));
        assert_eq!(one.replies.len(), decision.seq.0 as usize);
        assert_eq!(one.replies, other.replies);
        assert_eq!(sequential.state_digest(), parallel.state_digest());
    }
}

/// Its requests wait for each other.
struct Meeting {
    left: (Sender<()>, Receiver<()>),
    right: (Sender<()>, Receiver<()>),
}

impl ApplicationData for Meeting {
    type Request = u8;
    type Reply = bool;
}

impl Application for Meeting {
    type State = DivisibleMap;

    fn initial_state(&self) -> DivisibleMap {
        DivisibleMap::new()
    }

    fn update(&self, _: &mut DivisibleMap, side: u8, _: &mut ExecutionContext) -> bool {
        let (mine, theirs) = match side {
            0 => (&self.left.0, &self.right.1),
            _ => (&self.right.0, &self.left.1),
        };
        mine.send(()).unwrap();
        theirs.recv_timeout(Duration::from_secs(60)).is_ok()
    }

    fn keys(&self, side: &u8) -> ReadWriteSet {
        ReadWriteSet::nothing().write(&[*side])
    }

    fn read(&self, _: &DivisibleMap, _: u8) -> bool {
        false
    }
}

#[test]
fn requests_without_a_common_key_run_at_the_same_time() {
    let meeting = Meeting {
        left: bounded(1),
        right: bounded(1),
    };
    let pool = ExecutionPool::eager(2).unwrap();
    let mut executor = Executor::new(meeting, config(limits())).with_pool(pool);
    apply(&mut executor, &[open(1), open(2)]);
    let bundle = |client, side: u8| raw_bundle(client, client, 1, &[Bytes::from(vec![side])]);
    let replies = apply(&mut executor, &[bundle(1, 0), bundle(2, 1)]);
    let met = atlas_smr_core::client_message::OperationResult::Ok(Bytes::from_static(&[1]));
    assert_eq!(
        replies,
        [results(1, 1, vec![met.clone()]), results(2, 1, vec![met])]
    );
}
