//! The threads that answer unordered reads, from a state that no longer changes.
//!
//! # Why such a read is linearizable where it was before
//!
//! A read is given a view of the state by the thread that executes, at a moment when that thread has
//! executed decision `after` (or a later one) and *after* the read has arrived. From then on it is as
//! if it had been answered at that moment, however long a reader takes: the view holds the effects of
//! exactly the decisions executed before, and the answer says which was the last of them. So what must
//! hold is what had to hold for reads on the executing thread, and follows from what the protocol says
//! about `after`:
//!
//! - **Raft**: `after` is the leader's commit index, confirmed by a majority once the read had arrived
//!   (ReadIndex, thesis section 6.4). A write that was acknowledged before is at or below it.
//! - **Rabia**: `after` is the highest slot that a majority took part in, which meets the majority of
//!   every decided slot.
//! - **PBFT**: no single replica can know how far the cluster is. With `unordered_reads` each replica
//!   answers at once, and the client takes what ⌈(n+f+1)/2⌉ of them say alike; such a quorum has a
//!   correct replica in common with the quorum that acknowledged any earlier write, and that replica has
//!   the write on its disk, should it have restarted since. The pitfalls of
//!   that (Berger, Reiser, Bessani: "Making Reads in BFT State Machine Replication Fast, Linearizable,
//!   and Live", SRDS'21) are met elsewhere: *safety* is lost when a write counts with f+1 answers, so
//!   there the client waits for a quorum of equal answers to its writes too
//!   (`ClientConfig::matching_ordered`); *liveness* is lost when correct replicas never answer alike,
//!   because they lag or writes keep coming, so a client whose read finds no quorum has it ordered, and
//!   replicas that lag are given what they missed. Different correct replicas may well answer the same
//!   read from different states here, as on the executing thread: then their answers do not count
//!   together unless they are equal.
//! - **Stale reads** promise no more than a state that a correct replica was in.
//!
//! A view is also what a session's own order needs: a client that was answered a write at decision *d*
//! and then reads from the same replica finds *d* executed, since that answer came from the executing
//! thread before the read did.

use super::asked::Asked;
use super::{ExecutionFailure, ExecutionSink, ExecutionStats};
use crate::execute::ReadView;
use atlas_common::{ClientId, SeqNo};
use atlas_smr_core::client_message::Reply;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// A read, with the state to answer it from.
pub(super) struct Job {
    pub(super) asked: Asked,
    pub(super) view: Arc<dyn ReadView>,
    /// The last decision in that state.
    pub(super) at: SeqNo,
}

/// The threads, and the queue to them.
pub(super) struct Readers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(
        name: &str,
        threads: usize,
        waiting_max: usize,
        sink: &Arc<dyn ExecutionSink>,
        stats: &Arc<Mutex<ExecutionStats>>,
    ) -> io::Result<Self> {
        let (jobs, queue) = bounded(waiting_max.max(1));
        let mut readers = Self {
            jobs: Some(jobs),
            threads: Vec::new(),
        };
        for index in 0..threads {
            let (queue, sink, stats) = (queue.clone(), Arc::clone(sink), Arc::clone(stats));
            let name = format!("{name}-read-{index}");
            let run = move || run_caught(&queue, &*sink, &stats);
            readers.threads.push(Builder::new().name(name).spawn(run)?);
        }
        Ok(readers)
    }

    /// Queues a read; gives it back when too many wait.
    pub(super) fn offer(&self, job: Job) -> Option<Job> {
        match &self.jobs {
            Some(jobs) => jobs.try_send(job).err().map(|refused| refused.into_inner()),
            None => Some(job),
        }
    }
}

impl Drop for Readers {
    /// Waits for what is queued.
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic was reported to the sink when it happened.
            drop(thread.join());
        }
    }
}

fn run_caught(queue: &Receiver<Job>, sink: &dyn ExecutionSink, stats: &Mutex<ExecutionStats>) {
    let run = AssertUnwindSafe(|| run(queue, sink, stats));
    if let Err(panic) = catch_unwind(run) {
        sink.failed(ExecutionFailure::Panicked(super::text(&*panic)));
    }
}

fn run(queue: &Receiver<Job>, sink: &dyn ExecutionSink, stats: &Mutex<ExecutionStats>) {
    for job in queue {
        let reply = answer(job);
        stats.lock().reads += 1;
        // At once: the next read may take its time.
        sink.replies(vec![reply]);
    }
}

fn answer(job: Job) -> (ClientId, Reply) {
    let Job { asked, view, at } = job;
    let result = view.read(&asked.read.operation);
    let id = asked.read.id;
    (asked.client, Reply::Read { id, result, at })
}
