//! The thread around an executor: not pure, and apart from everything that is.
//!
//! Decisions have a lane of their own, which reads and retransmissions never fill. Each lane is
//! bounded. The thread takes what waits in groups, so that one wake-up and one hand-over of replies
//! serve many decisions. A checkpoint is encoded on a second thread while execution goes on, and reads
//! are answered on further ones where the application allows it (`readers.rs` says why they are as
//! linearizable as before).

mod asked;
mod encoder;
mod readers;
mod worker;

use crate::execute::{Execute, ExecutionCounters, InstallError, Progress};
use crate::snapshot::Snapshot;
use crate::state::{PartSource, SnapshotError};
use atlas_common::parts::StateDescriptor;
use atlas_common::{ClientId, Digest, OpNumber, SeqNo, SessionId};
use atlas_core::{CheckpointId, Limits};
use atlas_smr_core::client_message::{ReadRequest, Reply};
use atlas_smr_core::core::Decision;

use asked::{Asked, ReadRoom};
use crossbeam_channel::{Sender, TrySendError, bounded};
use parking_lot::Mutex;
use serde::Serialize;
use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, available_parallelism};
use thiserror::Error;

/// Where an executor's thread leaves what it did. Called on that thread and on the encoder's; no
/// method may wait for a thread that waits for room in the executor's queues.
pub trait ExecutionSink: Send + Sync + 'static {
    /// Answers for clients, to ordered operations and to reads.
    fn replies(&self, replies: Vec<(ClientId, Reply)>);

    /// Execution has come further.
    fn executed(&self, progress: Progress);

    /// A checkpoint is due: store it, part by part ([`Snapshot::write_to`]). They come in the order of
    /// their decisions, on a thread that has nothing else to do.
    ///
    /// # Errors
    /// When the state cannot be encoded or stored; the replica must stop then.
    fn checkpoint(&self, snapshot: Snapshot) -> Result<CheckpointId, SnapshotError>;

    /// What became of a state that was to be installed, and all sessions where it was.
    fn installed(&self, id: CheckpointId, outcome: Result<Progress, InstallError>);

    /// The executor has stopped, or will take no checkpoints any more: the replica must stop.
    fn failed(&self, failure: ExecutionFailure);
}

/// Why execution cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExecutionFailure {
    /// A checkpoint could not be made.
    #[error("no checkpoint after decision {seq}: {cause}")]
    Snapshot {
        /// The decision.
        seq: SeqNo,
        /// Why not.
        cause: SnapshotError,
    },
    /// The executor panicked outside of an operation: while the application's state was cloned or
    /// dropped, or by a fault of its own.
    #[error("the executor panicked: {0}")]
    Panicked(String),
}

/// How an executor's thread is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorOptions {
    /// Hand-overs of decisions that may wait.
    pub decisions_max: usize,
    /// Reads, retransmissions and digests that may wait; further ones are refused.
    pub reads_max: usize,
    /// Bytes of the reads that may wait; further ones are refused.
    pub reads_bytes_max: usize,
    /// Bytes of a checkpoint's chunk.
    pub chunk_bytes: usize,
    /// Threads that answer reads, where the application allows it; 0: the thread that executes does.
    /// As many reads as `reads_max` may wait for them.
    pub read_threads: usize,
}

impl ExecutorOptions {
    /// What goes with a cluster's limits. No more decisions than the window holds are ever on their
    /// way, since it moves only by what was executed.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let window = usize::try_from(limits.window).unwrap_or(usize::MAX);
        Self {
            decisions_max: window.clamp(64, 8192),
            reads_max: 4096,
            reads_bytes_max: (64 << 20).max(limits.operation_bytes_max.saturating_mul(4)),
            chunk_bytes: limits.chunk_bytes,
            read_threads: available_parallelism().map_or(1, |cores| cores.get().min(4)),
        }
    }
}

/// What a replica asks of whatever executes for it.
pub trait DecisionExecutorHandle {
    /// Executes one decision, behind all earlier ones. Waits for room.
    fn queue_update(&self, decision: Decision);

    /// Executes what the replica missed, in one go, behind all earlier decisions. Waits for room.
    fn catch_up_to_quorum(&self, decisions: Vec<Decision>);

    /// Answers a read once decision `after` is executed ([`SeqNo::ZERO`]: at once). Never waits: when
    /// too many reads do, the client is told so.
    fn queue_update_unordered(&self, client: ClientId, read: ReadRequest, after: SeqNo);
}

/// Figures of an executor's thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExecutionStats {
    /// The last executed decision.
    pub executed: SeqNo,
    /// Open sessions.
    pub sessions: usize,
    /// What the executor has counted.
    pub counters: ExecutionCounters,
    /// Reads answered.
    pub reads: u64,
    /// Reads and retransmissions refused because too many waited.
    pub refused: u64,
    /// The newest checkpoint that was encoded or installed.
    pub checkpoint: Option<CheckpointId>,
}

/// Lane one: in order, never lost.
enum Ordered {
    Decision(Decision),
    Decisions(Vec<Decision>),
    InstallParts {
        id: CheckpointId,
        descriptor: StateDescriptor,
        source: Arc<dyn PartSource>,
    },
    Stop,
}

/// Lane two: best effort.
enum Unordered {
    Read {
        asked: Asked,
        after: SeqNo,
    },
    Retransmit {
        client: ClientId,
        session: SessionId,
        first: OpNumber,
        last: OpNumber,
    },
    Digest(DigestAnswer),
}

/// Is told the present decision and state digest; nothing when they could not be had.
pub type DigestAnswer = Box<dyn FnOnce(Option<(SeqNo, Digest)>) + Send>;

/// A way to an executor's thread. Clones lead to the same; when the last is gone, or on
/// [`ExecutorHandle::stop`], the thread ends.
#[derive(Clone)]
pub struct ExecutorHandle {
    ordered: Sender<Ordered>,
    unordered: Sender<Unordered>,
    room: ReadRoom,
    sink: Arc<dyn ExecutionSink>,
    stats: Arc<Mutex<ExecutionStats>>,
}

/// The thread itself; joined when dropped.
#[derive(Debug)]
pub struct ExecutorThread {
    handle: ExecutorHandle,
    thread: Option<JoinHandle<()>>,
}

impl ExecutorThread {
    /// Starts a thread `<name>-execute` for an executor (and `<name>-encode` for its checkpoints,
    /// `<name>-read-0` and on for reads).
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        name: &str,
        executor: Box<dyn Execute>,
        sink: Arc<dyn ExecutionSink>,
        options: &ExecutorOptions,
    ) -> io::Result<Self> {
        let (ordered, decisions) = bounded(options.decisions_max.max(1));
        let (unordered, reads) = bounded(options.reads_max.max(1));
        let stats = Arc::new(Mutex::new(ExecutionStats {
            executed: executor.executed(),
            sessions: executor.sessions().len(),
            ..ExecutionStats::default()
        }));
        let encoder = encoder::Encoder::start(
            name,
            options.chunk_bytes,
            Arc::clone(&sink),
            Arc::clone(&stats),
        )?;
        // Whether the application allows it is asked once; it cannot change its mind.
        let readers = match executor.view() {
            Some(_) if options.read_threads > 0 => Some(readers::Readers::start(
                name,
                options.read_threads,
                options.reads_max,
                &sink,
                &stats,
            )?),
            _ => None,
        };
        let worker = worker::Worker::new(
            executor,
            readers,
            Arc::clone(&sink),
            encoder,
            Arc::clone(&stats),
            options.reads_max,
        );
        let thread = Builder::new()
            .name(format!("{name}-execute"))
            .spawn(move || worker.run_caught(&decisions, &reads))?;
        let handle = ExecutorHandle {
            ordered,
            unordered,
            room: ReadRoom::new(options.reads_bytes_max),
            sink,
            stats,
        };
        Ok(Self {
            handle,
            thread: Some(thread),
        })
    }

    /// A way to the thread.
    #[must_use]
    pub fn handle(&self) -> ExecutorHandle {
        self.handle.clone()
    }
}

impl Drop for ExecutorThread {
    /// Waits until everything that was queued before is done.
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            // A panic was reported to the sink when it happened.
            drop(thread.join());
        }
    }
}

impl ExecutorHandle {
    /// Puts a certified state in the executor's place, behind all decisions queued before; answered
    /// by [`ExecutionSink::installed`]. Waits for room. The executor's thread reads the source.
    pub fn install_parts(
        &self,
        id: CheckpointId,
        descriptor: StateDescriptor,
        source: Arc<dyn PartSource>,
    ) {
        self.queue(Ordered::InstallParts {
            id,
            descriptor,
            source,
        });
    }

    /// Sends the client what is kept of these operations' replies, and those that are still to come as
    /// soon as they are there. Never waits: when too much is
    /// queued, the client has to ask again.
    pub fn retransmit(
        &self,
        client: ClientId,
        session: SessionId,
        first: OpNumber,
        last: OpNumber,
    ) {
        let retransmit = Unordered::Retransmit {
            client,
            session,
            first,
            last,
        };
        drop(self.offer(retransmit));
    }

    /// Computes the digest of the present state, off the executing thread.
    pub fn state_digest(&self, answer: DigestAnswer) {
        if let Some(Unordered::Digest(answer)) = self.offer(Unordered::Digest(answer)) {
            answer(None);
        }
    }

    /// Figures, at most one group of decisions old.
    #[must_use]
    pub fn stats(&self) -> ExecutionStats {
        self.stats.lock().clone()
    }

    /// Ends the thread once everything that was queued before is done.
    pub fn stop(&self) {
        self.queue(Ordered::Stop);
    }

    fn queue(&self, order: Ordered) {
        // Only a thread that has ended refuses: it was asked to, or has reported its failure.
        drop(self.ordered.send(order));
    }

    /// Gives back what finds no room.
    fn offer(&self, order: Unordered) -> Option<Unordered> {
        match self.unordered.try_send(order) {
            Ok(()) => None,
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => {
                self.stats.lock().refused += 1;
                Some(order)
            }
        }
    }
}

impl DecisionExecutorHandle for ExecutorHandle {
    fn queue_update(&self, decision: Decision) {
        self.queue(Ordered::Decision(decision));
    }

    fn catch_up_to_quorum(&self, decisions: Vec<Decision>) {
        self.queue(Ordered::Decisions(decisions));
    }

    fn queue_update_unordered(&self, client: ClientId, read: ReadRequest, after: SeqNo) {
        let id = read.id;
        let refused = match self.room.take(client, read) {
            Some(asked) => self.offer(Unordered::Read { asked, after }).is_some(),
            None => {
                self.stats.lock().refused += 1;
                true
            }
        };
        if refused {
            self.sink.replies(vec![(client, Reply::ReadRefused(id))]);
        }
    }
}

impl fmt::Debug for ExecutorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorHandle")
            .field("decisions_waiting", &self.ordered.len())
            .field("reads_waiting", &self.unordered.len())
            .finish_non_exhaustive()
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
