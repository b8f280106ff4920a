//! Setting up a new cluster: keys and configuration files in one directory.

mod render;

use super::error::ConfigError;
use super::{ClientConfig, ClusterConfig, KnownProtocol, NodeConfig, Timeouts, keys};
use atlas_common::Digest;
use atlas_common::crypto::{EntropyError, KeyPair, Signer};
use atlas_core::Limits;
use atlas_persistent_log::Durability;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What a new cluster is to be.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The directory to make, or an empty one to fill.
    pub dir: PathBuf,
    /// What people call the cluster.
    pub name: String,
    /// How many replicas, all of them voters.
    pub replicas: usize,
    /// How many clients.
    pub clients: usize,
    /// Whether those clients alone are admitted, rather than any.
    pub clients_listed: bool,
    /// The ordering protocol.
    pub protocol: KnownProtocol,
    /// The IP address of all replicas, for a cluster on one machine; edited later for others.
    pub host: IpAddr,
    /// The ports that the replicas listen on.
    pub ports: Ports,
    /// The ports that they serve metrics and status on, on 127.0.0.1; nowhere when absent.
    pub admin_ports: Option<Ports>,
    /// When a log record counts as kept.
    pub durability: Durability,
    /// Whether reads may be answered without being ordered.
    pub unordered_reads: bool,
    /// Bytes of states that a replica fetches, and that it serves, per second at most; 0 for as many as go,
    /// the default when absent.
    pub transfer_bytes_per_second: Option<u64>,
    /// The root of the state that the cluster begins with, if it is restored from a backup.
    pub initial_state: Option<Digest>,
    /// Bounds of messages, queues and windows.
    pub limits: Limits,
    /// Time-outs.
    pub timeouts: Timeouts,
}

/// One port for each replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Replica i has this port plus i.
    From(u16),
    /// In the order of the replicas.
    Listed(Vec<u16>),
}

impl InitOptions {
    /// `replicas` replicas on 127.0.0.1 from port 7100, one client, any client admitted.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, replicas: usize, protocol: KnownProtocol) -> Self {
        Self {
            dir: dir.into(),
            name: "atlas".to_owned(),
            replicas,
            clients: 1,
            clients_listed: false,
            protocol,
            host: Ipv4Addr::LOCALHOST.into(),
            ports: Ports::From(7100),
            admin_ports: None,
            durability: Durability::Sync,
            unordered_reads: false,
            transfer_bytes_per_second: None,
            initial_state: None,
            limits: (protocol.limits_for)(replicas),
            timeouts: Timeouts::default(),
        }
    }
}

/// A cluster that was set up.
#[derive(Clone, Debug)]
pub struct Initialised {
    /// Its configuration.
    pub cluster: ClusterConfig,
    /// The cluster file.
    pub cluster_file: PathBuf,
    /// The replicas' directories, each with `node.toml`, `key` and `data`.
    pub replicas: Vec<PathBuf>,
    /// The clients' directories, each with `client.toml` and `key`.
    pub clients: Vec<PathBuf>,
    /// Every file written here, in order; not those that the birth of a replica wrote.
    pub files: Vec<PathBuf>,
}

/// A cluster could not be set up. Nothing of it is left.
#[derive(Debug, Error)]
pub enum InitError {
    /// The directory is not empty. Nothing in it was touched.
    #[error("{dir} is not empty: choose another directory, or remove it first", dir = dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// A replica has no port, or an impossible one.
    #[error(
        "replica {replica} would have port {found}: expected a port from 1 to 65535, one for each of {replicas} replicas"
    )]
    Port {
        /// The replica.
        replica: usize,
        /// How many there are.
        replicas: usize,
        /// The port, or "none".
        found: String,
    },
    /// The number of replicas is impossible, or another option is.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or directory cannot be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// No key can be made.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A replica's birth was not recorded.
    #[error("the birth of the replica in {dir} cannot be recorded: {source}", dir = dir.display())]
    Birth {
        /// Its data directory.
        dir: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Records in a replica's data directory, which exists and is empty, that the replica is new.
pub type RecordBirth<'a> = &'a dyn Fn(&NodeConfig) -> Result<(), Box<dyn Error + Send + Sync>>;

/// Sets up a new cluster in a directory that does not exist or is empty: `cluster.toml`,
/// `replica-0/{node.toml,key,data/}` and so on, `client-0/{client.toml,key}` and so on. What was
/// written is read back through the same checks as at a start, and `birth` is called for each
/// replica.
///
/// # Errors
/// When an option is wrong or a file cannot be written; everything made until then is removed.
pub fn init(options: &InitOptions, birth: RecordBirth<'_>) -> Result<Initialised, InitError> {
    let ports = options.ports.list(options.replicas)?;
    let admin_ports = match &options.admin_ports {
        Some(ports) => ports
            .list(options.replicas)?
            .into_iter()
            .map(Some)
            .collect(),
        None => vec![None; options.replicas],
    };
    let replica_keys = new_keys(options.replicas)?;
    let client_keys = new_keys(options.clients)?;
    let cluster_text = render::cluster(options, &ports, &replica_keys, &client_keys)?;
    let mut work = Work::begin(&options.dir)?;

    let cluster_file = work.write(&options.dir.join("cluster.toml"), &cluster_text)?;
    let protocols = [options.protocol];
    let cluster = ClusterConfig::load(&cluster_file, &protocols)?;
    let mut replicas = Vec::with_capacity(options.replicas);
    for (id, (key, admin_port)) in replica_keys.iter().zip(admin_ports).enumerate() {
        let dir = work.make_dir(&options.dir.join(format!("replica-{id}")))?;
        work.write_key(
            &dir,
            key,
            &format!("The private key of replica {id}. Keep it secret."),
        )?;
        work.write(
            &dir.join("node.toml"),
            &render::node(options, id, admin_port),
        )?;
        let data = work.make_dir(&dir.join("data"))?;
        let node = NodeConfig::load(&dir, &protocols)?;
        birth(&node).map_err(|source| InitError::Birth { dir: data, source })?;
        sync_dir(&dir)?;
        replicas.push(dir);
    }
    let mut clients = Vec::with_capacity(options.clients);
    for (number, key) in client_keys.iter().enumerate() {
        let dir = work.make_dir(&options.dir.join(format!("client-{number}")))?;
        let comment = format!("The private key of client {number}. Keep it secret.");
        work.write_key(&dir, key, &comment)?;
        work.write(&dir.join("client.toml"), &render::client(number))?;
        ClientConfig::load(&dir, &protocols)?;
        sync_dir(&dir)?;
        clients.push(dir);
    }
    sync_dir(&options.dir)?;
    Ok(Initialised {
        cluster,
        cluster_file,
        replicas,
        clients,
        files: work.keep(),
    })
}

impl Ports {
    fn list(&self, replicas: usize) -> Result<Vec<u16>, InitError> {
        let port = |replica: usize| {
            let port = match self {
                Self::From(base) => Some(usize::from(*base) + replica),
                Self::Listed(ports) => ports.get(replica).map(|port| usize::from(*port)),
            };
            let usable = port.and_then(|port| u16::try_from(port).ok());
            usable
                .filter(|port| *port != 0)
                .ok_or_else(|| InitError::Port {
                    replica,
                    replicas,
                    found: port.map_or("none".to_owned(), |port| port.to_string()),
                })
        };
        (0..replicas).map(port).collect()
    }
}

fn new_keys(count: usize) -> Result<Vec<KeyPair>, EntropyError> {
    (0..count).map(|_| KeyPair::generate()).collect()
}

fn public_text(key: &KeyPair) -> String {
    key.public_key().to_string()
}

/// What has been made so far, and is removed unless it is kept.
struct Work {
    /// Entries of the directory, and the directory itself if it was made here; undone from the end.
    made: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Work {
    fn begin(dir: &Path) -> Result<Self, InitError> {
        let mut work = Self {
            made: Vec::new(),
            files: Vec::new(),
        };
        match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
            Ok(true) => Err(InitError::NotEmpty {
                dir: dir.to_owned(),
            }),
            Ok(false) => Ok(work),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Those above it stay, should anything fail: they may serve somebody else by then.
                if let Some(parent) = dir.parent() {
                    fs::create_dir_all(parent).map_err(|source| io_error(parent, source))?;
                }
                work.make_dir(dir)?;
                Ok(work)
            }
            Err(source) => Err(io_error(dir, source)),
        }
    }

    fn make_dir(&mut self, dir: &Path) -> Result<PathBuf, InitError> {
        fs::create_dir(dir).map_err(|source| io_error(dir, source))?;
        self.made.push(dir.to_owned());
        Ok(dir.to_owned())
    }

    fn write(&mut self, path: &Path, text: &str) -> Result<PathBuf, InitError> {
        let mut file = fs::File::create_new(path).map_err(|source| io_error(path, source))?;
        self.files.push(path.to_owned());
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all());
        written.map_err(|source| io_error(path, source))?;
        Ok(path.to_owned())
    }

    fn write_key(&mut self, dir: &Path, key: &KeyPair, comment: &str) -> Result<(), InitError> {
        let path = dir.join("key");
        self.files.push(path.clone());
        keys::write_key_file(&path, key, comment).map_err(|source| io_error(&path, source))
    }

    fn keep(mut self) -> Vec<PathBuf> {
        self.made.clear();
        std::mem::take(&mut self.files)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Whatever cannot be removed stays: the error that brought us here is the one to report.
        for file in self.files.drain(..) {
            drop(fs::remove_file(file));
        }
        for dir in self.made.drain(..).rev() {
            drop(fs::remove_dir_all(dir));
        }
    }
}

fn sync_dir(dir: &Path) -> Result<(), InitError> {
    // Only Unix can sync a directory.
    if cfg!(unix) {
        let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|source| io_error(dir, source))?;
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> InitError {
    let path = path.to_owned();
    InitError::Io { path, source }
}
