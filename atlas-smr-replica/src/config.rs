//! Configuration: one cluster file that all nodes share, one file per node or client, one key file
//! each.
//!
//! What a file says and what was checked have different types: [`ClusterFile`], [`NodeFile`] and
//! [`ClientFile`] are the files as written; [`ClusterConfig`], [`NodeConfig`] and [`ClientConfig`]
//! can only be had through checks, and everything else works with those. Unknown keys are refused.
//! Every wrong value is refused with a [`ConfigError`], which names the file, the place, the key,
//! what was found and what is expected.
//!
//! Paths in a file are relative to that file.
//!
//! ```
//! use atlas_smr_replica::config::{InitOptions, KnownProtocol, NodeConfig, init};
//!
//! # let temporary = tempfile::tempdir()?;
//! # let dir = temporary.path().join("cluster");
//! let pbft = KnownProtocol::of::<atlas_pbft::Pbft>();
//! // Keys, cluster.toml, and a directory for each replica and client.
//! let made = init(&InitOptions::new(dir, 4, pbft), &|_node| Ok(()))?;
//! let node = NodeConfig::load(&made.replicas[2], &[pbft])?;
//! assert_eq!(node.listen.as_str(), "127.0.0.1:7102");
//! assert_eq!(node.cluster.genesis(), made.cluster.genesis());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
mod client;
mod cluster;
mod cluster_file;
mod error;
mod init;
mod keys;
mod node;
mod source;
mod timeouts;

#[cfg(test)]
mod tests;

pub use address::{Address, AddressError};
pub use client::{ClientConfig, ClientFile};
pub use cluster::{Clients, ClusterConfig, ClusterMember, ListedClient};
pub use cluster_file::{ClientEntry, ClientsEntry, ClusterFile, MemberEntry};
pub use error::{ConfigError, Position};
pub use init::{InitError, InitOptions, Initialised, Ports, RecordBirth, init};
pub use keys::{read_key_file, write_key_file};
pub use node::{NodeConfig, NodeFile};
pub use timeouts::Timeouts;

use atlas_common::quorum::FaultModel;
use atlas_core::{Limits, OrderingProtocol};

/// A protocol that a cluster file may name.
#[derive(Clone, Copy, Debug)]
pub struct KnownProtocol {
    /// Its name in the cluster file.
    pub name: &'static str,
    /// What faults it survives.
    pub model: FaultModel,
    /// The limits that a cluster of so many voters begins with.
    pub limits_for: fn(usize) -> Limits,
}

impl PartialEq for KnownProtocol {
    /// A name stands for one protocol.
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.model) == (other.name, other.model)
    }
}

impl Eq for KnownProtocol {}

impl KnownProtocol {
    /// How a protocol is known.
    #[must_use]
    pub fn of<P: OrderingProtocol>() -> Self {
        Self {
            name: P::NAME,
            model: P::FAULT_MODEL,
            limits_for: P::limits_for,
        }
    }

    /// The size of the smallest cluster that survives the fault of one replica.
    #[must_use]
    pub const fn replicas_for_one_fault(&self) -> usize {
        match self.model {
            FaultModel::Byzantine => 4,
            FaultModel::Crash => 3,
        }
    }
}
