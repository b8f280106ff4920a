//! The loop of the executing thread.

use super::asked::Asked;
use super::encoder::Encoder;
use super::readers::{Job, Readers};
use super::{ExecutionFailure, ExecutionSink, ExecutionStats, Ordered, Unordered};
use crate::execute::{Applied, Execute, InstallError, Progress, ReadView};
use atlas_common::{ClientId, SeqNo};
use atlas_core::CheckpointId;
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::core::Decision;
use crossbeam_channel::{Receiver, select};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Operations after which replies are handed over although more decisions wait: enough to fill a
/// socket write, little enough not to hold up the first of them.
const GROUP_OPERATIONS: usize = 256;
/// Reads taken in one go, so that decisions do not wait for more.
const GROUP_READS: usize = 256;
/// Bytes of answers to reads after which they are handed over.
const GROUP_READ_BYTES: usize = 4 << 20;

pub(super) struct Worker {
    executor: Box<dyn Execute>,
    /// Threads for reads, where there are any.
    readers: Option<Readers>,
    /// The present state for them, once it was asked for.
    view: Option<Arc<dyn ReadView>>,
    sink: Arc<dyn ExecutionSink>,
    encoder: Encoder,
    stats: Arc<Mutex<ExecutionStats>>,
    /// Reads by the decision they wait for.
    waiting: BTreeMap<SeqNo, Vec<Asked>>,
    waiting_count: usize,
    waiting_max: usize,
    group: Group,
}

/// What was done and not yet handed over.
#[derive(Default)]
struct Group {
    replies: Vec<(ClientId, Reply)>,
    progress: Option<Progress>,
    operations: usize,
    reads: u64,
    read_bytes: usize,
    refused: u64,
}

impl Worker {
    pub(super) fn new(
        executor: Box<dyn Execute>,
        readers: Option<Readers>,
        sink: Arc<dyn ExecutionSink>,
        encoder: Encoder,
        stats: Arc<Mutex<ExecutionStats>>,
        waiting_max: usize,
    ) -> Self {
        Self {
            executor,
            readers,
            view: None,
            sink,
            encoder,
            stats,
            waiting: BTreeMap::new(),
            waiting_count: 0,
            waiting_max,
            group: Group::default(),
        }
    }

    /// Runs until it is stopped. A panic is reported.
    pub(super) fn run_caught(mut self, ordered: &Receiver<Ordered>, reads: &Receiver<Unordered>) {
        let run = AssertUnwindSafe(|| self.run(ordered, reads));
        if let Err(panic) = catch_unwind(run) {
            let failure = ExecutionFailure::Panicked(super::text(&*panic));
            self.sink.failed(failure);
        }
    }

    fn run(&mut self, ordered: &Receiver<Ordered>, reads: &Receiver<Unordered>) {
        loop {
            let flow = select! {
                recv(ordered) -> order => order.map_or(ControlFlow::Break(()), |o| self.order(o)),
                recv(reads) -> read => {
                    // Both lanes are closed together, with the last handle.
                    if let Ok(read) = read {
                        self.unordered(read);
                    }
                    ControlFlow::Continue(())
                }
            };
            let flow = match flow {
                ControlFlow::Continue(()) => self.take_more(ordered),
                end => end,
            };
            let taken = if flow.is_break() {
                reads.len()
            } else {
                GROUP_READS
            };
            for read in reads.try_iter().take(taken) {
                self.unordered(read);
            }
            self.hand_over();
            if flow.is_break() {
                return;
            }
        }
    }

    /// Takes the decisions that wait, up to a group of operations.
    fn take_more(&mut self, ordered: &Receiver<Ordered>) -> ControlFlow<()> {
        while self.group.operations < GROUP_OPERATIONS
            && let Ok(order) = ordered.try_recv()
        {
            self.order(order)?;
        }
        ControlFlow::Continue(())
    }

    fn order(&mut self, order: Ordered) -> ControlFlow<()> {
        match order {
            Ordered::Decision(decision) => self.apply(&decision),
            Ordered::Decisions(decisions) => {
                for decision in &decisions {
                    self.apply(decision);
                    if self.group.operations >= GROUP_OPERATIONS {
                        self.hand_over();
                    }
                }
            }
            Ordered::InstallParts {
                id,
                descriptor,
                source,
            } => {
                // What was executed before is told before.
                self.hand_over();
                let outcome = self.executor.install_parts(&id, &descriptor, &*source);
                self.installed(id, outcome);
            }
            Ordered::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn installed(&mut self, id: CheckpointId, outcome: Result<(), InstallError>) {
        self.view = None;
        if outcome.is_ok() {
            self.stats.lock().checkpoint = Some(id);
            self.serve_waiting();
            self.hand_over();
        }
        let outcome = outcome.map(|()| self.executor.progress());
        self.sink.installed(id, outcome);
    }

    fn apply(&mut self, decision: &Decision) {
        // Before, so that what no reader holds is changed in place.
        self.view = None;
        let Applied {
            replies,
            sessions,
            last_given,
            operations,
            snapshot,
        } = self.executor.apply(decision);
        if let Some(snapshot) = snapshot {
            self.encoder.checkpoint(snapshot);
        }
        let group = &mut self.group;
        // An empty decision counts too: the rest of the replica waits to hear of it.
        group.operations += operations.max(1);
        if group.replies.is_empty() {
            group.replies = replies;
        } else {
            group.replies.extend(replies);
        }
        let progress = group.progress.get_or_insert_default();
        progress.seq = self.executor.executed();
        progress.last_given = last_given;
        progress.sessions.extend(sessions);
        self.serve_waiting();
    }

    fn unordered(&mut self, order: Unordered) {
        match order {
            Unordered::Read { asked, after } if after <= self.executor.executed() => {
                self.read(asked);
            }
            Unordered::Read { asked, after } => self.wait(asked, after),
            Unordered::Retransmit {
                client,
                session,
                first,
                last,
            } => {
                let replies = self.executor.retransmit(client, session, first, last);
                let replies = replies.into_iter().map(|reply| (client, reply));
                self.group.replies.extend(replies);
            }
            Unordered::Digest(answer) => self.encoder.digest(self.executor.snapshot(), answer),
        }
    }

    fn wait(&mut self, asked: Asked, after: SeqNo) {
        if self.waiting_count >= self.waiting_max {
            self.refuse(&asked);
            return;
        }
        self.waiting_count += 1;
        self.waiting.entry(after).or_default().push(asked);
    }

    fn serve_waiting(&mut self) {
        while let Some(entry) = self.waiting.first_entry()
            && *entry.key() <= self.executor.executed()
        {
            for asked in entry.remove() {
                self.waiting_count -= 1;
                self.read(asked);
            }
        }
    }

    fn read(&mut self, asked: Asked) {
        let at = self.executor.executed();
        if let Some(readers) = &self.readers
            && let Some(view) = self.view.take().or_else(|| self.executor.view())
        {
            self.view = Some(Arc::clone(&view));
            let job = Job { asked, view, at };
            if let Some(job) = readers.offer(job) {
                self.refuse(&job.asked);
            }
            return;
        }
        let result = self.executor.read(&asked.read.operation);
        self.group.reads += 1;
        if let OperationResult::Ok(reply) = &result {
            self.group.read_bytes += reply.len();
        }
        let id = asked.read.id;
        let reply = Reply::Read { id, result, at };
        self.group.replies.push((asked.client, reply));
        if self.group.read_bytes >= GROUP_READ_BYTES {
            self.hand_over();
        }
    }

    fn refuse(&mut self, asked: &Asked) {
        self.group.refused += 1;
        let refused = Reply::ReadRefused(asked.read.id);
        self.group.replies.push((asked.client, refused));
    }

    /// Tells the sink what was done: replies first, since somebody waits for them.
    fn hand_over(&mut self) {
        let group = std::mem::take(&mut self.group);
        if !group.replies.is_empty() {
            self.sink.replies(group.replies);
        }
        {
            let mut stats = self.stats.lock();
            stats.executed = self.executor.executed();
            stats.sessions = self.executor.sessions().len();
            stats.counters = self.executor.counters();
            stats.reads += group.reads;
            stats.refused += group.refused;
        }
        if let Some(progress) = group.progress {
            self.sink.executed(progress);
        }
    }
}
