//! What nodes must be told to be on the network over TLS, and what is checked of it.

use crate::error::NetworkError;
use crate::limits::{ClientLimits, ConnectionLimits, ReplicaLimits, positive};
use atlas_common::crypto::{KeyPair, PublicKey, Signer};
use atlas_common::{Digest, NodeId};
use std::collections::{BTreeSet, HashSet};
use std::net::TcpListener;

/// A replica of the cluster as others reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Its identity.
    pub key: PublicKey,
    /// Where it listens, `host:port`.
    pub address: String,
}

/// Which clients may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientAdmission {
    /// Those with one of these keys.
    Listed(BTreeSet<PublicKey>),
    /// Whoever has a key.
    Any,
}

/// Where a replica listens.
#[derive(Debug)]
pub enum Listener {
    /// On this address, `host:port`.
    Address(String),
    /// On a socket that is bound and listens already.
    Bound(TcpListener),
}

/// What a replica needs to be on the network.
#[derive(Debug)]
pub struct TlsReplicaConfig {
    /// This replica's number.
    pub id: NodeId,
    /// This replica's key.
    pub key: KeyPair,
    /// The digest of the cluster's genesis: only nodes of the same cluster are let in.
    pub genesis: Digest,
    /// All replicas, this one too.
    pub members: Vec<Member>,
    /// Which clients are let in.
    pub clients: ClientAdmission,
    /// Where to listen.
    pub listener: Listener,
    /// The bounds of queues and frames.
    pub limits: ReplicaLimits,
    /// The deadlines of connections.
    pub connections: ConnectionLimits,
    /// How many connections may be in the course of being set up; one more ends the oldest of them.
    pub pending_handshakes_max: usize,
}

/// What a client needs to be on the network.
#[derive(Debug)]
pub struct TlsClientConfig {
    /// The client's key.
    pub key: KeyPair,
    /// Tells this program from others that run under the same key: choose it at random.
    pub instance: u64,
    /// The digest of the cluster's genesis.
    pub genesis: Digest,
    /// The replicas.
    pub replicas: Vec<Member>,
    /// The bounds of queues and frames.
    pub limits: ClientLimits,
    /// The deadlines of connections.
    pub connections: ConnectionLimits,
}

pub(super) fn validate_replica(config: &TlsReplicaConfig) -> Result<(), NetworkError> {
    config.limits.validate()?;
    config.connections.validate()?;
    positive("pending_handshakes_max", config.pending_handshakes_max)?;
    validate_members("members", &config.members)?;
    let own = config.members.iter().find(|member| member.id == config.id);
    let public = config.key.public_key();
    match own {
        Some(own) if own.key == public => Ok(()),
        Some(own) => Err(NetworkError::Config {
            field: "key",
            found: format!("the private half of {public}"),
            expected: format!(
                "that of {}, the key of replica {} in members",
                own.key, own.id
            ),
        }),
        None => Err(NetworkError::Config {
            field: "id",
            found: config.id.to_string(),
            expected: "the number of a member".to_owned(),
        }),
    }
}

pub(super) fn validate_client(config: &TlsClientConfig) -> Result<(), NetworkError> {
    config.limits.validate()?;
    config.connections.validate()?;
    validate_members("replicas", &config.replicas)
}

fn validate_members(field: &'static str, members: &[Member]) -> Result<(), NetworkError> {
    let (mut ids, mut keys) = (HashSet::new(), HashSet::new());
    for member in members {
        if !ids.insert(member.id) || !keys.insert(member.key) {
            return Err(NetworkError::Config {
                field,
                found: format!(
                    "a list with the number or the key of replica {} twice",
                    member.id
                ),
                expected: "numbers and keys that are all different".to_owned(),
            });
        }
    }
    Ok(())
}
