//! The text of the files, with comments for whoever edits them next.

use super::{InitError, InitOptions, public_text};
use crate::config::keys::toml_string;
use atlas_common::crypto::{EntropyError, KeyPair};
use atlas_core::Limits;
use serde::Serialize;
use std::net::SocketAddr;

use crate::config::node::TRANSFER_BYTES_PER_SECOND;
use crate::config::{ConfigError, Timeouts};

/// `cluster.toml`.
pub(super) fn cluster(
    options: &InitOptions,
    ports: &[u16],
    replicas: &[KeyPair],
    clients: &[KeyPair],
) -> Result<String, InitError> {
    let mut text = format!(
        "# A cluster of Atlas replicas. Every node and every client has this file, and all copies must\n\
         # agree in `cluster_id`, `protocol`, the members' ids, keys and roles, and the limits marked\n\
         # with a star: nodes that differ in these refuse each other.\n\
         \n\
         name = {name}\n\
         cluster_id = \"{id}\"\n\
         \n\
         # The protocol that orders operations: {model} faults.\n\
         protocol = {protocol}\n\
         \n\
         # Whether reads may be answered without being ordered.\n\
         unordered_reads = {unordered_reads}\n\
         \n\
         # Under Raft: whether the leader may answer reads without asking its followers, for a time\n\
         # after they last confirmed it. Right as long as no clock runs a tenth faster than another.\n\
         # lease_reads = false\n",
        name = toml_string(&options.name),
        id = hex::encode(random_id()?),
        protocol = toml_string(options.protocol.name),
        model = options.protocol.model,
        unordered_reads = options.unordered_reads,
    );
    if let Some(root) = options.initial_state {
        text.push_str(&format!(
            "\n# The root of the state that the cluster began with, from a backup.\n\
             initial_state = \"{root}\"\n"
        ));
    }
    text.push_str("\n# Who may be a client: \"any\", or a list of [[clients]] with `name` and `public_key`.\n");
    if !options.clients_listed {
        text.push_str("clients = \"any\"\n");
    }
    for (number, key) in clients
        .iter()
        .enumerate()
        .filter(|_| options.clients_listed)
    {
        let key = public_text(key);
        text.push_str(&format!(
            "\n[[clients]]\nname = \"client-{number}\"\npublic_key = \"{key}\"\n"
        ));
    }
    text.push_str(
        "\n# The replicas. Ids count from 0; `address` is where the others reach it; `role` is \"voter\"\n\
         # (the default) or \"learner\", voters first.\n",
    );
    for (id, (key, port)) in replicas.iter().zip(ports).enumerate() {
        let address = SocketAddr::new(options.host, *port);
        let key = public_text(key);
        text.push_str(&format!(
            "\n[[members]]\nid = {id}\naddress = \"{address}\"\npublic_key = \"{key}\"\n"
        ));
    }
    text.push_str("\n# Bounds. Those behind `#` are the defaults.\n[limits]\n");
    text.push_str(&settings(&options.limits, &Limits::default())?);
    text.push_str("\n# Time-outs. Those behind `#` are the defaults.\n[timeouts]\n");
    text.push_str(&settings(&options.timeouts, &Timeouts::default())?);
    Ok(text)
}

/// `node.toml`.
pub(super) fn node(options: &InitOptions, id: usize, admin_port: Option<u16>) -> String {
    let admin = match admin_port {
        Some(port) => format!("admin_listen = \"127.0.0.1:{port}\""),
        None => "# admin_listen = \"127.0.0.1:9100\"".to_owned(),
    };
    let transfer = match options.transfer_bytes_per_second {
        Some(bytes) => format!("transfer_bytes_per_second = {bytes}"),
        None => format!("# transfer_bytes_per_second = {TRANSFER_BYTES_PER_SECOND}"),
    };
    format!(
        "# Replica {id}. Paths are relative to this file.\n\
         \n\
         id = {id}\n\
         cluster_file = \"../cluster.toml\"\n\
         key_file = \"key\"\n\
         data_dir = \"data\"\n\
         \n\
         # \"sync\": a vote or reply leaves when what it stands on has reached the disk.\n\
         # \"async\": survives the end of the process, not a power cut. \"memory\": survives nothing.\n\
         durability = \"{durability}\"\n\
         \n\
         # Where to serve /metrics and /status, to whoever can connect. Nowhere when absent.\n\
         {admin}\n\
         \n\
         # Where to listen, when it is not the address in the cluster file.\n\
         # listen = \"0.0.0.0:7100\"\n\
         \n\
         # Bytes of one file of the log.\n\
         # log_segment_bytes = 67108864\n\
         \n\
         # The most clients connected at once.\n\
         # clients_max = 4096\n\
         \n\
         # Threads that check signatures. By default two fewer than the machine has cores, 8 at the\n\
         # most; with 0 the thread that orders checks them itself.\n\
         # worker_threads = 0\n\
         \n\
         # Threads that execute operations, for applications that declare what they read and write.\n\
         # By default one for each core, 8 at the most.\n\
         # execution_threads = 1\n\
         \n\
         # Bytes of states that are fetched from peers, and that are served to them, per second at\n\
         # most; 0: as many as go.\n\
         {transfer}\n\
         \n\
         # Bytes of stored checkpoints that are read again per second, to find damage while other\n\
         # replicas can repair it; 0: none.\n\
         # scrub_bytes_per_second = 1048576\n\
         \n\
         # How many certified checkpoints are kept. With two there is one to start from when the newest\n\
         # is damaged.\n\
         # checkpoints_kept = 2\n\
         \n\
         # \"zstd\": the parts of checkpoints are made smaller on the disk. \"none\": they are not.\n\
         # checkpoint_compression = \"none\"\n",
        durability = options.durability,
    )
}

/// `client.toml`.
pub(super) fn client(number: usize) -> String {
    format!(
        "# Client {number}. Paths are relative to this file.\n\
         \n\
         name = \"client-{number}\"\n\
         cluster_file = \"../cluster.toml\"\n\
         key_file = \"key\"\n"
    )
}

/// One line for each setting of a table, behind `#` where it is the default.
fn settings<T: Serialize>(value: &T, default: &T) -> Result<String, ConfigError> {
    let (value, default) = (lines(value)?, lines(default)?);
    let default: Vec<&str> = default.lines().collect();
    let mut text = String::new();
    for line in value.lines() {
        let mark = if default.contains(&line) { "# " } else { "" };
        let starred = [
            "checkpoint_interval",
            "sessions_max",
            "session_replies_max",
            "replies_bytes_max",
        ];
        let star = starred
            .iter()
            .any(|key| line.starts_with(&format!("{key} ")));
        text.push_str(&format!(
            "{mark}{line}{}\n",
            if star { "  # *" } else { "" }
        ));
    }
    Ok(text)
}

fn lines<T: Serialize>(value: &T) -> Result<String, ConfigError> {
    toml::to_string(value).map_err(|error| ConfigError {
        file: "the options of a new cluster".into(),
        position: None,
        key: String::new(),
        found: error.to_string(),
        expected: "numbers below 2^63".to_owned(),
    })
}

fn random_id() -> Result<[u8; 16], EntropyError> {
    // A public key is as random as its seed; half of it is enough to tell clusters apart.
    let key = KeyPair::generate()?;
    let mut id = [0; 16];
    id.copy_from_slice(&atlas_common::crypto::Signer::public_key(&key).0[..16]);
    Ok(id)
}
