//! `atlas backup` and `atlas restore`: a certified checkpoint, out of a cluster and into a new one.

use crate::init;
use anyhow::{Context, Result, bail, ensure};
use atlas_smr::backup::{self, Backup};
use atlas_smr::config::NodeConfig;
use atlas_smr::{Durability, ProtocolRegistry};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(crate) struct BackupArguments {
    /// The replica's directory, or its node.toml; the replica may be running
    #[arg(value_name = "REPLICA")]
    node: PathBuf,
    /// Where to write the backup; only what an earlier one there lacks is copied
    #[arg(long, short, value_name = "BACKUP")]
    output: PathBuf,
}

#[derive(clap::Args, Debug)]
pub(crate) struct RestoreArguments {
    /// The directory of the backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// Give the state again to this replica of a restored cluster, which has lost its disk, instead of
    /// making a new cluster
    #[arg(long, value_name = "REPLICA", conflicts_with = "dir")]
    replica: Option<PathBuf>,
    #[command(flatten)]
    init: Option<init::Arguments>,
}

pub(crate) fn take(arguments: BackupArguments) -> Result<ExitCode> {
    let node = NodeConfig::load(&arguments.node, &ProtocolRegistry::default().known())?;
    let taken = backup::take(&node, &arguments.output)?;
    println!(
        "{}: the state after decision {}, {} bytes, {} of them written now; every byte of it and its \
         certificate checked",
        arguments.output.display(),
        taken.seq,
        taken.state_bytes,
        taken.bytes_written
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn restore(arguments: RestoreArguments) -> Result<ExitCode> {
    let path = arguments.backup.display();
    let backup = backup::read(&arguments.backup).with_context(|| format!("cannot read {path}"))?;
    let known = ProtocolRegistry::default().known();
    if let Some(replica) = &arguments.replica {
        let node = NodeConfig::load(replica, &known)?;
        backup::seed(&arguments.backup, &node)?;
        println!(
            "replica {} has the state that its cluster began with",
            node.id
        );
        return Ok(ExitCode::SUCCESS);
    }
    let Some(init) = arguments.init else {
        bail!(
            "say where the new cluster goes, with --dir, or which replica needs the state, with --replica"
        );
    };
    ensure!(
        init.durability() != Durability::Memory,
        "a cluster with `--durability memory` keeps nothing, and could not begin with a state"
    );
    let made = init.create(Some(backup.root))?;
    for replica in &made.replicas {
        let node = NodeConfig::load(replica, &known)?;
        let copied: Result<Backup, _> = backup::seed(&arguments.backup, &node);
        copied.with_context(|| format!("cannot give replica {} the state", node.id))?;
    }
    println!(
        "It begins with the state after decision {} of the old cluster, {} bytes. It is a new cluster: \
         what was acknowledged after that decision is not in it.",
        backup.seq, backup.state_bytes
    );
    Ok(ExitCode::SUCCESS)
}
