//! Virtual time: one queue of what is still to happen.

use atlas_common::Time;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Events by the moment at which they happen; those of one moment in the order in which they were
/// scheduled, so that a run is the same every time.
#[derive(Debug)]
pub struct Queue<E> {
    now: Time,
    scheduled: u64,
    heap: BinaryHeap<Entry<E>>,
}

#[derive(Debug)]
struct Entry<E> {
    at: Time,
    order: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The heap gives its greatest first: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            now: Time::ZERO,
            scheduled: 0,
            heap: BinaryHeap::new(),
        }
    }
}

impl<E> Queue<E> {
    /// The present moment: that of the event taken last.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Schedules an event; one in the past happens now.
    pub fn at(&mut self, at: Time, event: E) {
        self.scheduled += 1;
        self.heap.push(Entry {
            at: at.max(self.now),
            order: self.scheduled,
            event,
        });
    }

    /// Schedules an event after a delay.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.after(delay), event);
    }

    /// Takes the next event and moves time to it.
    pub fn pop(&mut self) -> Option<E> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }

    /// When the next event happens.
    #[must_use]
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|entry| entry.at)
    }

    /// How many events are to come.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_moment_keep_their_order() {
        let mut queue = Queue::default();
        let ms = Duration::from_millis;
        queue.after(ms(5), 'b');
        queue.after(ms(5), 'c');
        queue.after(ms(1), 'a');
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ['a', 'b', 'c']);
        assert_eq!(queue.now(), Time::from_millis(5));
        queue.at(Time::ZERO, 'd');
        assert_eq!(queue.next_at(), Some(Time::from_millis(5)));
    }
}
