//! `atlas init`: the files of a new cluster.

use crate::cluster;
use anyhow::{Context, Result};
use atlas_smr::config::{InitOptions, Initialised, Ports};
use atlas_smr::protocol::Digest;
use atlas_smr::{Durability, create_cluster};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// How many replicas; by default as many as survive the fault of one
    #[arg(long)]
    replicas: Option<usize>,
    /// The ordering protocol: pbft, raft or rabia
    #[arg(long, default_value = "pbft")]
    protocol: String,
    /// Where to write the files; must not exist yet, or be empty
    #[arg(long, value_name = "DIRECTORY")]
    dir: PathBuf,
    /// How many clients to make keys for
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Replica i listens on this port plus i
    #[arg(long, default_value_t = 7100)]
    base_port: u16,
    /// Replica i serves /metrics and /status on this port plus i
    #[arg(long, default_value_t = 7200)]
    admin_base_port: u16,
    /// When a write counts as kept: sync, async or memory
    #[arg(long, default_value_t = Durability::Sync)]
    durability: Durability,
    /// Let any key be a client, instead of only those made here
    #[arg(long)]
    any_client: bool,
    /// Answer linearizable reads without ordering them (writes then wait for a larger quorum)
    #[arg(long)]
    unordered_reads: bool,
    /// Decisions between two checkpoints, for a state that takes long to write; part of what the
    /// cluster is, so it cannot change later
    #[arg(long, value_name = "DECISIONS", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_interval: Option<u64>,
}

/// As in the default limits: ordering goes on while checkpoints are being certified.
const INTERVALS_IN_WINDOW: u64 = 4;

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    arguments.create(None)?;
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    pub(crate) const fn durability(&self) -> Durability {
        self.durability
    }

    /// Makes the cluster and says what was made; one that begins with this state, if there is one.
    pub(crate) fn create(self, initial_state: Option<Digest>) -> Result<Initialised> {
        let arguments = self;
        let protocol = cluster::protocol(&arguments.protocol)?;
        let replicas = arguments
            .replicas
            .unwrap_or(protocol.replicas_for_one_fault());
        let mut options = InitOptions::new(&arguments.dir, replicas, protocol);
        options.clients = arguments.clients;
        options.clients_listed = !arguments.any_client;
        options.ports = Ports::From(arguments.base_port);
        options.admin_ports = Some(Ports::From(arguments.admin_base_port));
        options.durability = arguments.durability;
        options.unordered_reads = arguments.unordered_reads;
        options.initial_state = initial_state;
        if let Some(interval) = arguments.checkpoint_interval {
            options.limits.checkpoint_interval = interval;
            options.limits.window = interval.saturating_mul(INTERVALS_IN_WINDOW);
        }
        let made = create_cluster(&options).context("cannot create the cluster")?;
        let dir = arguments.dir.display();
        println!(
            "A cluster of {} replicas under {} is set up in {dir}:",
            replicas, protocol.name
        );
        for file in &made.files {
            println!("  {}", file.display());
        }
        println!("\nStart each replica in a terminal of its own:");
        for replica in 0..replicas {
            println!("  atlas start {dir}/replica-{replica}");
        }
        if arguments.clients > 0 {
            println!("and use it:");
            println!("  atlas kv --client {dir}/client-0 put greeting hello");
            println!("  atlas status --client {dir}/client-0");
        }
        Ok(made)
    }
}
