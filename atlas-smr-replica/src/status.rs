//! What a replica says of itself.

use crate::admin::Snapshot;
use crate::store::CheckpointFigures;
use atlas_common::NodeId;
use atlas_communication::NetworkCounters;
use atlas_persistent_log::LogStats;
use atlas_smr_core::core::{CoreCounters, CoreStatus};
use atlas_smr_core::request_pre_processing::WorkerCounters;
use atlas_smr_core::transfer::StateTransferCounters;
use atlas_smr_execution::ExecutionStats;

/// A replica's state at one moment.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Which replica.
    pub id: NodeId,
    /// Where ordering stands.
    pub core: CoreStatus,
    /// What ordering has counted.
    pub counters: CoreCounters,
    /// What has been fetched and served of states.
    pub transfer: StateTransferCounters,
    /// What the network has counted.
    pub network: NetworkCounters,
    /// The peers that are connected.
    pub connected: Vec<NodeId>,
    /// What the log has done.
    pub log: LogStats,
    /// What the executor has done.
    pub execution: ExecutionStats,
    /// What was written of its checkpoints.
    pub checkpoints: CheckpointFigures,
    /// What the threads that check signatures have counted.
    pub workers: WorkerCounters,
}

impl ReplicaStatus {
    /// What `/metrics` shows.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (protocol, counters) = (&self.core.protocol, &self.counters);
        Snapshot {
            view: protocol.view.0,
            is_leader: protocol.leader == Some(self.id),
            changing_view: protocol.changing_view,
            view_changes: protocol.view_changes,
            decided: protocol.decided.0,
            executed: self.core.executed.0,
            checkpoint: self.core.checkpoint.0,
            in_flight: protocol.in_flight as u64,
            forgot_votes: protocol.forgot_votes,
            catching_up: self.core.catching_up,
            pool_bundles: self.core.pool_bundles as u64,
            pool_bytes: self.core.pool_bytes as u64,
            outbox: self.core.outbox as u64,
            decisions: counters.decisions,
            decisions_transferred: counters.decisions_transferred,
            states_installed: counters.states_installed,
            checkpoints: self.checkpoints,
            transfer: self.transfer,
            fetching: self.core.fetching.unwrap_or_default(),
            operations: self.execution.counters.operations,
            application_failures: self.execution.counters.application_failures,
            replies_forgotten: self.execution.counters.replies_forgotten,
            requests_dropped: [
                ("pool_full", counters.pool_full),
                ("workers_full", self.workers.bundles_dropped),
            ]
            .into(),
            rejected: counters.rejected.clone(),
            evidence: counters.evidence,
            network: self.network.clone(),
            log: self.log,
        }
    }

    /// What `/status` shows.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "replica": self.id.0,
            "core": self.core,
            "counters": self.counters,
            "checkpoints": self.checkpoints,
            "transfer": self.transfer,
            "execution": self.execution,
            "workers": self.workers,
            "connected": self.connected.iter().map(|peer| peer.0).collect::<Vec<_>>(),
        })
    }
}
