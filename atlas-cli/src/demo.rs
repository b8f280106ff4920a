//! `atlas demo`: a cluster that loses its leader in front of the user.

mod load;

use crate::cluster;
use crate::status;
use anyhow::{Result, bail};
use atlas_kv::Kv;
use atlas_smr::{LocalCluster, LocalClusterOptions, NodeId, StatusReport, View};
use load::Load;
use std::process::ExitCode;
use std::time::{Duration, Instant};

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
}

/// How long the replicas may take to come to the same state at the end.
const AGREE_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    cluster::runtime()?.block_on(async {
        tokio::select! {
            result = show(arguments) => result,
            pressed = tokio::signal::ctrl_c() => {
                pressed?;
                eprintln!("\ninterrupted");
                Ok(ExitCode::from(130))
            }
        }
    })
}

async fn show(arguments: Arguments) -> Result<ExitCode> {
    let protocol = cluster::protocol(&arguments.protocol)?;
    let n = arguments
        .replicas
        .unwrap_or(protocol.replicas_for_one_fault());
    let started = Instant::now();
    println!(
        "Starting {n} replicas of a key-value store, ordered by {}.",
        protocol.name
    );
    println!("Real TLS 1.3 over loopback, every vote on disk before it counts.\n");
    let options = LocalClusterOptions {
        replicas: n,
        protocol: protocol.name.to_owned(),
        ..LocalClusterOptions::default()
    };
    let mut cluster = LocalCluster::start(Kv::default(), options).await?;
    println!("ready after {} ms\n", started.elapsed().as_millis());
    let load = Load::start(cluster.client());
    let span = Duration::from_secs(arguments.seconds.max(1));
    load.watch("all replicas up", span).await;

    let victim = match leader_of(&cluster).await? {
        Some((leader, view)) => {
            println!("\nKilling replica {leader}, which leads view {view} …");
            leader
        }
        None => {
            println!("\nNobody leads. Killing replica 0, which serves our client …");
            NodeId(0)
        }
    };
    load.mark();
    cluster.stop(victim.index()).await;
    load.watch("one replica gone", span).await;
    let successor = leader_of(&cluster).await?;
    let pause = load.longest_pause();
    match successor {
        Some((leader, view)) => print!("\nReplica {leader} leads view {view} now."),
        None => print!("\nThe others went on."),
    }
    println!(" Service paused for {} ms.", pause.as_millis());

    println!("\nBringing replica {victim} back …");
    cluster.restart(victim.index())?;
    load.watch("all replicas up", span).await;

    let totals = load.stop().await?;
    let reports = agreed(&cluster, n).await;
    println!(
        "\n{}",
        status::table(&(0..n as u32).map(NodeId).collect::<Vec<_>>(), &reports)
    );
    let agree = reports.len() == n
        && reports
            .windows(2)
            .all(|pair| pair[0].state == pair[1].state);
    println!(
        "{} operations answered, {} errors, {} wrong answers; the longest pause was {} ms",
        totals.operations,
        totals.errors,
        totals.wrong,
        pause.as_millis()
    );
    let good = agree && totals.errors == 0 && totals.wrong == 0;
    println!(
        "{}",
        if good {
            "All replicas agree."
        } else {
            "THIS SHOULD NOT HAVE HAPPENED."
        }
    );
    if arguments.keep {
        keep(&cluster).await?;
    }
    cluster.shutdown().await;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn reports(cluster: &LocalCluster<Kv>) -> Vec<StatusReport> {
    cluster
        .client()
        .client()
        .status(Duration::from_secs(2))
        .await
}

/// The running replica that most replicas take for the leader, and its view; `None` when none of them
/// knows of any, as under a protocol without leaders.
async fn leader_of(cluster: &LocalCluster<Kv>) -> Result<Option<(NodeId, View)>> {
    for _ in 0..50 {
        let reports = reports(cluster).await;
        let without = |report: &StatusReport| report.leader.is_none() && report.view == View::ZERO;
        if !reports.is_empty() && reports.iter().all(without) {
            return Ok(None);
        }
        let named = |id| reports.iter().filter(|r| r.leader == Some(id)).count();
        if let Some(leader) = reports
            .iter()
            .max_by_key(|report| named(report.replica))
            .filter(|report| 2 * named(report.replica) > reports.len())
        {
            return Ok(Some((leader.replica, leader.view)));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the replicas do not agree on a leader")
}

/// The replicas' reports, once all have executed the same decisions (or time is up).
async fn agreed(cluster: &LocalCluster<Kv>, n: usize) -> Vec<StatusReport> {
    let deadline = Instant::now() + AGREE_WITHIN;
    loop {
        let reports = reports(cluster).await;
        let same = reports
            .windows(2)
            .all(|pair| pair[0].executed == pair[1].executed);
        if (reports.len() == n && same) || Instant::now() > deadline {
            return reports;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn keep(cluster: &LocalCluster<Kv>) -> Result<()> {
    let client = cluster.files().clients[0].display();
    println!("\nThe cluster stays up until Ctrl-C. From another terminal:");
    println!("  atlas kv --client {client} put greeting hello");
    println!("  atlas kv --client {client} list");
    println!("  atlas status --client {client}");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
