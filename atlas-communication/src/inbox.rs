//! The sending half of an inbox: bounded in reads and in bytes.

use crate::limits::{FRAME_OVERHEAD_BYTES, ReplicaLimits};
use crate::network::{ClientInbound, Inbound, ReplicaInbox};
use atlas_common::{ClientId, NodeId};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What arrives: frames of one sender.
pub(crate) trait Arrival: Send {
    type From: Copy + Send;

    fn arrived(from: Self::From, frames: Vec<Bytes>, budget: OwnedSemaphorePermit) -> Self;
}

impl Arrival for Inbound {
    type From = NodeId;

    fn arrived(from: NodeId, frames: Vec<Bytes>, budget: OwnedSemaphorePermit) -> Self {
        Self::new(from, frames).within(budget)
    }
}

impl Arrival for ClientInbound {
    type From = ClientId;

    fn arrived(from: ClientId, frames: Vec<Bytes>, budget: OwnedSemaphorePermit) -> Self {
        Self::new(from, frames).within(budget)
    }
}

/// Where readers put what arrives.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    sender: mpsc::Sender<T>,
    budget: Arc<Semaphore>,
    bytes_max: usize,
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            budget: Arc::clone(&self.budget),
            bytes_max: self.bytes_max,
        }
    }
}

impl<T: Arrival> Inbox<T> {
    pub(crate) fn new(reads_max: usize, bytes_max: usize) -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(reads_max);
        let budget = Arc::new(Semaphore::new(bytes_max));
        let inbox = Self {
            sender,
            budget,
            bytes_max,
        };
        (inbox, receiver)
    }

    /// Waits for room, first come first served, and hands on frames of `bytes` bytes together. False
    /// when nobody receives any more.
    pub(crate) async fn deliver(&self, from: T::From, frames: Vec<Bytes>, bytes: usize) -> bool {
        let cost = (bytes + frames.len() * FRAME_OVERHEAD_BYTES).min(self.bytes_max) as u32;
        let budget = Arc::clone(&self.budget).acquire_many_owned(cost).await;
        match budget {
            Ok(budget) => {
                let arrival = T::arrived(from, frames, budget);
                self.sender.send(arrival).await.is_ok()
            }
            Err(_closed) => false,
        }
    }
}

/// The sending halves of a replica's inboxes.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaInboxes {
    /// By lane.
    pub(crate) lanes: [Inbox<Inbound>; 4],
    pub(crate) clients: Inbox<ClientInbound>,
}

impl ReplicaInboxes {
    pub(crate) fn new(limits: &ReplicaLimits) -> (Self, ReplicaInbox) {
        let (reads_max, bytes_max) = (limits.inbox_reads_max, limits.inbox_bytes_max);
        let (to_ordering, ordering) = Inbox::new(reads_max, bytes_max);
        let (to_application, application) = Inbox::new(reads_max, bytes_max);
        let (to_transfer, transfer) = Inbox::new(reads_max, bytes_max);
        let (to_reconfiguration, reconfiguration) = Inbox::new(reads_max, bytes_max);
        let (to_clients, clients) = Inbox::new(reads_max, bytes_max);
        let inboxes = Self {
            // In the order of `Lane::ALL`.
            lanes: [to_ordering, to_application, to_transfer, to_reconfiguration],
            clients: to_clients,
        };
        let inbox = ReplicaInbox {
            ordering,
            application,
            transfer,
            reconfiguration,
            clients,
        };
        (inboxes, inbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn what_was_received_counts_until_it_is_let_go() {
        let mut cx = Context::from_waker(Waker::noop());
        let (inbox, mut receiver) = Inbox::<Inbound>::new(100, 1000);
        let frame = Bytes::from(vec![1; 600]);
        let mut first = pin!(inbox.deliver(NodeId(1), vec![frame.clone()], 600));
        assert_eq!(first.as_mut().poll(&mut cx), Poll::Ready(true));
        let mut second = pin!(inbox.deliver(NodeId(1), vec![frame], 600));
        assert_eq!(second.as_mut().poll(&mut cx), Poll::Pending);
        let got = receiver.try_recv().unwrap();
        assert_eq!(second.as_mut().poll(&mut cx), Poll::Pending);
        drop(got);
        assert_eq!(second.as_mut().poll(&mut cx), Poll::Ready(true));
    }

    #[test]
    fn one_read_over_the_whole_budget_still_passes_alone() {
        let mut cx = Context::from_waker(Waker::noop());
        let (inbox, _receiver) = Inbox::<Inbound>::new(100, 1000);
        let frames = vec![Bytes::from(vec![1; 5000])];
        let delivery = pin!(inbox.deliver(NodeId(1), frames, 5000));
        assert_eq!(delivery.poll(&mut cx), Poll::Ready(true));
    }
}
