//! The threads that check requests and messages. The one part of this crate that is not pure.
//!
//! Each worker has two bounded queues: messages of peers, which go first, and bundles of clients,
//! whose signatures it checks together as far as they have gathered. A client, and a peer, always has
//! the same worker, which takes its work in order: what comes out is in the order in which it went
//! in, and deduplication further on never takes an overtaken bundle for an old one. What does not
//! fit a queue is dropped and counted: the sender repeats it.
//!
//! Without workers, and where nothing is queued and the caller has no more to hand over, the work is
//! done on the calling thread: waking another costs more than a signature.

mod lane;
#[cfg(test)]
mod tests;

use super::{BundleChecker, ByClient, WorkPartitioner};
use crate::bundle::RequestBundle;
use atlas_common::{ClientId, NodeId};
use atlas_core::Reject;
use bytes::Bytes;
use lane::{BundleJob, Lane};
use serde::Serialize;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Takes what the workers have checked. Called on their threads, or on the one that submitted.
pub trait PreProcessedSink: Send + Sync {
    /// Checked bundles; those of one client come in the order in which they were submitted.
    fn checked(&self, bundles: Vec<RequestBundle>);

    /// A bundle from this client was refused.
    fn rejected(&self, from: &ClientId, reason: Reject);
}

/// How many workers there are, and how much each may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Threads; with 0, everything is done on the calling thread.
    pub workers: usize,
    /// Jobs in each queue at most.
    pub queue_jobs_max: usize,
    /// Bytes in each queue at most (one job may exceed it by itself).
    pub queue_bytes_max: usize,
    /// Bundles whose signatures are checked together at most.
    pub batch_max: usize,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            queue_jobs_max: 4096,
            queue_bytes_max: 32 << 20,
            batch_max: 64,
        }
    }
}

/// What the workers have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkerCounters {
    /// Bundles that passed.
    pub checked: u64,
    /// Bundles that were refused.
    pub rejected: u64,
    /// Bundles that did not fit a queue.
    pub bundles_dropped: u64,
    /// Messages of peers that did not fit a queue.
    pub messages_dropped: u64,
    /// Jobs that panicked; the worker went on.
    pub panics: u64,
}

#[derive(Debug, Default)]
struct Counters {
    checked: AtomicU64,
    rejected: AtomicU64,
    bundles_dropped: AtomicU64,
    messages_dropped: AtomicU64,
    panics: AtomicU64,
}

fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// A check of a peer's message, and what is to be done with its result.
pub type MessageJob = Box<dyn FnOnce() + Send>;

/// What a worker needs.
struct Work {
    checker: Arc<BundleChecker>,
    sink: Arc<dyn PreProcessedSink>,
    counters: Counters,
}

impl Work {
    fn bundles(&self, jobs: Vec<BundleJob>) {
        let from: Vec<ClientId> = jobs.iter().map(|(from, _)| *from).collect();
        let mut bundles = Vec::with_capacity(jobs.len());
        for (from, verdict) in from.iter().zip(self.checker.check_clients(jobs)) {
            match verdict {
                Ok(bundle) => bundles.push(bundle),
                Err(reason) => {
                    count(&self.counters.rejected, 1);
                    self.sink.rejected(from, reason);
                }
            }
        }
        count(&self.counters.checked, bundles.len());
        if !bundles.is_empty() {
            self.sink.checked(bundles);
        }
    }

    /// Runs a job. One that panics is counted, and takes nothing else with it.
    fn guarded(&self, job: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            count(&self.counters.panics, 1);
        }
    }
}

/// Worker threads that check bundles and messages, keeping the order per client and per peer.
pub struct WorkerPool {
    work: Arc<Work>,
    partitioner: Box<dyn WorkPartitioner>,
    lanes: Vec<Lane>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool")
            .field("lanes", &self.lanes)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl WorkerPool {
    /// Starts the workers, clients spread over them by [`ByClient`].
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        config: WorkerConfig,
        checker: Arc<BundleChecker>,
        sink: Arc<dyn PreProcessedSink>,
    ) -> std::io::Result<Self> {
        Self::start_with(config, checker, sink, Box::new(ByClient))
    }

    /// As [`Self::start`], with clients spread over the workers by `partitioner`.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start_with(
        config: WorkerConfig,
        checker: Arc<BundleChecker>,
        sink: Arc<dyn PreProcessedSink>,
        partitioner: Box<dyn WorkPartitioner>,
    ) -> std::io::Result<Self> {
        let work = Arc::new(Work {
            checker,
            sink,
            counters: Counters::default(),
        });
        let mut pool = Self {
            work,
            partitioner,
            lanes: Vec::new(),
            threads: Vec::new(),
        };
        for number in 0..config.workers {
            let (lane, worker) = lane::new(&config);
            let work = Arc::clone(&pool.work);
            let thread = std::thread::Builder::new().name(format!("check-{number}"));
            pool.threads.push(thread.spawn(move || worker.run(&work))?);
            pool.lanes.push(lane);
        }
        Ok(pool)
    }

    /// Has a client's bundle checked. `more` says that the caller has more work to hand over at once:
    /// then it goes to a worker even if that is idle. False when it was dropped.
    ///
    /// Bundles of one client are submitted from one thread at a time, or their order means nothing.
    pub fn submit_bundle(&self, from: ClientId, raw: Bytes, more: bool) -> bool {
        let Some(lane) = self
            .lane_of(&from)
            .filter(|lane| more || !lane.bundles_idle())
        else {
            self.work.guarded(|| self.work.bundles(vec![(from, raw)]));
            return true;
        };
        let taken = lane.push_bundle((from, raw));
        if !taken {
            count(&self.work.counters.bundles_dropped, 1);
        }
        taken
    }

    /// Has a peer's message of `bytes` bytes checked: `job` does it, and hands on the result. `more`
    /// as for [`Self::submit_bundle`]. False when it was dropped.
    pub fn submit_message(&self, peer: NodeId, bytes: usize, job: MessageJob, more: bool) -> bool {
        let lane = self.lanes.get(peer.index() % self.lanes.len().max(1));
        let Some(lane) = lane.filter(|lane| more || !lane.messages_idle()) else {
            self.work.guarded(job);
            return true;
        };
        let taken = lane.push_message(bytes, job);
        if !taken {
            count(&self.work.counters.messages_dropped, 1);
        }
        taken
    }

    fn lane_of(&self, client: &ClientId) -> Option<&Lane> {
        let workers = self.lanes.len();
        if workers == 0 {
            return None;
        }
        self.lanes
            .get(self.partitioner.worker_of(client, workers) % workers)
    }

    /// What checks the bundles.
    #[must_use]
    pub fn checker(&self) -> &Arc<BundleChecker> {
        &self.work.checker
    }

    /// Jobs that wait or are under way.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.lanes.iter().map(Lane::backlog).sum()
    }

    /// What has been counted.
    #[must_use]
    pub fn counters(&self) -> WorkerCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.work.counters;
        WorkerCounters {
            checked: read(&counters.checked),
            rejected: read(&counters.rejected),
            bundles_dropped: read(&counters.bundles_dropped),
            messages_dropped: read(&counters.messages_dropped),
            panics: read(&counters.panics),
        }
    }
}

impl Drop for WorkerPool {
    /// Ends the workers once they have done what is queued.
    fn drop(&mut self) {
        self.lanes.clear();
        for thread in self.threads.drain(..) {
            // A worker that is dropped by one of its own jobs cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                count(&self.work.counters.panics, 1);
            }
        }
    }
}
