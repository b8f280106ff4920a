//! The clients that are connected to a replica.

use crate::counters::{Traffic, TrafficMeter};
use crate::error::Refusal;
use crate::limits::READ_BYTES_MAX;
use crate::queue::{QueueLimits, SendQueue};
use atlas_common::ClientId;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The read buffer of a connection on which there are no long frames.
const BUFFER_BYTES: usize = 2 * READ_BYTES_MAX;

/// Who is connected, and the queue of replies to each.
#[derive(Debug)]
pub(crate) struct ClientTable {
    seats: RwLock<HashMap<ClientId, Arc<SendQueue>>>,
    clients_max: usize,
    bytes_max: usize,
    /// What is held for all of them.
    bytes: Arc<AtomicUsize>,
    queue_limits: QueueLimits,
    /// What clients that are gone sent and were sent, and replies to clients that are not there.
    past: TrafficMeter,
}

impl ClientTable {
    pub(crate) fn new(
        clients_max: usize,
        bytes_max: usize,
        queue_limits: QueueLimits,
    ) -> Arc<Self> {
        Arc::new(Self {
            seats: RwLock::default(),
            clients_max,
            bytes_max,
            bytes: Arc::default(),
            queue_limits,
            past: TrafficMeter::default(),
        })
    }

    /// Seats a client. A client that sits already is the same one come back: its old connection ends.
    pub(crate) fn seat(self: &Arc<Self>, client: ClientId) -> Result<Seat, Refusal> {
        let mut seats = self.seats.write();
        if seats.len() >= self.clients_max && !seats.contains_key(&client) {
            return Err(Refusal::TooManyClients);
        }
        let total = Arc::clone(&self.bytes);
        let queue = Arc::new(SendQueue::counting_in(self.queue_limits, total));
        queue.set_linked(true);
        let old = seats.insert(client, Arc::clone(&queue));
        drop(seats);
        if let Some(old) = old {
            old.close();
        }
        Ok(Seat {
            table: Arc::clone(self),
            client,
            queue,
        })
    }

    pub(crate) fn reply(&self, to: &ClientId, frame: Bytes) {
        match self.seats.read().get(to) {
            Some(queue) => queue.push(frame),
            None => self.past.dropped(1, frame.len() as u64),
        }
        self.relieve();
    }

    /// Ends the connections for which the most is held, until all together are within their bound: those
    /// are the ones that do not read what they have asked for, or never finish what they have begun to
    /// send.
    fn relieve(&self) {
        while self.bytes.load(Ordering::Relaxed) > self.bytes_max {
            let seats = self.seats.read();
            let held = seats.values().map(|queue| (queue.held(), queue));
            let Some((1.., largest)) = held.max_by_key(|(bytes, _)| *bytes) else {
                return;
            };
            largest.close();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.read().len()
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let seats = self.seats.read();
        let mut total = self.past.snapshot();
        for queue in seats.values() {
            total += queue.meter().snapshot();
        }
        total
    }
}

/// A connected client's place; gives it up when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    table: Arc<ClientTable>,
    pub(crate) client: ClientId,
    pub(crate) queue: Arc<SendQueue>,
}

impl Seat {
    /// So many bytes are held for frames that come from this client; what every busy connection has does
    /// not count.
    pub(crate) fn set_reading(&self, bytes: usize) {
        self.queue.set_reading(bytes.saturating_sub(BUFFER_BYTES));
        self.table.relieve();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.queue.close();
        let mut seats = self.table.seats.write();
        let is_own = |queue: &Arc<SendQueue>| Arc::ptr_eq(queue, &self.queue);
        if seats.get(&self.client).is_some_and(is_own) {
            seats.remove(&self.client);
        }
        // Under the lock, so that a reader counts this traffic once, in the one place or the other.
        self.table.past.add(self.queue.meter().snapshot());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::crypto::PublicKey;

    fn client(instance: u64) -> ClientId {
        let key = PublicKey::default();
        ClientId { key, instance }
    }

    fn table(clients_max: usize) -> Arc<ClientTable> {
        let limits = QueueLimits {
            frames_max: 10,
            bytes_max: 100,
            frame_bytes_max: 100,
        };
        ClientTable::new(clients_max, 150, limits)
    }

    #[test]
    fn row_32_churn_leaves_nothing_behind_but_counts() {
        let table = table(2);
        for round in 0..100 {
            let seat = table.seat(client(round)).unwrap();
            table.reply(&seat.client, Bytes::from_static(b"abc"));
        }
        assert_eq!(table.len(), 0);
        assert_eq!(table.traffic().bytes_dropped, 300);
    }

    #[test]
    fn a_client_that_comes_back_takes_over_its_seat_even_when_all_are_taken() {
        let table = table(1);
        let old = table.seat(client(1)).unwrap();
        assert_eq!(table.seat(client(2)).unwrap_err(), Refusal::TooManyClients);
        let new = table.seat(client(1)).unwrap();
        assert!(!old.queue.is_linked());
        drop(old);
        assert_eq!(table.len(), 1);
        assert!(new.queue.is_linked());
    }

    #[test]
    fn the_client_for_which_the_most_is_held_makes_room_for_the_others() {
        let table = table(10);
        let seats: Vec<Seat> = (0..3).map(|n| table.seat(client(n)).unwrap()).collect();
        let reply = |seat: &Seat, bytes| table.reply(&seat.client, vec![1; bytes].into());
        reply(&seats[0], 30);
        reply(&seats[1], 60);
        // It has begun to send something.
        seats[2].set_reading(BUFFER_BYTES + 50);
        assert_eq!(table.bytes.load(Ordering::Relaxed), 140);
        reply(&seats[0], 11);
        let linked: Vec<bool> = seats.iter().map(|seat| seat.queue.is_linked()).collect();
        assert_eq!(linked, [true, false, true]);
        assert_eq!(table.bytes.load(Ordering::Relaxed), 91);
        seats[2].set_reading(BUFFER_BYTES + 110);
        assert!(!seats[2].queue.is_linked());
        assert_eq!(table.bytes.load(Ordering::Relaxed), 41);
        drop(seats);
        assert_eq!(table.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn replies_count_until_they_are_written() {
        let table = table(10);
        let seat = table.seat(client(1)).unwrap();
        table.reply(&seat.client, vec![1; 40].into());
        let mut batch = std::collections::VecDeque::new();
        assert!(seat.queue.take(&mut batch, 100).await);
        assert_eq!(table.bytes.load(Ordering::Relaxed), 40);
        seat.queue.let_go(40);
        assert_eq!(table.bytes.load(Ordering::Relaxed), 0);
    }
}
