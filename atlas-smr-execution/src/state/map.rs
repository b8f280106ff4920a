//! An ordered map whose checkpoints cost what has changed.

mod checkpoint;
mod index;
mod overlay;
mod part;
#[cfg(test)]
mod tests;
mod tree;

pub use checkpoint::FrozenMap;

use super::{DivisibleState, PartReader, ThawError};
use atlas_common::wire::{self, DecodeError, EncodeError};
use bytes::Bytes;
use overlay::Overlay;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use thiserror::Error;
use tree::Tree;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = part::KEY_BYTES_MAX;
/// The largest value, in bytes: as much as a message can carry.
pub const VALUE_BYTES_MAX: usize = wire::ENCODED_BYTES_MAX;
/// The size that parts have at most, unless a [`DivisibleMap`] is made for another.
pub const PART_BYTES: usize = 4096;
/// The smallest size that parts may be made for.
pub const PART_BYTES_MIN: usize = 64;
/// The largest.
pub const PART_BYTES_MAX: usize = 1 << 20;

/// An ordered map from bytes to bytes, for states that are large: a checkpoint hashes and stores only
/// the parts that changed since the one before, and a transfer fetches only those that differ.
///
/// - Entries lie packed in parts of at most [`PART_BYTES`] (or what [`DivisibleMap::with_part_bytes`]
///   was told), in the very bytes that a checkpoint holds. A larger entry is a part of its own; where
///   it is larger than the cluster's `chunk_bytes`, checkpoints hold it in pieces, all of which are
///   hashed at every checkpoint.
/// - Small parts cost a little more memory (some 170 bytes for each), large ones more bytes per
///   checkpoint when writes are scattered: a changed entry is a changed part.
/// - Clones, forks and checkpoints take constant time and share all parts. A write changes a part that
///   nobody else holds; beside one that somebody does it lays the new value, and after some such values,
///   or an entry more or less, it copies the part.
/// - Where parts are cut follows from the writes in their order, so that replicas that did the same
///   have equal parts, whatever they cloned, forked or thawed in between. Two maps with equal entries
///   that were written in another order are equal, but may be cut differently.
///
/// ```
/// use atlas_smr_execution::state::DivisibleMap;
///
/// let mut map = DivisibleMap::new();
/// map.insert(b"pears", b"3")?;
/// assert_eq!(map.insert(b"apples", b"5")?, None);
/// assert_eq!(map.get(b"pears"), Some(&b"3"[..]));
/// assert_eq!(map.iter().next(), Some((&b"apples"[..], &b"5"[..])));
/// # Ok::<(), atlas_smr_execution::state::MapError>(())
/// ```
#[derive(Clone)]
pub struct DivisibleMap {
    tree: Tree,
    /// The writes of a fork.
    overlay: Option<Box<Overlay>>,
}

/// An entry that a map does not take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// The key is too long.
    #[error("a key of {bytes} bytes, at most {KEY_BYTES_MAX} allowed")]
    KeyTooLong {
        /// Its length, in bytes.
        bytes: usize,
    },
    /// The value is too large.
    #[error("a value of {bytes} bytes, at most {VALUE_BYTES_MAX} allowed")]
    ValueTooLarge {
        /// Its size, in bytes.
        bytes: usize,
    },
    /// Serde refuses the value.
    #[error("the value {0}")]
    Encode(#[from] EncodeError),
}

/// What is wrong with bytes that should be a map's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum MapFault {
    #[error("is no head of a map, or of a map with another layout")]
    Head,
    #[error("has another length than it says, or than it may have")]
    Length,
    #[error("has another number of entries than it says, or none")]
    Count,
    #[error("has an entry that ends where it must not")]
    Offset,
    #[error("has a key that is longer than its entry")]
    Key,
    #[error("has keys that are not in ascending order")]
    Order,
}

type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl Default for DivisibleMap {
    fn default() -> Self {
        Self::new()
    }
}

impl DivisibleMap {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::with_part_bytes(PART_BYTES)
    }

    /// An empty map whose parts have at most so many bytes, between [`PART_BYTES_MIN`] and
    /// [`PART_BYTES_MAX`]. Part of the state: every replica must make the same.
    #[must_use]
    pub fn with_part_bytes(part_bytes: usize) -> Self {
        Self::from_tree(Tree::new(part_bytes.clamp(PART_BYTES_MIN, PART_BYTES_MAX)))
    }

    const fn from_tree(tree: Tree) -> Self {
        Self {
            tree,
            overlay: None,
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.overlay.as_ref().map_or(self.tree.len(), |o| o.len)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self.overlay.as_ref().and_then(|overlay| overlay.get(key)) {
            Some(written) => written.map(|value| &**value),
            None => self.tree.get(key),
        }
    }

    /// Whether a key has a value.
    #[must_use]
    pub fn contains_key(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// The value of a key, decoded by the project's codec.
    ///
    /// # Errors
    /// When the value is none of this type.
    pub fn get_as<V: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<V>, DecodeError> {
        let value = self.get(key);
        value
            .map(|value| wire::decode(value, VALUE_BYTES_MAX))
            .transpose()
    }

    /// Sets a key; gives the value that it had.
    ///
    /// # Errors
    /// When key or value is too large; nothing has changed then.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, MapError> {
        if key.len() > KEY_BYTES_MAX {
            let bytes = key.len();
            return Err(MapError::KeyTooLong { bytes });
        }
        if value.len() > VALUE_BYTES_MAX {
            let bytes = value.len();
            return Err(MapError::ValueTooLarge { bytes });
        }
        Ok(self.write(key, Some(value)))
    }

    /// Sets a key to a value in the project's codec.
    ///
    /// # Errors
    /// As [`DivisibleMap::insert`], and when serde refuses the value.
    pub fn put_as<V: Serialize>(&mut self, key: &[u8], value: &V) -> Result<(), MapError> {
        let value = wire::encode(value)?;
        self.insert(key, &value).map(drop)
    }

    /// Removes a key; gives the value that it had.
    pub fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        self.write(key, None)
    }

    fn write(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Bytes> {
        let Some(overlay) = &mut self.overlay else {
            return match value {
                Some(value) => self.tree.insert(key, value),
                None => self.tree.remove(key),
            };
        };
        let previous = match overlay.get(key) {
            Some(written) => written.cloned(),
            None => self.tree.get(key).map(Bytes::copy_from_slice),
        };
        if previous.is_none() && value.is_none() {
            return None;
        }
        overlay.len = overlay.len + u64::from(value.is_some()) - u64::from(previous.is_some());
        overlay.write(key, value);
        previous
    }

    /// The entries whose keys are in a range, in order. None when the range ends before it starts.
    pub fn range<'a>(
        &'a self,
        range: impl RangeBounds<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let range = if is_inverted(range) {
            // Empty too, and none that a B-tree panics on.
            (Bound::Included(&[][..]), Bound::Excluded(&[][..]))
        } else {
            range
        };
        let written = self.overlay.iter().flat_map(move |o| o.range(range));
        Merged {
            below: self.tree.range(range).peekable(),
            above: written.peekable(),
        }
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.range(..)
    }

    /// The entry with the smallest key.
    #[must_use]
    pub fn first(&self) -> Option<(&[u8], &[u8])> {
        self.iter().next()
    }

    /// The entry with the largest key.
    #[must_use]
    pub fn last(&self) -> Option<(&[u8], &[u8])> {
        let Some(overlay) = &self.overlay else {
            return self.tree.reversed().next();
        };
        let mut untouched = self.tree.reversed();
        let below = untouched.find(|(key, _)| overlay.get(key).is_none());
        let mut written = overlay.range((Bound::Unbounded, Bound::Unbounded)).rev();
        let above = written.find_map(|(key, value)| Some((key, value?)));
        below.max(above)
    }
}

/// Whether a range ends before it starts, or between two bounds that exclude the same key.
fn is_inverted((start, end): Range<'_>) -> bool {
    use Bound::{Excluded, Included};
    match (start, end) {
        (Excluded(start), Excluded(end)) => start >= end,
        (Included(start) | Excluded(start), Included(end) | Excluded(end)) => start > end,
        _ => false,
    }
}

/// Entries, with those of a fork in the place of those they hide.
struct Merged<B: Iterator, A: Iterator> {
    below: std::iter::Peekable<B>,
    above: std::iter::Peekable<A>,
}

impl<'a, B, A> Iterator for Merged<B, A>
where
    B: Iterator<Item = (&'a [u8], &'a [u8])>,
    A: Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
{
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((written, _)) = self.above.peek() {
            if let Some(entry) = self.below.next_if(|(key, _)| key < written) {
                return Some(entry);
            }
            self.below.next_if(|(key, _)| key == written);
            if let Some((key, Some(value))) = self.above.next() {
                return Some((key, value));
            }
        }
        self.below.next()
    }
}

impl DivisibleState for DivisibleMap {
    type Frozen = FrozenMap;

    fn freeze(&self) -> FrozenMap {
        let mut tree = self.tree.clone();
        let all = (Bound::Unbounded, Bound::Unbounded);
        for (key, value) in self.overlay.iter().flat_map(|overlay| overlay.range(all)) {
            match value {
                Some(value) => drop(tree.insert(key, value)),
                None => drop(tree.remove(key)),
            }
        }
        FrozenMap::new(tree)
    }

    fn thaw(parts: &mut dyn PartReader) -> Result<Self, ThawError> {
        checkpoint::thaw(parts)
    }

    fn fork(&self) -> Option<Self> {
        let overlay = match &self.overlay {
            Some(overlay) => overlay.forked(),
            None => Overlay::over(self.tree.len()),
        };
        Some(Self {
            tree: self.tree.clone(),
            overlay: Some(Box::new(overlay)),
        })
    }

    /// Repeats the fork's writes, in their order.
    fn merge(&mut self, mut fork: Self) {
        fork.detach();
        let log = fork.overlay.map(|overlay| overlay.into_log());
        for (key, value) in log.into_iter().flatten() {
            match (&self.overlay, value) {
                // Nobody wants the value before.
                (None, Some(value)) => drop(self.tree.insert_over(&key, &value, |_| ())),
                (_, value) => drop(self.write(&key, value.as_deref())),
            }
        }
    }

    fn detach(&mut self) {
        if self.overlay.is_some() {
            self.tree = Tree::new(self.tree.part_bytes());
        }
    }
}

impl PartialEq for DivisibleMap {
    /// Whether the entries are equal, however they are cut.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for DivisibleMap {}

impl fmt::Debug for DivisibleMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.tree.parts_len();
        write!(f, "map of {} entries in {parts} parts", self.len())
    }
}
