//! The `atlas` command.

mod bench;
mod cluster;
mod demo;
mod init;
mod kv;
mod logging;
mod start;
mod status;
mod transfer;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

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
    /// Measure throughput and latency on a cluster of its own
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start();
    let result = match arguments.command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Start(arguments) => start::run(arguments),
        Command::Kv(arguments) => kv::run(arguments),
        Command::Status(arguments) => status::run(arguments),
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
