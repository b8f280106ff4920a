//! The children of a node, by their first keys.

use std::cmp::Ordering;
use std::sync::Arc;

/// Children of a node at most. More make the tree flatter, and the copy of a node behind a clone dearer.
pub(super) const WIDTH: usize = 32;
/// Bytes of a key that lie in a node.
pub(super) const INLINE_BYTES: usize = 22;

/// A key, in the place where it is compared unless it is long.
#[derive(Clone, Debug)]
pub(super) enum Key {
    Short(u8, [u8; INLINE_BYTES]),
    Long(Arc<[u8]>),
}

impl Key {
    pub(super) fn new(key: &[u8]) -> Self {
        if key.len() > INLINE_BYTES {
            return Self::Long(key.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        Self::Short(key.len() as u8, bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

/// The children of a node under the first key in each, in order.
///
/// A search must not touch many places in memory, which is far away. So what the keys have in common is
/// kept once, and of each the eight bytes behind that, side by side: they nearly always tell the keys
/// apart (prefix truncation: Bayer and Unterauer, TODS 1977).
#[derive(Clone, Debug)]
pub(super) struct Children<T> {
    common: Common,
    /// As many as there are items.
    heads: [u64; WIDTH + 1],
    pub(super) items: Vec<(Key, T)>,
}

/// What all keys of a node begin with, up to so many bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Common {
    length: u8,
    bytes: [u8; INLINE_BYTES],
}

impl Common {
    fn of(first: &[u8], last: &[u8]) -> Self {
        let pairs = first.iter().zip(last).take(INLINE_BYTES);
        let length = pairs.take_while(|(one, other)| one == other).count();
        let mut bytes = [0; INLINE_BYTES];
        bytes[..length].copy_from_slice(&first[..length]);
        Self {
            length: length as u8,
            bytes,
        }
    }

    /// The rest of a key that begins so; or whether it is below or above all that do.
    fn strip<'a>(&self, key: &'a [u8]) -> Result<&'a [u8], Ordering> {
        let common = &self.bytes[..usize::from(self.length)];
        match key.strip_prefix(common) {
            Some(rest) => Ok(rest),
            None => Err(key.cmp(common)),
        }
    }
}

/// The first eight bytes of what is left of a key, in an order that is that of the keys unless they are
/// equal.
fn head(rest: &[u8]) -> u64 {
    let mut head = [0; 8];
    let length = rest.len().min(8);
    head[..length].copy_from_slice(&rest[..length]);
    u64::from_be_bytes(head)
}

impl<T> Children<T> {
    pub(super) fn new(items: Vec<(Key, T)>) -> Self {
        let mut children = Self {
            common: Common::default(),
            heads: [0; WIDTH + 1],
            items,
        };
        children.note_keys();
        children
    }

    /// To be called when the keys have changed.
    pub(super) fn note_keys(&mut self) {
        let (Some((first, _)), Some((last, _))) = (self.items.first(), self.items.last()) else {
            return;
        };
        self.common = Common::of(first.bytes(), last.bytes());
        let skipped = usize::from(self.common.length);
        for (place, (key, _)) in self.heads.iter_mut().zip(&self.items) {
            *place = head(&key.bytes()[skipped..]);
        }
    }

    /// Where a key belongs: behind the last first key that is not above it.
    pub(super) fn behind(&self, key: &[u8]) -> usize {
        let rest = match self.common.strip(key) {
            Ok(rest) => rest,
            Err(Ordering::Less) => return 0,
            Err(_) => return self.items.len(),
        };
        let (head, heads) = (head(rest), &self.heads[..self.items.len()]);
        let mut behind = heads.iter().filter(|other| **other <= head).count();
        while behind > 0 && heads[behind - 1] == head && self.items[behind - 1].0.bytes() > key {
            behind -= 1;
        }
        behind
    }

    /// The child in which a key is, if it is in any.
    pub(super) fn floor(&self, key: &[u8]) -> Option<&T> {
        let at = self.behind(key).checked_sub(1)?;
        Some(&self.items[at].1)
    }

    pub(super) fn floor_mut(&mut self, key: &[u8]) -> Option<&mut T> {
        let at = self.behind(key).checked_sub(1)?;
        Some(&mut self.items[at].1)
    }

    /// Where the child with this first key is, or would be.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let behind = self.behind(key);
        match behind.checked_sub(1) {
            Some(at) if self.items[at].0.bytes() == key => Ok(at),
            _ => Err(behind),
        }
    }

    /// Puts a child in. Splits off the upper half of children that are too many; but where they grew at
    /// the end, only the last, so that what is filled in order is full.
    pub(super) fn insert(&mut self, at: usize, key: Key, child: T) -> Option<Self> {
        self.items.insert(at, (key, child));
        let split_at = match self.items.len() {
            0..=WIDTH => None,
            len if at + 1 == len => Some(WIDTH),
            len => Some(len / 2),
        };
        let beside = split_at.map(|at| Self::new(self.items.split_off(at)));
        self.note_keys();
        beside
    }

    pub(super) fn remove(&mut self, at: usize) -> T {
        let (_, child) = self.items.remove(at);
        self.note_keys();
        child
    }

    /// Adds a neighbour's children behind its own.
    pub(super) fn append(&mut self, next: &mut Self) {
        self.items.append(&mut next.items);
        self.note_keys();
    }
}
