//! Where the executor's threads leave what they did: replies go straight to the network, checkpoints to
//! the store, the rest to the core.

use crate::background::{Background, Executed};
use crate::driver::{EventQueue, InstallOutcome};
use crate::shared::Shared;
use crate::store::{JobError, StoreEvent, StoreKeeper, Writing};
use atlas_common::ClientId;
use atlas_core::CheckpointId;
use atlas_smr_core::client_message::Reply;
use atlas_smr_execution::{
    ExecutionFailure, ExecutionSink, InstallError, Progress, Snapshot, SnapshotError,
};
use parking_lot::Mutex;
use std::sync::Arc;

pub(crate) struct Sink {
    shared: Arc<Shared>,
    events: Arc<EventQueue>,
    store: StoreKeeper,
    /// What writes checkpoints, from the first one on. There is one thread that takes them.
    background: Mutex<Option<Background<Writing>>>,
    executed: Executed,
}

impl Sink {
    pub(crate) fn new(
        shared: Arc<Shared>,
        events: Arc<EventQueue>,
        store: StoreKeeper,
        executed: Executed,
    ) -> Self {
        Self {
            shared,
            events,
            store,
            background: Mutex::new(None),
            executed,
        }
    }

    fn write(&self, snapshot: Snapshot) -> Result<CheckpointId, JobError> {
        let mut background = self.background.lock();
        let background = background.get_or_insert_with(Background::new);
        let schedule = self.executed.within_an_interval(snapshot.seq().0);
        let written = background.run(self.store.begin(snapshot)?, schedule)?;
        self.store.finish(written)
    }
}

impl ExecutionSink for Sink {
    fn replies(&self, replies: Vec<(ClientId, Reply)>) {
        for (client, reply) in replies {
            self.shared.reply(&client, reply);
        }
    }

    fn executed(&self, progress: Progress) {
        self.executed.note(progress.seq.0);
        self.events.executed(progress);
    }

    fn checkpoint(&self, snapshot: Snapshot) -> Result<CheckpointId, SnapshotError> {
        let id = self.write(snapshot).map_err(|error| match error {
            JobError::Snapshot(error) => error,
            JobError::Store(error) => SnapshotError::Store(error.to_string()),
        })?;
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
