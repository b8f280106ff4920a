//! Where the executor's threads leave what they did: replies go straight to the network, checkpoints to
//! the store, the rest to the core.

use crate::background::{Background, Schedule};
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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a checkpoint may take where nothing is decided, and others use the processors.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(120);

pub(crate) struct Sink {
    shared: Arc<Shared>,
    events: Arc<EventQueue>,
    store: StoreKeeper,
    /// What writes checkpoints, from the first one on. There is one thread that takes them.
    background: Mutex<Option<Background<Writing>>>,
    checkpoint_interval: u64,
    /// The last decision that was.
    executed: Arc<AtomicU64>,
}

impl Sink {
    pub(crate) fn new(
        shared: Arc<Shared>,
        events: Arc<EventQueue>,
        store: StoreKeeper,
        checkpoint_interval: u64,
    ) -> Self {
        Self {
            shared,
            events,
            store,
            background: Mutex::new(None),
            checkpoint_interval,
            executed: Arc::default(),
        }
    }

    fn write(&self, snapshot: Snapshot) -> Result<CheckpointId, JobError> {
        let mut background = self.background.lock();
        let background = background.get_or_insert_with(Background::new);
        let schedule = Schedule {
            executed: Arc::clone(&self.executed),
            from: snapshot.seq().0,
            decisions: self.checkpoint_interval,
            time: CHECKPOINT_WITHIN,
        };
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
        self.executed.store(progress.seq.0, Ordering::Relaxed);
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
