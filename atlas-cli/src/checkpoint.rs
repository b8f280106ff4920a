//! `atlas checkpoint`: a certified checkpoint of everything up to now, before the next one is due.
//!
//! All replicas take checkpoints after the same decisions, or their digests could not be compared. So
//! this orders operations that change nothing until the next checkpoint comes.

use crate::cluster;
use anyhow::{Context, Result, bail};
use atlas_kv::{Kv, KvRequest};
use atlas_smr::config::ClientConfig;
use atlas_smr::protocol::{Quorums, Role, SeqNo};
use atlas_smr::{ApplicationClient, Client, StatusReport};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The client's directory, or its client.toml
    #[arg(long, value_name = "CLIENT")]
    client: PathBuf,
    /// How long it may take until a quorum has written and certified it, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    within: u64,
}

/// How long to wait for each replica's answer.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// How often to look whether it is there.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = cluster::load_client(&arguments.client)?;
    let deadline = Instant::now() + Duration::from_secs(arguments.within);
    cluster::runtime()?.block_on(async {
        let client = cluster::ready_client(&config).await?;
        let result = take(&config, &client, deadline).await;
        client.close().await;
        let (seq, holders) = result?;
        let members = config.cluster.members().len();
        println!("checkpoint {seq}: certified and durable on {holders} of {members} replicas");
        Ok(ExitCode::SUCCESS)
    })
}

async fn take(config: &ClientConfig, client: &Client, deadline: Instant) -> Result<(SeqNo, usize)> {
    let interval = config.cluster.limits().checkpoint_interval;
    let executed = |reports: &[StatusReport]| reports.iter().map(|r| r.executed.0).max();
    let now = executed(&client.status(STATUS_WITHIN).await).context("no replica answers")?;
    let target = now.max(1).div_ceil(interval).saturating_mul(interval);
    let store = ApplicationClient::<Kv>::new(client.clone());
    let nothing = KvRequest::Get { key: String::new() };
    // Each call is one decision at least: nobody can decide fewer.
    for _ in now..target {
        store
            .call(&nothing)
            .await
            .context("the cluster does not order")?;
        if Instant::now() > deadline {
            bail!("decision {target}, after which the checkpoint is due, is not reached in time");
        }
    }
    let voters = config
        .cluster
        .members()
        .iter()
        .filter(|m| m.role == Role::Voter);
    let quorums = Quorums::new(config.cluster.protocol().model, voters.count())?;
    let quorum = quorums.quorum();
    loop {
        let reports = client.status(STATUS_WITHIN).await;
        let holders = reports.iter().filter(|r| r.checkpoint.0 >= target).count();
        if holders >= quorum {
            return Ok((SeqNo(target), holders));
        }
        if Instant::now() > deadline {
            bail!("{holders} replicas have checkpoint {target}, and {quorum} are needed");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
