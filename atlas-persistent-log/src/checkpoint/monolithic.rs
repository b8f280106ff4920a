//! Writing whole states that are in memory, on the calling thread or one of their own.

use super::store::{CheckpointStore, Latest};
use super::writer::check_meta;
use super::{Checkpoint, CheckpointError, MonolithicStateLog};
use crate::mode::OperationMode;
use atlas_common::SeqNo;
use parking_lot::Mutex;
use std::thread::JoinHandle;

/// Threads that write checkpoints; joined when the last handle goes.
#[derive(Debug, Default)]
pub(super) struct Workers(Mutex<Vec<JoinHandle<()>>>);

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in self.0.get_mut().drain(..) {
            if worker.join().is_err() {
                tracing::error!("a thread that wrote a checkpoint panicked");
            }
        }
    }
}

impl CheckpointStore {
    fn write_now(&self, checkpoint: Checkpoint) -> Result<SeqNo, CheckpointError> {
        let seq = checkpoint.meta.seq;
        let mut writer = self.begin(seq)?;
        writer.write(&checkpoint.state)?;
        writer.commit(checkpoint.meta)?;
        Ok(seq)
    }

    fn write_on_thread(&self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        let store = self.without_workers();
        let worker = std::thread::Builder::new()
            .name("atlas-checkpoint".to_owned())
            .spawn(move || store.tell(store.write_now(checkpoint)))
            .map_err(|error| CheckpointError::NoThread {
                cause: error.to_string(),
            })?;
        let mut workers = self.workers.0.lock();
        workers.retain(|worker| !worker.is_finished());
        workers.push(worker);
        Ok(())
    }
}

impl MonolithicStateLog for CheckpointStore {
    fn read_checkpoint(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let Latest {
            checkpoint,
            mut damaged,
        } = self.read_latest()?;
        let Some(stored) = checkpoint else {
            return match damaged.is_empty() {
                true => Ok(None),
                false => Err(damaged.swap_remove(0)),
            };
        };
        for error in damaged {
            tracing::warn!(%error, used = %stored.meta.seq, "older checkpoint used");
        }
        let state = self.read_state(stored.meta.seq, u64::MAX)?;
        Ok(Some(Checkpoint {
            meta: stored.meta,
            state,
        }))
    }

    fn write_checkpoint(
        &self,
        mode: OperationMode,
        checkpoint: Checkpoint,
    ) -> Result<(), CheckpointError> {
        match mode {
            OperationMode::Blocking => self.write_now(checkpoint).map(drop),
            OperationMode::Notify => {
                check_meta(checkpoint.meta.seq, &checkpoint.meta)?;
                self.refuse_existing(checkpoint.meta.seq)?;
                self.write_on_thread(checkpoint)
            }
        }
    }
}
