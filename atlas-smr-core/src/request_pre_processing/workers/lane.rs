//! One worker's queues.

use super::{MessageJob, Work, WorkerConfig};
use atlas_common::ClientId;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select_biased};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) type BundleJob = (ClientId, Bytes);

/// What waits in a queue or is being worked on.
#[derive(Debug, Default)]
struct Load {
    jobs: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    /// Whether there is room; takes it if so.
    fn add(&self, bytes: usize, bytes_max: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > bytes_max {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.jobs.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The results of these jobs are handed on. Release, for [`Self::idle`].
    fn sub(&self, jobs: usize, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.jobs.fetch_sub(jobs, Ordering::Release);
    }

    /// Whether every earlier job's result has been handed on.
    fn idle(&self) -> bool {
        self.jobs.load(Ordering::Acquire) == 0
    }
}

/// The submitting end.
#[derive(Debug)]
pub(super) struct Lane {
    bundles: Sender<BundleJob>,
    messages: Sender<(usize, MessageJob)>,
    bundle_load: Arc<Load>,
    message_load: Arc<Load>,
    bytes_max: usize,
}

/// The working end.
pub(super) struct Worker {
    bundles: Receiver<BundleJob>,
    messages: Receiver<(usize, MessageJob)>,
    bundle_load: Arc<Load>,
    message_load: Arc<Load>,
    batch_max: usize,
}

pub(super) fn new(config: &WorkerConfig) -> (Lane, Worker) {
    let (bundles_in, bundles) = bounded(config.queue_jobs_max.max(1));
    let (messages_in, messages) = bounded(config.queue_jobs_max.max(1));
    let (bundle_load, message_load) = (Arc::<Load>::default(), Arc::<Load>::default());
    let lane = Lane {
        bundles: bundles_in,
        messages: messages_in,
        bundle_load: Arc::clone(&bundle_load),
        message_load: Arc::clone(&message_load),
        bytes_max: config.queue_bytes_max,
    };
    let batch_max = config.batch_max.max(1);
    (
        lane,
        Worker {
            bundles,
            messages,
            bundle_load,
            message_load,
            batch_max,
        },
    )
}

impl Lane {
    pub(super) fn bundles_idle(&self) -> bool {
        self.bundle_load.idle()
    }

    pub(super) fn messages_idle(&self) -> bool {
        self.message_load.idle()
    }

    pub(super) fn push_bundle(&self, job: BundleJob) -> bool {
        let bytes = job.1.len();
        if !self.bundle_load.add(bytes, self.bytes_max) {
            return false;
        }
        let taken = self.bundles.try_send(job).is_ok();
        if !taken {
            self.bundle_load.sub(1, bytes);
        }
        taken
    }

    pub(super) fn push_message(&self, bytes: usize, job: MessageJob) -> bool {
        if !self.message_load.add(bytes, self.bytes_max) {
            return false;
        }
        let taken = self.messages.try_send((bytes, job)).is_ok();
        if !taken {
            self.message_load.sub(1, bytes);
        }
        taken
    }

    pub(super) fn backlog(&self) -> usize {
        let jobs = |load: &Load| load.jobs.load(Ordering::Relaxed);
        jobs(&self.bundle_load) + jobs(&self.message_load)
    }
}

impl Worker {
    /// Works until the submitting end is gone and both queues are empty.
    pub(super) fn run(self, work: &Work) {
        loop {
            select_biased! {
                recv(self.messages) -> job => match job {
                    Ok(job) => self.message(work, job),
                    Err(_) => return self.rest_of_bundles(work),
                },
                recv(self.bundles) -> job => match job {
                    Ok(job) => self.bundle_batch(work, job),
                    Err(_) => return self.rest_of_messages(work),
                },
            }
        }
    }

    fn rest_of_bundles(&self, work: &Work) {
        while let Ok(job) = self.bundles.recv() {
            self.bundle_batch(work, job);
        }
    }

    fn rest_of_messages(&self, work: &Work) {
        while let Ok(job) = self.messages.recv() {
            self.message(work, job);
        }
    }

    fn message(&self, work: &Work, (bytes, job): (usize, MessageJob)) {
        work.guarded(job);
        self.message_load.sub(1, bytes);
    }

    /// Takes what has gathered behind `first`, up to a batch.
    fn bundle_batch(&self, work: &Work, first: BundleJob) {
        let mut jobs = vec![first];
        while jobs.len() < self.batch_max {
            match self.bundles.try_recv() {
                Ok(job) => jobs.push(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        let (count, bytes) = (jobs.len(), jobs.iter().map(|(_, raw)| raw.len()).sum());
        work.guarded(|| work.bundles(jobs));
        self.bundle_load.sub(count, bytes);
    }
}
