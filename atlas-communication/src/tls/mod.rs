//! The transport over TCP: TLS 1.3, mutual, with raw public keys.

mod accept;
mod config;
mod dial;
mod greeting;
mod identity;
mod stream;
#[cfg(test)]
mod tests;

pub use config::{ClientAdmission, Listener, Member, TlsClientConfig, TlsReplicaConfig};

use crate::endpoint::{
    ClientEndpoint, ReplicaEndpoint, client_network_by_endpoint, replica_network_by_endpoint,
};
use crate::error::NetworkError;
use crate::inbox::{Inbox, ReplicaInboxes};
use crate::limits::ConnectionLimits;
use crate::network::{Inbound, Lane, ReplicaInbox};
use accept::{Acceptor, Pending};
use atlas_common::crypto::{PublicKey, Signer};
use atlas_common::digest::DigestBuilder;
use atlas_common::{ClientId, Digest, NodeId};
use config::{validate_client, validate_replica};
use dial::{DialledLink, Dialler, LinkKind};
use greeting::{Hello, Role};
use identity::Identity;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::sync::mpsc;

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
        let dialling = Dialling {
            id: config.id,
            key: config.key.public_key(),
            genesis: config.genesis,
            limits: config.connections,
            identity: &identity,
            endpoint: &endpoint,
        };
        for peer in config
            .members
            .iter()
            .filter(|member| member.id != config.id)
        {
            dialling.start(peer)?;
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
        validate_client(&config)?;
        let id = ClientId {
            key: config.key.public_key(),
            instance: config.instance,
        };
        let replicas = config.replicas.iter().map(|replica| replica.id);
        let endpoint = Arc::new(ClientEndpoint::new(id, replicas, &config.limits)?);
        let identity = Identity::new(&config.key)?;
        let limits = &config.limits;
        let (inbox, receiver) = Inbox::new(limits.inbox_reads_max, limits.inbox_bytes_max);
        let hello = greeting::encode(&Hello {
            genesis: config.genesis,
            role: Role::Client {
                instance: config.instance,
            },
        });
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

/// What a replica's dialled connections have in common.
struct Dialling<'a> {
    id: NodeId,
    key: PublicKey,
    genesis: Digest,
    limits: ConnectionLimits,
    identity: &'a Identity,
    endpoint: &'a ReplicaEndpoint,
}

impl Dialling<'_> {
    /// Keeps up a connection to one peer for each lane.
    fn start(&self, peer: &Member) -> Result<(), NetworkError> {
        let tls = Arc::new(self.identity.client(peer.key)?);
        let links = self.endpoint.links();
        for (_, lane, queue) in links.filter(|(to, _, _)| *to == peer.id) {
            let role = Role::Replica { id: self.id, lane };
            let hello = Hello {
                genesis: self.genesis,
                role,
            };
            let link = DialledLink {
                dialler: Dialler {
                    tls: Arc::clone(&tls).into(),
                    peer: peer.id,
                    address: peer.address.clone(),
                    hello: greeting::encode(&hello),
                    limits: self.limits,
                },
                queue: Arc::clone(queue),
                kind: LinkKind::OneWay {
                    eager: lane.is_eager(),
                    report: lane == Lane::Ordering,
                },
                refusals: Arc::clone(&self.endpoint.refusals),
                seed: jitter_seed(&self.key, peer.id, lane.index()),
            };
            self.endpoint.tasks.spawn(link.run());
        }
        Ok(())
    }
}

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
