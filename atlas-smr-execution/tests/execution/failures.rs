//! Operations that fail have changed nothing, whatever the state is like.

use crate::cells::*;
use crate::common::*;
use atlas_core::Limits;
use atlas_smr_core::client_message::OperationResult;
use atlas_smr_execution::{DivisibleMap, Execute};

fn good(to: &[u8], amount: u64) -> Change {
    Change {
        to: to.to_vec(),
        amount,
        ..Change::default()
    }
}

fn bad(end: End) -> Change {
    Change {
        end,
        ..good(&[1, 2, 3], 7)
    }
}

const FAILED: OperationResult = OperationResult::ApplicationFailed;

fn open_cells<S: Cells>() -> atlas_smr_execution::Executor<App<S>> {
    let mut executor = cells(limits());
    apply(&mut executor, &[open(1)]);
    executor
}

/// The cells from 0 to 4.
fn shown<S: Cells>(executor: &atlas_smr_execution::Executor<App<S>>) -> Vec<u64> {
    (0..5).map(|at| executor.state().cell(at)).collect()
}

fn a_panic_leaves_nothing<S: Cells>() {
    let mut executor = open_cells::<S>();
    run(&mut executor, 1, &[good(&[1, 2], 10), good(&[2], 10)]);
    let before = shown(&executor);
    assert!(before[1] > 0);
    // Twice, and between operations that succeed.
    let results = run(
        &mut executor,
        3,
        &[
            bad(End::Panic),
            good(&[4], 1),
            bad(End::Panic),
            good(&[4], 1),
        ],
    );
    assert_eq!((&results[0], &results[2]), (&FAILED, &FAILED));
    assert!(matches!(results[1], OperationResult::Ok(_)));
    assert_eq!(shown(&executor)[..4], before[..4]);
    assert!(shown(&executor)[4] >= 2);
    assert_eq!(executor.counters().application_failures, 2);
}

#[test]
fn row_34_an_application_that_panics_half_way_leaves_nothing() {
    a_panic_leaves_nothing::<DivisibleMap>();
    a_panic_leaves_nothing::<Plain>();
}

fn a_reply_without_encoding_is_a_failure<S: Cells>() {
    let mut executor = open_cells::<S>();
    run(&mut executor, 1, &[good(&[1], 10)]);
    let before = shown(&executor);
    assert_eq!(run(&mut executor, 2, &[bad(End::Unencodable)]), [FAILED]);
    assert_eq!(shown(&executor), before);
    let large = run(&mut executor, 3, &[bad(End::Large)]);
    assert_eq!(large, [OperationResult::ReplyTooLarge]);
    assert_ne!(shown(&executor), before, "it was carried out");
    // What was carried out is so still after a failure.
    let before = shown(&executor);
    assert_eq!(run(&mut executor, 4, &[bad(End::Panic)]), [FAILED]);
    assert_eq!(shown(&executor), before);
}

#[test]
fn a_reply_that_has_no_encoding_undoes_the_operation_and_one_that_is_too_large_does_not() {
    a_reply_without_encoding_is_a_failure::<DivisibleMap>();
    a_reply_without_encoding_is_a_failure::<Plain>();
}

fn across_checkpoints<S: Cells>() {
    let changes: Vec<Change> = (0..40)
        .map(|n: u8| match n % 3 {
            0 => bad(End::Panic),
            _ => good(&[n % 5, (n + 1) % 5], u64::from(n)),
        })
        .collect();
    let mut executor = open_cells::<S>();
    let mut copy = None;
    for (first, changes) in (1..).step_by(2).zip(changes.chunks(2)) {
        let expected = run(&mut executor, first, changes);
        if first == 11 {
            // Another replica goes on from here, by a checkpoint.
            let image = executor.snapshot().into_image(64).unwrap();
            let mut installed = cells::<S>(limits());
            let blobs = image.blobs();
            installed
                .install_parts(&image.id, &image.descriptor, &blobs)
                .unwrap();
            copy = Some(installed);
        } else if let Some(copy) = &mut copy {
            assert_eq!(run(copy, first, changes), expected);
            assert_eq!(copy.state_digest(), executor.state_digest());
        }
    }
    assert!(executor.counters().snapshots > 3);
    assert_eq!(executor.counters().application_failures, 14);
}

#[test]
fn failures_are_the_same_on_every_replica_across_checkpoints_and_after_an_install() {
    across_checkpoints::<DivisibleMap>();
    across_checkpoints::<Plain>();
}

/// A state that forks and one that does not hold the same after any failures, few enough for much to be
/// done again after each.
#[test]
fn both_kinds_of_state_come_to_the_same_cells() {
    let limits = Limits {
        checkpoint_interval: 20,
        ..limits()
    };
    let (mut forks, mut plain) = (
        cells::<DivisibleMap>(limits.clone()),
        cells::<Plain>(limits),
    );
    apply(&mut forks, &[open(1)]);
    apply(&mut plain, &[open(1)]);
    let mut random = atlas_common::rng::SeededRng::new(11);
    for first in (1..800).step_by(4) {
        let changes: Vec<Change> = (0..4)
            .map(|_| Change {
                from: vec![random.below(5) as u8],
                to: (0..3).map(|_| random.below(5) as u8).collect(),
                amount: random.below(100),
                end: match random.below(40) {
                    0 => End::Panic,
                    1 => End::Unencodable,
                    2 => End::Large,
                    _ => End::Well,
                },
                declared: false,
            })
            .collect();
        let results = run(&mut forks, first, &changes);
        assert_eq!(run(&mut plain, first, &changes), results);
        assert_eq!(shown(&forks), shown(&plain));
    }
    assert_eq!(forks.counters(), plain.counters());
    assert!(forks.counters().application_failures > 20);
}
