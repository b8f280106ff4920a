//! Maps by digests, of hundreds of thousands of blobs.

use atlas_common::Digest;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Never iterated where order could show.
pub(super) type DigestMap<V> = HashMap<Digest, V, Keyed>;

/// A digest is as good as random already, and only needs to be mixed with what nobody knows: peers choose
/// what is stored, and could choose what falls together.
#[derive(Clone, Debug)]
pub(super) struct Keyed([u64; 2]);

impl Default for Keyed {
    fn default() -> Self {
        // The standard library seeds its maps from the operating system's random numbers.
        Self([(); 2].map(|()| RandomState::new().build_hasher().finish()))
    }
}

impl BuildHasher for Keyed {
    type Hasher = Mixed;

    fn build_hasher(&self) -> Mixed {
        let Self(key) = *self;
        Mixed { key, hash: 0 }
    }
}

/// The first half of a digest, mixed by one long multiplication.
#[derive(Debug)]
pub(super) struct Mixed {
    key: [u64; 2],
    hash: u64,
}

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        let words = bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word));
        let mut mixed = words.zip(self.key).map(|(word, key)| word ^ key);
        let (a, b) = (
            mixed.next().unwrap_or_default(),
            mixed.next().unwrap_or_default(),
        );
        let product = u128::from(a) * u128::from(b);
        self.hash = (product as u64) ^ ((product >> 64) as u64);
    }

    /// That a digest has 32 bytes tells nothing.
    fn write_usize(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn digests_that_begin_or_end_alike_fall_apart_and_under_no_common_key() {
        let keyed = Keyed::default();
        let digest = |number: u64, at: usize| {
            let mut bytes = [0; 32];
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            Digest(bytes)
        };
        for at in [0, 8] {
            let hashes = (0..10_000).map(|number| keyed.hash_one(digest(number, at)));
            // As a table of 2^16 places sees them.
            let places: BTreeSet<u64> = hashes.map(|hash| hash & 0xffff).collect();
            assert!(places.len() > 5000, "{} places", places.len());
        }
        let other = Keyed::default();
        assert_ne!(keyed.hash_one(digest(7, 0)), other.hash_one(digest(7, 0)));
    }
}
