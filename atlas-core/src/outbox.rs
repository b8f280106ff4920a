//! Persist before send: what waits for the disk.

use atlas_common::Lsn;
use std::collections::VecDeque;

/// Holds items until the record that each waits for is durable, and lets them go in the order in
/// which they came.
#[derive(Clone, Debug)]
pub struct Outbox<T> {
    durable: Lsn,
    held: VecDeque<(Lsn, T)>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self::new(Lsn::ZERO)
    }
}

impl<T> Outbox<T> {
    /// An empty outbox over a log that is durable up to `durable`.
    #[must_use]
    pub const fn new(durable: Lsn) -> Self {
        Self {
            durable,
            held: VecDeque::new(),
        }
    }

    /// Takes an item that may leave once the log is durable up to `after`. Gives it back when it may
    /// leave at once.
    ///
    /// An item whose record is durable overtakes items that wait; items that wait keep their order.
    #[must_use = "an item that is given back leaves now"]
    pub fn push(&mut self, after: Lsn, item: T) -> Option<T> {
        if after <= self.durable {
            return Some(item);
        }
        // A later item never waits for an earlier record than the one before it: numbers only grow.
        debug_assert!(self.held.back().is_none_or(|(last, _)| *last <= after));
        self.held.push_back((after, item));
        None
    }

    /// The log is durable up to `lsn`: gives the items that may leave now, in order.
    pub fn durable(&mut self, lsn: Lsn) -> impl Iterator<Item = T> + '_ {
        self.durable = self.durable.max(lsn);
        let ready = self
            .held
            .partition_point(|(after, _)| *after <= self.durable);
        self.held.drain(..ready).map(|(_, item)| item)
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Up to where the log is durable.
    #[must_use]
    pub const fn durable_up_to(&self) -> Lsn {
        self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_before_its_record_is_durable() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(Lsn(2), "vote"), None);
        assert_eq!(outbox.push(Lsn(3), "next vote"), None);
        assert_eq!(outbox.push(Lsn::ZERO, "unguarded"), Some("unguarded"));
        assert_eq!(outbox.durable(Lsn(1)).count(), 0);
        assert_eq!(outbox.durable(Lsn(2)).collect::<Vec<_>>(), ["vote"]);
        assert_eq!(outbox.push(Lsn(2), "again"), Some("again"));
        assert_eq!(outbox.durable(Lsn(9)).collect::<Vec<_>>(), ["next vote"]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn an_older_durable_number_takes_nothing_back() {
        let mut outbox = Outbox::new(Lsn(5));
        assert_eq!(outbox.durable(Lsn(1)).count(), 0);
        assert_eq!(outbox.push(Lsn(5), ()), Some(()));
    }
}
