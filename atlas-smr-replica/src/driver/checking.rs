//! Checks of signatures on other threads than the core's, where there are any to spare.
//!
//! Without workers the core's task checks everything itself, all that one round brought together.
//! With workers, bundles go to the worker of their client and messages to that of their sender; a lone
//! one is still checked at once, since waking a thread costs more than a signature.

use super::EventQueue;
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
    fn push(&self, results: impl IntoIterator<Item = Checked<P>>) {
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
    workers: Option<(WorkerPool, Arc<Results<P>>)>,
}

impl<P: OrderingProtocol> Checking<P> {
    /// Starts `workers` threads.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(crate) fn start(
        checker: MessageChecker<P>,
        workers: usize,
        events: &Arc<EventQueue>,
    ) -> std::io::Result<Self> {
        let workers = match workers {
            0 => None,
            workers => {
                let results = Arc::new(Results {
                    checked: Mutex::default(),
                    events: Arc::clone(events),
                });
                let config = WorkerConfig {
                    workers,
                    ..WorkerConfig::default()
                };
                let sink = Arc::clone(&results) as Arc<dyn PreProcessedSink>;
                let bundles = Arc::clone(checker.bundles());
                Some((WorkerPool::start(config, bundles, sink)?, results))
            }
        };
        let checker = Arc::new(checker);
        Ok(Self { checker, workers })
    }

    /// Whether this client may send anything.
    pub(super) fn admits(&self, client: &ClientId) -> bool {
        self.checker.bundles().admission().admits(&client.key)
    }

    /// What the workers have checked since the last look.
    pub(super) fn take(&self) -> Vec<Checked<P>> {
        match &self.workers {
            Some((_, results)) => std::mem::take(&mut *results.checked.lock()),
            None => Vec::new(),
        }
    }

    /// Checks bundles of clients, or hands them to workers: what is checked already comes back.
    pub(super) fn bundles(&self, frames: Vec<(ClientId, Bytes)>) -> Vec<Checked<P>> {
        let Some((pool, _)) = &self.workers else {
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
        let Some((pool, results)) = &self.workers else {
            let messages = messages
                .into_iter()
                .map(|(from, _, message)| (from, message));
            return check_together(&self.checker, messages.collect());
        };
        let more = messages.len() > 1;
        for (from, bytes, message) in messages {
            let (checker, results) = (Arc::clone(&self.checker), Arc::clone(results));
            let job = move || results.push([check(&checker, from, message)]);
            // What does not fit is counted by the pool, and protocols own retransmission.
            let _taken: bool = pool.submit_message(from, bytes, Box::new(job), more);
        }
        Vec::new()
    }

    /// What the workers have counted.
    pub(super) fn counters(&self) -> WorkerCounters {
        let pool = self.workers.as_ref().map(|(pool, _)| pool.counters());
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

fn check<P: OrderingProtocol>(
    checker: &MessageChecker<P>,
    from: NodeId,
    message: SystemMessage<P>,
) -> Checked<P> {
    match checker.check(from, message) {
        Ok(message) => Checked::Message(from, message),
        Err(reason) => Checked::Refused(reason),
    }
}
