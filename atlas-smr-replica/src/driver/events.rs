//! What the node's other threads tell the core's task, gathered so that one wake-up serves many.

use crate::status::ReplicaStatus;
use crate::store::StoreEvent;
use atlas_common::{Lsn, SeqNo};
use atlas_core::Admin;
use atlas_smr_core::session::SessionUpdate;
use atlas_smr_execution::Progress;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, oneshot};

/// News of sessions beyond which only the last of each is kept (and twice as many sessions again).
const SESSIONS_MAX: usize = 1 << 14;

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
    /// How many sessions the news were about when only the last of each was kept.
    sessions_merged: usize,
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
                if old.sessions.len() > SESSIONS_MAX + 2 * events.sessions_merged {
                    old.sessions = last_words(std::mem::take(&mut old.sessions));
                    events.sessions_merged = old.sessions.len();
                }
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

/// The last update of each session, in their order.
fn last_words(updates: Vec<SessionUpdate>) -> Vec<SessionUpdate> {
    let mut seen = BTreeSet::new();
    let mut last: Vec<_> = updates
        .into_iter()
        .rev()
        .filter(|update| match update {
            SessionUpdate::Open { session, .. } | SessionUpdate::Closed(session) => {
                seen.insert(*session)
            }
        })
        .collect();
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::{OpNumber, SessionId};

    #[test]
    fn news_of_sessions_that_nobody_takes_do_not_pile_up() {
        let queue = EventQueue::default();
        for seq in 1..=1000 {
            let sessions = (0..100).map(|session| SessionUpdate::Open {
                session: SessionId(session),
                last: OpNumber(seq),
            });
            queue.executed(Progress {
                seq: SeqNo(seq),
                sessions: sessions.collect(),
                last_given: SessionId(100),
            });
        }
        queue.executed(Progress {
            seq: SeqNo(1001),
            sessions: vec![SessionUpdate::Closed(SessionId(7))],
            last_given: SessionId(100),
        });
        let sessions = queue.take().executed.unwrap().sessions;
        assert!(sessions.len() <= SESSIONS_MAX + 300);
        assert_eq!(sessions.last(), Some(&SessionUpdate::Closed(SessionId(7))));
        let newest = last_words(sessions);
        assert_eq!(newest.len(), 100);
        assert!(newest[..99].iter().all(|update| matches!(
            update,
            SessionUpdate::Open {
                last: OpNumber(1000),
                ..
            }
        )));
    }
}
