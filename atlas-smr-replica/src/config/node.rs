//! The configuration of one replica.

use super::cluster::{ClusterConfig, ClusterMember, quoted};
use super::error::ConfigError;
use super::source::{Descriptions, Source};
use super::{Address, KnownProtocol, keys};
use atlas_common::NodeId;
use atlas_common::crypto::{KeyPair, Signer};
use atlas_persistent_log::{Compression, Durability};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The node file as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Which member of the cluster this is.
    pub id: u32,
    /// The cluster file.
    pub cluster_file: PathBuf,
    /// The file with this replica's private key.
    pub key_file: PathBuf,
    /// The directory of the log and the checkpoints.
    pub data_dir: PathBuf,
    /// Where to listen, when it is not the member's address in the cluster file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Where to serve `/metrics` and `/status`; nowhere when absent. Whoever can connect can read
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<String>,
    /// When a log record counts as kept.
    #[serde(default)]
    pub durability: Durability,
    /// Bytes of one file of the log.
    #[serde(default = "log_segment_bytes")]
    pub log_segment_bytes: u64,
    /// The most clients connected at once.
    #[serde(default = "clients_max")]
    pub clients_max: usize,
    /// Threads that check signatures; as many as the machine's cores allow when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_threads: Option<usize>,
    /// Threads that execute operations; as many as the machine has cores when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_threads: Option<usize>,
    /// Bytes of states that are fetched from peers, and that are served to them, per second at most;
    /// 0 is no limit.
    #[serde(default = "transfer_bytes_per_second")]
    pub transfer_bytes_per_second: u64,
    /// Bytes of stored checkpoints that are read again per second, to find damage while peers can
    /// repair it; 0 is none.
    #[serde(default = "scrub_bytes_per_second")]
    pub scrub_bytes_per_second: u64,
    /// How many certified checkpoints are kept.
    #[serde(default = "checkpoints_kept")]
    pub checkpoints_kept: usize,
    /// Whether the parts of checkpoints are made smaller on the disk.
    #[serde(default)]
    pub checkpoint_compression: Compression,
}

const fn log_segment_bytes() -> u64 {
    64 << 20
}

const fn clients_max() -> usize {
    4096
}

/// A disk's rate rather than a fraction of it: a replica that comes back is one that the next fault needs.
/// What is on its way at a time is bounded, and on a lane of its own.
pub(super) const TRANSFER_BYTES_PER_SECOND: u64 = 512 << 20;

const fn transfer_bytes_per_second() -> u64 {
    TRANSFER_BYTES_PER_SECOND
}

const fn scrub_bytes_per_second() -> u64 {
    1 << 20
}

const fn checkpoints_kept() -> usize {
    2
}

const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (256 << 10)..=(1 << 30);
const CLIENTS: std::ops::RangeInclusive<usize> = 1..=65_536;
const SCRUB: std::ops::RangeInclusive<u64> = 0..=(64 << 20);
const WORKERS: std::ops::RangeInclusive<usize> = 0..=64;
const KEPT: std::ops::RangeInclusive<usize> = 1..=1000;
const EXECUTING: std::ops::RangeInclusive<usize> = 1..=64;

const DESCRIPTIONS: &Descriptions = &[
    ("id", "the id of a member in the cluster file"),
    ("cluster_file", "the path of the cluster file"),
    (
        "key_file",
        "the path of the file with this replica's private key",
    ),
    (
        "data_dir",
        "the path of the directory for log and checkpoints",
    ),
    ("listen", Address::EXPECTED),
    ("admin_listen", ADMIN_EXPECTED),
    ("durability", "`\"sync\"`, `\"async\"` or `\"memory\"`"),
    (
        "log_segment_bytes",
        "a whole number from 262144 to 1073741824",
    ),
    ("clients_max", "a whole number from 1 to 65536"),
    ("worker_threads", "a whole number from 0 to 64"),
    ("execution_threads", "a whole number from 1 to 64"),
    (
        "transfer_bytes_per_second",
        "a whole number: bytes per second, or 0 for no limit",
    ),
    (
        "scrub_bytes_per_second",
        "a whole number from 0 to 67108864",
    ),
    ("checkpoints_kept", "a whole number from 1 to 1000"),
    ("checkpoint_compression", "`\"none\"` or `\"zstd\"`"),
];

const ADMIN_EXPECTED: &str = "an IP address and a port, such as `127.0.0.1:9100`";

/// One replica's configuration. One that exists has passed every check. A program may change the
/// settings that follow the key.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    source: Source,
    /// Which member of the cluster this is.
    pub id: NodeId,
    /// What it shares with the other nodes.
    pub cluster: ClusterConfig,
    /// Its identity; the public half is the member's in `cluster`.
    pub key: KeyPair,
    /// The directory of the log and the checkpoints. Need not exist: a replica without one has lost
    /// its disk.
    pub data_dir: PathBuf,
    /// Where to listen.
    pub listen: Address,
    /// Where to serve `/metrics` and `/status`.
    pub admin_listen: Option<SocketAddr>,
    /// When a log record counts as kept.
    pub durability: Durability,
    /// Bytes of one file of the log.
    pub log_segment_bytes: u64,
    /// The most clients connected at once, at least one.
    pub clients_max: usize,
    /// Threads that check signatures. With 0 the core's own thread does; `None`: two fewer than the
    /// machine has cores, 8 at the most.
    pub worker_threads: Option<usize>,
    /// Threads that execute operations of one decision that share no key, for applications that
    /// declare them. With 1 there is one after the other; `None`: one for each core, 8 at the most.
    pub execution_threads: Option<usize>,
    /// Bytes of states that are fetched from peers, and that are served to them, per second at most;
    /// 0 is no limit.
    pub transfer_bytes_per_second: u64,
    /// Bytes of stored checkpoints that are read again per second, to find damage while peers can
    /// repair it; 0 is none.
    pub scrub_bytes_per_second: u64,
    /// How many certified checkpoints are kept, at least one. With two, there is one to start from
    /// when the newest is damaged.
    pub checkpoints_kept: usize,
    /// Whether the parts of checkpoints are made smaller on the disk.
    pub checkpoint_compression: Compression,
}

impl NodeConfig {
    /// Reads and checks a node file, or the `node.toml` of a directory, with the cluster file and
    /// the key file that it names. `protocols` are those that the cluster file may name.
    ///
    /// # Errors
    /// The first thing that is wrong with any of them.
    pub fn load(path: &Path, protocols: &[KnownProtocol]) -> Result<Self, ConfigError> {
        let path = match path.is_dir() {
            true => &path.join("node.toml"),
            false => path,
        };
        let what = "the configuration of a replica, as `atlas init` writes it (`node.toml`)";
        let source = Source::read(path, what)?;
        let file: NodeFile = source.parse(DESCRIPTIONS)?;
        let listed = source.resolve(&file.cluster_file);
        let listed = source.read_named("cluster_file", &listed, "the path of a cluster file")?;
        let cluster = ClusterConfig::from_source(&listed, protocols)?;
        let member = member(&source, &file, &cluster, &listed)?;
        let key = own_key(&source, &file, member, &listed)?;
        check_range(
            &source,
            "log_segment_bytes",
            file.log_segment_bytes,
            SEGMENT_BYTES,
        )?;
        check_range(&source, "clients_max", file.clients_max, CLIENTS)?;
        check_range(
            &source,
            "scrub_bytes_per_second",
            file.scrub_bytes_per_second,
            SCRUB,
        )?;
        if let Some(workers) = file.worker_threads {
            check_range(&source, "worker_threads", workers, WORKERS)?;
        }
        if let Some(threads) = file.execution_threads {
            check_range(&source, "execution_threads", threads, EXECUTING)?;
        }
        check_range(&source, "checkpoints_kept", file.checkpoints_kept, KEPT)?;
        Ok(Self {
            id: member.id,
            key,
            data_dir: data_dir(&source, &file)?,
            listen: listen(&source, &file)?.unwrap_or_else(|| member.address.clone()),
            admin_listen: admin_listen(&source, &file)?,
            durability: file.durability,
            log_segment_bytes: file.log_segment_bytes,
            clients_max: file.clients_max,
            worker_threads: file.worker_threads,
            execution_threads: file.execution_threads,
            transfer_bytes_per_second: file.transfer_bytes_per_second,
            scrub_bytes_per_second: file.scrub_bytes_per_second,
            checkpoints_kept: file.checkpoints_kept,
            checkpoint_compression: file.checkpoint_compression,
            cluster,
            source,
        })
    }

    /// The configuration of a replica that a program made, without files; the settings are the
    /// defaults.
    ///
    /// # Errors
    /// When the key is not that of member `id`.
    pub fn in_memory(
        cluster: ClusterConfig,
        id: NodeId,
        key: KeyPair,
        data_dir: impl Into<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let source = Source::in_memory();
        let Some(member) = cluster.member(id) else {
            let expected = format!("a number from 0 to {}", cluster.members().len() - 1);
            return Err(source.wrong("id", id.0, expected));
        };
        if member.key != key.public_key() {
            let found = format!("a private key whose public half is {}", key.public_key());
            let expected = format!("the key of member {}, {}", id.0, member.key);
            return Err(source.wrong("key", found, expected));
        }
        Ok(Self {
            id,
            key,
            data_dir: data_dir.into(),
            listen: member.address.clone(),
            admin_listen: None,
            durability: Durability::default(),
            log_segment_bytes: log_segment_bytes(),
            clients_max: clients_max(),
            worker_threads: None,
            execution_threads: None,
            transfer_bytes_per_second: transfer_bytes_per_second(),
            scrub_bytes_per_second: scrub_bytes_per_second(),
            checkpoints_kept: checkpoints_kept(),
            checkpoint_compression: Compression::default(),
            cluster,
            source,
        })
    }

    /// The node file.
    #[must_use]
    pub fn file(&self) -> &Path {
        self.source.file()
    }

    /// An error about a value of the node file that turned out wrong only when it was used, such as
    /// a port that is busy.
    #[must_use]
    pub fn wrong(&self, key: &str, found: &str, expected: &str) -> ConfigError {
        self.source.wrong(key, found, expected)
    }
}

fn member<'a>(
    source: &Source,
    file: &NodeFile,
    cluster: &'a ClusterConfig,
    listed: &Source,
) -> Result<&'a ClusterMember, ConfigError> {
    cluster.member(NodeId(file.id)).ok_or_else(|| {
        let last = cluster.members().len() - 1;
        let members = listed.file().display();
        let expected = format!("the id of a member in {members}: a number from 0 to {last}");
        source.wrong("id", file.id, expected)
    })
}

fn own_key(
    source: &Source,
    file: &NodeFile,
    member: &ClusterMember,
    listed: &Source,
) -> Result<KeyPair, ConfigError> {
    let path = source.resolve(&file.key_file);
    check_named(source, &path)?;
    let key = keys::read_key_file(&path)?;
    if key.public_key() == member.key {
        return Ok(key);
    }
    let found = format!(
        "`{}`, a private key whose public half is {}",
        path.display(),
        key.public_key()
    );
    let expected = format!(
        "the key of member {}, whose public half in {} is {}",
        member.id.0,
        listed.file().display(),
        member.key
    );
    Err(source.wrong("key_file", found, expected))
}

/// That the key file is there; a file that is missing is the fault of the file that names it.
pub(super) fn check_named(source: &Source, path: &Path) -> Result<(), ConfigError> {
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let found = format!("`{}`: no such file", path.display());
            Err(source.wrong("key_file", found, "the path of a key file"))
        }
        _ => Ok(()),
    }
}

fn data_dir(source: &Source, file: &NodeFile) -> Result<PathBuf, ConfigError> {
    let path = source.resolve(&file.data_dir);
    if file.data_dir.as_os_str().is_empty() || path.exists() && !path.is_dir() {
        let found = format!("`{}`, which is no directory", file.data_dir.display());
        let expected = "the path of the directory for log and checkpoints";
        return Err(source.wrong("data_dir", found, expected));
    }
    Ok(path)
}

fn listen(source: &Source, file: &NodeFile) -> Result<Option<Address>, ConfigError> {
    let parse = |text: &String| {
        let parsed = text.parse();
        parsed.map_err(|_| source.wrong("listen", quoted(text), Address::EXPECTED))
    };
    file.listen.as_ref().map(parse).transpose()
}

fn admin_listen(source: &Source, file: &NodeFile) -> Result<Option<SocketAddr>, ConfigError> {
    let parse = |text: &String| {
        let parsed = text.parse();
        parsed.map_err(|_| source.wrong("admin_listen", quoted(text), ADMIN_EXPECTED))
    };
    file.admin_listen.as_ref().map(parse).transpose()
}

fn check_range<T: PartialOrd + std::fmt::Display>(
    source: &Source,
    key: &str,
    found: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&found) {
        return Ok(());
    }
    let expected = format!("a whole number from {} to {}", range.start(), range.end());
    Err(source.wrong(key, found, expected))
}
