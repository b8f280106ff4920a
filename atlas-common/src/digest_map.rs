//! Maps by digests, of tens of thousands of blobs.

use crate::Digest;
use crate::digest::DigestBuilder;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

/// A hashed map that cannot be iterated: so that nothing depends on its order, and neither on its key.
#[derive(Clone)]
pub struct DigestMap<V>(HashMap<Digest, V, MapKey>);

/// What a [`DigestMap`] mixes into digests. They are as good as random already; but peers and clients choose
/// what is digested, and could choose what falls together if they knew the key.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct MapKey([u64; 2]);

impl MapKey {
    /// A key out of this seed, which no peer should know.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // One way: who sees other random numbers made of the seed does not see it.
        let Digest(bytes) = DigestBuilder::new("atlas v1 map key").number(seed).finish();
        Self(first_words(&bytes))
    }
}

impl fmt::Debug for MapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MapKey")
    }
}

impl<V> DigestMap<V> {
    /// An empty map, which takes no memory.
    #[must_use]
    pub const fn new(key: MapKey) -> Self {
        Self(HashMap::with_hasher(key))
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of this digest.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<&V> {
        self.0.get(digest)
    }

    /// Whether there is one.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.0.contains_key(digest)
    }

    /// Sets a value, and gives the one before.
    pub fn insert(&mut self, digest: Digest, value: V) -> Option<V> {
        self.0.insert(digest, value)
    }

    /// The value of this digest, which is `new` where there was none.
    pub fn get_or_insert(&mut self, digest: Digest, new: V) -> &mut V {
        self.0.entry(digest).or_insert(new)
    }

    /// Takes a value out.
    pub fn remove(&mut self, digest: &Digest) -> Option<V> {
        self.0.remove(digest)
    }

    /// The value of this digest, to be changed.
    pub fn get_mut(&mut self, digest: &Digest) -> Option<&mut V> {
        self.0.get_mut(digest)
    }

    /// Makes room for so many values more, where that is known before: a table that grows is filled anew.
    pub fn reserve(&mut self, more: usize) {
        self.0.reserve(more);
    }

    /// Keeps the values for which this holds, asked in any order.
    pub fn retain(&mut self, keep: impl FnMut(&Digest, &mut V) -> bool) {
        self.0.retain(keep);
    }

    /// Removes all, and keeps the memory for others.
    pub fn remove_all(&mut self) {
        self.0.clear();
    }

    /// Removes all, and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::new(*self.0.hasher());
    }
}

impl<V> fmt::Debug for DigestMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DigestMap({})", self.len())
    }
}

impl BuildHasher for MapKey {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        let Self(key) = *self;
        Mixer { key, hash: 0 }
    }
}

/// Makes the hash of a digest: its first half, mixed by one long multiplication.
#[derive(Clone)]
pub struct Mixer {
    key: [u64; 2],
    hash: u64,
}

impl fmt::Debug for Mixer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mixer")
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        let [a, b] = first_words(bytes);
        let [key_a, key_b] = self.key;
        let product = u128::from(a ^ key_a) * u128::from(b ^ key_b);
        self.hash = (product as u64) ^ ((product >> 64) as u64);
    }

    /// That a digest has 32 bytes tells nothing.
    fn write_usize(&mut self, _: usize) {}
}

/// The first 16 bytes as numbers; 0 where there are fewer.
fn first_words(bytes: &[u8]) -> [u64; 2] {
    let mut words = bytes.as_chunks().0.iter();
    [(); 2].map(|()| words.next().map_or(0, |word| u64::from_le_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn digest(number: u64, at: usize) -> Digest {
        let mut bytes = [0; 32];
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        Digest(bytes)
    }

    #[test]
    fn digests_that_begin_or_end_alike_fall_apart_and_under_no_common_key() {
        let key = MapKey::new(7);
        for at in [0, 8] {
            let hashes = (0..10_000).map(|number| key.hash_one(digest(number, at)));
            // As a table of 2^16 places sees them.
            let places: BTreeSet<u64> = hashes.map(|hash| hash & 0xffff).collect();
            assert!(places.len() > 5000, "{} places", places.len());
        }
        let hash = |seed| MapKey::new(seed).hash_one(digest(7, 0));
        assert_ne!(hash(7), hash(8));
        assert_eq!(hash(7), hash(7));
    }

    #[test]
    fn it_holds_what_an_ordered_map_holds_under_any_key() {
        for seed in 0..3 {
            let mut map = DigestMap::new(MapKey::new(seed));
            let mut model = BTreeMap::new();
            for number in 0..5000_u64 {
                let key = Digest::of(&(number % 700).to_le_bytes());
                match number % 5 {
                    0 => assert_eq!(map.remove(&key), model.remove(&key)),
                    1 => *map.get_or_insert(key, 0) += number,
                    _ => assert_eq!(map.insert(key, number), model.insert(key, number)),
                }
                if number % 5 == 1 {
                    *model.entry(key).or_insert(0) += number;
                }
                assert_eq!(map.get(&key), model.get(&key));
                assert_eq!(map.contains(&key), model.contains_key(&key));
                assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            }
            map.clear();
            assert!(map.is_empty() && map.0.capacity() == 0);
        }
    }

    #[test]
    fn what_it_prints_shows_no_order_and_no_key() {
        let mut map = DigestMap::new(MapKey::new(1));
        map.insert(digest(1, 0), "one");
        assert_eq!(
            format!("{map:?} {:?}", MapKey::new(1)),
            "DigestMap(1) MapKey"
        );
    }
}
