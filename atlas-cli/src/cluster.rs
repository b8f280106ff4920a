//! What the commands share: clients of a running cluster, and clusters of the command's own.

use anyhow::{Context, Result, bail};
use atlas_smr::config::{ClientConfig, InitOptions, Initialised, KnownProtocol, Ports};
use atlas_smr::{Client, Durability, ProtocolRegistry, connect, create_cluster};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// How long a command waits for a session with the cluster.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The protocol of this name.
pub(crate) fn protocol(name: &str) -> Result<KnownProtocol> {
    let known = ProtocolRegistry::default().known();
    let names: Vec<&str> = known.iter().map(|known| known.name).collect();
    let found = known.iter().find(|known| known.name == name).copied();
    found.with_context(|| {
        format!(
            "there is no protocol `{name}`; there is {}",
            names.join(", ")
        )
    })
}

pub(crate) fn load_client(path: &Path) -> Result<ClientConfig> {
    Ok(ClientConfig::load(
        path,
        &ProtocolRegistry::default().known(),
    )?)
}

/// A client with an open session.
pub(crate) async fn ready_client(config: &ClientConfig) -> Result<Client> {
    let client = connect(config)?;
    client
        .ready(READY_WITHIN)
        .await
        .context("the cluster cannot be used")?;
    Ok(client)
}

/// A runtime for a command's own work.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

/// What a cluster of the command's own is like.
pub(crate) struct OwnCluster<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) protocol: KnownProtocol,
    /// As many as survive one fault when `None`.
    pub(crate) replicas: Option<usize>,
    pub(crate) clients: usize,
    pub(crate) durability: Durability,
    /// Slots in flight; the default when `None`.
    pub(crate) in_flight: Option<usize>,
    /// Decisions between two checkpoints; the default when `None`.
    pub(crate) checkpoint_interval: Option<u64>,
    /// Whether replicas serve status pages.
    pub(crate) admin: bool,
    /// Whether states are transferred as fast as they go, instead of by the default limit.
    pub(crate) unlimited_transfers: bool,
}

impl OwnCluster<'_> {
    /// Writes its files, with ports that are free just now.
    pub(crate) fn create(&self) -> Result<Initialised> {
        let protocol = self.protocol;
        let replicas = self.replicas.unwrap_or(protocol.replicas_for_one_fault());
        let mut options = InitOptions::new(self.dir, replicas, protocol);
        options.clients = self.clients;
        options.durability = self.durability;
        if let Some(in_flight) = self.in_flight {
            options.limits.in_flight_max = in_flight;
        }
        if let Some(interval) = self.checkpoint_interval {
            options.limits.checkpoint_interval = interval;
            // As small as it may be: PBFT bounds it, so that a new view fits a frame.
            let window = interval.saturating_mul(2);
            options.limits.window = window.max(options.limits.window);
        }
        let mut ports = free_ports(if self.admin { 2 * replicas } else { replicas })?;
        options.admin_ports = self.admin.then(|| Ports::Listed(ports.split_off(replicas)));
        options.ports = Ports::Listed(ports);
        if self.unlimited_transfers {
            options.transfer_bytes_per_second = Some(0);
        }
        Ok(create_cluster(&options)?)
    }
}

/// Ports on the loopback interface that nobody uses at this moment. They lie below those that the system
/// hands out for outgoing connections, so that a port stays free while its replica is down.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    const LOWEST: u16 = 10_000;
    const SPAN: u32 = 20_000;
    // Clusters that are made at the same time begin at different places.
    let first = std::process::id().wrapping_mul(37) % SPAN;
    let mut free = Vec::with_capacity(count);
    for offset in (first..SPAN).chain(0..first) {
        if free.len() == count {
            break;
        }
        let port = LOWEST + u16::try_from(offset).unwrap_or(0);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            free.push(port);
        }
    }
    if free.len() < count {
        bail!("no free ports on 127.0.0.1");
    }
    Ok(free)
}
