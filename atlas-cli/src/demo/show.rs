//! One cluster that loses its leader, gets it back, and ends with equal digests.

use super::load::{Load, Totals};
use super::replicas::{agree, leader_of, settled};
use crate::{cluster, status};
use anyhow::Result;
use atlas_kv::Kv;
use atlas_smr::{LocalCluster, LocalClusterOptions, NodeId};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What to show.
pub(super) struct Show {
    pub(super) protocol: String,
    /// As many as survive the fault of one when `None`.
    pub(super) replicas: Option<usize>,
    /// Of each of the three parts.
    pub(super) span: Duration,
    /// Stay up afterwards.
    pub(super) keep: bool,
}

pub(super) async fn show(what: Show) -> Result<ExitCode> {
    let protocol = cluster::protocol(&what.protocol)?;
    let n = what.replicas.unwrap_or(protocol.replicas_for_one_fault());
    let mut cluster = start(protocol.name, n).await?;
    let load = Load::start(cluster.client());
    load.watch("all replicas up", what.span).await?;

    let (victim, pause) = lose_one(&mut cluster, &load, what.span).await?;

    println!("\nBringing replica {victim} back …");
    cluster.restart(victim.index())?;
    load.watch("all replicas up", what.span).await?;

    let good = conclude(&cluster, n, &load.stop().await?, pause).await;
    if what.keep {
        keep(&cluster).await?;
    }
    cluster.shutdown().await;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn start(protocol: &str, n: usize) -> Result<LocalCluster<Kv>> {
    let started = Instant::now();
    println!("Starting {n} replicas of a key-value store, ordered by {protocol}.");
    println!("Real TLS 1.3 over loopback, every vote on disk before it counts.\n");
    let options = LocalClusterOptions {
        replicas: n,
        protocol: protocol.to_owned(),
        ..LocalClusterOptions::default()
    };
    let cluster = LocalCluster::start(Kv::default(), options).await?;
    println!("ready after {} ms\n", started.elapsed().as_millis());
    Ok(cluster)
}

/// Kills the leader, or replica 0 where nobody leads; gives which it was, and the longest pause.
async fn lose_one(
    cluster: &mut LocalCluster<Kv>,
    load: &Load,
    span: Duration,
) -> Result<(NodeId, Duration)> {
    let victim = match leader_of(cluster).await? {
        Some((leader, view)) => {
            println!("\nKilling replica {leader}, which leads view {view} …");
            leader
        }
        None => {
            println!("\nNobody leads. Killing replica 0 …");
            NodeId(0)
        }
    };
    load.mark();
    cluster.stop(victim.index()).await;
    load.watch("one replica gone", span).await?;
    let successor = leader_of(cluster).await?;
    let pause = load.longest_pause();
    match successor {
        Some((leader, view)) => print!("\nReplica {leader} leads view {view} now."),
        None => print!("\nThe others went on."),
    }
    println!(" Service paused for {} ms.", pause.as_millis());
    Ok((victim, pause))
}

/// Prints how it ended, and says whether all is well.
async fn conclude(cluster: &LocalCluster<Kv>, n: usize, totals: &Totals, pause: Duration) -> bool {
    let reports = settled(cluster, n).await;
    let members: Vec<NodeId> = (0..n as u32).map(NodeId).collect();
    println!("\n{}", status::table(&members, &reports));
    println!(
        "{} operations answered, {} errors, {} wrong answers; the longest pause was {} ms",
        totals.operations,
        totals.errors,
        totals.wrong,
        pause.as_millis()
    );
    let good = agree(&reports, n) && totals.errors == 0 && totals.wrong == 0;
    println!(
        "{}",
        if good {
            "All replicas agree."
        } else {
            "THIS SHOULD NOT HAVE HAPPENED."
        }
    );
    good
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
