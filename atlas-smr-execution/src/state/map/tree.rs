//! The parts of a map, and how writes cut and join them.
//!
//! Where parts begin and end follows from the writes in their order: a part that has become too large
//! is cut in the middle, or, when it grew at its end, before the new entry, so that ascending inserts
//! leave full parts behind; one that has become small is joined with a neighbour when both together
//! leave room. (Cuts that follow from the keys alone would need no order, but whoever chooses the keys
//! could then see to it that one write moves all cuts behind it.)

use super::index::{PartIndex, Parts};
use super::part::{Entry, HEADER_BYTES, Part, entry_bytes};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

/// Entries in parts. A clone takes constant time and shares all parts.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    parts: PartIndex,
    len: u64,
    part_bytes: usize,
}

impl Tree {
    pub(super) fn new(part_bytes: usize) -> Self {
        Self {
            parts: PartIndex::new(),
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

    pub(super) const fn parts_len(&self) -> usize {
        self.parts.len()
    }

    pub(super) fn parts(&self) -> Parts<'_> {
        self.parts.iter()
    }

    /// The parts behind the one with this first key.
    pub(super) fn parts_behind(&self, first_key: &[u8]) -> Parts<'_> {
        self.parts.iter_behind(first_key)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let part = self.parts.floor(key)?;
        let index = part.search(key).ok()?;
        Some(part.entry(index).1)
    }

    pub(super) fn insert(&mut self, key: &[u8], value: &[u8]) -> Option<Bytes> {
        self.insert_over(key, value, Bytes::copy_from_slice)
    }

    /// As [`Self::insert`], with whatever is made of the value before.
    pub(super) fn insert_over<T>(
        &mut self,
        key: &[u8],
        value: &[u8],
        previous: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        if let Some(part) = self.parts.floor_mut(key)
            && let Ok(index) = part.search(key)
        {
            let previous = previous(part.entry(index).1);
            let size = part.size_with(index, value);
            if size <= self.part_bytes && size >= self.part_bytes / 4 {
                Part::overwrite(part, index, value);
            } else {
                let old = Part::plain(part);
                self.replace(&old, old.splice(index..index + 1, Some((key, value))));
            }
            return Some(previous);
        }
        self.len += 1;
        // A key in front of all others goes into the first part.
        let found = self.parts.floor(key).or_else(|| self.parts.first());
        match found.map(Part::plain) {
            Some(part) => self.add(&part, (key, value)),
            None => self.put(Part::of((key, value))),
        }
        None
    }

    fn add(&mut self, part: &Part, entry: Entry<'_>) {
        let index = part.search(entry.0).unwrap_or_else(|index| index);
        let size = part.size() + entry_bytes(entry.0, entry.1);
        if size > self.part_bytes && index == part.len() {
            self.put(Part::of(entry));
            self.balance(entry.0);
        } else {
            self.replace(part, part.splice(index..index, Some(entry)));
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let part = Part::plain(self.parts.floor(key)?);
        let index = part.search(key).ok()?;
        let previous = Bytes::copy_from_slice(part.entry(index).1);
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
        self.parts.insert(Arc::new(part));
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
        let small = match self.parts.floor(first) {
            Some(part) if part.size() < self.part_bytes / 4 => Part::plain(part),
            _ => return,
        };
        let fits =
            |part: &Part| small.size() + part.size() - HEADER_BYTES <= self.part_bytes / 4 * 3;
        if let Some(next) = self.parts.after(first).filter(|part| fits(part)) {
            let next = Part::plain(next);
            self.parts.remove(next.first_key());
            self.put(small.join(&next));
            return;
        }
        if let Some(previous) = self.parts.before(first).filter(|part| fits(part)) {
            let joined = Part::plain(previous).join(&small);
            self.parts.remove(first);
            self.put(joined);
        }
    }

    /// Puts a part behind all others, when its keys are behind theirs.
    pub(super) fn push(&mut self, part: Part) -> bool {
        if let Some(last) = self.parts.last()
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
        let (parts, mut skip) = match start {
            Bound::Unbounded => (self.parts.iter(), 0),
            Bound::Included(key) | Bound::Excluded(key) => {
                let behind = |index| index + usize::from(matches!(start, Bound::Excluded(_)));
                let found = self.parts.floor(key).map(|part| part.search(key));
                let skip = found.map_or(0, |found| found.map_or_else(|index| index, behind));
                (self.parts.iter_from(key), skip)
            }
        };
        let entries = parts.flat_map(move |part| {
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
        let parts = self.parts.iter_back();
        parts.flat_map(|part| (0..part.len()).rev().map(|index| part.entry(index)))
    }
}
