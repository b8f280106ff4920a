//! The configuration of one client.

use super::cluster::{Clients, ClusterConfig, quoted};
use super::error::ConfigError;
use super::source::{Descriptions, Source};
use super::{KnownProtocol, keys, node};
use atlas_common::crypto::{KeyPair, Signer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The client file as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFile {
    /// What the client is called; where the cluster file lists clients, its name there.
    pub name: String,
    /// The cluster file.
    pub cluster_file: PathBuf,
    /// The file with this client's private key.
    pub key_file: PathBuf,
}

const DESCRIPTIONS: &Descriptions = &[
    ("name", "the client's name in quotes"),
    ("cluster_file", "the path of the cluster file"),
    (
        "key_file",
        "the path of the file with this client's private key",
    ),
];

/// One client's configuration. One that exists has passed every check.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// What it is called.
    pub name: String,
    /// What it shares with the replicas.
    pub cluster: ClusterConfig,
    /// Its identity, which the cluster admits.
    pub key: KeyPair,
}

impl ClientConfig {
    /// Reads and checks a client file, or the `client.toml` of a directory, with the cluster file
    /// and the key file that it names. `protocols` are those that the cluster file may name.
    ///
    /// # Errors
    /// The first thing that is wrong with any of them.
    pub fn load(path: &Path, protocols: &[KnownProtocol]) -> Result<Self, ConfigError> {
        let path = match path.is_dir() {
            true => &path.join("client.toml"),
            false => path,
        };
        let what = "the configuration of a client, as `atlas init` writes it (`client.toml`)";
        let source = Source::read(path, what)?;
        let file: ClientFile = source.parse(DESCRIPTIONS)?;
        let listed = source.resolve(&file.cluster_file);
        let listed = source.read_named("cluster_file", &listed, "the path of a cluster file")?;
        let cluster = ClusterConfig::from_source(&listed, protocols)?;
        let path = source.resolve(&file.key_file);
        node::check_named(&source, &path)?;
        let key = keys::read_key_file(&path)?;
        check_admitted(&source, &file, &cluster, &key, &listed)?;
        Ok(Self {
            name: file.name,
            cluster,
            key,
        })
    }

    /// The configuration of a client that a program made, without files.
    ///
    /// # Errors
    /// When the cluster lists its clients and this one is not there, or not with this key.
    pub fn in_memory(
        cluster: ClusterConfig,
        name: impl Into<String>,
        key: KeyPair,
    ) -> Result<Self, ConfigError> {
        let source = Source::in_memory();
        let file = ClientFile {
            name: name.into(),
            cluster_file: PathBuf::new(),
            key_file: PathBuf::from("key"),
        };
        check_admitted(&source, &file, &cluster, &key, &source)?;
        Ok(Self {
            name: file.name,
            cluster,
            key,
        })
    }
}

fn check_admitted(
    source: &Source,
    file: &ClientFile,
    cluster: &ClusterConfig,
    key: &KeyPair,
    listed: &Source,
) -> Result<(), ConfigError> {
    let Clients::Listed(clients) = cluster.clients() else {
        return Ok(());
    };
    let at = listed.file().display();
    let Some(client) = clients.iter().find(|client| client.name == file.name) else {
        let expected = format!("the name of a client in {at}");
        return Err(source.wrong("name", quoted(&file.name), expected));
    };
    if client.key == key.public_key() {
        return Ok(());
    }
    let path = file.key_file.display();
    let found = format!(
        "`{path}`, a private key whose public half is {}",
        key.public_key()
    );
    let expected = format!(
        "the key of client `{}`, whose public half in {at} is {}",
        client.name, client.key
    );
    Err(source.wrong("key_file", found, expected))
}
