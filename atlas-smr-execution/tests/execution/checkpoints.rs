//! Checkpoints: what they hold, and how they are installed.

use crate::common::*;
use atlas_common::{Digest, Epoch, SeqNo};
use atlas_smr_core::manifest::ManifestError;
use atlas_smr_execution::{CheckpointImage, Execute, Executor, InstallError};
use bytes::Bytes;
use proptest::prelude::*;

/// An executor after four decisions, and its checkpoint.
fn image() -> (Executor<Totals>, CheckpointImage) {
    let mut executor = executor();
    let adds: Vec<_> = (0..20).map(|key| Request::Add(key, 1000)).collect();
    executor.apply(&decision(1, 9, &[open(1), bundle(1, 1, 1, &adds)]));
    apply(&mut executor, &[]);
    apply(&mut executor, &[]);
    let applied = executor.apply(&decision(4, 7, &[]));
    let image = applied.snapshot.unwrap().into_chunks(64).unwrap();
    (executor, image)
}

fn install(executor: &mut Executor<Totals>, image: &CheckpointImage) -> Result<(), InstallError> {
    executor.install(&image.id, &image.manifest, &image.chunks)
}

#[test]
fn a_checkpoint_is_due_after_every_interval_and_names_what_it_holds() {
    let mut executor = executor();
    let due: Vec<_> = (1..=9)
        .filter_map(|seq| executor.apply(&decision(seq, 0, &[])).snapshot)
        .map(|snapshot| snapshot.into_chunks(64).unwrap().id)
        .map(|id| (id.epoch, id.seq))
        .collect();
    assert_eq!(due, [(Epoch(2), SeqNo(4)), (Epoch(2), SeqNo(8))]);
}

#[test]
fn an_image_is_cut_as_its_manifest_says() {
    let (executor, image) = image();
    assert_eq!(image.manifest.check(), Ok(()));
    assert_eq!(image.manifest.root(), image.id.state);
    assert!(image.chunks.len() > 2);
    for (index, chunk) in (0..).zip(&image.chunks) {
        assert_eq!(image.manifest.verify_chunk(index, chunk), Ok(()));
    }
    assert_eq!(executor.state_digest(), Ok(image.id.state));
    assert_eq!(executor.snapshot().digest(64), Ok(image.id.state));
}

#[test]
fn a_snapshot_is_not_changed_by_what_is_executed_after_it() {
    let (mut executor, image) = image();
    let snapshot = executor.snapshot();
    apply(&mut executor, &[bundle(1, 1, 21, &[Request::Add(1, 1)])]);
    assert_ne!(executor.state_digest(), Ok(image.id.state));
    assert_eq!(snapshot.into_chunks(64).unwrap(), image);
}

#[test]
fn a_damaged_checkpoint_is_refused_and_nothing_changes() {
    let (_, good) = image();
    let mut executor = executor();
    let before = executor.state_digest();
    let mut refuse = |image: &CheckpointImage| install(&mut executor, image).unwrap_err();

    let mut flipped = good.clone();
    let mut chunk = flipped.chunks[1].to_vec();
    chunk[3] ^= 1;
    flipped.chunks[1] = chunk.into();
    let digest = ManifestError::Digest { index: 1 };
    assert_eq!(refuse(&flipped), InstallError::Chunk(digest));

    let mut short = good.clone();
    short.chunks.pop();
    assert!(matches!(refuse(&short), InstallError::Count { .. }));

    let mut swapped = good.clone();
    swapped.chunks.swap(0, 1);
    assert!(matches!(refuse(&swapped), InstallError::Chunk(_)));

    let mut forged = flipped;
    forged.manifest = atlas_smr_core::manifest::Manifest::of(64, &forged.chunks);
    assert!(matches!(refuse(&forged), InstallError::Root { .. }));

    let mut renamed = good.clone();
    renamed.id.seq = SeqNo(8);
    assert!(matches!(refuse(&renamed), InstallError::Seq { .. }));

    assert_eq!(executor.state_digest(), before);
    assert_eq!(install(&mut executor, &good), Ok(()));
}

#[test]
fn certified_bytes_of_another_application_are_refused() {
    let chunks = [Bytes::from_static(&[1, 0xff, 0xff])];
    let manifest = atlas_smr_core::manifest::Manifest::of(64, &chunks);
    let mut executor = executor();
    let (_, mut image) = image();
    image.id.state = manifest.root();
    let refused = executor.install(&image.id, &manifest, &chunks);
    assert!(matches!(refused, Err(InstallError::Decode(_))));
    // More behind the state than the state.
    let mut longer = image.chunks.concat();
    longer.push(0);
    let chunks: Vec<_> = longer.chunks(64).map(Bytes::copy_from_slice).collect();
    let manifest = atlas_smr_core::manifest::Manifest::of(64, &chunks);
    image.id.state = manifest.root();
    let refused = executor.install(&image.id, &manifest, &chunks);
    assert!(matches!(refused, Err(InstallError::Decode(_))));
}

#[test]
fn a_checkpoint_behind_execution_is_refused() {
    let (mut executor, image) = image();
    apply(&mut executor, &[]);
    let refused = InstallError::Old {
        offered: SeqNo(4),
        executed: SeqNo(5),
    };
    assert_eq!(install(&mut executor, &image), Err(refused));
}

#[test]
fn the_digest_does_not_depend_on_the_order_in_which_a_map_was_filled() {
    let filled = |keys: &[u8]| {
        let mut executor = executor();
        let adds: Vec<_> = keys.iter().map(|key| Request::Add(*key, 0)).collect();
        apply(&mut executor, &[open(1), bundle(1, 1, 1, &adds)]);
        executor.state_digest().unwrap()
    };
    let keys: Vec<u8> = (0..200).collect();
    let reversed: Vec<u8> = keys.iter().rev().copied().collect();
    assert_eq!(filled(&keys), filled(&reversed));
    assert_ne!(filled(&keys), filled(&keys[1..]));
}

#[test]
fn a_seeded_fault_loses_the_sessions_of_a_checkpoint() {
    let (original, image) = image();
    let mut executor = executor();
    executor.seed_lost_sessions();
    install(&mut executor, &image).unwrap();
    assert!(executor.sessions().is_empty());
    assert_ne!(executor.state_digest(), original.state_digest());
}

/// The digests and replies of applying the rest of the decisions.
fn go_on(
    executor: &mut Executor<Totals>,
    decisions: &[atlas_smr_execution::Decision],
) -> (Vec<String>, Digest) {
    let replies = decisions
        .iter()
        .map(|decision| format!("{:?}", executor.apply(decision).replies))
        .collect();
    (replies, executor.state_digest().unwrap())
}

proptest! {
    #[test]
    fn execution_goes_on_from_a_checkpoint_as_if_it_had_seen_everything(
        decisions in any_decisions(),
        at in 0usize..24,
        chunk_bytes in 1usize..300,
    ) {
        let at = at % (decisions.len() + 1);
        let mut original = executor();
        let (before, after) = decisions.split_at(at);
        for decision in before {
            original.apply(decision);
        }
        let snapshot = original.snapshot();
        let mut expected = go_on(&mut original, after);

        let image = snapshot.into_chunks(chunk_bytes).unwrap();
        let mut copy = executor();
        prop_assert_eq!(install(&mut copy, &image), Ok(()));
        prop_assert_eq!(copy.snapshot().digest(chunk_bytes), Ok(image.id.state));
        prop_assert_eq!(copy.executed(), SeqNo(at as u64));
        let found = go_on(&mut copy, after);
        prop_assert_eq!(&found, &mut expected);
        prop_assert_eq!(copy.progress(), original.progress());
    }
}
