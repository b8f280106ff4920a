//! The writes of a fork, kept apart from what it was forked from.

use bytes::Bytes;
use imbl::OrdMap;
use std::ops::Bound;

/// Writes in their order: merging repeats them as they were done, so that a map is cut the same way
/// whether it was written through a fork or not.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    /// The writes of this fork.
    log: Vec<(Bytes, Option<Bytes>)>,
    /// The last write to each key, of this fork and of those that it was forked from.
    last: OrdMap<Bytes, Option<Bytes>>,
    /// How many entries there are in all.
    pub(super) len: u64,
}

impl Overlay {
    /// Over a map of so many entries.
    pub(super) fn over(len: u64) -> Self {
        Self {
            log: Vec::new(),
            last: OrdMap::new(),
            len,
        }
    }

    /// For a fork of the fork that this is of.
    pub(super) fn forked(&self) -> Self {
        Self {
            log: Vec::new(),
            last: self.last.clone(),
            len: self.len,
        }
    }

    /// What was written to a key last, if anything was: a value, or that it is gone.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.last.get(key).map(Option::as_ref)
    }

    pub(super) fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        let key = Bytes::copy_from_slice(key);
        let value = value.map(Bytes::copy_from_slice);
        self.log.push((key.clone(), value.clone()));
        self.last.insert(key, value);
    }

    /// The writes of this fork, in order.
    pub(super) fn into_log(self) -> Vec<(Bytes, Option<Bytes>)> {
        self.log
    }

    /// The last writes to the keys of a range, which must not end before it starts.
    pub(super) fn range<'a>(
        &'a self,
        range: (Bound<&'a [u8]>, Bound<&'a [u8]>),
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let entries = self.last.range::<_, [u8]>(range);
        entries.map(|(key, value)| (&**key, value.as_deref()))
    }
}
