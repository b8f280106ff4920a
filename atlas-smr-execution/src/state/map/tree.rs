//! The parts of a map, and how writes cut and join them.
//!
//! Where parts begin and end follows from the writes in their order: a part that has become too large
//! is cut in the middle, or, when it grew at its end, before the new entry, so that ascending inserts
//! leave full parts behind; one that has become small is joined with a neighbour when both together
//! leave room. (Cuts that follow from the keys alone would need no order, but whoever chooses the keys
//! could then see to it that one write moves all cuts behind it.)

use super::part::{Entry, HEADER_BYTES, Part, entry_bytes};
use bytes::Bytes;
use imbl::OrdMap;
use std::ops::Bound;
use std::sync::Arc;

/// Entries in parts. A clone takes constant time and shares all parts.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// By the first key of each.
    parts: OrdMap<Arc<[u8]>, Arc<Part>>,
    len: u64,
    part_bytes: usize,
}

impl Tree {
    pub(super) fn new(part_bytes: usize) -> Self {
        Self {
            parts: OrdMap::new(),
            len: 0,
            part_bytes,
        }
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    pub(super) const fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    pub(super) fn parts_len(&self) -> usize {
        self.parts.len()
    }

    pub(super) fn parts(&self) -> impl DoubleEndedIterator<Item = &Arc<Part>> {
        self.parts.values()
    }

    /// The part that a key is in, if it is in any.
    fn part_of(&self, key: &[u8]) -> Option<&Arc<Part>> {
        self.parts.get_prev(key).map(|(_, part)| part)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let part = self.part_of(key)?;
        let index = part.search(key).ok()?;
        Some(part.entry(index).1)
    }

    pub(super) fn insert(&mut self, key: &[u8], value: &[u8]) -> Option<Bytes> {
        let found = self.part_of(key).or_else(|| {
            // In front of all others.
            self.parts.get_min().map(|(_, part)| part)
        });
        let Some(part) = found.map(Arc::clone) else {
            self.len += 1;
            self.put(Part::of((key, value)));
            return None;
        };
        match part.search(key) {
            Ok(index) => {
                let previous = part.value(index);
                let new = part.splice(index..index + 1, Some((key, value)));
                self.replace(&part, new);
                Some(previous)
            }
            Err(index) => {
                self.len += 1;
                self.add(&part, index, (key, value));
                None
            }
        }
    }

    fn add(&mut self, part: &Part, index: usize, entry: Entry<'_>) {
        let size = part.size() + entry_bytes(entry.0, entry.1);
        if size > self.part_bytes && index == part.len() {
            self.put(Part::of(entry));
            self.balance(entry.0);
        } else {
            self.replace(part, part.splice(index..index, Some(entry)));
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let part = Arc::clone(self.part_of(key)?);
        let index = part.search(key).ok()?;
        let previous = part.value(index);
        self.len -= 1;
        if part.len() == 1 {
            self.parts.remove(key);
        } else {
            self.replace(&part, part.splice(index..index + 1, None));
        }
        Some(previous)
    }

    /// Puts a part in another's place, cut or joined as its size asks for.
    fn replace(&mut self, old: &Part, new: Part) {
        if new.first_key() != old.first_key() {
            self.parts.remove(old.first_key());
        }
        if new.size() > self.part_bytes {
            self.cut(new);
        } else if new.size() < self.part_bytes / 4 {
            let first = new.first_key().to_vec();
            self.put(new);
            self.balance(&first);
        } else {
            self.put(new);
        }
    }

    fn put(&mut self, part: Part) {
        let part = Arc::new(part);
        if let Some(place) = self.parts.get_mut(part.first_key()) {
            *place = part;
        } else {
            self.parts.insert(part.first_key().into(), part);
        }
    }

    /// Puts in a part in pieces that are small enough, or of one entry.
    fn cut(&mut self, part: Part) {
        if part.size() <= self.part_bytes || part.len() == 1 {
            self.put(part);
            return;
        }
        let middle = part.middle();
        let (front, back) = (part.slice(0..middle), part.slice(middle..part.len()));
        self.cut(front);
        self.cut(back);
    }

    /// Joins a part of less than a quarter with a neighbour, if both fit into three quarters: so
    /// neither is cut or joined again at once.
    fn balance(&mut self, first: &[u8]) {
        let small = match self.parts.get(first) {
            Some(part) if part.size() < self.part_bytes / 4 => Arc::clone(part),
            _ => return,
        };
        let fits =
            |part: &Part| small.size() + part.size() - HEADER_BYTES <= self.part_bytes / 4 * 3;
        let behind = (Bound::Excluded(first), Bound::Unbounded);
        let next = self.parts.range::<_, [u8]>(behind).next();
        if let Some(next) = next.map(|(_, part)| part).filter(|part| fits(part)) {
            let next = Arc::clone(next);
            self.parts.remove(next.first_key());
            self.put(small.join(&next));
            return;
        }
        let before = (Bound::Unbounded, Bound::Excluded(first));
        let previous = self.parts.range::<_, [u8]>(before).next_back();
        if let Some(previous) = previous.map(|(_, part)| part).filter(|part| fits(part)) {
            let joined = previous.join(&small);
            self.parts.remove(first);
            self.put(joined);
        }
    }

    /// Puts a part behind all others, when its keys are behind theirs.
    pub(super) fn push(&mut self, part: Part) -> bool {
        if let Some((_, last)) = self.parts.get_max()
            && last.key(last.len() - 1) >= part.first_key()
        {
            return false;
        }
        self.len += part.len() as u64;
        self.put(part);
        true
    }

    /// The entries of a range, in order. It must not end before it starts.
    pub(super) fn range<'a>(
        &'a self,
        (start, end): (Bound<&'a [u8]>, Bound<&'a [u8]>),
    ) -> impl Iterator<Item = Entry<'a>> {
        let first = match start {
            Bound::Included(key) | Bound::Excluded(key) => self.parts.get_prev(key),
            Bound::Unbounded => None,
        };
        let from = first.map_or(Bound::Unbounded, |(key, _)| Bound::Included(&**key));
        let mut skip = first.map_or(0, |(_, part)| match start {
            Bound::Included(key) => part.search(key).unwrap_or_else(|index| index),
            Bound::Excluded(key) => part
                .search(key)
                .map_or_else(|index| index, |index| index + 1),
            Bound::Unbounded => 0,
        });
        let parts = self.parts.range::<_, [u8]>((from, Bound::Unbounded));
        let entries = parts.flat_map(move |(_, part)| {
            let from = std::mem::take(&mut skip);
            (from..part.len()).map(|index| part.entry(index))
        });
        entries.take_while(move |(key, _)| match end {
            Bound::Included(end) => *key <= end,
            Bound::Excluded(end) => *key < end,
            Bound::Unbounded => true,
        })
    }

    /// All entries, the last first.
    pub(super) fn reversed(&self) -> impl Iterator<Item = Entry<'_>> {
        let parts = self.parts.values().rev();
        parts.flat_map(|part| (0..part.len()).rev().map(|index| part.entry(index)))
    }
}
