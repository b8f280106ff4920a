//! `atlas demo`: a cluster that loses its leader in front of the user, or the protocols side by side.

mod chart;
mod compare;
mod load;
mod replicas;
mod show;

use crate::cluster;
use anyhow::Result;
use show::Show;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The ordering protocol: pbft, raft or rabia
    #[arg(long, default_value = "pbft")]
    protocol: String,
    /// How many replicas; by default as many as survive the fault of one
    #[arg(long)]
    replicas: Option<usize>,
    /// Seconds of load before, during and after the loss of the leader, each
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Stay up afterwards, and say how to use the cluster
    #[arg(long)]
    keep: bool,
    /// Run every protocol in turn; end with a table and a picture of all of them
    #[arg(long, conflicts_with_all = ["protocol", "replicas", "keep"])]
    compare: bool,
    /// Where the picture goes: atlas-compare.svg and atlas-compare.png
    #[arg(long, value_name = "DIR", default_value = ".", requires = "compare")]
    out: PathBuf,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    cluster::runtime()?.block_on(async {
        tokio::select! {
            result = dispatch(arguments) => result,
            pressed = tokio::signal::ctrl_c() => {
                pressed?;
                eprintln!("\ninterrupted");
                Ok(ExitCode::from(130))
            }
        }
    })
}

async fn dispatch(arguments: Arguments) -> Result<ExitCode> {
    let span = Duration::from_secs(arguments.seconds.max(1));
    if arguments.compare {
        return compare::compare(span, &arguments.out).await;
    }
    show::show(Show {
        protocol: arguments.protocol,
        replicas: arguments.replicas,
        span,
        keep: arguments.keep,
    })
    .await
}
