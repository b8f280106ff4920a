//! Checks of messages on other threads than the core's: of signatures, where there are any threads to
//! spare, and of long frames of a transfer.
//!
//! Without workers the core's task checks everything itself, all that one round brought together.
//! With workers, bundles go to the worker of their client and messages to that of their sender; a lone
//! one is still checked at once, since waking a thread costs more than a signature.

use super::EventQueue;
use super::long_frames::LongFrames;
use atlas_common::{ClientId, NodeId};
use atlas_core::{OrderingProtocol, Reject};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::message::{CheckedMessage, MessageChecker, SystemMessage};
use atlas_smr_core::request_pre_processing::{
    PreProcessedSink, WorkerConfig, WorkerCounters, WorkerPool,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// The cores that are left to the core's task and the executor before workers get any.
const CORES_FOR_OTHERS: usize = 2;
/// More workers than this are never busy: the core's thread cannot take in what they check.
const WORKERS_MAX: usize = 8;

/// How many workers a machine with this many cores gets when the configuration does not say.
pub(crate) fn default_workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.saturating_sub(CORES_FOR_OTHERS).min(WORKERS_MAX)
}

/// A message or some bundles, checked.
pub(super) enum Checked<P: OrderingProtocol> {
    Bundles(Vec<RequestBundle>),
    Message(NodeId, CheckedMessage<P>),
    Refused(Reject),
}

/// What has been checked and not been taken yet. It holds no more than the workers' queues held, since
/// the core takes all of it before it hands over more.
pub(crate) struct Results<P: OrderingProtocol> {
    checked: Mutex<Vec<Checked<P>>>,
    events: Arc<EventQueue>,
}

impl<P: OrderingProtocol> Results<P> {
    pub(super) fn new(events: &Arc<EventQueue>) -> Self {
        Self {
            checked: Mutex::default(),
            events: Arc::clone(events),
        }
    }

    pub(super) fn take(&self) -> Vec<Checked<P>> {
        std::mem::take(&mut *self.checked.lock())
    }

    pub(super) fn push(&self, results: impl IntoIterator<Item = Checked<P>>) {
        self.checked.lock().extend(results);
        self.events.poke();
    }
}

impl<P: OrderingProtocol> PreProcessedSink for Results<P> {
    fn checked(&self, bundles: Vec<RequestBundle>) {
        self.push([Checked::Bundles(bundles)]);
    }

    fn rejected(&self, _from: &ClientId, reason: Reject) {
        self.push([Checked::Refused(reason)]);
    }
}

/// Where messages and bundles are checked.
pub(crate) struct Checking<P: OrderingProtocol> {
    checker: Arc<MessageChecker<P>>,
    workers: Option<WorkerPool>,
    long_frames: LongFrames,
    results: Arc<Results<P>>,
}

impl<P: OrderingProtocol> Checking<P> {
    /// Starts `workers` threads, and one for frames of at most `frame_bytes_max`.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(crate) fn start(
        name: &str,
        checker: MessageChecker<P>,
        (workers, frame_bytes_max): (usize, usize),
        events: &Arc<EventQueue>,
    ) -> std::io::Result<Self> {
        let results = Arc::new(Results::new(events));
        let workers = match workers {
            0 => None,
            workers => {
                let config = WorkerConfig {
                    workers,
                    ..WorkerConfig::default()
                };
                let sink = Arc::clone(&results) as Arc<dyn PreProcessedSink>;
                let bundles = Arc::clone(checker.bundles());
                Some(WorkerPool::start(config, bundles, sink)?)
            }
        };
        let checker = Arc::new(checker);
        let (their_checker, their_results) = (Arc::clone(&checker), Arc::clone(&results));
        let long_frames = LongFrames::start(name, their_checker, their_results, frame_bytes_max)?;
        Ok(Self {
            checker,
            workers,
            long_frames,
            results,
        })
    }

    /// Whether this client may send anything.
    pub(super) fn admits(&self, client: &ClientId) -> bool {
        self.checker.bundles().admission().admits(&client.key)
    }

    /// What other threads have checked since the last look.
    pub(super) fn take(&self) -> Vec<Checked<P>> {
        self.results.take()
    }

    /// Takes a frame of a transfer, to be checked elsewhere; or gives it back, when it is short or too
    /// much waits.
    pub(super) fn transfer(&self, from: NodeId, frame: Bytes) -> Result<(), Bytes> {
        self.long_frames.take(from, frame)
    }

    /// Checks bundles of clients, or hands them to workers: what is checked already comes back.
    pub(super) fn bundles(&self, frames: Vec<(ClientId, Bytes)>) -> Vec<Checked<P>> {
        let Some(pool) = &self.workers else {
            let mut checked = Vec::new();
            let mut accepted = Vec::with_capacity(frames.len());
            for verdict in self.checker.bundles().check_clients(frames) {
                match verdict {
                    Ok(bundle) => accepted.push(bundle),
                    Err(reason) => checked.push(Checked::Refused(reason)),
                }
            }
            if !accepted.is_empty() {
                checked.push(Checked::Bundles(accepted));
            }
            return checked;
        };
        let more = frames.len() > 1;
        for (from, raw) in frames {
            // What does not fit is counted by the pool, and sent again by its client.
            let _taken: bool = pool.submit_bundle(from, raw, more);
        }
        Vec::new()
    }

    /// Checks messages of peers, or hands them to workers: what is checked already comes back.
    pub(super) fn messages(
        &self,
        messages: Vec<(NodeId, usize, SystemMessage<P>)>,
    ) -> Vec<Checked<P>> {
        let Some(pool) = &self.workers else {
            let messages = messages
                .into_iter()
                .map(|(from, _, message)| (from, message));
            return check_together(&self.checker, messages.collect());
        };
        let more = messages.len() > 1;
        for (from, bytes, message) in messages {
            let (checker, results) = (Arc::clone(&self.checker), Arc::clone(&self.results));
            let job = move || results.push([check(&checker, from, message)]);
            // What does not fit is counted by the pool, and protocols own retransmission.
            let _taken: bool = pool.submit_message(from, bytes, Box::new(job), more);
        }
        Vec::new()
    }

    /// What the workers have counted.
    pub(super) fn counters(&self) -> WorkerCounters {
        let pool = self.workers.as_ref().map(WorkerPool::counters);
        pool.unwrap_or_default()
    }
}

fn check_together<P: OrderingProtocol>(
    checker: &MessageChecker<P>,
    messages: Vec<(NodeId, SystemMessage<P>)>,
) -> Vec<Checked<P>> {
    checker.prepare(&messages);
    let each = messages.into_iter();
    each.map(|(from, message)| check(checker, from, message))
        .collect()
}

pub(super) fn check<P: OrderingProtocol>(
    checker: &MessageChecker<P>,
    from: NodeId,
    message: SystemMessage<P>,
) -> Checked<P> {
    match checker.check(from, message) {
        Ok(message) => Checked::Message(from, message),
        Err(reason) => Checked::Refused(reason),
    }
}
