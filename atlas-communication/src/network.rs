//! What a transport offers: sending that never blocks, and bounded inboxes.

use crate::counters::{ClientCounters, NetworkCounters};
use atlas_common::{ClientId, NodeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// What a frame between replicas is about. Each lane has its own connections, queues and budgets, so
/// that a state transfer or a flood of requests never delays a vote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Lane {
    /// Messages of the ordering protocol.
    Ordering,
    /// Client requests that one replica forwards to another.
    Application,
    /// Log and state transfer.
    Transfer,
    /// Membership changes.
    Reconfiguration,
}

impl Lane {
    /// All lanes, in the order of their declaration.
    pub const ALL: [Self; 4] = [
        Self::Ordering,
        Self::Application,
        Self::Transfer,
        Self::Reconfiguration,
    ];

    /// The position of this lane in arrays indexed by lane.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a replica connects for this lane at once, rather than when it first sends on it.
    #[must_use]
    pub const fn is_eager(self) -> bool {
        matches!(self, Self::Ordering | Self::Application)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordering => "ordering",
            Self::Application => "application",
            Self::Transfer => "transfer",
            Self::Reconfiguration => "reconfiguration",
        })
    }
}

/// Frames that came from one replica in one read, in the order in which it sent them.
///
/// `from` is authenticated: the key of the connection is the key of that member. As long as the value
/// lives it counts against its inbox's budget of bytes; take `frames` out and let go of the rest.
#[derive(Debug)]
pub struct Inbound {
    /// Who sent them.
    pub from: NodeId,
    /// At least one frame.
    pub frames: Vec<Bytes>,
    /// The part of the inbox's byte budget that these frames hold.
    _budget: Option<OwnedSemaphorePermit>,
}

impl Inbound {
    /// Frames from a replica, outside of any inbox's budget.
    #[must_use]
    pub const fn new(from: NodeId, frames: Vec<Bytes>) -> Self {
        Self {
            from,
            frames,
            _budget: None,
        }
    }

    pub(crate) fn within(self, budget: OwnedSemaphorePermit) -> Self {
        Self {
            _budget: Some(budget),
            ..self
        }
    }
}

/// Frames that came from one client in one read, in the order in which it sent them. As for
/// [`Inbound`], the sender is authenticated and the value counts against the inbox's budget.
#[derive(Debug)]
pub struct ClientInbound {
    /// Who sent them.
    pub from: ClientId,
    /// At least one frame.
    pub frames: Vec<Bytes>,
    /// The part of the inbox's byte budget that these frames hold.
    _budget: Option<OwnedSemaphorePermit>,
}

impl ClientInbound {
    /// Frames from a client, outside of any inbox's budget.
    #[must_use]
    pub const fn new(from: ClientId, frames: Vec<Bytes>) -> Self {
        Self {
            from,
            frames,
            _budget: None,
        }
    }

    pub(crate) fn within(self, budget: OwnedSemaphorePermit) -> Self {
        Self {
            _budget: Some(budget),
            ..self
        }
    }
}

/// Where a replica's frames arrive: one bounded channel per lane, and one for all clients.
///
/// A channel that is full holds up the connections that feed it and nothing else: their senders'
/// queues fill, and drop. A channel ends when the network has shut down.
#[derive(Debug)]
pub struct ReplicaInbox {
    /// Messages of the ordering protocol.
    pub ordering: mpsc::Receiver<Inbound>,
    /// Requests forwarded by other replicas.
    pub application: mpsc::Receiver<Inbound>,
    /// Log and state transfer.
    pub transfer: mpsc::Receiver<Inbound>,
    /// Membership changes.
    pub reconfiguration: mpsc::Receiver<Inbound>,
    /// Everything that clients send.
    pub clients: mpsc::Receiver<ClientInbound>,
}

/// What a replica sends with. No call blocks or waits: what does not fit a queue is dropped and
/// counted. The network may drop, and after a reconnection reorder between lanes; within one
/// connection frames arrive in order.
pub trait ReplicaNetwork: Send + Sync {
    /// This replica.
    fn id(&self) -> NodeId;

    /// The other replicas, in ascending order.
    fn peers(&self) -> &[NodeId];

    /// Queues a frame for one replica. A full queue drops the frame; a queue whose link is down drops
    /// its oldest frames instead, so that a peer that comes back hears of the present.
    fn send(&self, to: NodeId, lane: Lane, frame: Bytes);

    /// Queues the same bytes for every other replica.
    fn broadcast(&self, lane: Lane, frame: Bytes) {
        for peer in self.peers() {
            self.send(*peer, lane, frame.clone());
        }
    }

    /// Queues a frame for a client; dropped when the client is not connected or its queue is full.
    fn reply(&self, to: &ClientId, frame: Bytes);

    /// What has happened so far.
    fn counters(&self) -> NetworkCounters;

    /// The replicas to which the ordering lane's link stands, in ascending order.
    fn connected(&self) -> Vec<NodeId>;

    /// Ends every connection and closes the inbox. What is queued is dropped. Idempotent.
    fn shutdown(&self);
}

/// What a client sends with: one connection to each replica, replies come back on it. No call blocks.
pub trait ClientNetwork: Send + Sync {
    /// This client.
    fn id(&self) -> ClientId;

    /// The replicas, in ascending order.
    fn replicas(&self) -> &[NodeId];

    /// Queues a frame for one replica, as [`ReplicaNetwork::send`] does.
    fn send(&self, to: NodeId, frame: Bytes);

    /// Queues the same bytes for every replica.
    fn broadcast(&self, frame: Bytes) {
        for replica in self.replicas() {
            self.send(*replica, frame.clone());
        }
    }

    /// What has happened so far.
    fn counters(&self) -> ClientCounters;

    /// The replicas to which a connection stands, in ascending order.
    fn connected(&self) -> Vec<NodeId>;

    /// Ends every connection and closes the inbox. Idempotent.
    fn shutdown(&self);
}
