//! What both transports share: the queues that senders fill, and the counters.

use crate::clients::ClientTable;
use crate::counters::{ClientCounters, NetworkCounters, RefusalMeter};
use crate::error::NetworkError;
use crate::limits::{ClientLimits, ReplicaLimits};
use crate::network::Lane;
use crate::queue::{QueueLimits, SendQueue};
use crate::tasks::Tasks;
use atlas_common::{ClientId, NodeId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The queues of one replica. The transports differ only in the tasks that serve them.
#[derive(Debug)]
pub(crate) struct ReplicaEndpoint {
    pub(crate) id: NodeId,
    /// Ascending.
    pub(crate) peers: Vec<NodeId>,
    /// By position in `peers` and lane.
    links: Vec<[Arc<SendQueue>; 4]>,
    pub(crate) clients: Arc<ClientTable>,
    pub(crate) refusals: Arc<RefusalMeter>,
    pub(crate) tasks: Arc<Tasks>,
    unroutable: AtomicU64,
}

impl ReplicaEndpoint {
    pub(crate) fn new(
        id: NodeId,
        members: impl IntoIterator<Item = NodeId>,
        limits: &ReplicaLimits,
    ) -> Result<Self, NetworkError> {
        let mut peers: Vec<NodeId> = members.into_iter().filter(|other| *other != id).collect();
        peers.sort_unstable();
        let to_peers = QueueLimits {
            frames_max: limits.queue_frames_max,
            bytes_max: limits.queue_bytes_max,
            frame_bytes_max: limits.frame_bytes_max,
        };
        let to_clients = QueueLimits {
            frames_max: limits.client_queue_frames_max,
            bytes_max: limits.client_queue_bytes_max,
            frame_bytes_max: limits.client_queue_bytes_max,
        };
        let lanes = |_| Lane::ALL.map(|_| Arc::new(SendQueue::new(to_peers)));
        Ok(Self {
            id,
            links: peers.iter().map(lanes).collect(),
            peers,
            clients: ClientTable::new(limits.clients_max, limits.clients_bytes_max, to_clients),
            refusals: Arc::default(),
            tasks: Tasks::new()?,
            unroutable: AtomicU64::new(0),
        })
    }

    pub(crate) fn link(&self, peer: NodeId, lane: Lane) -> Option<&Arc<SendQueue>> {
        let position = self.peers.binary_search(&peer).ok()?;
        Some(&self.links[position][lane.index()])
    }

    /// All links: peer, lane, queue.
    pub(crate) fn links(&self) -> impl Iterator<Item = (NodeId, Lane, &Arc<SendQueue>)> {
        let peers = self.peers.iter().zip(&self.links);
        peers.flat_map(|(peer, lanes)| Lane::ALL.map(|lane| (*peer, lane, &lanes[lane.index()])))
    }

    pub(crate) fn send(&self, to: NodeId, lane: Lane, frame: Bytes) {
        match self.link(to, lane) {
            Some(queue) => queue.push(frame),
            None => {
                self.unroutable.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn broadcast(&self, lane: Lane, frame: &Bytes) {
        for lanes in &self.links {
            lanes[lane.index()].push(frame.clone());
        }
    }

    pub(crate) fn counters(&self) -> NetworkCounters {
        let mut links: BTreeMap<NodeId, BTreeMap<Lane, _>> = BTreeMap::new();
        for (peer, lane, queue) in self.links() {
            let lanes = links.entry(peer).or_default();
            lanes.insert(lane, queue.meter().snapshot());
        }
        NetworkCounters {
            links,
            clients: self.clients.traffic(),
            refusals: self.refusals.snapshot(),
            peers_connected: self.connected().len() as u64,
            clients_connected: self.clients.len() as u64,
            frames_unroutable: self.unroutable.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn connected(&self) -> Vec<NodeId> {
        self.links()
            .filter(|(_, lane, queue)| *lane == Lane::Ordering && queue.is_linked())
            .map(|(peer, _, _)| peer)
            .collect()
    }

    pub(crate) fn shutdown(&self) {
        self.tasks.stop();
        for (_, _, queue) in self.links() {
            queue.close();
        }
    }
}

/// The queues of one client.
#[derive(Debug)]
pub(crate) struct ClientEndpoint {
    pub(crate) id: ClientId,
    /// Ascending.
    pub(crate) replicas: Vec<NodeId>,
    /// By position in `replicas`.
    links: Vec<Arc<SendQueue>>,
    pub(crate) refusals: Arc<RefusalMeter>,
    pub(crate) tasks: Arc<Tasks>,
    unroutable: AtomicU64,
}

impl ClientEndpoint {
    pub(crate) fn new(
        id: ClientId,
        replicas: impl IntoIterator<Item = NodeId>,
        limits: &ClientLimits,
    ) -> Result<Self, NetworkError> {
        let mut replicas: Vec<NodeId> = replicas.into_iter().collect();
        replicas.sort_unstable();
        let queue_limits = QueueLimits {
            frames_max: limits.queue_frames_max,
            bytes_max: limits.queue_bytes_max,
            frame_bytes_max: limits.frame_bytes_max,
        };
        let queue = |_| Arc::new(SendQueue::new(queue_limits));
        Ok(Self {
            id,
            links: replicas.iter().map(queue).collect(),
            replicas,
            refusals: Arc::default(),
            tasks: Tasks::new()?,
            unroutable: AtomicU64::new(0),
        })
    }

    pub(crate) fn link(&self, replica: NodeId) -> Option<&Arc<SendQueue>> {
        let position = self.replicas.binary_search(&replica).ok()?;
        Some(&self.links[position])
    }

    /// All links: replica, queue.
    pub(crate) fn links(&self) -> impl Iterator<Item = (NodeId, &Arc<SendQueue>)> {
        self.replicas.iter().copied().zip(&self.links)
    }

    pub(crate) fn send(&self, to: NodeId, frame: Bytes) {
        match self.link(to) {
            Some(queue) => queue.push(frame),
            None => {
                self.unroutable.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn broadcast(&self, frame: &Bytes) {
        for queue in &self.links {
            queue.push(frame.clone());
        }
    }

    pub(crate) fn counters(&self) -> ClientCounters {
        let links = self.links();
        ClientCounters {
            links: links
                .map(|(to, queue)| (to, queue.meter().snapshot()))
                .collect(),
            refusals: self.refusals.snapshot(),
            replicas_connected: self.connected().len() as u64,
            frames_unroutable: self.unroutable.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn connected(&self) -> Vec<NodeId> {
        self.links()
            .filter(|(_, queue)| queue.is_linked())
            .map(|(replica, _)| replica)
            .collect()
    }

    pub(crate) fn shutdown(&self) {
        self.tasks.stop();
        for (_, queue) in self.links() {
            queue.close();
        }
    }
}

/// Implements [`ReplicaNetwork`](crate::ReplicaNetwork) by a field `endpoint: Arc<ReplicaEndpoint>`, and ends
/// the network when its handle goes.
macro_rules! replica_network_by_endpoint {
    ($network:ty) => {
        impl crate::network::ReplicaNetwork for $network {
            fn id(&self) -> NodeId {
                self.endpoint.id
            }

            fn peers(&self) -> &[NodeId] {
                &self.endpoint.peers
            }

            fn send(&self, to: NodeId, lane: crate::network::Lane, frame: bytes::Bytes) {
                self.endpoint.send(to, lane, frame);
            }

            fn broadcast(&self, lane: crate::network::Lane, frame: bytes::Bytes) {
                self.endpoint.broadcast(lane, &frame);
            }

            fn reply(&self, to: &atlas_common::ClientId, frame: bytes::Bytes) {
                self.endpoint.clients.reply(to, frame);
            }

            fn counters(&self) -> crate::counters::NetworkCounters {
                self.endpoint.counters()
            }

            fn connected(&self) -> Vec<NodeId> {
                self.endpoint.connected()
            }

            fn shutdown(&self) {
                self.stop();
            }
        }

        impl Drop for $network {
            fn drop(&mut self) {
                self.stop();
            }
        }
    };
}

/// Implements [`ClientNetwork`](crate::ClientNetwork) by a field `endpoint: Arc<ClientEndpoint>`, and ends the
/// network when its handle goes.
macro_rules! client_network_by_endpoint {
    ($network:ty) => {
        impl crate::network::ClientNetwork for $network {
            fn id(&self) -> atlas_common::ClientId {
                self.endpoint.id
            }

            fn replicas(&self) -> &[NodeId] {
                &self.endpoint.replicas
            }

            fn send(&self, to: NodeId, frame: bytes::Bytes) {
                self.endpoint.send(to, frame);
            }

            fn broadcast(&self, frame: bytes::Bytes) {
                self.endpoint.broadcast(&frame);
            }

            fn counters(&self) -> crate::counters::ClientCounters {
                self.endpoint.counters()
            }

            fn connected(&self) -> Vec<NodeId> {
                self.endpoint.connected()
            }

            fn shutdown(&self) {
                self.stop();
            }
        }

        impl Drop for $network {
            fn drop(&mut self) {
                self.stop();
            }
        }
    };
}

pub(crate) use {client_network_by_endpoint, replica_network_by_endpoint};
