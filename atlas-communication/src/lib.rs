//! The transports of Atlas.

mod counters;
mod error;
mod network;
mod stub;

pub use counters::{ClientCounters, NetworkCounters, RefusalCounters, Traffic};
pub use error::{NetworkError, Refusal};
pub use network::{ClientInbound, ClientNetwork, Inbound, Lane, ReplicaInbox, ReplicaNetwork};
pub use stub::{
    ApplicationStub, LaneName, LaneStub, OrderingStub, ReconfigurationStub, TransferStub,
};
