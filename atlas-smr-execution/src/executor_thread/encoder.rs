//! The thread on which checkpoints are encoded and stored, one at a time.

use super::{DigestAnswer, ExecutionFailure, ExecutionSink, ExecutionStats};
use crate::snapshot::Snapshot;
use crate::state::SnapshotError;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Snapshots that may wait. When more are due, execution waits: encoding is slower than execution
/// makes checkpoints, and each snapshot keeps replaced parts of the state in memory.
const SNAPSHOTS_MAX: usize = 2;

enum Job {
    Checkpoint(Snapshot),
    Digest(Snapshot, DigestAnswer),
}

/// The thread, and the queue to it.
pub(super) struct Encoder {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Encoder {
    pub(super) fn start(
        name: &str,
        chunk_bytes: usize,
        sink: Arc<dyn ExecutionSink>,
        stats: Arc<Mutex<ExecutionStats>>,
    ) -> io::Result<Self> {
        let (jobs, queue) = bounded(SNAPSHOTS_MAX);
        let thread = Builder::new()
            .name(format!("{name}-encode"))
            .spawn(move || run(&queue, chunk_bytes, &*sink, &stats))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Queues a checkpoint; waits for room.
    pub(super) fn checkpoint(&self, snapshot: Snapshot) {
        if let Some(jobs) = &self.jobs {
            // A thread that has ended has reported why.
            drop(jobs.send(Job::Checkpoint(snapshot)));
        }
    }

    /// Queues a digest, if there is room: checkpoints matter more.
    pub(super) fn digest(&self, snapshot: Snapshot, answer: DigestAnswer) {
        let Some(jobs) = &self.jobs else { return };
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
            jobs.try_send(Job::Digest(snapshot, answer))
            && let Job::Digest(_, answer) = job
        {
            answer(None);
        }
    }
}

impl Drop for Encoder {
    /// Waits for what is queued.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Panics of the application were caught; its own would be a fault without consequence
            // here, at the end.
            drop(thread.join());
        }
    }
}

fn run(
    queue: &Receiver<Job>,
    chunk_bytes: usize,
    sink: &dyn ExecutionSink,
    stats: &Mutex<ExecutionStats>,
) {
    for job in queue {
        match job {
            Job::Checkpoint(snapshot) => {
                let seq = snapshot.seq();
                match caught(|| sink.checkpoint(snapshot)) {
                    Ok(id) => stats.lock().checkpoint = Some(id),
                    Err(cause) => {
                        sink.failed(ExecutionFailure::Snapshot { seq, cause });
                        return;
                    }
                }
            }
            Job::Digest(snapshot, answer) => {
                let digest = caught(|| snapshot.digest(chunk_bytes)).ok();
                answer(digest.map(|digest| (snapshot.seq(), digest)));
            }
        }
    }
}

fn caught<T>(encode: impl FnOnce() -> Result<T, SnapshotError>) -> Result<T, SnapshotError> {
    catch_unwind(AssertUnwindSafe(encode)).unwrap_or(Err(SnapshotError::Panicked))
}
