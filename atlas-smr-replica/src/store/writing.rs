//! The executor's checkpoint on its way to the store, in steps that any thread may take.

use super::JobError;
use crate::background::InSteps;
use atlas_common::parts::PartRef;
use atlas_common::{Epoch, SeqNo};
use atlas_core::CheckpointId;
use atlas_persistent_log::{CheckpointMeta, CheckpointWriter, PartStore, StoreError, Written};
use atlas_smr_execution::{Snapshot, SnapshotError, SnapshotWriter};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// A checkpoint that is being written.
#[derive(Debug)]
pub(crate) enum Writing {
    /// It was there already, from before a restart.
    Stored(CheckpointId),
    New(Box<NewCheckpoint>),
}

impl Writing {
    pub(super) fn begin(
        store: &PartStore,
        snapshot: Snapshot,
        chunk_bytes: usize,
    ) -> Result<Self, StoreError> {
        let (seq, epoch) = (snapshot.seq(), snapshot.epoch());
        let sink = Arc::new(Mutex::new(PartSink {
            writer: Some(store.begin(seq)?),
            failure: None,
        }));
        let taking = Arc::clone(&sink);
        let take = move |part: PartRef, bytes: Bytes| taking.lock().part(part, &bytes);
        let snapshot = snapshot.write_to(chunk_bytes, take);
        Ok(Self::New(Box::new(NewCheckpoint {
            seq,
            epoch,
            snapshot,
            sink,
        })))
    }
}

impl InSteps for Writing {
    type Error = JobError;

    /// Writes some parts of the state. Fails when the store does, or when the application's state cannot
    /// be stored.
    fn step(&mut self) -> Result<usize, JobError> {
        let Self::New(checkpoint) = self else {
            return Ok(0);
        };
        let outcome = checkpoint.snapshot.write_some();
        match checkpoint.sink.lock().failure.take() {
            Some(error) => Err(error.into()),
            None => Ok(outcome?),
        }
    }
}

/// One that was not there.
#[derive(Debug)]
pub(crate) struct NewCheckpoint {
    seq: SeqNo,
    epoch: Epoch,
    snapshot: SnapshotWriter,
    /// Takes the parts; shared with the snapshot that hands them over.
    sink: Arc<Mutex<PartSink>>,
}

impl NewCheckpoint {
    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn commit(self) -> Result<Written, JobError> {
        let writer = self.sink.lock().writer.take();
        let writer = writer.ok_or_else(failed_before)?;
        let meta = CheckpointMeta {
            seq: self.seq,
            ..CheckpointMeta::default()
        };
        Ok(writer.commit(meta)?)
    }
}

#[derive(Debug)]
struct PartSink {
    writer: Option<CheckpointWriter>,
    failure: Option<StoreError>,
}

impl PartSink {
    fn part(&mut self, part: PartRef, bytes: &Bytes) -> Result<(), SnapshotError> {
        let writer = self.writer.as_mut().ok_or_else(failed_before)?;
        if let Err(error) = writer.digested(part, bytes) {
            let why = error.to_string();
            self.failure = Some(error);
            return Err(SnapshotError::Store(why));
        }
        Ok(())
    }
}

fn failed_before() -> SnapshotError {
    SnapshotError::Store("it failed before".to_owned())
}
