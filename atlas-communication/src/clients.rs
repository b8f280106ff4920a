//! The clients that are connected to a replica.

use crate::counters::{Traffic, TrafficMeter};
use crate::error::Refusal;
use crate::queue::{QueueLimits, SendQueue};
use atlas_common::ClientId;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// Who is connected, and the queue of replies to each.
#[derive(Debug)]
pub(crate) struct ClientTable {
    seats: RwLock<HashMap<ClientId, Arc<SendQueue>>>,
    clients_max: usize,
    queue_limits: QueueLimits,
    /// What clients that are gone sent and were sent, and replies to clients that are not there.
    past: TrafficMeter,
}

impl ClientTable {
    pub(crate) fn new(clients_max: usize, queue_limits: QueueLimits) -> Arc<Self> {
        Arc::new(Self {
            seats: RwLock::default(),
            clients_max,
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
        let queue = Arc::new(SendQueue::new(self.queue_limits));
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
        ClientTable::new(clients_max, limits)
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
}
