//! The transports of Atlas.

mod clients;
mod counters;
mod endpoint;
mod error;
mod frame;
mod inbox;
mod limits;
mod link;
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
