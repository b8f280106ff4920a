//! A node of an Atlas cluster.

pub mod admin;
mod background;
pub mod backup;
pub mod bounds;
mod builder;
mod clock;
pub mod config;
mod driver;
mod evidence;
mod handle;
pub mod inspect;
mod local;
mod node;
pub mod proof;
pub mod recovery;
mod registry;
mod shared;
mod sink;
mod status;
pub mod store;
mod verified;

pub use builder::{Replica, ReplicaBuilder};
pub use driver::Stopped;
pub use handle::{ReplicaHandle, ReplicaStopped};
pub use node::StartError;
pub use registry::{
    ProtocolRegistry, ProtocolSettings, ProtocolTools, RecordedDecisions, SettingsError,
};
pub use status::ReplicaStatus;
