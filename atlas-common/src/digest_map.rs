//! Maps by digests, of hundreds of thousands of blobs.

mod slots;

use crate::Digest;
use crate::digest::DigestBuilder;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use slots::Slots;
use std::fmt;
use std::ops::Range;

/// A hashed map that cannot be iterated: so that nothing depends on its order, and neither on its key.
///
/// Digests and values stay where they are while it grows; what is filled anew then is a table of five bytes
/// for each. So growing takes little memory at a time, and little time.
#[derive(Clone)]
pub struct DigestMap<V> {
    key: MapKey,
    /// Where digests are in `slots`.
    table: HashTable<u32>,
    slots: Slots<V>,
}

/// What a [`DigestMap`] mixes into digests. They are as good as random already; but peers and clients choose
/// what is digested, and could choose what falls together if they knew the key.
#[derive(Clone, Copy, PartialEq, Eq)]
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

impl MapKey {
    /// The first half of a digest, mixed by one long multiplication.
    fn hash(self, digest: &Digest) -> u64 {
        let [a, b] = first_words(&digest.0);
        let [key_a, key_b] = self.0;
        let product = u128::from(a ^ key_a) * u128::from(b ^ key_b);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

impl<V> DigestMap<V> {
    /// An empty map, which takes no memory.
    #[must_use]
    pub const fn new(key: MapKey) -> Self {
        Self {
            key,
            table: HashTable::new(),
            slots: Slots::new(),
        }
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn find(&self, digest: &Digest) -> Option<u32> {
        let is_it = |slot: &u32| self.slots.digest(*slot) == digest;
        self.table.find(self.key.hash(digest), is_it).copied()
    }

    /// The value of this digest.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<&V> {
        self.slots.get(self.find(digest)?)
    }

    /// The value of this digest, to be changed.
    pub fn get_mut(&mut self, digest: &Digest) -> Option<&mut V> {
        self.slots.get_mut(self.find(digest)?)
    }

    /// Whether there is one.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.find(digest).is_some()
    }

    /// Sets a value, and gives the one before.
    pub fn insert(&mut self, digest: Digest, value: V) -> Option<V> {
        match self.place(digest) {
            Ok(slot) => self
                .slots
                .get_mut(slot)
                .map(|old| std::mem::replace(old, value)),
            Err(slot) => {
                self.slots.put(slot, digest, value);
                None
            }
        }
    }

    /// The value of this digest, which is `new` where there was none.
    pub fn get_or_insert(&mut self, digest: Digest, new: V) -> &mut V {
        match self.place(digest) {
            Ok(slot) => self.slots.value(slot, || new),
            Err(slot) => self.slots.put(slot, digest, new),
        }
    }

    /// Where a digest is; or where it is to be put, which must be done.
    fn place(&mut self, digest: Digest) -> Result<u32, u32> {
        let Self { key, table, slots } = self;
        let is_it = |slot: &u32| *slots.digest(*slot) == digest;
        let hash = |slot: &u32| key.hash(slots.digest(*slot));
        match table.entry(key.hash(&digest), is_it, hash) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(free) => {
                let slot = slots.next();
                free.insert(slot);
                Err(slot)
            }
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, digest: &Digest) -> Option<V> {
        let Self { key, table, slots } = self;
        let is_it = |slot: &u32| slots.digest(*slot) == digest;
        let (slot, _) = table.find_entry(key.hash(digest), is_it).ok()?.remove();
        slots.take(slot)
    }

    /// Makes room for so many values more, where that is known before.
    pub fn reserve(&mut self, more: usize) {
        let Self { key, table, slots } = self;
        table.reserve(more, |slot| key.hash(slots.digest(*slot)));
    }

    /// Keeps the values for which this holds, asked in any order.
    pub fn retain(&mut self, keep: impl FnMut(&Digest, &mut V) -> bool) {
        self.retain_some(0..self.places(), keep);
    }

    /// The places in which values lie, or did: [`Self::retain_some`] goes over all values in as many steps
    /// as one likes. Values that are put in meanwhile may be passed over.
    #[must_use]
    pub fn places(&self) -> usize {
        self.slots.used()
    }

    /// As [`Self::retain`], of the values in these places alone.
    pub fn retain_some(
        &mut self,
        places: Range<usize>,
        mut keep: impl FnMut(&Digest, &mut V) -> bool,
    ) {
        let Self { key, table, slots } = self;
        for place in places.start..places.end.min(slots.used()) {
            let slot = place as u32;
            let Some((digest, value)) = slots.entry_mut(slot) else {
                continue;
            };
            if keep(digest, value) {
                continue;
            }
            let hash = key.hash(digest);
            if let Ok(found) = table.find_entry(hash, |other| *other == slot) {
                found.remove();
            }
            slots.take(slot);
        }
    }

    /// Removes all, and keeps the memory for others.
    pub fn remove_all(&mut self) {
        self.table.clear();
        self.slots.clear();
    }

    /// Removes all, and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::new(self.key);
    }
}

impl<V> fmt::Debug for DigestMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DigestMap({})", self.len())
    }
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
            let hashes = (0..10_000).map(|number| key.hash(&digest(number, at)));
            // As a table of 2^16 places sees them.
            let places: BTreeSet<u64> = hashes.map(|hash| hash & 0xffff).collect();
            assert!(places.len() > 5000, "{} places", places.len());
        }
        let hash = |seed| MapKey::new(seed).hash(&digest(7, 0));
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
            map.retain(|_, value| *value % 2 == 0);
            model.retain(|_, value| *value % 2 == 0);
            assert!(model.iter().all(|(key, value)| map.get(key) == Some(value)));
            assert_eq!(map.len(), model.len());
            // In steps, the last of them beyond the end; what goes makes room for others.
            for start in (0..map.places()).step_by(97) {
                map.retain_some(start..start + 97, |_, value| *value % 3 == 0);
            }
            model.retain(|_, value| *value % 3 == 0);
            assert!(model.iter().all(|(key, value)| map.get(key) == Some(value)));
            assert_eq!(map.len(), model.len());
            let places = map.places();
            map.insert(digest(2, 0), 2);
            assert_eq!(map.get(&digest(2, 0)), Some(&2));
            assert_eq!(map.places(), places);
            map.remove_all();
            assert!(map.is_empty() && model.keys().all(|key| !map.contains(key)));
            map.insert(digest(1, 0), 1);
            assert_eq!(map.get(&digest(1, 0)), Some(&1));
            map.clear();
            assert!(map.is_empty() && map.table.capacity() == 0);
        }
    }

    #[test]
    fn values_stay_where_they_are_and_their_memory_is_used_again() {
        let mut map = DigestMap::new(MapKey::new(3));
        let places = |map: &DigestMap<u64>| {
            let place = |n| map.get(&digest(n, 0)).map(std::ptr::from_ref);
            (0..100).map(place).collect::<Vec<_>>()
        };
        let fill = |map: &mut DigestMap<u64>, numbers: std::ops::Range<u64>| {
            for n in numbers {
                map.insert(digest(n, 0), n);
            }
        };
        fill(&mut map, 0..100);
        let first = places(&map);
        fill(&mut map, 100..50_000);
        assert_eq!(places(&map), first);
        map.remove_all();
        fill(&mut map, 0..100);
        assert_eq!(places(&map), first);
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
