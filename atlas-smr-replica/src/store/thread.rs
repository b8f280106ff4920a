//! The store's thread, and the queues to it.

use super::collector::Collector;
use super::{JobError, StoreEvent, StoreJob, StoreKeeper};
use crate::background::Executed;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select_biased, unbounded};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::thread::JoinHandle;

/// What peers may have waiting together; beyond, it is dropped, and they ask again.
const READS_MAX: usize = 64;
/// Messages with blobs that are kept in one go; a question waits for no more.
const KEEPS_MAX: usize = 8;

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

fn run(
    keeper: &StoreKeeper,
    queues: &Queues<Receiver<StoreJob>>,
    report: &(impl Fn(StoreEvent) + Clone + Send),
) {
    let mut waiting = VecDeque::new();
    loop {
        waiting.extend(queues.jobs.try_iter());
        let mut jobs = next(&mut waiting);
        if jobs.is_empty() {
            // The replica's own work first.
            let job = select_biased! {
                recv(queues.jobs) -> job => job,
                recv(queues.reads) -> job => job,
            };
            let Ok(job) = job else { return };
            jobs.push(job);
        }
        if let Err(error) = carry_out_all(keeper, jobs, report) {
            return report(StoreEvent::Failed(error));
        }
    }
}

/// The first job, or those at the front that keep blobs. But the question of a transfer goes before blobs
/// that wait to be kept, since no peer has anything to send until it is answered. Of a blob among these it
/// is said that it is missing; should it be in the state once more, it is fetched twice.
fn next(waiting: &mut VecDeque<StoreJob>) -> Vec<StoreJob> {
    let is_kept = |job: &&StoreJob| matches!(job, StoreJob::Keep(_));
    let keeps = waiting.iter().take_while(is_kept).count();
    if matches!(waiting.get(keeps), Some(StoreJob::LookUp(_))) {
        return waiting.remove(keeps).into_iter().collect();
    }
    let first = keeps.clamp(1, KEEPS_MAX).min(waiting.len());
    waiting.drain(..first).collect()
}

/// Several jobs are all of blobs to keep: done by two threads, since the disk is waited for most of the time.
/// Each has one half, which is faster than taking the next message from one queue.
fn carry_out_all(
    keeper: &StoreKeeper,
    mut jobs: Vec<StoreJob>,
    report: &(impl Fn(StoreEvent) + Clone + Send),
) -> Result<(), JobError> {
    let others = Mutex::new(jobs.split_off(jobs.len().div_ceil(2)));
    if others.lock().is_empty() {
        return carry_out(keeper, jobs, report);
    }
    let take = || std::mem::take(&mut *others.lock());
    std::thread::scope(|scope| {
        let reporting = report.clone();
        let helper = std::thread::Builder::new()
            .name("atlas-keep".to_owned())
            .spawn_scoped(scope, move || carry_out(keeper, take(), &reporting));
        let own = carry_out(keeper, jobs, report);
        own.and(match helper {
            Ok(helper) => helper.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(error) => {
                tracing::debug!(%error, "no second thread to keep blobs");
                carry_out(keeper, take(), report)
            }
        })
    })
}

fn carry_out(
    keeper: &StoreKeeper,
    jobs: Vec<StoreJob>,
    report: &impl Fn(StoreEvent),
) -> Result<(), JobError> {
    for job in jobs {
        keeper.carry_out(job)?.into_iter().for_each(report);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::Digest;
    use atlas_common::parts::Blob;
    use atlas_core::Limits;
    use atlas_persistent_log::PartStore;
    use atlas_persistent_log::part_store::StoreOptions;
    use atlas_persistent_log::storage::{Fault, SimStorage};
    use atlas_smr_core::transfer::Lookup;
    use std::sync::Arc;

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
        let order = std::iter::from_fn(|| {
            let next = next(&mut waiting);
            Some(match next.first()? {
                StoreJob::Keep(_) => ("keep", next.len()),
                StoreJob::LookUp(Lookup { ticket: 1, .. }) => ("first question", next.len()),
                StoreJob::LookUp(_) => ("second question", next.len()),
                _ => ("target", next.len()),
            })
        });
        let expected = [
            ("first question", 1),
            ("keep", 3),
            ("target", 1),
            ("second question", 1),
        ];
        assert!(order.eq(expected));
    }

    /// Twenty messages with a blob each.
    fn keeps() -> Vec<StoreJob> {
        let blob = |n: u8| Blob::of(vec![n; 100].into());
        (0..20).map(|n| StoreJob::Keep(vec![blob(n)])).collect()
    }

    fn keeper(disk: &SimStorage) -> StoreKeeper {
        let options = StoreOptions::new(Digest::of(b"genesis"));
        let store = PartStore::open(Arc::new(disk.clone()), options).unwrap();
        StoreKeeper::new(store, &Limits::default())
    }

    #[test]
    fn what_two_threads_keep_is_reported_and_what_either_cannot_is_an_error() {
        let (sender, events) = unbounded();
        let report = move |event| sender.send(event).unwrap();
        carry_out_all(&keeper(&SimStorage::new()), keeps(), &report).unwrap();
        let kept = events.try_iter().map(|event| match event {
            StoreEvent::Kept(bytes) => bytes,
            other => panic!("{other:?}"),
        });
        assert_eq!(kept.sum::<u64>(), 20 * 100);
        for at in [1, 8, 19] {
            let disk = SimStorage::new();
            let keeper = keeper(&disk);
            disk.inject(Fault::PowerCut, at);
            let failed = carry_out_all(&keeper, keeps(), &report);
            assert!(failed.is_err(), "at operation {at}");
            assert!(events.try_iter().count() < 20);
        }
    }
}
