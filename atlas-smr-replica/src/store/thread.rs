//! The store's thread, and the queues to it.

use super::collector::Collector;
use super::{StoreEvent, StoreJob, StoreKeeper};
use crate::background::Executed;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select_biased, unbounded};
use std::thread::JoinHandle;

/// What peers may have waiting together; beyond, it is dropped, and they ask again.
const READS_MAX: usize = 64;

/// The thread, and the queues to it. The core never waits for it.
#[derive(Debug)]
pub(crate) struct StoreThread {
    keeper: StoreKeeper,
    queues: Option<Queues<Sender<StoreJob>>>,
    thread: Option<JoinHandle<()>>,
    /// Goes after the thread, whose last jobs may leave garbage.
    _collector: Collector,
}

#[derive(Debug)]
struct Queues<T> {
    /// What must not be lost. Bounded by what gives cause for it: a certificate for each checkpoint in
    /// the window, one question and one state of a transfer, and the bytes that a transfer has on
    /// their way.
    jobs: T,
    /// Reads for peers.
    reads: T,
}

impl StoreThread {
    /// Starts the thread, and the one that collects garbage; `report` is called on both.
    pub(crate) fn start(
        name: &str,
        keeper: StoreKeeper,
        executed: Executed,
        report: impl Fn(StoreEvent) + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, job_queue) = unbounded();
        let (reads, read_queue) = bounded(READS_MAX);
        let queues = Queues {
            jobs: job_queue,
            reads: read_queue,
        };
        let collector = Collector::start(name, keeper.store.clone(), executed, report.clone())?;
        let at_work = keeper.clone();
        let thread = std::thread::Builder::new()
            .name(format!("{name}-store"))
            .spawn(move || run(&at_work, &queues, &report))?;
        Ok(Self {
            keeper,
            queues: Some(Queues { jobs, reads }),
            thread: Some(thread),
            _collector: collector,
        })
    }

    /// The store it works on.
    pub(crate) const fn keeper(&self) -> &StoreKeeper {
        &self.keeper
    }

    /// Queues a job that must not be lost.
    pub(crate) fn queue(&self, job: StoreJob) {
        if let Some(queues) = &self.queues {
            // Only a thread that has ended refuses a job, and it has reported why.
            drop(queues.jobs.send(job));
        }
    }

    /// Queues a job that may be lost.
    pub(crate) fn offer(&self, job: StoreJob) {
        let Some(queues) = &self.queues else { return };
        match queues.reads.try_send(job) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Drop for StoreThread {
    /// Waits for what is queued.
    fn drop(&mut self) {
        self.queues = None;
        if let Some(thread) = self.thread.take() {
            // A panic on the thread was reported when it happened.
            drop(thread.join());
        }
    }
}

fn run(keeper: &StoreKeeper, queues: &Queues<Receiver<StoreJob>>, report: &impl Fn(StoreEvent)) {
    loop {
        // The replica's own work first.
        let job = select_biased! {
            recv(queues.jobs) -> job => job,
            recv(queues.reads) -> job => job,
        };
        let Ok(job) = job else { return };
        match keeper.carry_out(job) {
            Ok(events) => events.into_iter().for_each(report),
            Err(error) => return report(StoreEvent::Failed(error)),
        }
    }
}
