//! Making the bank's cluster from `bank.toml`.

use atlas_smr::config::{InitOptions, Initialised, Ports, Timeouts};
use atlas_smr::{Durability, Limits, ProtocolRegistry, create_cluster};
use serde::Deserialize;
use std::error::Error;
use std::path::Path;

const SETTINGS: &str = include_str!("bank.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: String,
    protocol: String,
    replicas: usize,
    clients: usize,
    base_port: u16,
    admin_base_port: u16,
    durability: Durability,
    unordered_reads: bool,
    limits: Limits,
    timeouts: Timeouts,
}

/// Writes keys and configuration files into a directory that is empty or new.
pub(crate) fn init(dir: &Path) -> Result<Initialised, Box<dyn Error>> {
    let settings: Settings = toml::from_str(SETTINGS)?;
    let known = ProtocolRegistry::default().known();
    let protocol = known.iter().find(|known| known.name == settings.protocol);
    let protocol = protocol.ok_or_else(|| format!("no protocol `{}`", settings.protocol))?;
    Ok(create_cluster(&InitOptions {
        name: settings.name,
        clients: settings.clients,
        clients_listed: true,
        ports: Ports::From(settings.base_port),
        admin_ports: Some(Ports::From(settings.admin_base_port)),
        durability: settings.durability,
        unordered_reads: settings.unordered_reads,
        limits: settings.limits,
        timeouts: settings.timeouts,
        ..InitOptions::new(dir, settings.replicas, *protocol)
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::Bank;
    use atlas_smr::Replica;
    use atlas_smr::config::NodeConfig;
    use std::net::TcpListener;

    #[test]
    fn the_settings_make_a_cluster_whose_replicas_start() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(&dir.path().join("bank")).unwrap();
        assert_eq!((made.replicas.len(), made.clients.len()), (4, 2));
        let known = ProtocolRegistry::default().known();
        let mut node = NodeConfig::load(&made.replicas[0], &known).unwrap();
        node.admin_listen = None;
        let replica = Replica::builder(Bank)
            .config(node)
            .listener(TcpListener::bind("127.0.0.1:0").unwrap())
            .start();
        drop(replica.unwrap());
    }
}
