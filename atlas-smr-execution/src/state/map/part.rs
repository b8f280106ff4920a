//! A part: some entries in the order of their keys, packed into the very bytes that a checkpoint holds.
//!
//! ```text
//! length   4   of the whole part, little endian like every number here
//! count    4   entries, at least 1
//! ends     4 × count: where each entry ends, from where the first begins
//! entries  each: length of its key (2), key, value
//! ```
//!
//! A value that is overwritten goes into the packed bytes where nobody else holds them. Where somebody
//! does (a checkpoint that is being written, a clone), it lies beside them as a patch: so that a
//! checkpoint under load costs memory for what is written meanwhile, and not for every part that is
//! touched.

use super::MapFault;
use atlas_common::Digest;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Bytes of a part besides its entries.
pub(super) const HEADER_BYTES: usize = 8;
/// Bytes of an entry besides its key and value.
pub(super) const ENTRY_BYTES: usize = 4 + 2;
/// The longest key, in bytes: what its length field holds.
pub(super) const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Patches of a part, which are looked through one by one. Together they have at most half of its bytes.
const PATCHES_MAX: usize = 8;

/// Entries, which change only where nobody else holds the part.
#[derive(Debug)]
pub(super) struct Part {
    packed: Bytes,
    count: usize,
    /// Values in the place of packed ones, by the index of their entry; at most one for each.
    patches: Vec<(usize, Arc<[u8]>)>,
    /// Bytes of all entries, packed as they are now.
    size: usize,
    digest: OnceLock<Digest>,
}

/// An entry that is put in.
pub(super) type Entry<'a> = (&'a [u8], &'a [u8]);

/// The bytes that an entry takes.
pub(super) const fn entry_bytes(key: &[u8], value: &[u8]) -> usize {
    ENTRY_BYTES + key.len() + value.len()
}

impl Part {
    fn new(packed: Bytes, count: usize) -> Self {
        Self {
            size: packed.len(),
            packed,
            count,
            patches: Vec::new(),
            digest: OnceLock::new(),
        }
    }

    /// A part of one entry.
    pub(super) fn of((key, value): Entry<'_>) -> Self {
        let mut builder = Builder::new(1, entry_bytes(key, value) - 4);
        builder.end(entry_bytes(key, value) - 4);
        builder.entry((key, value));
        builder.finish()
    }

    /// The bytes that a checkpoint holds.
    pub(super) fn bytes(&self) -> Bytes {
        if self.patches.is_empty() {
            self.packed.clone()
        } else {
            self.pack().packed
        }
    }

    pub(super) const fn size(&self) -> usize {
        self.size
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// The digest of its bytes, computed at most once while they stay the same.
    pub(super) fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| Digest::of(&self.bytes()))
    }

    /// Whether its digest is known.
    pub(super) fn is_hashed(&self) -> bool {
        self.digest.get().is_some()
    }

    /// Takes over its digest, of the bytes as they are.
    pub(super) fn hashed(&self, digest: Digest) {
        self.digest.get_or_init(|| digest);
    }

    /// Where entry `index` ends in the packed entries; 0 for the end of none.
    fn end(&self, index: usize) -> usize {
        number(&self.packed, HEADER_BYTES + 4 * index)
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.end(before))
    }

    fn entries_at(&self) -> usize {
        HEADER_BYTES + 4 * self.count
    }

    /// Where an entry's packed key and value begin, and where the latter ends.
    fn span(&self, index: usize) -> (usize, usize, usize) {
        let (base, start) = (self.entries_at(), self.start(index));
        let key = base + start + 2;
        let length = u16::from_le_bytes([self.packed[key - 2], self.packed[key - 1]]);
        (key, key + usize::from(length), base + self.end(index))
    }

    pub(super) fn key(&self, index: usize) -> &[u8] {
        let (key, value, _) = self.span(index);
        &self.packed[key..value]
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.key(0)
    }

    pub(super) fn entry(&self, index: usize) -> Entry<'_> {
        let (key, value, end) = self.span(index);
        let patch = self.patches.iter().find(|(of, _)| *of == index);
        let value_bytes = patch.map_or(&self.packed[value..end], |(_, value)| value);
        (&self.packed[key..value], value_bytes)
    }

    /// The bytes of this part with another value in an entry.
    pub(super) fn size_with(&self, index: usize, value: &[u8]) -> usize {
        self.size - self.entry(index).1.len() + value.len()
    }

    /// Puts a value into an entry. The part must not become too large or too small by it.
    pub(super) fn overwrite(this: &mut Arc<Self>, index: usize, value: &[u8]) {
        let size = this.size_with(index, value);
        if let Some(own) = Arc::get_mut(this) {
            own.size = size;
            own.digest = OnceLock::new();
            own.put(index, value);
            return;
        }
        let mut patched = Self {
            size,
            packed: this.packed.clone(),
            count: this.count,
            patches: this.patches.clone(),
            digest: OnceLock::new(),
        };
        patched.patch(index, value.into());
        *this = Arc::new(patched);
    }

    fn put(&mut self, index: usize, value: &[u8]) {
        let (_, from, to) = self.span(index);
        let fits = to - from == value.len() && self.patches.is_empty();
        if fits && self.write_packed(|packed| packed[from..to].copy_from_slice(value)) {
            return;
        }
        self.patch(index, value.into());
        // Nobody holds the bytes any more for whose sake there are patches.
        if self.packed.is_unique() {
            self.settle();
        }
    }

    /// Changes the packed bytes where nobody else holds them. Whether that is so.
    fn write_packed(&mut self, change: impl FnOnce(&mut [u8])) -> bool {
        match std::mem::take(&mut self.packed).try_into_mut() {
            Ok(mut packed) => {
                change(&mut packed);
                self.packed = packed.freeze();
                true
            }
            Err(shared) => {
                self.packed = shared;
                false
            }
        }
    }

    fn patch(&mut self, index: usize, value: Arc<[u8]>) {
        match self.patches.iter_mut().find(|(of, _)| *of == index) {
            Some((_, patch)) => *patch = value,
            None => {
                if self.patches.is_empty() {
                    // Most parts get one: room for four would be more than the rest of the part.
                    self.patches.reserve_exact(1);
                }
                self.patches.push((index, value));
            }
        }
        let bytes: usize = self.patches.iter().map(|(_, value)| value.len()).sum();
        if self.patches.len() > PATCHES_MAX || bytes > self.size / 2 {
            *self = self.pack();
        }
    }

    /// Puts patches into the packed bytes.
    fn settle(&mut self) {
        let patches = std::mem::take(&mut self.patches);
        let spans: Vec<_> = patches.iter().map(|(index, _)| self.span(*index)).collect();
        let fit = |((_, from, to), (_, value)): (&(_, usize, usize), &(_, Arc<[u8]>))| {
            to - from == value.len()
        };
        let settled = spans.iter().zip(&patches).all(fit)
            && self.write_packed(|packed| {
                for ((_, from, to), (_, value)) in spans.iter().zip(&patches) {
                    packed[*from..*to].copy_from_slice(value);
                }
            });
        if !settled {
            self.patches = patches;
            *self = self.pack();
        }
    }

    /// The same without patches.
    fn pack(&self) -> Self {
        let mut builder = Builder::new(self.count, self.size - self.entries_at());
        let mut end = 0;
        for index in 0..self.count {
            let (key, value) = self.entry(index);
            end += entry_bytes(key, value) - 4;
            builder.end(end);
        }
        for index in 0..self.count {
            builder.entry(self.entry(index));
        }
        let packed = builder.finish();
        Self {
            digest: self.digest.clone(),
            ..packed
        }
    }

    /// This part, or the same without patches.
    pub(super) fn plain(this: &Arc<Self>) -> Arc<Self> {
        if this.patches.is_empty() {
            Arc::clone(this)
        } else {
            Arc::new(this.pack())
        }
    }

    /// Where a key is, or would be.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// This part, which is [`Part::plain`], with the entries of `range` replaced by one or none. Not to
    /// be left empty.
    pub(super) fn splice(&self, range: Range<usize>, entry: Option<Entry<'_>>) -> Self {
        let (base, from, to) = (
            self.entries_at(),
            self.start(range.start),
            self.start(range.end),
        );
        let added = entry.map_or(0, |(key, value)| entry_bytes(key, value) - 4);
        let count = self.count - range.len() + usize::from(entry.is_some());
        let entries = self.size() - base - (to - from) + added;
        let mut builder = Builder::new(count, entries);
        let ends = HEADER_BYTES + 4 * range.start;
        builder.raw(&self.packed[HEADER_BYTES..ends]);
        if entry.is_some() {
            builder.end(from + added);
        }
        for index in range.end..self.count {
            builder.end(self.end(index) - (to - from) + added);
        }
        builder.raw(&self.packed[base..base + from]);
        if let Some(entry) = entry {
            builder.entry(entry);
        }
        builder.raw(&self.packed[base + to..]);
        builder.finish()
    }

    /// The entries of a range, at least one, of a part that is [`Part::plain`].
    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        let (from, to) = (self.start(range.start), self.start(range.end));
        let mut builder = Builder::new(range.len(), to - from);
        for index in range {
            builder.end(self.end(index) - from);
        }
        let base = self.entries_at();
        builder.raw(&self.packed[base + from..base + to]);
        builder.finish()
    }

    /// The entries of both, which are [`Part::plain`]; all keys of `next` are behind those of this one.
    pub(super) fn join(&self, next: &Self) -> Self {
        let entries = |part: &Self| part.size() - part.entries_at();
        let mut builder = Builder::new(self.count + next.count, entries(self) + entries(next));
        builder.raw(&self.packed[HEADER_BYTES..self.entries_at()]);
        for index in 0..next.count {
            builder.end(entries(self) + next.end(index));
        }
        builder.raw(&self.packed[self.entries_at()..]);
        builder.raw(&next.packed[next.entries_at()..]);
        builder.finish()
    }

    /// The entry at which to cut a part of two or more, which is [`Part::plain`], so that the halves
    /// differ least in bytes.
    pub(super) fn middle(&self) -> usize {
        let half = (self.size() - self.entries_at()) / 2;
        let (mut low, mut high) = (1, self.count - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.start(middle) < half {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let over = self.start(low).abs_diff(half);
        let under = self.start(low - 1).abs_diff(half);
        if low > 1 && under < over {
            low - 1
        } else {
            low
        }
    }

    /// How many bytes the part has of which these are the first four or more.
    pub(super) fn length_of(bytes: &[u8]) -> Option<usize> {
        let length: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(length)).ok()
    }

    /// Checks every byte of a part that comes from a checkpoint, with its digest where that is known.
    pub(super) fn check(bytes: Bytes, digest: Option<Digest>) -> Result<Self, MapFault> {
        if bytes.len() < HEADER_BYTES || Self::length_of(&bytes) != Some(bytes.len()) {
            return Err(MapFault::Length);
        }
        let count = number(&bytes, 4);
        let table = count
            .checked_mul(4)
            .and_then(|n| n.checked_add(HEADER_BYTES));
        let entries = table.and_then(|base| bytes.len().checked_sub(base));
        let (Some(entries), 1..) = (entries, count) else {
            return Err(MapFault::Count);
        };
        let part = Self {
            digest: digest.map_or_else(OnceLock::new, OnceLock::from),
            ..Self::new(bytes, count)
        };
        let mut start = 0_usize;
        for index in 0..count {
            let end = part.end(index);
            if end > entries || end < start.saturating_add(2) {
                return Err(MapFault::Offset);
            }
            let (key, value, end_at) = part.span(index);
            if value > end_at {
                return Err(MapFault::Key);
            }
            debug_assert!(key <= value);
            start = end;
        }
        if start != entries {
            return Err(MapFault::Offset);
        }
        if (1..count).any(|index| part.key(index - 1) >= part.key(index)) {
            return Err(MapFault::Order);
        }
        Ok(part)
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    let four = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    u32::from_le_bytes(four) as usize
}

/// Writes a part from front to back.
struct Builder {
    bytes: Vec<u8>,
    count: usize,
}

impl Builder {
    /// For so many entries of so many bytes, with the lengths of their keys. A part is far smaller
    /// than a `u32` can say: values are limited, and only a lone one makes a part large.
    fn new(count: usize, entries_bytes: usize) -> Self {
        let length = HEADER_BYTES + 4 * count + entries_bytes;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
        Self { bytes, count }
    }

    fn end(&mut self, end: usize) {
        self.bytes.extend_from_slice(&(end as u32).to_le_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn entry(&mut self, (key, value): Entry<'_>) {
        self.raw(&(key.len() as u16).to_le_bytes());
        self.raw(key);
        self.raw(value);
    }

    fn finish(self) -> Part {
        debug_assert_eq!(Part::length_of(&self.bytes), Some(self.bytes.len()));
        Part::new(self.bytes.into(), self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of entries with values of so many bytes each, its packed bytes, and where they are.
    fn part(values: &[usize]) -> (Arc<Part>, Vec<u8>, *const u8) {
        let mut part = Part::of((&[0], &vec![0; values[0]]));
        for (index, bytes) in values.iter().enumerate().skip(1) {
            let (key, value) = ([index as u8], vec![index as u8; *bytes]);
            part = part.splice(index..index, Some((&key, &value)));
        }
        let (bytes, place) = (part.packed.to_vec(), part.packed.as_ptr());
        (Arc::new(part), bytes, place)
    }

    fn values(part: &Part) -> Vec<&[u8]> {
        (0..part.len()).map(|index| part.entry(index).1).collect()
    }

    /// That a part is what its bytes say, however it came to be.
    fn check(part: &Part) {
        let packed = Part::check(part.bytes(), None).unwrap();
        assert_eq!(values(part), values(&packed));
        assert_eq!(
            (part.size(), part.digest()),
            (packed.size(), packed.digest())
        );
    }

    #[test]
    fn a_value_is_written_in_its_place_where_nobody_else_holds_the_part() {
        let (mut own, before, place) = part(&[100; 10]);
        assert_eq!(own.digest(), Digest::of(&before));
        Part::overwrite(&mut own, 3, &[77; 100]);
        check(&own);
        assert_eq!((own.packed.as_ptr(), own.patches.len()), (place, 0));
        assert_eq!(own.entry(3).1, [77; 100]);
        Part::overwrite(&mut own, 3, &[78; 90]);
        check(&own);
        assert_eq!((own.size(), own.patches.len()), (before.len() - 10, 0));
    }

    #[test]
    fn beside_a_held_part_only_values_are_kept_until_it_is_let_go() {
        let (mut own, before, place) = part(&[100; 10]);
        let held = Arc::clone(&own);
        for (index, value) in [(2, 50), (9, 51), (2, 52)] {
            Part::overwrite(&mut own, index, &[value; 100]);
            check(&own);
        }
        assert_eq!((own.packed.as_ptr(), own.patches.len()), (place, 2));
        assert_eq!((&*held.bytes(), own.entry(2).1), (&*before, &[52; 100][..]));
        drop(held);
        Part::overwrite(&mut own, 0, &[53; 100]);
        check(&own);
        assert_eq!((own.packed.as_ptr(), own.patches.len()), (place, 0));
        assert_eq!(values(&own)[9], [51; 100]);
    }

    #[test]
    fn patches_of_other_lengths_and_too_many_of_them_are_packed() {
        let (mut own, before, place) = part(&[10; 40]);
        let held = Arc::clone(&own);
        for index in 0..40 {
            Part::overwrite(&mut own, index, &[99; 7]);
            check(&own);
            let patched: usize = own.patches.iter().map(|(_, value)| value.len()).sum();
            assert!(own.patches.len() <= PATCHES_MAX && patched <= own.size() / 2);
        }
        assert_ne!(own.packed.as_ptr(), place);
        assert_eq!(*held.bytes(), *before);
        let (mut own, ..) = part(&[10; 40]);
        let held = Arc::clone(&own);
        Part::overwrite(&mut own, 1, &[]);
        Part::overwrite(&mut own, 2, &[4; 10]);
        drop(held);
        Part::overwrite(&mut own, 3, &[5; 10]);
        check(&own);
        assert_eq!((own.patches.len(), own.entry(1).1), (0, &[][..]));
    }

    #[test]
    fn a_large_patch_is_packed_at_once() {
        let (mut own, ..) = part(&[10, 2000, 10]);
        let _held = Arc::clone(&own);
        Part::overwrite(&mut own, 1, &[3; 2000]);
        check(&own);
        assert_eq!(own.patches.len(), 0);
    }
}
