//! Named time-outs over virtual time.

use atlas_common::Time;
use std::collections::{BTreeMap, BTreeSet};

/// A set of timers, each with a name and at most one deadline.
#[derive(Clone, Debug)]
pub struct Timers<N> {
    deadline_of: BTreeMap<N, Time>,
    by_deadline: BTreeSet<(Time, N)>,
}

impl<N: Copy + Ord> Default for Timers<N> {
    fn default() -> Self {
        Self {
            deadline_of: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
        }
    }
}

impl<N: Copy + Ord> Timers<N> {
    /// Sets a timer, replacing its earlier deadline.
    pub fn set(&mut self, name: N, at: Time) {
        self.cancel(name);
        self.deadline_of.insert(name, at);
        self.by_deadline.insert((at, name));
    }

    /// Forgets a timer; one that is not set is no error.
    pub fn cancel(&mut self, name: N) {
        if let Some(at) = self.deadline_of.remove(&name) {
            self.by_deadline.remove(&(at, name));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.by_deadline.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that has run out at `now`; those due together come in the order of
    /// their names.
    pub fn pop_due(&mut self, now: Time) -> Option<N> {
        let (at, name) = *self.by_deadline.first()?;
        if at > now {
            return None;
        }
        self.cancel(name);
        Some(name)
    }

    /// When this timer runs out, if it is set.
    #[must_use]
    pub fn deadline(&self, name: N) -> Option<Time> {
        self.deadline_of.get(&name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_once_at_its_last_deadline_unless_cancelled() {
        let mut timers = Timers::default();
        timers.set("a", Time::from_millis(5));
        timers.set("b", Time::from_millis(3));
        timers.set("c", Time::from_millis(3));
        timers.set("a", Time::from_millis(2));
        timers.cancel("c");
        assert_eq!(timers.next_deadline(), Some(Time::from_millis(2)));
        assert_eq!(timers.pop_due(Time::from_millis(1)), None);
        assert_eq!(timers.pop_due(Time::from_millis(9)), Some("a"));
        assert_eq!(timers.pop_due(Time::from_millis(9)), Some("b"));
        assert_eq!(timers.pop_due(Time::from_millis(9)), None);
    }
}
