//! Starting a replica: the few lines that a program needs.

use crate::admin::{AdminServer, Pages};
use crate::config::{Clients, NodeConfig};
use crate::driver::{Command, Stopped};
use crate::handle::ReplicaHandle;
use crate::local;
use crate::node::{CoreSeat, Keys, MakeExecutor, StartError, Storages};
use crate::registry::ProtocolRegistry;
use crate::status::ReplicaStatus;
use atlas_communication::{
    ClientAdmission, ConnectionLimits, Listener, Member, ReplicaInbox, ReplicaLimits,
    ReplicaNetwork, TlsReplicaConfig, TlsReplicaNetwork,
};
use atlas_persistent_log::Storage;
use atlas_smr_execution::{Application, Executor};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Connections that may be in the course of being set up.
const PENDING_HANDSHAKES_MAX: usize = 256;

/// One replica of an application. [`Replica::builder`] is the way to one.
#[derive(Debug)]
pub struct Replica;

impl Replica {
    /// Begins to compose a replica that runs `application`.
    pub fn builder<A: Application>(application: A) -> ReplicaBuilder {
        ReplicaBuilder {
            executor: Box::new(move |config, pool| {
                Box::new(Executor::new(application, config).with_pool(pool))
            }),
            protocols: ProtocolRegistry::default(),
            node: None,
            network: None,
            listener: None,
            storages: Storages::default(),
        }
    }
}

/// Composes a replica.
pub struct ReplicaBuilder {
    executor: MakeExecutor,
    protocols: ProtocolRegistry,
    node: Option<NodeConfig>,
    network: Option<(Arc<dyn ReplicaNetwork>, ReplicaInbox)>,
    listener: Option<TcpListener>,
    storages: Storages,
}

impl ReplicaBuilder {
    /// With this configuration.
    #[must_use]
    pub fn config(mut self, node: NodeConfig) -> Self {
        self.node = Some(node);
        self
    }

    /// With protocols besides those that come with Atlas. Before [`Self::config_file`], which checks
    /// the protocol's name.
    #[must_use]
    pub fn protocols(mut self, protocols: ProtocolRegistry) -> Self {
        self.protocols = protocols;
        self
    }

    /// With the configuration in this `node.toml` (or the directory that holds it).
    ///
    /// # Errors
    /// The first thing that is wrong with it or with a file that it names.
    pub fn config_file(self, path: impl AsRef<Path>) -> Result<Self, StartError> {
        let node = NodeConfig::load(path.as_ref(), &self.protocols.known())?;
        Ok(self.config(node))
    }

    /// On this socket, which listens already, instead of the configured address.
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// On this network instead of TLS, e.g. one of an in-memory hub.
    #[must_use]
    pub fn network(mut self, network: Arc<dyn ReplicaNetwork>, inbox: ReplicaInbox) -> Self {
        self.network = Some((network, inbox));
        self
    }

    /// On this storage instead of the files in the data directory: birth record, log, checkpoints and
    /// evidence. What it must do is said at [`Storage`]; an error of it that is not
    /// [`StorageError`](atlas_persistent_log::StorageError)'s *not found* stops the replica, and
    /// [`StorageError::remedy`](atlas_persistent_log::StorageError::remedy) tells the operator what
    /// helps. A storage without a birth record ([`give_birth`](crate::recovery::give_birth)) is taken
    /// for a disk that was lost: the replica then does not vote before it has asked its peers.
    #[must_use]
    pub fn storage(mut self, files: Arc<dyn Storage>) -> Self {
        self.storages.files = Some(files);
        self
    }

    /// With checkpoints on this storage, apart from the log's.
    #[must_use]
    pub fn checkpoint_storage(mut self, checkpoints: Arc<dyn Storage>) -> Self {
        self.storages.checkpoints = Some(checkpoints);
        self
    }

    /// Starts the replica on a thread of its own, and returns when it has recovered what its disk
    /// holds and listens.
    ///
    /// # Errors
    /// When the configuration, the disk or the network cannot be used.
    pub fn start(self) -> Result<ReplicaHandle, StartError> {
        let node = Arc::new(self.node.ok_or(StartError::NoConfig)?);
        let name = format!("atlas-{}", node.id);
        let (ready, started) = std::sync::mpsc::channel();
        let (finished, stopped) = oneshot::channel();
        let parts = Parts {
            node: Arc::clone(&node),
            executor: self.executor,
            protocols: self.protocols,
            network: self.network,
            listener: self.listener,
            storages: self.storages,
        };
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(parts.run(ready, finished)),
                Err(error) => drop(ready.send(Err(StartError::Thread(error)))),
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(run)?;
        let ready = started.recv().map_err(|_| StartError::Ended)??;
        let admin = start_admin(&node, ready.commands.clone())?;
        Ok(ReplicaHandle {
            id: node.id,
            address: ready.address,
            admin,
            commands: ready.commands,
            client: ready.client,
            thread: Some(thread),
            stopped: Some(stopped),
            notes: ready.notes,
        })
    }
}

/// What the replica's thread begins with.
struct Parts {
    node: Arc<NodeConfig>,
    executor: MakeExecutor,
    protocols: ProtocolRegistry,
    network: Option<(Arc<dyn ReplicaNetwork>, ReplicaInbox)>,
    listener: Option<TcpListener>,
    storages: Storages,
}

/// What it says when it is ready.
struct Ready {
    address: Option<SocketAddr>,
    commands: mpsc::Sender<Command>,
    client: atlas_client::Client,
    notes: Vec<String>,
}

type TellReady = std::sync::mpsc::Sender<Result<Ready, StartError>>;

impl Parts {
    async fn run(self, ready: TellReady, finished: oneshot::Sender<Stopped>) {
        let (network, inbox, tls) = match self.network {
            Some((network, inbox)) => (network, inbox, None),
            None => match start_tls(&self.node, self.listener) {
                Ok((tls, inbox)) => (
                    Arc::clone(&tls) as Arc<dyn ReplicaNetwork>,
                    inbox,
                    Some(tls),
                ),
                Err(error) => return drop(ready.send(Err(error))),
            },
        };
        let seat = CoreSeat {
            node: Arc::clone(&self.node),
            network: Arc::clone(&network),
            inbox,
            executor: self.executor,
            keys: Keys::new(&self.node),
            storages: self.storages,
        };
        let seated = self.protocols.seat(seat).and_then(|seated| {
            let (key, genesis) = (&self.node.key, *self.node.cluster.genesis());
            let client = local::client(key, genesis, seated.local.clone(), &seated.shared)?;
            Ok((seated, client))
        });
        let stopped = match seated {
            Ok((seated, client)) => {
                let address = tls.as_ref().map(|tls| tls.local_addr());
                let (commands, notes) = (seated.commands, seated.notes);
                drop(ready.send(Ok(Ready {
                    address,
                    commands,
                    client,
                    notes,
                })));
                Some(seated.run.await)
            }
            Err(error) => {
                drop(ready.send(Err(error)));
                None
            }
        };
        network.shutdown();
        if let Some(tls) = tls {
            // So that the address is free when the replica is said to have stopped.
            tls.stopped().await;
        }
        if let Some(stopped) = stopped {
            // Nobody may be left to hear it.
            drop(finished.send(stopped));
        }
    }
}

type Tls = (Arc<TlsReplicaNetwork>, ReplicaInbox);

fn start_tls(node: &NodeConfig, listener: Option<TcpListener>) -> Result<Tls, StartError> {
    let config = TlsReplicaConfig {
        id: node.id,
        key: node.key.clone(),
        genesis: *node.cluster.genesis(),
        members: tls_members(node),
        clients: match node.cluster.clients() {
            Clients::Any => ClientAdmission::Any,
            Clients::Listed(listed) => {
                ClientAdmission::Listed(listed.iter().map(|client| client.key).collect())
            }
        },
        listener: match listener {
            Some(listener) => Listener::Bound(listener),
            None => Listener::Address(node.listen.to_string()),
        },
        limits: network_limits(node),
        connections: ConnectionLimits::default(),
        pending_handshakes_max: PENDING_HANDSHAKES_MAX,
    };
    Ok(TlsReplicaNetwork::start(config)?)
}

/// What the network may hold, for the cluster's limits.
pub(crate) fn network_limits(node: &NodeConfig) -> ReplicaLimits {
    let limits = node.cluster.limits();
    let frame_bytes_max = limits.frame_bytes_max;
    let defaults = ReplicaLimits::default();
    let envelope = atlas_core::Limits::ENVELOPE_BYTES;
    ReplicaLimits {
        frame_bytes_max,
        client_frame_bytes_max: limits.bundle_bytes_max + envelope,
        queue_bytes_max: defaults.queue_bytes_max.max(2 * frame_bytes_max),
        client_queue_bytes_max: defaults.client_queue_bytes_max.max(frame_bytes_max),
        inbox_bytes_max: defaults.inbox_bytes_max.max(2 * frame_bytes_max),
        clients_max: node.clients_max,
        clients_bytes_max: defaults.clients_bytes_max.max(8 * frame_bytes_max),
        ..defaults
    }
}

fn tls_members(node: &NodeConfig) -> Vec<Member> {
    let members = node.cluster.members().iter();
    let member = |m: &crate::config::ClusterMember| Member {
        id: m.id,
        key: m.key,
        address: m.address.to_string(),
    };
    members.map(member).collect()
}

/// The pages are made on the endpoint's own thread, which may wait for the core.
fn start_admin(
    node: &NodeConfig,
    commands: mpsc::Sender<Command>,
) -> Result<Option<AdminServer>, StartError> {
    let ask = move || {
        let (answer, status) = oneshot::channel();
        commands.blocking_send(Command::Status(answer)).ok()?;
        status.blocking_recv().ok()
    };
    let for_status = ask.clone();
    let pages = Pages {
        snapshot: Box::new(move || {
            ask()
                .map(|status: ReplicaStatus| status.snapshot())
                .unwrap_or_default()
        }),
        status: Box::new(move || match for_status() {
            Some(status) => status.json(),
            None => serde_json::json!({ "stopped": true }),
        }),
    };
    Ok(AdminServer::start(node, pages)?)
}
