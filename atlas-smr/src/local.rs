//! A whole cluster inside one program: for examples, tests and first steps.

use crate::client::{ApplicationClient, connect};
use crate::cluster::{CreateError, create_cluster};
use atlas_client::{Client, ConnectError, NotReady};
use atlas_persistent_log::Durability;
use atlas_smr_execution::Application;
use atlas_smr_replica::config::{
    ClientConfig, ConfigError, InitOptions, Initialised, KnownProtocol, NodeConfig, Ports,
};
use atlas_smr_replica::{ProtocolRegistry, Replica, ReplicaHandle, StartError};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use thiserror::Error;

/// How long [`LocalCluster::start`] waits for the first client session.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What a cluster inside a program is like.
#[derive(Clone, Debug)]
pub struct LocalClusterOptions {
    /// How many replicas.
    pub replicas: usize,
    /// Which protocol, by name.
    pub protocol: String,
    /// The protocols that there are.
    pub protocols: ProtocolRegistry,
    /// When a write counts as kept.
    pub durability: Durability,
    /// Where the files go; a temporary directory that is removed at the end when `None`.
    pub dir: Option<PathBuf>,
    /// How many keys for clients to make.
    pub clients: usize,
    /// Serve metrics and status.
    pub admin: bool,
}

impl Default for LocalClusterOptions {
    fn default() -> Self {
        Self {
            replicas: 4,
            protocol: "pbft".to_owned(),
            protocols: ProtocolRegistry::default(),
            durability: Durability::Sync,
            dir: None,
            clients: 1,
            admin: false,
        }
    }
}

impl LocalClusterOptions {
    /// The defaults, with what a program was told: `--protocol NAME` and `--replicas NUMBER`. Without
    /// a number there are as many replicas as survive the fault of one.
    ///
    /// # Errors
    /// For another argument, a protocol that there is not, or a number that is none.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Self, ArgumentError> {
        let (mut options, mut replicas) = (Self::default(), None);
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            let value = arguments.next();
            match (flag.as_str(), value) {
                ("--protocol", Some(name)) => options.protocol = name,
                ("--replicas", Some(number)) => {
                    let number = number.parse().map_err(|_| ArgumentError::Number(number))?;
                    replicas = Some(number);
                }
                _ => return Err(ArgumentError::Unknown(flag)),
            }
        }
        let known = options.protocols.known();
        let protocol = known.iter().find(|known| known.name == options.protocol);
        let protocol = protocol.ok_or_else(|| ArgumentError::Protocol {
            found: options.protocol.clone(),
            known: names(&known),
        })?;
        options.replicas = replicas.unwrap_or(protocol.replicas_for_one_fault());
        Ok(options)
    }
}

/// An argument of a program that starts a cluster inside itself is wrong.
#[derive(Debug, Error)]
pub enum ArgumentError {
    /// It means nothing, or its value is missing.
    #[error("`{0}` is not understood; expected `--protocol NAME` or `--replicas NUMBER`")]
    Unknown(String),
    /// It should be a number.
    #[error("`--replicas` is `{0}`; expected a number")]
    Number(String),
    /// There is no such protocol.
    #[error("`--protocol` is `{found}`; there is {known}")]
    Protocol {
        /// The name.
        found: String,
        /// The names that there are.
        known: String,
    },
}

fn names(known: &[KnownProtocol]) -> String {
    let names: Vec<&str> = known.iter().map(|known| known.name).collect();
    names.join(", ")
}

/// A cluster inside a program could not be started.
#[derive(Debug, Error)]
pub enum LocalClusterError {
    /// There is no such protocol.
    #[error("there is no protocol `{found}`; there is {known}")]
    UnknownProtocol {
        /// The name.
        found: String,
        /// The names that there are.
        known: String,
    },
    /// Its files could not be written.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Its files could not be read again.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A replica does not start.
    #[error("replica {replica}: {cause}")]
    Start {
        /// Which.
        replica: usize,
        /// Why not.
        cause: Box<StartError>,
    },
    /// A client cannot be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The cluster does not serve.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// No temporary directory, or no free port.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Replicas of `A` on threads of this program, with real TLS over loopback and real files.
pub struct LocalCluster<A: Application + Clone> {
    application: A,
    protocols: ProtocolRegistry,
    files: Initialised,
    replicas: Vec<Option<ReplicaHandle>>,
    client: ApplicationClient<A>,
    /// Removed last.
    _dir: Option<TempDir>,
}

impl<A: Application + Clone> LocalCluster<A> {
    /// Starts a cluster, and returns when it serves its first client.
    ///
    /// # Errors
    /// When files, ports or replicas fail.
    pub async fn start(
        application: A,
        options: LocalClusterOptions,
    ) -> Result<Self, LocalClusterError> {
        let (dir, path) = match &options.dir {
            Some(path) => (None, path.clone()),
            None => {
                let dir = TempDir::with_prefix("atlas-")?;
                let path = dir.path().join("cluster");
                (Some(dir), path)
            }
        };
        let (files, listeners) = create(&path, &options)?;
        let known = options.protocols.known();
        let mut replicas = Vec::new();
        for (index, (node, listener)) in files.replicas.iter().zip(listeners).enumerate() {
            let node = NodeConfig::load(node, &known)?;
            let builder = Replica::builder(application.clone()).config(node);
            let builder = builder
                .protocols(options.protocols.clone())
                .listener(listener);
            replicas.push(Some(started(index, builder.start())?));
        }
        let client = connect(&ClientConfig::load(&files.clients[0], &known)?)?;
        client.ready(READY_WITHIN).await?;
        Ok(Self {
            application,
            protocols: options.protocols,
            files,
            replicas,
            client: ApplicationClient::new(client),
            _dir: dir,
        })
    }

    /// A client of the cluster.
    #[must_use]
    pub const fn client(&self) -> &ApplicationClient<A> {
        &self.client
    }

    /// Another client, under one of the keys that were made.
    ///
    /// # Errors
    /// When there is no such key, or the client cannot be made.
    pub fn connect(&self, key: usize) -> Result<Client, LocalClusterError> {
        let known = self.protocols.known();
        let file = self.files.clients.get(key).ok_or_else(|| {
            io::Error::other(format!(
                "client {key} of {} was asked for",
                self.files.clients.len()
            ))
        })?;
        Ok(connect(&ClientConfig::load(file, &known)?)?)
    }

    /// A running replica.
    #[must_use]
    pub fn replica(&self, index: usize) -> Option<&ReplicaHandle> {
        self.replicas.get(index).and_then(Option::as_ref)
    }

    /// The cluster's files.
    #[must_use]
    pub const fn files(&self) -> &Initialised {
        &self.files
    }

    /// The cluster's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.files.cluster_file.parent().unwrap_or(Path::new("."))
    }

    /// Stops one replica, as if its process had ended.
    pub async fn stop(&mut self, index: usize) {
        if let Some(replica) = self.replicas.get_mut(index).and_then(Option::take) {
            replica.shutdown().await;
        }
    }

    /// Starts a stopped replica again, on the files that it left.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self, index: usize) -> Result<(), LocalClusterError> {
        let node = NodeConfig::load(&self.files.replicas[index], &self.protocols.known())?;
        let builder = Replica::builder(self.application.clone()).config(node);
        let builder = builder.protocols(self.protocols.clone());
        self.replicas[index] = Some(started(index, builder.start())?);
        Ok(())
    }

    /// Stops every replica and, unless the directory was given, removes the files.
    pub async fn shutdown(mut self) {
        self.client.client().close().await;
        for index in 0..self.replicas.len() {
            self.stop(index).await;
        }
    }
}

fn started(
    replica: usize,
    result: Result<ReplicaHandle, StartError>,
) -> Result<ReplicaHandle, LocalClusterError> {
    result.map_err(|cause| LocalClusterError::Start {
        replica,
        cause: Box::new(cause),
    })
}

/// Writes the files, with ports that stay bound until the replicas take them over.
fn create(
    path: &Path,
    options: &LocalClusterOptions,
) -> Result<(Initialised, Vec<TcpListener>), LocalClusterError> {
    let known = options.protocols.known();
    let protocol = known
        .iter()
        .find(|known| known.name == options.protocol)
        .ok_or_else(|| {
            let found = options.protocol.clone();
            let known = names(&known);
            LocalClusterError::UnknownProtocol { found, known }
        })?;
    let bind = |_| TcpListener::bind(("127.0.0.1", 0));
    let listeners: Vec<TcpListener> = (0..options.replicas).map(bind).collect::<Result<_, _>>()?;
    let ports = |listeners: &[TcpListener]| -> Result<Vec<u16>, io::Error> {
        listeners
            .iter()
            .map(|listener| Ok(listener.local_addr()?.port()))
            .collect()
    };
    let mut init = InitOptions::new(path, options.replicas, *protocol);
    init.clients = options.clients.max(1);
    init.durability = options.durability;
    init.ports = Ports::Listed(ports(&listeners)?);
    if options.admin {
        // Freed at once and taken again when the replicas start.
        let admin: Vec<_> = (0..options.replicas).map(bind).collect::<Result<_, _>>()?;
        init.admin_ports = Some(Ports::Listed(ports(&admin)?));
    }
    Ok((create_cluster(&init)?, listeners))
}
