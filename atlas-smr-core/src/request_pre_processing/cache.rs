//! Which signatures were found valid already.

use atlas_common::Digest;
use atlas_common::crypto::Signature;
use parking_lot::Mutex;
use std::collections::BTreeMap;

const SHARDS: usize = 16;

/// The newest bundles whose signatures were verified, so that none is verified twice: when it comes
/// from its client, is forwarded, and stands in a proposal.
///
/// An entry is digest *and* signature: a bundle of the same content with another, invalid signature is
/// refused here as on a replica that never saw the valid one, or replicas would judge one proposal
/// differently. A key is not part of it: the digest covers it.
///
/// Split into shards by digest, each with a lock of its own. Holds at most as many entries as it was
/// made for; the oldest half goes when it is full.
#[derive(Debug)]
pub struct VerifiedCache {
    shards: [Mutex<Shard>; SHARDS],
    generation_max: usize,
}

#[derive(Debug, Default)]
struct Shard {
    young: BTreeMap<Digest, Signature>,
    old: BTreeMap<Digest, Signature>,
}

impl VerifiedCache {
    /// A cache of at most about `entries_max` bundles (at about 150 bytes each).
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            generation_max: (entries_max / SHARDS / 2).max(1),
        }
    }

    fn shard(&self, digest: &Digest) -> &Mutex<Shard> {
        &self.shards[digest.0[0] as usize % SHARDS]
    }

    /// Whether this signature over this digest was found valid.
    #[must_use]
    pub fn contains(&self, digest: &Digest, signature: &Signature) -> bool {
        let shard = self.shard(digest).lock();
        let found = shard.young.get(digest).or_else(|| shard.old.get(digest));
        found == Some(signature)
    }

    /// Remembers a signature that was found valid.
    pub fn insert(&self, digest: Digest, signature: Signature) {
        let mut shard = self.shard(&digest).lock();
        if shard.young.len() >= self.generation_max {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(digest, signature);
    }

    /// How many bundles it remembers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| {
                let shard = shard.lock();
                shard.young.len() + shard.old.len()
            })
            .sum()
    }

    /// Whether it remembers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
