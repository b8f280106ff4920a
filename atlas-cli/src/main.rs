//! The `atlas` command.

mod allocator;
mod backup;
mod bench;
mod bounds;
mod checkpoint;
mod cluster;
mod demo;
mod init;
mod inspect;
mod kv;
mod logging;
mod proofs;
mod start;
mod status;
mod transfer;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// Frames come and go by the thousand, in all sizes: the system's allocator spends a third of a large
/// frame's time on giving pages back and asking for them again.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Replicate a service so that it survives crashed servers and lying ones.
#[derive(Parser, Debug)]
#[command(name = "atlas", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show four replicas agree, lose their leader, and recover, in half a minute
    Demo(demo::Arguments),
    /// Create the keys and configuration files of a new cluster
    Init(init::Arguments),
    /// Run one replica of a key-value store until Ctrl-C
    Start(start::Arguments),
    /// Use a running key-value store
    Kv(kv::Arguments),
    /// Show every replica of a running cluster in a table
    Status(status::Arguments),
    /// Have a checkpoint taken and certified now, instead of when the next one is due
    Checkpoint(checkpoint::Arguments),
    /// Copy the newest certified checkpoint of a replica into a directory
    Backup(backup::BackupArguments),
    /// Make a new cluster that begins with the state of a backup
    Restore(backup::RestoreArguments),
    /// Print what a stopped replica left on its disk, and whether it is whole
    Inspect(inspect::Arguments),
    /// Print how much memory and disk a replica takes at most, by its configuration
    Bounds(bounds::Arguments),
    /// Write the proof of a decision or checkpoint into a file, from a stopped replica's disk
    ExportProof(proofs::ExportArguments),
    /// Check a proof against a cluster file, without asking anybody
    Verify(proofs::VerifyArguments),
    /// Measure throughput and latency on a cluster of its own
    Bench(bench::Arguments),
}

impl Command {
    const fn runs_replicas(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Demo(_) | Self::Bench(_))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.command.runs_replicas() {
        allocator::keep_memory();
    }
    // Where a replica is killed on purpose, its peers' warnings would only be in the way.
    let staged = matches!(arguments.command, Command::Demo(_) | Command::Bench(_));
    logging::start(if staged { "error" } else { "warn" });
    let result = match arguments.command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Start(arguments) => start::run(arguments),
        Command::Kv(arguments) => kv::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Checkpoint(arguments) => checkpoint::run(arguments),
        Command::Backup(arguments) => backup::take(arguments),
        Command::Restore(arguments) => backup::restore(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Bounds(arguments) => bounds::run(arguments),
        Command::ExportProof(arguments) => proofs::export(arguments),
        Command::Verify(arguments) => proofs::verify(arguments),
        Command::Bench(arguments) => bench::run(arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
