//! Replicate a deterministic application so that it survives crashed servers and lying ones.
//!
//! Write the application once ([`ApplicationData`], [`Application`]); every replica runs it on its own
//! copy of the state, in one agreed order. Which protocol agrees on the order is one line of the
//! cluster file. This crate is all that a program depends on; `use atlas_smr::prelude::*` brings what
//! most need.
//!
//! ```no_run
#![doc = include_str!("../examples/hello.rs")]
//! ```
//!
//! [`LocalCluster`] runs replicas inside the program, for examples and tests.
//! [`Replica::builder`] composes one replica of a real cluster, whose files [`create_cluster`] (or the
//! command `atlas init`) writes, and [`connect`] is the way in for clients.

mod client;
mod cluster;
mod local;

pub use atlas_client::{ApplicationError, CallError, Client, ConnectError, NotReady, RequestId};
pub use atlas_common::{AgreedTime, ClientId, Digest, NodeId, OpNumber, SeqNo, SessionId, View};
pub use atlas_core::{Limits, OrderingProtocol};
pub use atlas_persistent_log::Durability;
pub use atlas_smr_core::client_message::{Consistency, StatusReport};
pub use atlas_smr_execution::{
    Application, ApplicationData, DivisibleMap, DivisibleState, ExecutionContext, MonolithicState,
    ReadWriteSet, map, state,
};
pub use atlas_smr_replica::{
    ProtocolRegistry, ProtocolSettings, Replica, ReplicaBuilder, ReplicaHandle, ReplicaStatus,
    ReplicaStopped, SettingsError, StartError, Stopped, backup, bounds, config, inspect, proof,
};
pub use client::{ApplicationClient, client_config, connect};
pub use cluster::{CreateError, create_cluster};
pub use local::{ArgumentError, LocalCluster, LocalClusterError, LocalClusterOptions};

/// What a store of one's own is written with: where a replica keeps its log and its checkpoints.
///
/// Anything that keeps named byte strings and can say when they are safe will do: see [`Storage`](storage::Storage).
/// [`ReplicaBuilder::storage`] takes it. This one counts what the replica writes, on top of files:
///
/// ```
#[doc = include_str!("../examples/own_storage.rs")]
/// ```
pub mod storage {
    pub use atlas_persistent_log::storage::Operation;
    pub use atlas_persistent_log::storage::StorageFile;
    pub use atlas_persistent_log::{FileStorage, Remedy, Storage, StorageError};
    pub use atlas_smr_replica::recovery::give_birth;
    pub use bytes::Bytes;
}

/// What an ordering protocol of one's own is written with.
pub mod protocol {
    pub use atlas_common::quorum::{FaultModel, Quorums};
    pub use atlas_common::wire::{DecodeError, EncodeError};
    pub use atlas_common::{Digest, Epoch, Lsn, NodeId, SeqNo, Time, View};
    pub use atlas_core::*;
    pub use bytes::Bytes;
}

/// What most programs need.
pub mod prelude {
    pub use crate::{
        Application, ApplicationClient, ApplicationData, CallError, Consistency, DivisibleMap,
        ExecutionContext, LocalCluster, LocalClusterOptions, ReadWriteSet, Replica, ReplicaHandle,
    };
    pub use serde::{Deserialize, Serialize};
}
