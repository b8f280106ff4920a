//! Virtual time: one queue of what is still to happen.

use atlas_common::Time;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Events by the moment at which they happen; those of one moment in the order in which they were
/// scheduled, so that a run is the same every time.
#[derive(Debug)]
pub struct Queue<E> {
    now: Time,
    scheduled: u64,
    /// Moment, order and place of each event. Events are large, and a heap moves what it holds.
    heap: BinaryHeap<Reverse<(Time, u64, usize)>>,
    places: Vec<Option<E>>,
    free: Vec<usize>,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            now: Time::ZERO,
            scheduled: 0,
            heap: BinaryHeap::new(),
            places: Vec::new(),
            free: Vec::new(),
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
        let place = self.free.pop().unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(Some(event));
        } else {
            self.places[place] = Some(event);
        }
        self.heap
            .push(Reverse((at.max(self.now), self.scheduled, place)));
    }

    /// Schedules an event after a delay.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.after(delay), event);
    }

    /// Takes the next event and moves time to it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.now = at;
        self.free.push(place);
        self.places[place].take()
    }

    /// When the next event happens.
    #[must_use]
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
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
