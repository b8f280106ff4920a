//! The writes of a fork, kept apart from what it was forked from.

use bytes::Bytes;
use imbl::OrdMap;
use std::ops::Bound;
use std::sync::OnceLock;

/// Writes that are looked through one by one before they are sorted in. Most forks are of operations that
/// write less, and sort nothing.
const UNSORTED_MAX: usize = 8;

/// The last write to each key: a value, or that it is gone.
type Last = OrdMap<Bytes, Option<Bytes>>;

/// Writes in their order: merging repeats them as they were done, so that a map is cut the same way
/// whether it was written through a fork or not.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    /// The writes of this fork.
    log: Vec<(Bytes, Option<Bytes>)>,
    /// Those that it was forked from, and the first of this fork.
    last: Last,
    /// How many of this fork are in there.
    sorted: usize,
    /// All of them, once somebody has asked for that.
    all: OnceLock<Last>,
    /// How many entries there are in all.
    pub(super) len: u64,
}

impl Overlay {
    /// Over a map of so many entries.
    pub(super) fn over(len: u64) -> Self {
        Self::on(Last::new(), len)
    }

    fn on(last: Last, len: u64) -> Self {
        Self {
            log: Vec::new(),
            last,
            sorted: 0,
            all: OnceLock::new(),
            len,
        }
    }

    /// For a fork of the fork that this is of.
    pub(super) fn forked(&self) -> Self {
        Self::on(self.all().clone(), self.len)
    }

    /// What was written to a key last, if anything was: a value, or that it is gone.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        let mut unsorted = self.log[self.sorted..].iter().rev();
        let last = unsorted.find(|(written, _)| written == key);
        let last = last.map(|(_, value)| value);
        last.or_else(|| self.last.get(key)).map(Option::as_ref)
    }

    pub(super) fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        let unsorted = self.log.len() - self.sorted;
        if unsorted >= UNSORTED_MAX || self.all.get().is_some() {
            self.all();
            self.last = self.all.take().unwrap_or_default();
            self.sorted = self.log.len();
        }
        let key = Bytes::copy_from_slice(key);
        let value = value.map(Bytes::copy_from_slice);
        if self.log.is_empty() {
            // Most operations write once, and forks of a whole batch wait to be merged.
            self.log.reserve_exact(1);
        }
        self.log.push((key, value));
    }

    fn all(&self) -> &Last {
        self.all.get_or_init(|| {
            let mut all = self.last.clone();
            all.extend(self.log[self.sorted..].iter().cloned());
            all
        })
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
        let entries = self.all().range::<_, [u8]>(range);
        entries.map(|(key, value)| (&**key, value.as_deref()))
    }
}
