//! The store's thread, and the queues to it.

use super::collector::Collector;
use super::{StoreEvent, StoreJob, StoreKeeper};
use crate::background::Executed;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select_biased, unbounded};
use std::collections::VecDeque;
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
    let mut waiting = VecDeque::new();
    loop {
        waiting.extend(queues.jobs.try_iter());
        let job = match next(&mut waiting) {
            Some(job) => Ok(job),
            // The replica's own work first.
            None => select_biased! {
                recv(queues.jobs) -> job => job,
                recv(queues.reads) -> job => job,
            },
        };
        let Ok(job) = job else { return };
        match keeper.carry_out(job) {
            Ok(events) => events.into_iter().for_each(report),
            Err(error) => return report(StoreEvent::Failed(error)),
        }
    }
}

/// The first job, but for the question of a transfer: it goes before blobs that wait to be kept, since no
/// peer has anything to send until it is answered. Of a blob among these it is said that it is missing;
/// should it be in the state once more, it is fetched twice.
fn next(waiting: &mut VecDeque<StoreJob>) -> Option<StoreJob> {
    let is_kept = |job: &&StoreJob| matches!(job, StoreJob::Keep(_));
    let behind = waiting.iter().take_while(is_kept).count();
    match waiting.get(behind) {
        Some(StoreJob::LookUp(_)) => waiting.remove(behind),
        _ => waiting.pop_front(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_smr_core::transfer::Lookup;

    #[test]
    fn a_question_of_a_transfer_goes_before_what_is_to_be_kept_and_nothing_else() {
        let keep = || StoreJob::Keep(Vec::new());
        let question = |ticket| {
            StoreJob::LookUp(Lookup {
                ticket,
                pages: Vec::new(),
                parts: Vec::new(),
            })
        };
        let target = || StoreJob::Target(None);
        let jobs = [keep(), keep(), question(1), keep(), target(), question(2)];
        let mut waiting = VecDeque::from(jobs);
        let order = std::iter::from_fn(|| next(&mut waiting)).map(|job| match job {
            StoreJob::Keep(_) => "keep",
            StoreJob::LookUp(Lookup { ticket: 1, .. }) => "first question",
            StoreJob::LookUp(_) => "second question",
            _ => "target",
        });
        let expected = [
            "first question",
            "keep",
            "keep",
            "keep",
            "target",
            "second question",
        ];
        assert!(order.eq(expected));
    }
}
