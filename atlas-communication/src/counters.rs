//! What the transport counts: per link, and what it refused.

use crate::error::Refusal;
use crate::network::Lane;
use atlas_common::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Frames and bytes that went one way, or did not. Bytes are those of the frames, without framing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames handed to the connection; counted once they are, which may be after they arrived.
    pub frames_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Frames received whole.
    pub frames_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Frames that a full queue, a lost connection or a size limit kept from being sent.
    pub frames_dropped: u64,
    /// Their bytes.
    pub bytes_dropped: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.frames_sent += other.frames_sent;
        self.bytes_sent += other.bytes_sent;
        self.frames_received += other.frames_received;
        self.bytes_received += other.bytes_received;
        self.frames_dropped += other.frames_dropped;
        self.bytes_dropped += other.bytes_dropped;
    }
}

/// What a replica's network has counted since it started. Counters only grow, but for the two that
/// say how many are connected.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NetworkCounters {
    /// Traffic with each other replica on each lane.
    pub links: BTreeMap<NodeId, BTreeMap<Lane, Traffic>>,
    /// Traffic with all clients together.
    pub clients: Traffic,
    /// Connections that were not let through.
    pub refusals: RefusalCounters,
    /// Replicas to which the ordering lane's link stands now.
    pub peers_connected: u64,
    /// Clients connected now.
    pub clients_connected: u64,
    /// Frames addressed to a replica that is not a peer.
    pub frames_unroutable: u64,
}

/// What a client's network has counted since it started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClientCounters {
    /// Traffic with each replica.
    pub links: BTreeMap<NodeId, Traffic>,
    /// Connections that were not let through.
    pub refusals: RefusalCounters,
    /// Replicas to which a connection stands now.
    pub replicas_connected: u64,
    /// Frames addressed to a node that is not a replica.
    pub frames_unroutable: u64,
}

/// Connections that were refused or ended for the peer's fault.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RefusalCounters {
    /// Connections that this node refused, whichever side dialled. Reasons not seen are absent.
    pub by_us: BTreeMap<Refusal, u64>,
    /// Connections of this node that the other side refused.
    pub by_peer: BTreeMap<Refusal, u64>,
    /// Established connections ended because what came was no frame: too long, empty, or cut short.
    pub malformed: u64,
}

impl NetworkCounters {
    /// Traffic with this peer on this lane.
    #[must_use]
    pub fn link(&self, peer: NodeId, lane: Lane) -> Traffic {
        let lanes = self.links.get(&peer);
        lanes
            .and_then(|lanes| lanes.get(&lane))
            .copied()
            .unwrap_or_default()
    }
}

impl RefusalCounters {
    /// How often this node refused a connection for this reason.
    #[must_use]
    pub fn by_us(&self, reason: Refusal) -> u64 {
        self.by_us.get(&reason).copied().unwrap_or(0)
    }

    /// How often another node refused a connection of this one for this reason.
    #[must_use]
    pub fn by_peer(&self, reason: Refusal) -> u64 {
        self.by_peer.get(&reason).copied().unwrap_or(0)
    }
}

/// The live counters behind a [`Traffic`].
#[derive(Debug, Default)]
pub(crate) struct TrafficMeter {
    frames_sent: AtomicU64,
    bytes_sent: AtomicU64,
    frames_received: AtomicU64,
    bytes_received: AtomicU64,
    frames_dropped: AtomicU64,
    bytes_dropped: AtomicU64,
}

impl TrafficMeter {
    pub(crate) fn sent(&self, frames: u64, bytes: u64) {
        self.frames_sent.fetch_add(frames, Relaxed);
        self.bytes_sent.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn received(&self, frames: u64, bytes: u64) {
        self.frames_received.fetch_add(frames, Relaxed);
        self.bytes_received.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn dropped(&self, frames: u64, bytes: u64) {
        self.frames_dropped.fetch_add(frames, Relaxed);
        self.bytes_dropped.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add(&self, traffic: Traffic) {
        self.sent(traffic.frames_sent, traffic.bytes_sent);
        self.received(traffic.frames_received, traffic.bytes_received);
        self.dropped(traffic.frames_dropped, traffic.bytes_dropped);
    }

    pub(crate) fn snapshot(&self) -> Traffic {
        Traffic {
            frames_sent: self.frames_sent.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            frames_received: self.frames_received.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            frames_dropped: self.frames_dropped.load(Relaxed),
            bytes_dropped: self.bytes_dropped.load(Relaxed),
        }
    }
}

/// The live counters behind a [`RefusalCounters`].
#[derive(Debug, Default)]
pub(crate) struct RefusalMeter {
    by_us: [AtomicU64; Refusal::ALL.len()],
    by_peer: [AtomicU64; Refusal::ALL.len()],
    malformed: AtomicU64,
}

impl RefusalMeter {
    /// Counts, and gives the count before.
    pub(crate) fn by_us(&self, reason: Refusal) -> u64 {
        self.by_us[reason as usize].fetch_add(1, Relaxed)
    }

    /// Counts, and gives the count before.
    pub(crate) fn by_peer(&self, reason: Refusal) -> u64 {
        self.by_peer[reason as usize].fetch_add(1, Relaxed)
    }

    pub(crate) fn malformed(&self) {
        self.malformed.fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> RefusalCounters {
        let collect = |counts: &[AtomicU64]| {
            let all = Refusal::ALL.into_iter().zip(counts);
            all.map(|(reason, count)| (reason, count.load(Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect()
        };
        RefusalCounters {
            by_us: collect(&self.by_us),
            by_peer: collect(&self.by_peer),
            malformed: self.malformed.load(Relaxed),
        }
    }
}
