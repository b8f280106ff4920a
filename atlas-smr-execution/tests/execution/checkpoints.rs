//! Checkpoints: what they hold, and how they are installed.

use crate::common::*;
use atlas_common::parts::{PartRef, StateDescriptor};
use atlas_common::{Digest, Epoch, SeqNo};
use atlas_core::Limits;
use atlas_smr_execution::{CheckpointImage, Execute, Executor, InstallError, PartError, ThawError};
use bytes::Bytes;
use proptest::prelude::*;

/// An executor after four decisions, and its snapshot.
fn after_four() -> (Executor<Totals>, atlas_smr_execution::Snapshot) {
    let mut executor = executor();
    let adds: Vec<_> = (0..20).map(|key| Request::Add(key, 1000)).collect();
    executor.apply(&decision(1, 9, &[open(1), bundle(1, 1, 1, &adds)]));
    apply(&mut executor, &[]);
    apply(&mut executor, &[]);
    let applied = executor.apply(&decision(4, 7, &[]));
    (executor, applied.snapshot.unwrap())
}

/// An executor after four decisions, and its checkpoint.
fn image() -> (Executor<Totals>, CheckpointImage) {
    let (executor, snapshot) = after_four();
    (executor, snapshot.into_image(64).unwrap())
}

fn install(executor: &mut Executor<Totals>, image: &CheckpointImage) -> Result<(), InstallError> {
    executor.install_parts(&image.id, &image.descriptor, &image.blobs())
}

/// A checkpoint of these parts, certified.
fn certified(parts: Vec<Bytes>) -> CheckpointImage {
    let refs: Vec<_> = parts.iter().map(|part| PartRef::of(part)).collect();
    let (descriptor, pages) = StateDescriptor::cut(&refs).unwrap();
    let (_, mut image) = image();
    image.id.state = descriptor.root();
    CheckpointImage {
        descriptor,
        pages,
        parts: refs.into_iter().zip(parts).collect(),
        ..image
    }
}

#[test]
fn a_checkpoint_is_due_after_every_interval_and_names_what_it_holds() {
    let mut executor = executor();
    let due: Vec<_> = (1..=9)
        .filter_map(|seq| executor.apply(&decision(seq, 0, &[])).snapshot)
        .map(|snapshot| snapshot.into_image(64).unwrap().id)
        .map(|id| (id.epoch, id.seq))
        .collect();
    assert_eq!(due, [(Epoch(2), SeqNo(4)), (Epoch(2), SeqNo(8))]);
}

#[test]
fn an_image_is_cut_as_its_descriptor_says() {
    let (executor, image) = image();
    assert_eq!(image.descriptor.check(), Ok(()));
    assert_eq!(image.descriptor.root(), image.id.state);
    let pages = image.pages.iter().enumerate();
    let listed = pages.flat_map(|(i, page)| image.descriptor.page(i, page).unwrap());
    assert!(image.parts.len() > 2);
    assert!(listed.eq(image.parts.iter().map(|(part, _)| *part)));
    for (part, bytes) in &image.parts {
        assert!(part.matches(bytes));
        assert!(bytes.len() <= 64);
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
    assert_eq!(snapshot.into_image(64).unwrap(), image);
}

#[test]
fn a_damaged_checkpoint_is_refused_and_nothing_changes() {
    let (_, good) = image();
    let mut executor = executor();
    let before = executor.state_digest();
    let mut refuse = |image: &CheckpointImage| install(&mut executor, image).unwrap_err();

    let mut flipped = good.clone();
    let (part, bytes) = &mut flipped.parts[1];
    let mut broken = bytes.to_vec();
    broken[3] ^= 1;
    *bytes = broken.into();
    let digest = part.digest;
    let damaged = ThawError::Part(PartError::Digest { digest });
    assert_eq!(refuse(&flipped), InstallError::State(damaged));

    let mut short = good.clone();
    let digest = short.parts.pop().unwrap().0.digest;
    let missing = refuse(&short);
    assert!(
        matches!(
            missing,
            InstallError::State(ThawError::Part(PartError::Unavailable { digest: found, .. }))
                if found == digest
        ),
        "{missing:?}"
    );

    let mut torn = good.clone();
    torn.pages[0] = torn.pages[0].slice(36..);
    assert!(matches!(
        refuse(&torn),
        InstallError::State(ThawError::Part(PartError::Page(_)))
    ));

    let mut forged = good.clone();
    forged.descriptor.pages.swap_remove(0);
    assert!(matches!(refuse(&forged), InstallError::Root { .. }));

    let mut renamed = good.clone();
    renamed.id.seq = SeqNo(8);
    assert!(matches!(refuse(&renamed), InstallError::Seq { .. }));

    assert_eq!(executor.state_digest(), before);
    assert_eq!(install(&mut executor, &good), Ok(()));
}

#[test]
fn certified_parts_of_another_application_are_refused() {
    let (_, good) = image();
    let mut parts: Vec<Bytes> = good.parts.into_iter().map(|(_, bytes)| bytes).collect();
    let mut executor = executor();
    let before = executor.state_digest();
    let mut refuse = |parts: &[Bytes]| install(&mut executor, &certified(parts.to_vec()));
    let decode = |refused| matches!(refused, Err(InstallError::State(ThawError::Decode(_))));

    assert_eq!(refuse(&[]), Err(InstallError::Head), "no parts at all");
    assert!(decode(refuse(&parts[..parts.len() - 1])), "too few");
    assert!(decode(refuse(&parts[..3])), "the head alone");
    let mut longer = parts.clone();
    longer.push(Bytes::from_static(&[0]));
    assert!(
        decode(refuse(&longer)),
        "more behind the state than the state"
    );
    let mut format = parts.clone();
    format[0] = [&[9], &parts[0][1..]].concat().into();
    let (found, expected) = (9, 3);
    let error = InstallError::Format { found, expected };
    assert_eq!(refuse(&format), Err(error));
    // The state must begin with a part of its own.
    let state = parts.split_off(parts.len() - 2).concat();
    parts.push(state.into());
    let too_large = refuse(&parts);
    assert!(
        matches!(
            too_large,
            Err(InstallError::State(ThawError::Part(
                PartError::TooLarge { .. }
            )))
        ),
        "{too_large:?}"
    );
    assert_eq!(executor.state_digest(), before);
}

#[test]
fn the_head_ends_with_a_part() {
    let mut executor = executor();
    let image = executor.snapshot().into_image(64).unwrap();
    let parts: Vec<Bytes> = image.parts.into_iter().map(|(_, bytes)| bytes).collect();
    let [head, state] = &parts[..] else {
        panic!("{parts:?}")
    };
    let joined = certified(vec![[&head[..], state].concat().into()]);
    assert_eq!(install(&mut executor, &joined), Err(InstallError::Head));
    let long = [&head[..4], &[0xff; 8], &head[12..]].concat();
    let lying = certified(vec![long.into(), state.clone()]);
    assert_eq!(install(&mut executor, &lying), Err(InstallError::Head));
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
        let (snapshot, streamed) = (original.snapshot(), original.snapshot());
        let expected = go_on(&mut original, after);

        let image = snapshot.into_image(chunk_bytes).unwrap();
        let mut copy = Executor::new(Totals, config(Limits { chunk_bytes, ..limits() }));
        prop_assert_eq!(install(&mut copy, &image), Ok(()));
        prop_assert_eq!(copy.snapshot().digest(chunk_bytes), Ok(image.id.state));
        prop_assert_eq!(copy.executed(), SeqNo(at as u64));
        let (give, take) = std::sync::mpsc::channel();
        let mut streamed = streamed.write_to(chunk_bytes, move |part, bytes| {
            give.send((part, bytes)).unwrap();
            Ok(())
        });
        while streamed.write_some().unwrap() > 0 {}
        drop(streamed);
        prop_assert_eq!(take.iter().collect::<Vec<_>>(), image.parts);
        let (replies, _) = go_on(&mut copy, after);
        prop_assert_eq!(&replies, &expected.0);
        prop_assert_eq!(copy.snapshot().digest(64), Ok(expected.1));
        prop_assert_eq!(copy.progress(), original.progress());
    }
}
