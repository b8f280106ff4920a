//! Where the executor's threads leave what they did: replies go straight to the network, the rest to
//! the core and the checkpoint store.

use crate::driver::{EventQueue, InstallOutcome};
use crate::shared::Shared;
use crate::store::{Image, StoreJob};
use atlas_common::ClientId;
use atlas_core::CheckpointId;
use atlas_smr_core::client_message::Reply;
use atlas_smr_execution::{ChunkedImage, ExecutionFailure, ExecutionSink, InstallError, Progress};
use crossbeam_channel::Sender;
use std::sync::Arc;

pub(crate) struct Sink {
    shared: Arc<Shared>,
    events: Arc<EventQueue>,
    store: Sender<StoreJob>,
}

impl Sink {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        events: Arc<EventQueue>,
        store: Sender<StoreJob>,
    ) -> Self {
        Self {
            shared,
            events,
            store,
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

    fn checkpoint(&self, image: ChunkedImage) {
        let ChunkedImage {
            id,
            manifest,
            chunks,
        } = image;
        // Only a store that has ended refuses; it ends with the replica, or has reported why.
        drop(self.store.send(StoreJob::Write(Image {
            id,
            manifest,
            chunks,
        })));
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
