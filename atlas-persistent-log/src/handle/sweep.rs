//! Deleting what the log has let go of, on a thread of its own: file systems may take long to give back the
//! room of a segment, and replies would wait for it.
//!
//! It never syncs the directory: the system tells a failed sync once, and the log's thread has to hear of it.

use crate::log::delete;
use crate::storage::Storage;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// At most one thread at a time. What it does not come to is done when the log is opened.
#[derive(Debug, Default)]
pub(super) struct Sweeper(Mutex<Option<JoinHandle<()>>>);

impl Sweeper {
    /// Deletes these files soon.
    pub(super) fn delete(&self, storage: &Arc<dyn Storage>, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        self.wait();
        let storage = Arc::clone(storage);
        let sweep = move || {
            if let Err(error) = delete(&*storage, &names) {
                tracing::warn!(%error, "old segments of the log are deleted at the next start");
            }
        };
        match Builder::new()
            .name("atlas-log-sweep".to_owned())
            .spawn(sweep)
        {
            Ok(thread) => *self.0.lock() = Some(thread),
            Err(error) => tracing::warn!(%error, "no thread to delete old segments of the log"),
        }
    }

    /// Waits for what is being deleted.
    pub(super) fn wait(&self) {
        if let Some(thread) = self.0.lock().take() {
            // A panic on the thread was reported when it happened.
            drop(thread.join());
        }
    }
}
