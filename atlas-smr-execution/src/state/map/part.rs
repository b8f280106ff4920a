//! A packed part: some entries in the order of their keys, in the very bytes that a checkpoint holds.
//!
//! ```text
//! length   4   of the whole part, little endian like every number here
//! count    4   entries, at least 1
//! ends     4 × count: where each entry ends, from where the first begins
//! entries  each: length of its key (2), key, value
//! ```

use super::MapFault;
use atlas_common::Digest;
use bytes::Bytes;
use std::ops::Range;
use std::sync::OnceLock;

/// Bytes of a part besides its entries.
pub(super) const HEADER_BYTES: usize = 8;
/// Bytes of an entry besides its key and value.
pub(super) const ENTRY_BYTES: usize = 4 + 2;
/// The longest key, in bytes: what its length field holds.
pub(super) const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Entries, never changed: a write makes another part.
#[derive(Debug)]
pub(super) struct Part {
    bytes: Bytes,
    count: usize,
    digest: OnceLock<Digest>,
}

/// An entry that is put in.
pub(super) type Entry<'a> = (&'a [u8], &'a [u8]);

/// The bytes that an entry takes.
pub(super) const fn entry_bytes(key: &[u8], value: &[u8]) -> usize {
    ENTRY_BYTES + key.len() + value.len()
}

impl Part {
    fn new(bytes: Vec<u8>, count: usize) -> Self {
        Self {
            bytes: bytes.into(),
            count,
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

    pub(super) const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Its digest, computed at most once.
    pub(super) fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| Digest::of(&self.bytes))
    }

    #[cfg(test)]
    pub(super) fn is_hashed(&self) -> bool {
        self.digest.get().is_some()
    }

    /// Where entry `index` ends in the entries; 0 for the end of none.
    fn end(&self, index: usize) -> usize {
        number(&self.bytes, HEADER_BYTES + 4 * index)
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.end(before))
    }

    fn entries_at(&self) -> usize {
        HEADER_BYTES + 4 * self.count
    }

    fn span(&self, index: usize) -> (usize, usize, usize) {
        let (base, start) = (self.entries_at(), self.start(index));
        let key = base + start + 2;
        let length = u16::from_le_bytes([self.bytes[key - 2], self.bytes[key - 1]]);
        (key, key + usize::from(length), base + self.end(index))
    }

    pub(super) fn key(&self, index: usize) -> &[u8] {
        let (key, value, _) = self.span(index);
        &self.bytes[key..value]
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.key(0)
    }

    pub(super) fn entry(&self, index: usize) -> Entry<'_> {
        let (key, value, end) = self.span(index);
        (&self.bytes[key..value], &self.bytes[value..end])
    }

    /// The value of an entry, which keeps the part's bytes.
    pub(super) fn value(&self, index: usize) -> Bytes {
        let (_, value, end) = self.span(index);
        self.bytes.slice(value..end)
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

    /// This part with the entries of `range` replaced by one or none. Not to be left empty.
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
        builder.raw(&self.bytes[HEADER_BYTES..ends]);
        if entry.is_some() {
            builder.end(from + added);
        }
        for index in range.end..self.count {
            builder.end(self.end(index) - (to - from) + added);
        }
        builder.raw(&self.bytes[base..base + from]);
        if let Some(entry) = entry {
            builder.entry(entry);
        }
        builder.raw(&self.bytes[base + to..]);
        builder.finish()
    }

    /// The entries of a range, at least one.
    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        let (from, to) = (self.start(range.start), self.start(range.end));
        let mut builder = Builder::new(range.len(), to - from);
        for index in range {
            builder.end(self.end(index) - from);
        }
        let base = self.entries_at();
        builder.raw(&self.bytes[base + from..base + to]);
        builder.finish()
    }

    /// The entries of both; all keys of `next` are behind those of this one.
    pub(super) fn join(&self, next: &Self) -> Self {
        let entries = |part: &Self| part.size() - part.entries_at();
        let mut builder = Builder::new(self.count + next.count, entries(self) + entries(next));
        builder.raw(&self.bytes[HEADER_BYTES..self.entries_at()]);
        for index in 0..next.count {
            builder.end(entries(self) + next.end(index));
        }
        builder.raw(&self.bytes[self.entries_at()..]);
        builder.raw(&next.bytes[next.entries_at()..]);
        builder.finish()
    }

    /// The entry at which to cut a part of two or more, so that the halves differ least in bytes.
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
            bytes,
            count,
            digest: digest.map_or_else(OnceLock::new, OnceLock::from),
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
        Part::new(self.bytes, self.count)
    }
}
