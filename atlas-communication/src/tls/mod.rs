//! The transport over TCP: TLS 1.3, mutual, with raw public keys.

mod accept;
mod dial;
mod greeting;
mod identity;
mod stream;
#[cfg(test)]
mod tests;

use crate::endpoint::{
    ClientEndpoint, ReplicaEndpoint, client_network_by_endpoint, replica_network_by_endpoint,
};
use crate::error::NetworkError;
use crate::inbox::{Inbox, ReplicaInboxes};
use crate::limits::{ClientLimits, ConnectionLimits, ReplicaLimits, positive};
use crate::network::{Inbound, Lane, ReplicaInbox};
use accept::{Acceptor, Pending};
use atlas_common::crypto::{KeyPair, PublicKey, Signer};
use atlas_common::digest::DigestBuilder;
use atlas_common::{ClientId, Digest, NodeId};
use dial::{DialledLink, Dialler, LinkKind};
use greeting::{Hello, Role};
use identity::Identity;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::sync::mpsc;

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

/// Who is let in.
#[derive(Debug)]
struct Members {
    by_key: HashMap<PublicKey, NodeId>,
    clients: ClientAdmission,
}

impl Members {
    fn member(&self, key: &PublicKey) -> Option<NodeId> {
        self.by_key.get(key).copied()
    }

    fn admits_client(&self, key: &PublicKey) -> bool {
        match &self.clients {
            ClientAdmission::Any => true,
            ClientAdmission::Listed(keys) => keys.contains(key),
        }
    }
}

/// A replica's network over TLS.
#[derive(Debug)]
pub struct TlsReplicaNetwork {
    endpoint: Arc<ReplicaEndpoint>,
    local_addr: SocketAddr,
}

impl TlsReplicaNetwork {
    /// Listens, and begins to connect to the other replicas, on the current tokio runtime.
    ///
    /// # Errors
    /// [`NetworkError`] for an address that cannot be had, a wrong configuration, or no runtime.
    pub fn start(config: TlsReplicaConfig) -> Result<(Arc<Self>, ReplicaInbox), NetworkError> {
        validate_replica(&config)?;
        let members = config.members.iter().map(|member| member.id);
        let endpoint = Arc::new(ReplicaEndpoint::new(config.id, members, &config.limits)?);
        let identity = Identity::new(&config.key)?;
        let (listener, local_addr) = listen(config.listener)?;
        let (inboxes, inbox) = ReplicaInboxes::new(&config.limits);
        let by_key = config.members.iter().map(|member| (member.key, member.id));
        let members = Arc::new(Members {
            by_key: by_key.collect(),
            clients: config.clients,
        });
        let acceptor = Arc::new(Acceptor {
            tls: Arc::new(identity.server(Arc::clone(&members))?).into(),
            members,
            genesis: config.genesis,
            endpoint: Arc::clone(&endpoint),
            inboxes,
            limits: config.limits,
            connections: config.connections,
            pending: Pending::new(config.pending_handshakes_max),
            incoming: Mutex::new(BTreeMap::new()),
        });
        for member in config.members.iter().filter(|other| other.id != config.id) {
            let tls = Arc::new(identity.client(member.key)?);
            for lane in Lane::ALL {
                let Some(queue) = endpoint.link(member.id, lane) else {
                    continue;
                };
                let id = config.id;
                let hello = Hello {
                    genesis: config.genesis,
                    role: Role::Replica { id, lane },
                };
                let link = DialledLink {
                    dialler: Dialler {
                        tls: Arc::clone(&tls).into(),
                        peer: member.id,
                        address: member.address.clone(),
                        hello: encoded(&hello)?,
                        limits: config.connections,
                    },
                    queue: Arc::clone(queue),
                    kind: LinkKind::OneWay {
                        eager: lane.is_eager(),
                        report: lane == Lane::Ordering,
                    },
                    refusals: Arc::clone(&endpoint.refusals),
                    seed: jitter_seed(&config.key.public_key(), member.id, lane.index()),
                };
                endpoint.tasks.spawn(link.run());
            }
        }
        endpoint.tasks.spawn(acceptor.listen(listener));
        let network = Self {
            endpoint,
            local_addr,
        };
        Ok((Arc::new(network), inbox))
    }

    /// The address on which this replica listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits, after [`shutdown`](crate::ReplicaNetwork::shutdown), until every connection is gone and
    /// the address can be bound again.
    pub async fn stopped(&self) {
        self.endpoint.tasks.ended().await;
    }

    fn stop(&self) {
        self.endpoint.shutdown();
    }
}

replica_network_by_endpoint!(TlsReplicaNetwork);

/// A client's network over TLS.
#[derive(Debug)]
pub struct TlsClientNetwork {
    endpoint: Arc<ClientEndpoint>,
}

impl TlsClientNetwork {
    /// Begins to connect to all replicas, on the current tokio runtime.
    ///
    /// # Errors
    /// [`NetworkError`] for a wrong configuration or no runtime.
    pub fn start(
        config: TlsClientConfig,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Inbound>), NetworkError> {
        config.limits.validate()?;
        config.connections.validate()?;
        validate_members("replicas", &config.replicas)?;
        let id = ClientId {
            key: config.key.public_key(),
            instance: config.instance,
        };
        let replicas = config.replicas.iter().map(|replica| replica.id);
        let endpoint = Arc::new(ClientEndpoint::new(id, replicas, &config.limits)?);
        let identity = Identity::new(&config.key)?;
        let limits = &config.limits;
        let (inbox, receiver) = Inbox::new(limits.inbox_reads_max, limits.inbox_bytes_max);
        let hello = encoded(&Hello {
            genesis: config.genesis,
            role: Role::Client {
                instance: config.instance,
            },
        })?;
        for replica in &config.replicas {
            let Some(queue) = endpoint.link(replica.id) else {
                continue;
            };
            let link = DialledLink {
                dialler: Dialler {
                    tls: Arc::new(identity.client(replica.key)?).into(),
                    peer: replica.id,
                    address: replica.address.clone(),
                    hello: hello.clone(),
                    limits: config.connections,
                },
                queue: Arc::clone(queue),
                kind: LinkKind::Replies {
                    inbox: inbox.clone(),
                    reply_bytes_max: limits.reply_bytes_max,
                },
                refusals: Arc::clone(&endpoint.refusals),
                seed: config.instance ^ jitter_seed(&id.key, replica.id, 0),
            };
            endpoint.tasks.spawn(link.run());
        }
        Ok((Arc::new(Self { endpoint }), receiver))
    }

    /// Waits, after [`shutdown`](crate::ClientNetwork::shutdown), until every connection is gone.
    pub async fn stopped(&self) {
        self.endpoint.tasks.ended().await;
    }

    fn stop(&self) {
        self.endpoint.shutdown();
    }
}

client_network_by_endpoint!(TlsClientNetwork);

fn listen(listener: Listener) -> Result<(tokio::net::TcpListener, SocketAddr), NetworkError> {
    let (bound, address) = match listener {
        Listener::Address(address) => (TcpListener::bind(&address), address),
        Listener::Bound(listener) => (Ok(listener), "the given socket".to_owned()),
    };
    let adopt = |listener: TcpListener| -> io::Result<_> {
        listener.set_nonblocking(true)?;
        let local_addr = listener.local_addr()?;
        Ok((tokio::net::TcpListener::from_std(listener)?, local_addr))
    };
    bound
        .and_then(adopt)
        .map_err(|source| NetworkError::Listen { address, source })
}

fn encoded(hello: &Hello) -> Result<Vec<u8>, NetworkError> {
    greeting::encode(hello).map_err(|error| NetworkError::Config {
        field: "genesis",
        found: error.to_string(),
        expected: "something that can be sent".to_owned(),
    })
}

/// Links of one cluster should not dial in step with each other; nothing more is asked of this number.
fn jitter_seed(key: &PublicKey, peer: NodeId, lane: usize) -> u64 {
    let digest = DigestBuilder::new("atlas v1 reconnection jitter")
        .bytes(&key.0)
        .number(u64::from(peer.0))
        .number(lane as u64)
        .finish();
    digest.0.iter().fold(0, |seed, byte| {
        (seed << 8) ^ (seed >> 56) ^ u64::from(*byte)
    })
}

fn validate_replica(config: &TlsReplicaConfig) -> Result<(), NetworkError> {
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
