//! The transports of Atlas: opaque frames between replicas, and between replicas and clients.
//!
//! Two transports, one interface ([`ReplicaNetwork`], [`ClientNetwork`]): TLS 1.3 over TCP
//! ([`TlsReplicaNetwork`], [`TlsClientNetwork`]), and in memory ([`MemoryHub`]) for tests and clusters
//! in one process. What a frame says is none of this crate's business; who sent it is.
//!
//! # Invariants
//!
//! - **Sending never blocks.** A frame goes into a bounded queue or is dropped and counted. A slow or
//!   dead peer holds up nobody: each peer has a queue, a connection and a task per [`Lane`].
//! - **Everything is bounded** by [`ReplicaLimits`], [`ClientLimits`] and [`ConnectionLimits`]: queues
//!   and inboxes in number and in bytes, frames, clients, handshakes and their duration. A length is
//!   checked before anything is allocated for it.
//! - **The sender is known.** A node is its ed25519 key, shown in TLS as a raw public key (RFC 7250). A
//!   dialler accepts the one key of the peer it dials; an acceptor those of the members and of admitted
//!   clients, and each for its own name only. A greeting binds a connection to one cluster.
//! - **No peer's input panics, blocks or ends more than its own connection**, which may come back.
//! - **A broadcast is one buffer.** Each queue holds a handle to the same bytes; what waits in a queue
//!   leaves in one write.
//! - Frames may be lost, and one connection's frames arrive in order. Retransmission is for those who
//!   know what a frame means.
//!
//! Between replicas a connection goes one way: each replica dials one per peer and lane. A client's
//! connection goes both ways.
//!
//! # Example
//!
//! ```
//! use atlas_common::{NodeId, ClientId};
//! use atlas_communication::{ClientNetwork, Lane, MemoryHub, ReplicaNetwork};
//! use bytes::Bytes;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let hub = MemoryHub::new(2);
//! let (leader, mut requests) = hub.replica(NodeId(0))?;
//! let (_backup, mut votes) = hub.replica(NodeId(1))?;
//! let (client, mut replies) = hub.client(ClientId { key: Default::default(), instance: 1 })?;
//!
//! client.send(NodeId(0), Bytes::from_static(b"increment"));
//! let request = requests.clients.recv().await.expect("the network runs");
//! assert_eq!(request.frames, ["increment"]);
//!
//! leader.broadcast(Lane::Ordering, request.frames[0].clone());
//! let proposal = votes.ordering.recv().await.expect("the network runs");
//! assert_eq!((proposal.from, &proposal.frames[0][..]), (NodeId(0), &b"increment"[..]));
//!
//! leader.reply(&request.from, Bytes::from_static(b"1"));
//! assert_eq!(replies.recv().await.expect("the network runs").frames, ["1"]);
//! # Ok(())
//! # })
//! # }
//! ```

mod clients;
mod counters;
mod endpoint;
mod error;
mod frame;
mod inbox;
mod limits;
mod link;
mod long_buffers;
mod memory;
mod network;
mod queue;
mod stub;
mod tasks;
mod tls;

pub use counters::{ClientCounters, NetworkCounters, RefusalCounters, Traffic};
pub use error::{NetworkError, Refusal};
pub use limits::{ClientLimits, ConnectionLimits, ReplicaLimits};
pub use memory::{MemoryClient, MemoryHub, MemoryReplica, Place};
pub use network::{ClientInbound, ClientNetwork, Inbound, Lane, ReplicaInbox, ReplicaNetwork};
pub use stub::{
    ApplicationStub, LaneName, LaneStub, OrderingStub, ReconfigurationStub, TransferStub,
};
pub use tls::{
    ClientAdmission, Listener, Member, TlsClientConfig, TlsClientNetwork, TlsReplicaConfig,
    TlsReplicaNetwork,
};
