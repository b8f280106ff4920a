//! What the replicas of the demo's cluster say of themselves.

use anyhow::{Result, bail};
use atlas_kv::Kv;
use atlas_smr::{LocalCluster, NodeId, StatusReport, View};
use std::time::{Duration, Instant};

/// How long the replicas may take to come to the same state at the end.
const AGREE_WITHIN: Duration = Duration::from_secs(30);

async fn reports(cluster: &LocalCluster<Kv>) -> Vec<StatusReport> {
    cluster
        .client()
        .client()
        .status(Duration::from_secs(2))
        .await
}

/// The running replica that most replicas take for the leader, and its view; `None` when none of them
/// knows of any, as under a protocol without leaders.
pub(super) async fn leader_of(cluster: &LocalCluster<Kv>) -> Result<Option<(NodeId, View)>> {
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
pub(super) async fn settled(cluster: &LocalCluster<Kv>, n: usize) -> Vec<StatusReport> {
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

/// Whether all `n` replicas reported, and the same state.
pub(super) fn agree(reports: &[StatusReport], n: usize) -> bool {
    reports.len() == n
        && reports
            .windows(2)
            .all(|pair| pair[0].state == pair[1].state)
}
