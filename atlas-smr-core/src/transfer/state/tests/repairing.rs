//! Repairing single blobs.

use super::super::*;
use super::*;
use atlas_common::quorum::FaultModel;

/// What is damaged, from a page and some parts of a state.
fn damaged(state: &State) -> Vec<PartRef> {
    let parts = state.blobs.values().skip(3).step_by(7);
    let mut damaged: Vec<PartRef> = parts.map(|blob| PartRef::of(blob)).collect();
    damaged.push(state.descriptor.pages[1]);
    damaged.sort_unstable();
    damaged.dedup();
    damaged
}

#[test]
fn row_41_damaged_parts_are_fetched_from_whoever_has_them() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let state = State::plain(8, 200, 0, &keys, &membership);
    let other = State::plain(16, 200, 100, &keys, &membership);
    let damaged = damaged(&state);
    let mut run = Run::new(&membership);
    run.fetcher.request_parts(run.now, &damaged);
    run.go(2000, |peer, message| match (peer.0, message) {
        // A liar, one with another state that shares some parts, and one who has all.
        (1, StateTransferMessage::RequestParts { digests }) => {
            let blobs = digests.iter().map(|_| noise(1, 77)).collect();
            vec![StateTransferMessage::Parts { blobs }]
        }
        (2, _) => other.answer(message),
        _ => state.answer(message),
    });
    let wanted: std::collections::BTreeMap<Digest, Bytes> = damaged
        .iter()
        .map(|part| (part.digest, state.blobs[&part.digest].clone()))
        .collect();
    assert_eq!(run.store, wanted);
    assert_eq!(run.counters().parts_repaired, damaged.len() as u64);
    assert!(run.counters().parts_rejected > 0);
    assert!(run.unrepairable.is_empty() && run.fetched.is_none());
    assert_eq!(run.fetcher.deadline(), None);
}

#[test]
fn what_no_peer_has_is_given_up() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let state = State::plain(8, 20, 0, &keys, &membership);
    let mut run = Run::new(&membership);
    let lost = noise(999, 10);
    let here = state.descriptor.pages[0];
    run.fetcher
        .request_parts(run.now, &[PartRef::of(&lost), here]);
    run.go(200, |_, message| state.answer(message));
    assert_eq!(run.unrepairable, [Digest::of(&lost)]);
    assert_eq!(run.store.len(), 1);
    assert!(!run.fetcher.is_repairing());
}

#[test]
fn a_repair_waits_while_a_state_is_fetched_and_goes_on_then() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let old = State::plain(8, 20, 20, &keys, &membership);
    let new = State::plain(16, 2000, 0, &keys, &membership);
    let mut run = Run::new(&membership).start(5);
    run.fetcher.request_parts(run.now, &damaged(&old));
    let (mut early, mut all) = (false, new.clone());
    all.blobs.extend(old.blobs.clone());
    run.go(2000, |_, message| {
        if let StateTransferMessage::RequestParts { digests } = message {
            let wants_old = digests.iter().any(|digest| old.blobs.contains_key(digest));
            early |= wants_old && !digests.iter().all(|d| old.blobs.contains_key(d));
        }
        all.answer(message)
    });
    assert!(!early, "state and repair in one request");
    run.assert_fetched(&new);
    assert_eq!(run.counters().parts_repaired, damaged(&old).len() as u64);
}
