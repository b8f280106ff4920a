//! The transport within one process: the same queues, budgets and drops as over TLS, without sockets.

use crate::counters::TrafficMeter;
use crate::endpoint::{
    ClientEndpoint, ReplicaEndpoint, client_network_by_endpoint, replica_network_by_endpoint,
};
use crate::error::NetworkError;
use crate::inbox::{Arrival, Inbox, ReplicaInboxes};
use crate::limits::{ClientLimits, READ_BYTES_MAX, ReplicaLimits};
use crate::network::{Inbound, Lane, ReplicaInbox};
use crate::queue::SendQueue;
use atlas_common::{ClientId, NodeId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// How long a refused client waits before it asks again.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// One end of a link, to name which links to cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// A replica.
    Replica(NodeId),
    /// A client.
    Client(ClientId),
}

impl From<NodeId> for Place {
    fn from(id: NodeId) -> Self {
        Self::Replica(id)
    }
}

impl From<ClientId> for Place {
    fn from(id: ClientId) -> Self {
        Self::Client(id)
    }
}

/// Connects replicas and clients of one process. Cheap to clone; clones are the same hub.
///
/// Links can be [cut](Self::cut) and [healed](Self::heal), and a replica can leave and come back, as
/// over real sockets.
#[derive(Clone, Debug)]
pub struct MemoryHub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    members: Vec<NodeId>,
    replica_limits: ReplicaLimits,
    client_limits: ClientLimits,
    routes: Mutex<Routes>,
    /// Told whenever `routes` changes.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Routes {
    replicas: BTreeMap<NodeId, Port>,
    cut: BTreeSet<(Place, Place)>,
    next_serial: u64,
}

/// Where a running replica takes frames in.
#[derive(Clone, Debug)]
struct Port {
    /// Differs each time that a replica starts.
    serial: u64,
    inboxes: ReplicaInboxes,
    endpoint: Arc<ReplicaEndpoint>,
}

impl MemoryHub {
    /// A hub for a cluster of replicas n0, n1 and so on, with default limits.
    #[must_use]
    pub fn new(replicas: u32) -> Self {
        Self::build(replicas, ReplicaLimits::default(), ClientLimits::default())
    }

    /// As [`Self::new`], with limits.
    ///
    /// # Errors
    /// [`NetworkError::Config`] for a limit out of its range.
    pub fn with_limits(
        replicas: u32,
        replica_limits: ReplicaLimits,
        client_limits: ClientLimits,
    ) -> Result<Self, NetworkError> {
        replica_limits.validate()?;
        client_limits.validate()?;
        Ok(Self::build(replicas, replica_limits, client_limits))
    }

    fn build(replicas: u32, replica_limits: ReplicaLimits, client_limits: ClientLimits) -> Self {
        Self {
            shared: Arc::new(Shared {
                members: (0..replicas).map(NodeId).collect(),
                replica_limits,
                client_limits,
                routes: Mutex::default(),
                changed: watch::Sender::new(()),
            }),
        }
    }

    /// Starts a replica's network on the current tokio runtime. One that runs already under this
    /// number receives no more.
    ///
    /// # Errors
    /// [`NetworkError::Config`] for a number that is not in the cluster, [`NetworkError::NoRuntime`]
    /// outside of a runtime.
    pub fn replica(&self, id: NodeId) -> Result<(Arc<MemoryReplica>, ReplicaInbox), NetworkError> {
        let shared = &self.shared;
        if !shared.members.contains(&id) {
            return Err(NetworkError::Config {
                field: "replica",
                found: id.to_string(),
                expected: format!("a number below {}", shared.members.len()),
            });
        }
        let (inboxes, inbox) = ReplicaInboxes::new(&shared.replica_limits);
        let members = shared.members.iter().copied();
        let endpoint = ReplicaEndpoint::new(id, members, &shared.replica_limits)?;
        let endpoint = Arc::new(endpoint);
        for (peer, lane, queue) in endpoint.links() {
            let link = PeerLink {
                hub: Arc::clone(shared),
                from: id,
                to: peer,
                lane,
                queue: Arc::clone(queue),
            };
            endpoint.tasks.spawn(link.run());
        }
        let serial = shared.register(id, inboxes, Arc::clone(&endpoint));
        let replica = MemoryReplica {
            endpoint,
            hub: Arc::clone(shared),
            serial,
        };
        Ok((Arc::new(replica), inbox))
    }

    /// Starts a client's network on the current tokio runtime.
    ///
    /// # Errors
    /// [`NetworkError::NoRuntime`] outside of a runtime.
    pub fn client(
        &self,
        id: ClientId,
    ) -> Result<(Arc<MemoryClient>, mpsc::Receiver<Inbound>), NetworkError> {
        let limits = &self.shared.client_limits;
        let (inbox, receiver) = Inbox::new(limits.inbox_reads_max, limits.inbox_bytes_max);
        let members = self.shared.members.iter().copied();
        let endpoint = Arc::new(ClientEndpoint::new(id, members, limits)?);
        for (replica, queue) in endpoint.links() {
            let link = ClientLink {
                hub: Arc::clone(&self.shared),
                client: Arc::clone(&endpoint),
                to: replica,
                queue: Arc::clone(queue),
                replies: inbox.clone(),
            };
            endpoint.tasks.spawn(link.run());
        }
        Ok((Arc::new(MemoryClient { endpoint }), receiver))
    }

    /// Cuts the link over which `from` sends to `to`; the other direction stays, but for a client,
    /// which has one connection both ways. Frames wait in the sender's queue, the oldest give way.
    pub fn cut(&self, from: impl Into<Place>, to: impl Into<Place>) {
        let link = (from.into(), to.into());
        self.shared.change(|routes| {
            routes.cut.insert(link);
        });
    }

    /// Undoes [`Self::cut`] for the same direction.
    pub fn heal(&self, from: impl Into<Place>, to: impl Into<Place>) {
        let link = (from.into(), to.into());
        self.shared.change(|routes| {
            routes.cut.remove(&link);
        });
    }

    /// Undoes every cut.
    pub fn heal_all(&self) {
        self.shared.change(|routes| routes.cut.clear());
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Routes)) {
        change(&mut self.routes.lock());
        self.changed.send_replace(());
    }

    fn register(&self, id: NodeId, inboxes: ReplicaInboxes, endpoint: Arc<ReplicaEndpoint>) -> u64 {
        let mut serial = 0;
        self.change(|routes| {
            serial = routes.next_serial;
            routes.next_serial += 1;
            let port = Port {
                serial,
                inboxes,
                endpoint,
            };
            routes.replicas.insert(id, port);
        });
        serial
    }

    /// Where frames from `from` to this replica go, if the way is open.
    fn port(&self, from: Place, to: NodeId) -> Option<Port> {
        let routes = self.routes.lock();
        let to_place = Place::Replica(to);
        let is_cut = routes.cut.contains(&(from, to_place))
            || (matches!(from, Place::Client(_)) && routes.cut.contains(&(to_place, from)));
        if is_cut {
            return None;
        }
        routes.replicas.get(&to).cloned()
    }

    /// Waits until the way to this very start of the replica is no longer open.
    async fn closed(
        &self,
        changed: &mut watch::Receiver<()>,
        from: Place,
        to: NodeId,
        serial: u64,
    ) {
        while self
            .port(from, to)
            .is_some_and(|port| port.serial == serial)
        {
            wait(changed).await;
        }
    }
}

/// Waits for a change of the routes.
async fn wait(changed: &mut watch::Receiver<()>) {
    if changed.changed().await.is_err() {
        // The hub that would tell is gone; whoever asks holds it, so this is not reached.
        std::future::pending::<()>().await;
    }
}

/// Carries frames from a queue to an inbox until either ends.
async fn carry<T: Arrival>(
    queue: &SendQueue,
    from: T::From,
    inbox: &Inbox<T>,
    received: &TrafficMeter,
) {
    let mut batch = VecDeque::new();
    while queue.take(&mut batch, READ_BYTES_MAX).await {
        let frames: Vec<Bytes> = batch.drain(..).collect();
        let (count, bytes) = (frames.len() as u64, frames.iter().map(Bytes::len).sum());
        queue.meter().sent(count, bytes as u64);
        queue.let_go(bytes);
        received.received(count, bytes as u64);
        if !inbox.deliver(from, frames, bytes).await {
            return;
        }
    }
}

struct PeerLink {
    hub: Arc<Shared>,
    from: NodeId,
    to: NodeId,
    lane: Lane,
    queue: Arc<SendQueue>,
}

impl PeerLink {
    async fn run(self) {
        let mut changed = self.hub.changed.subscribe();
        loop {
            // Before looking, so that what changes afterwards is noticed.
            changed.mark_unchanged();
            if let Some(port) = self.hub.port(self.from.into(), self.to) {
                self.serve(&port, &mut changed).await;
            }
            self.queue.set_linked(false);
            wait(&mut changed).await;
        }
    }

    async fn serve(&self, port: &Port, changed: &mut watch::Receiver<()>) {
        let Some(back) = port.endpoint.link(self.from, self.lane) else {
            return;
        };
        self.queue.set_linked(true);
        let inbox = &port.inboxes.lanes[self.lane.index()];
        let place = self.from.into();
        tokio::select! {
            biased;
            () = self.hub.closed(changed, place, self.to, port.serial) => changed.mark_changed(),
            () = carry(&self.queue, self.from, inbox, back.meter()) => {}
        }
    }
}

struct ClientLink {
    hub: Arc<Shared>,
    client: Arc<ClientEndpoint>,
    to: NodeId,
    queue: Arc<SendQueue>,
    replies: Inbox<Inbound>,
}

impl ClientLink {
    async fn run(self) {
        let mut changed = self.hub.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let mut patience = Duration::MAX;
            if let Some(port) = self.hub.port(self.client.id.into(), self.to)
                && !self.serve(&port, &mut changed).await
            {
                patience = REFUSED_PAUSE;
            }
            self.queue.set_linked(false);
            // Running out of patience is as good as a change: ask again.
            drop(timeout(patience, wait(&mut changed)).await);
        }
    }

    /// False when the replica refused.
    async fn serve(&self, port: &Port, changed: &mut watch::Receiver<()>) -> bool {
        let id = self.client.id;
        let seat = match port.endpoint.clients.seat(id) {
            Ok(seat) => seat,
            Err(refusal) => {
                port.endpoint.refusals.by_us(refusal);
                self.client.refusals.by_peer(refusal);
                return false;
            }
        };
        self.queue.set_linked(true);
        let (there, back) = (&port.inboxes.clients, &self.replies);
        tokio::select! {
            biased;
            () = self.hub.closed(changed, id.into(), self.to, port.serial) => {
                changed.mark_changed();
            }
            () = carry(&self.queue, id, there, seat.queue.meter()) => {}
            () = carry(&seat.queue, self.to, back, self.queue.meter()) => {}
        }
        true
    }
}

/// A replica's network within the process.
#[derive(Debug)]
pub struct MemoryReplica {
    endpoint: Arc<ReplicaEndpoint>,
    hub: Arc<Shared>,
    serial: u64,
}

impl MemoryReplica {
    fn stop(&self) {
        self.endpoint.shutdown();
        self.hub.change(|routes| {
            let id = self.endpoint.id;
            let own = routes
                .replicas
                .get(&id)
                .filter(|port| port.serial == self.serial);
            if own.is_some() {
                routes.replicas.remove(&id);
            }
        });
    }
}

replica_network_by_endpoint!(MemoryReplica);

/// A client's network within the process.
#[derive(Debug)]
pub struct MemoryClient {
    endpoint: Arc<ClientEndpoint>,
}

impl MemoryClient {
    fn stop(&self) {
        self.endpoint.shutdown();
    }
}

client_network_by_endpoint!(MemoryClient);
