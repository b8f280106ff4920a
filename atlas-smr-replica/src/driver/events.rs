//! What the node's other threads tell the core's task, gathered so that one wake-up serves many.

use crate::status::ReplicaStatus;
use crate::store::StoreEvent;
use atlas_common::{Lsn, SeqNo};
use atlas_core::Admin;
use atlas_smr_execution::Progress;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, oneshot};

/// What somebody outside the node asks of it.
#[derive(Debug)]
pub(crate) enum Command {
    Status(oneshot::Sender<ReplicaStatus>),
    Suspect,
    Admin(Admin),
    Stop,
}

/// News from the log, the executor and the checkpoint store. Bounded because the news of each merge,
/// and because none comes without work that the core has handed out.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) durable: Option<Lsn>,
    pub(crate) executed: Option<Progress>,
    pub(crate) store: Vec<StoreEvent>,
    pub(crate) installed: Vec<InstallOutcome>,
    pub(crate) failed: Option<String>,
}

/// What became of a state that the executor was given.
#[derive(Debug)]
pub(crate) enum InstallOutcome {
    Done { seq: SeqNo, progress: Progress },
    Refused { seq: SeqNo, why: String },
}

/// Where the threads leave their news.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    events: Mutex<Events>,
    waiting: AtomicBool,
    wake: Notify,
}

impl EventQueue {
    pub(crate) fn durable(&self, lsn: Lsn) {
        self.push(|events| events.durable = events.durable.max(Some(lsn)));
    }

    pub(crate) fn executed(&self, new: Progress) {
        self.push(|events| match &mut events.executed {
            Some(old) => {
                old.seq = old.seq.max(new.seq);
                old.last_given = old.last_given.max(new.last_given);
                old.sessions.extend(new.sessions);
            }
            None => events.executed = Some(new),
        });
    }

    pub(crate) fn store(&self, event: StoreEvent) {
        self.push(|events| events.store.push(event));
    }

    pub(crate) fn installed(&self, outcome: InstallOutcome) {
        self.push(|events| events.installed.push(outcome));
    }

    /// The replica must stop.
    pub(crate) fn failed(&self, why: String) {
        self.push(|events| {
            events.failed.get_or_insert(why);
        });
    }

    fn push(&self, change: impl FnOnce(&mut Events)) {
        change(&mut self.events.lock());
        self.poke();
    }

    /// Wakes the core: there is news, here or where the caller has left it.
    pub(crate) fn poke(&self) {
        // Only the first news since the last look has to wake the core.
        if !self.waiting.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Returns when there is news.
    pub(crate) async fn ready(&self) {
        while !self.waiting.load(Ordering::Acquire) {
            self.wake.notified().await;
        }
    }

    pub(crate) fn take(&self) -> Events {
        self.waiting.store(false, Ordering::Release);
        std::mem::take(&mut self.events.lock())
    }
}
