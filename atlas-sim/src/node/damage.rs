//! Bits that flip in what a replica has stored.

use crate::plan::Flip;
use atlas_common::rng::SeededRng;
use atlas_persistent_log::{SimStorage, Storage};

/// Flips a bit. False when nothing is stored.
pub(super) fn flip(storage: &SimStorage, flip: Flip, rng: &mut SeededRng) -> bool {
    let files = stored(storage, flip);
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    if bytes == 0 {
        return false;
    }
    let (mut place, bit) = match flip {
        Flip::Log | Flip::Checkpoint => (rng.below(bytes), rng.below(8)),
        Flip::At(share) => {
            let scaled = u128::from(bytes) * u128::from(share);
            let place = u64::try_from(scaled >> 32).unwrap_or(0);
            (place, place % 8)
        }
    };
    for (name, bytes) in files {
        if place < bytes {
            return storage.flip_bit(&name, place, u8::try_from(bit).unwrap_or(0));
        }
        place -= bytes;
    }
    false
}

fn is_checkpoint(name: &str) -> bool {
    name.starts_with("checkpoint-")
}

/// The files, and the length of each up to the zeros with which it was filled in advance.
fn stored(storage: &SimStorage, flip: Flip) -> Vec<(String, u64)> {
    let names = storage.list().unwrap_or_default();
    // Numbers in names have leading zeros.
    let newest = names
        .iter()
        .filter(|name| is_checkpoint(name))
        .max()
        .cloned();
    let wanted = names.into_iter().filter(|name| match flip {
        Flip::Log => name.starts_with("log-"),
        Flip::Checkpoint => Some(name) == newest.as_ref(),
        Flip::At(_) => true,
    });
    let length = |name: String| {
        let bytes = storage.live_bytes(&name).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte != 0);
        (name, end.map_or(0, |end| end as u64 + 1))
    };
    wanted.map(length).collect()
}
