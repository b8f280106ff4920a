//! Where the executor's threads leave what they did: replies go straight to the network, checkpoints to
//! the store, the rest to the core.

use crate::driver::{EventQueue, InstallOutcome};
use crate::priority;
use crate::shared::Shared;
use crate::store::{JobError, StoreEvent, StoreKeeper};
use atlas_common::ClientId;
use atlas_core::CheckpointId;
use atlas_smr_core::client_message::Reply;
use atlas_smr_execution::{
    ExecutionFailure, ExecutionSink, InstallError, Progress, Snapshot, SnapshotError,
};
use std::sync::{Arc, Once};

pub(crate) struct Sink {
    shared: Arc<Shared>,
    events: Arc<EventQueue>,
    store: StoreKeeper,
    /// Whether the thread that takes checkpoints gives way to the others.
    background: Once,
}

impl Sink {
    pub(crate) fn new(shared: Arc<Shared>, events: Arc<EventQueue>, store: StoreKeeper) -> Self {
        Self {
            shared,
            events,
            store,
            background: Once::new(),
        }
    }
}

impl ExecutionSink for Sink {
    fn replies(&self, replies: Vec<(ClientId, Reply)>) {
        for (client, reply) in replies {
            self.shared.reply(&client, reply);
        }
    }

    fn executed(&self, progress: Progress) {
        self.events.executed(progress);
    }

    fn checkpoint(&self, snapshot: Snapshot) -> Result<CheckpointId, SnapshotError> {
        // There is one such thread, and it has nothing else to do.
        self.background.call_once(priority::work_in_background);
        let written = self.store.write(snapshot).map_err(|error| match error {
            JobError::Snapshot(error) => error,
            JobError::Store(error) => SnapshotError::Store(error.to_string()),
        });
        let id = written?;
        self.events.store(StoreEvent::Written(id));
        Ok(id)
    }

    fn installed(&self, id: CheckpointId, outcome: Result<Progress, InstallError>) {
        self.events.installed(match outcome {
            Ok(progress) => InstallOutcome::Done {
                seq: id.seq,
                progress,
            },
            Err(error) => InstallOutcome::Refused {
                seq: id.seq,
                why: error.to_string(),
            },
        });
    }

    fn failed(&self, failure: ExecutionFailure) {
        self.events.failed(failure.to_string());
    }
}
