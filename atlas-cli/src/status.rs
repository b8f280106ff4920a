//! `atlas status`: every replica of a cluster in a table.

use crate::cluster;
use anyhow::Result;
use atlas_smr::{NodeId, StatusReport, connect};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The client's directory, or its client.toml
    #[arg(long, value_name = "CLIENT")]
    client: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How long to wait for replicas, in milliseconds
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    timeout_ms: u64,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = cluster::load_client(&arguments.client)?;
    let patience = Duration::from_millis(arguments.timeout_ms);
    let reports = cluster::runtime()?.block_on(async {
        let client = connect(&config)?;
        let reports = client.status(patience).await;
        client.close().await;
        anyhow::Ok(reports)
    })?;
    let members: Vec<NodeId> = config.cluster.members().iter().map(|m| m.id).collect();
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json(&members, &reports))?
        );
    } else {
        print!("{}", table(&members, &reports));
    }
    // A script can tell a whole cluster from one with replicas missing.
    Ok(if reports.len() == members.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    })
}

fn json(members: &[NodeId], reports: &[StatusReport]) -> serde_json::Value {
    members
        .iter()
        .map(
            |id| match reports.iter().find(|report| report.replica == *id) {
                Some(report) => serde_json::json!({
                    "replica": id.0,
                    "reachable": true,
                    "view": report.view.0,
                    "leader": report.leader.map(|leader| leader.0),
                    "decided": report.decided.0,
                    "executed": report.executed.0,
                    "checkpoint": report.checkpoint.0,
                    "state_digest": report.state.to_string(),
                    "view_changes": report.view_changes,
                    "forgot_votes": report.forgot_votes,
                    "catching_up": report.catching_up,
                    "fetched_bytes": report.fetching.map(|(here, _)| here),
                    "state_bytes": report.fetching.map(|(_, all)| all),
                    "connected": report.connected.iter().map(|peer| peer.0).collect::<Vec<_>>(),
                }),
                None => serde_json::json!({ "replica": id.0, "reachable": false }),
            },
        )
        .collect()
}

/// What it is doing instead of its work.
fn progress(report: &StatusReport) -> String {
    const MIB: f64 = 1_048_576.0;
    let vote = if report.forgot_votes {
        "  no vote yet, it lost its log"
    } else {
        ""
    };
    let fetching = match report.fetching {
        Some((here, all)) => format!(
            "  catching up, {:.1} of {:.1} MiB of the state",
            here as f64 / MIB,
            all as f64 / MIB
        ),
        None if report.catching_up => "  catching up".to_owned(),
        None => String::new(),
    };
    format!("{vote}{fetching}")
}

/// The table, with a last line that says whether the digests agree.
pub(crate) fn table(members: &[NodeId], reports: &[StatusReport]) -> String {
    let mut text = format!(
        "{:<8} {:<10} {:>6} {:>7} {:>10} {:>10} {:>11}  {}\n",
        "replica",
        "reachable",
        "view",
        "leader",
        "decided",
        "executed",
        "checkpoint",
        "state digest"
    );
    for id in members {
        let line = match reports.iter().find(|report| report.replica == *id) {
            Some(r) => format!(
                "{:<8} {:<10} {:>6} {:>7} {:>10} {:>10} {:>11}  {:.16}{}",
                id,
                "yes",
                r.view,
                r.leader
                    .map_or_else(|| "-".to_owned(), |leader| leader.to_string()),
                r.decided,
                r.executed,
                r.checkpoint,
                r.state.to_string(),
                progress(r)
            ),
            None => format!("{id:<8} no"),
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&verdict(reports));
    text.push('\n');
    text
}

fn verdict(reports: &[StatusReport]) -> String {
    let Some(newest) = reports.iter().map(|report| report.executed).max() else {
        return "no replica answers".to_owned();
    };
    let at_newest: Vec<_> = reports.iter().filter(|r| r.executed == newest).collect();
    let agree = at_newest
        .windows(2)
        .all(|pair| pair[0].state == pair[1].state);
    match (agree, at_newest.len() == reports.len()) {
        (false, _) => format!("STATE DIGESTS DIFFER after decision {newest}"),
        (true, true) => format!(
            "all {} state digests agree after decision {newest}",
            reports.len()
        ),
        (true, false) => format!(
            "{} of {} replicas have executed decision {newest}; their state digests agree",
            at_newest.len(),
            reports.len()
        ),
    }
}
