//! `atlas start`: one replica, until it is told to stop.

use crate::bench::{DivisibleTable, Echo, MonolithicTable, StateKind};
use anyhow::{Result, anyhow};
use atlas_kv::Kv;
use atlas_smr::config::NodeConfig;
use atlas_smr::{NodeId, ProtocolRegistry, Replica, ReplicaHandle, StartError, Stopped};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The replica's directory, or its node.toml
    #[arg(value_name = "REPLICA")]
    node: PathBuf,
    /// Run the benchmark's echo application, with replies of this size, instead of the store
    #[arg(long, hide = true, value_name = "BYTES")]
    echo_reply_bytes: Option<usize>,
    /// Run the benchmark's table, with such a state, instead of the store
    #[arg(
        long,
        hide = true,
        value_name = "KIND",
        conflicts_with = "echo_reply_bytes"
    )]
    table: Option<StateKind>,
}

/// The exit code of a replica that had to stop by itself.
const FAILED: u8 = 3;

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let registry = ProtocolRegistry::default();
    let node = NodeConfig::load(&arguments.node, &registry.known())?;
    let (id, protocol, durability) = (node.id, node.cluster.protocol().name, node.durability);
    let started = match (arguments.echo_reply_bytes, arguments.table) {
        (Some(reply_bytes), _) => Replica::builder(Echo { reply_bytes }).config(node).start(),
        (None, Some(StateKind::Divisible)) => {
            let table = DivisibleTable::default();
            Replica::builder(table).config(node).start()
        }
        (None, Some(StateKind::Monolithic)) => {
            let table = MonolithicTable::default();
            Replica::builder(table).config(node).start()
        }
        (None, None) => Replica::builder(Kv::default()).config(node).start(),
    };
    let replica = started.map_err(|error| cannot_start(id, error))?;
    for note in replica.notes() {
        eprintln!("note: {note}");
    }
    let admin = replica
        .admin_address()
        .map_or(String::new(), |a| format!(", status on http://{a}"));
    let address = replica
        .address()
        .map_or_else(String::new, |a| format!(" on {a}"));
    println!("replica {id} ready{address} ({protocol}, durability {durability}){admin}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(until_stopped(replica))
}

fn cannot_start(id: NodeId, error: StartError) -> anyhow::Error {
    let remedy = error.remedy();
    let error = anyhow::Error::new(error).context(format!("replica {id} cannot start"));
    match remedy {
        Some(remedy) => anyhow!("{error:#}\nwhat helps: {}", remedy.advice()),
        None => error,
    }
}

/// Runs until SIGINT or SIGTERM, or until the replica stops by itself.
async fn until_stopped(mut replica: ReplicaHandle) -> Result<ExitCode> {
    let id = replica.id();
    let mut terminate = signal(SignalKind::terminate())?;
    let asked = tokio::select! {
        pressed = tokio::signal::ctrl_c() => { pressed?; true }
        _ = terminate.recv() => true,
        stopped = replica.stopped() => match stopped {
            Stopped::Asked => true,
            Stopped::Failed(why) => {
                eprintln!("error: replica {id} stopped: {why}");
                false
            }
        },
    };
    replica.shutdown().await;
    if !asked {
        return Ok(ExitCode::from(FAILED));
    }
    eprintln!("replica {id} stopped");
    Ok(ExitCode::SUCCESS)
}
