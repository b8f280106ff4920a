//! The session table: exactly once, as replicated state.
//!
//! It is part of every checkpoint, and changes only by decided bundles in their order, so that all
//! correct replicas have the same one. All rules here are deterministic:
//!
//! - an operation runs if it is the next of its session; one that leaves a gap is skipped without a
//!   reply (the client sends it again behind what it lacks); one that ran is answered from the cache;
//! - a client (key and instance) has one session; opening again gives the same;
//! - a table that is full closes the session longest unused. Its number is never given out again, so
//!   its operations never run again;
//! - the replies kept for all sessions have a bound in bytes. When a decision has brought them above it,
//!   the sessions that keep the most give up their oldest, all down to one level, until an eighth is
//!   free: a session that keeps less than its share of the rest never loses any. What was given up is
//!   answered as [`OperationResult::Forgotten`], and never runs again either. The results of one
//!   decision beyond the bound are not kept at all.

mod kept;

use crate::bundle::RequestBundle;
use crate::client_message::OperationResult;
use atlas_common::{ClientId, OpNumber, SeqNo, SessionId};
use atlas_core::Limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use kept::Kept;

/// The open sessions and the replies kept for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTable {
    sessions_max: usize,
    replies_max: usize,
    replies_bytes_max: usize,
    /// Bytes of all results that are kept.
    bytes: usize,
    /// Bytes of those that came with the decision that is being executed.
    #[serde(skip)]
    new_bytes: usize,
    last_given: SessionId,
    sessions: BTreeMap<SessionId, Session>,
    by_client: BTreeMap<ClientId, SessionId>,
    /// By last use, so that the one longest unused is found at once.
    by_use: BTreeSet<(SeqNo, SessionId)>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    client: ClientId,
    last: OpNumber,
    used: SeqNo,
    /// The results of the newest operations, the last of them number `last`.
    results: Kept,
}

/// What is to be done with a decided bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It opened this session (or the session was open).
    Opened {
        /// The client's session.
        session: SessionId,
        /// Another session that was closed to make room.
        closed: Option<SessionId>,
    },
    /// Run the operations from this number on, then [`SessionTable::record`] each result; answer the
    /// earlier ones from the cache.
    Run {
        /// The first operation to run; past the bundle's last when all of them ran before.
        from: OpNumber,
    },
    /// It leaves a gap in its session: skip it.
    Gap,
    /// Its session is closed, or never was.
    Expired,
    /// Its session is another client's: skip it.
    NotTheirs,
}

/// How far a session has come, for the request pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionUpdate {
    /// Open, with all operations up to `last` executed.
    Open {
        /// The session.
        session: SessionId,
        /// Its last executed operation.
        last: OpNumber,
    },
    /// Closed.
    Closed(SessionId),
}

impl SessionTable {
    /// An empty table within a cluster's limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            sessions_max: limits.sessions_max.max(1),
            replies_max: limits.session_replies_max.max(1),
            replies_bytes_max: limits.replies_bytes_max,
            bytes: 0,
            new_bytes: 0,
            last_given: SessionId::ZERO,
            sessions: BTreeMap::new(),
            by_client: BTreeMap::new(),
            by_use: BTreeSet::new(),
        }
    }

    /// Admits a bundle that was decided in slot `seq`.
    pub fn admit(&mut self, bundle: &RequestBundle, seq: SeqNo) -> Admission {
        if bundle.opens_session() {
            return self.open(bundle.client(), seq);
        }
        let id = bundle.session();
        let Some(session) = self.sessions.get_mut(&id) else {
            return Admission::Expired;
        };
        if session.client != bundle.client() {
            return Admission::NotTheirs;
        }
        let next = session.last.next();
        if bundle.first() > next {
            return Admission::Gap;
        }
        // What the client says it has seen need not be kept; a lie costs only the liar its replies.
        let seen = bundle.acknowledged().min(session.last);
        let keep = session.last.since(seen) as usize;
        self.bytes -= session.results.keep_newest(keep);
        self.by_use.remove(&(session.used, id));
        session.used = seq;
        self.by_use.insert((seq, id));
        Admission::Run {
            from: next.max(bundle.first()),
        }
    }

    /// Keeps the result of the session's next operation. At the end of the decision comes
    /// [`SessionTable::settle`].
    pub fn record(&mut self, id: SessionId, result: OperationResult) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        self.new_bytes = self.new_bytes.saturating_add(kept::cost(&result));
        let result = if self.new_bytes > self.replies_bytes_max {
            OperationResult::Forgotten
        } else {
            result
        };
        session.last = session.last.next();
        self.bytes += session.results.push(result);
        self.bytes -= session.results.keep_newest(self.replies_max);
    }

    /// Ends a decision: has replies given up if there are too many bytes of them; gives how many.
    ///
    /// Not earlier, because the order in which the sessions of one decision are admitted and have their
    /// results recorded may differ between replicas that run operations in parallel and others.
    pub fn settle(&mut self) -> usize {
        self.new_bytes = 0;
        if self.bytes <= self.replies_bytes_max {
            return 0;
        }
        // An eighth below, so that this does not come at every decision.
        let goal = self.replies_bytes_max - self.replies_bytes_max / 8;
        let sessions = self.sessions.values_mut();
        let level = kept::level(sessions.map(|session| session.results.bytes()), goal);
        let mut given_up = 0;
        for session in self.sessions.values_mut() {
            let count = session.results.len();
            self.bytes -= session.results.shrink_to(level);
            given_up += count - session.results.len();
        }
        given_up
    }

    /// Bytes of all results that are kept, each counted with what keeping it takes besides.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.bytes
    }

    fn open(&mut self, client: ClientId, seq: SeqNo) -> Admission {
        if let Some(&session) = self.by_client.get(&client) {
            return Admission::Opened {
                session,
                closed: None,
            };
        }
        let full = self.sessions.len() >= self.sessions_max;
        let closed = if full {
            self.close_longest_unused()
        } else {
            None
        };
        self.last_given = self.last_given.next();
        let session = self.last_given;
        let results = Kept::default();
        self.sessions.insert(
            session,
            Session {
                client,
                last: OpNumber::ZERO,
                used: seq,
                results,
            },
        );
        self.by_client.insert(client, session);
        self.by_use.insert((seq, session));
        Admission::Opened { session, closed }
    }

    fn close_longest_unused(&mut self) -> Option<SessionId> {
        let (_, id) = self.by_use.pop_first()?;
        if let Some(session) = self.sessions.remove(&id) {
            self.by_client.remove(&session.client);
            self.bytes -= session.results.bytes();
        }
        Some(id)
    }

    /// The results of a session's operations from `first` to `last`, as far as they were executed:
    /// [`OperationResult::Forgotten`] where they are no longer kept, `None` when none was executed.
    #[must_use]
    pub fn cached(
        &self,
        id: SessionId,
        first: OpNumber,
        last: OpNumber,
    ) -> Option<(OpNumber, Vec<OperationResult>)> {
        let session = self.sessions.get(&id)?;
        let oldest = OpNumber((session.last.0 + 1).saturating_sub(session.results.len() as u64));
        let (first, last) = (first.max(OpNumber(1)), last.min(session.last));
        if first > last {
            return None;
        }
        let count = last.since(first) as usize + 1;
        let gone = (oldest.since(first) as usize).min(count);
        let skip = first.since(oldest) as usize;
        let mut results = vec![OperationResult::Forgotten; gone];
        results.extend(
            session
                .results
                .iter()
                .skip(skip)
                .take(count - gone)
                .cloned(),
        );
        Some((first, results))
    }

    /// How far a session has come.
    #[must_use]
    pub fn last(&self, id: SessionId) -> Option<OpNumber> {
        self.sessions.get(&id).map(|session| session.last)
    }

    /// Whose session it is.
    #[must_use]
    pub fn client(&self, id: SessionId) -> Option<ClientId> {
        self.sessions.get(&id).map(|session| session.client)
    }

    /// The session number given out last: a higher one has never been open.
    #[must_use]
    pub fn last_given(&self) -> SessionId {
        self.last_given
    }

    /// All open sessions and how far each has come.
    pub fn progress(&self) -> impl Iterator<Item = SessionUpdate> + '_ {
        let update = |(id, session): (&SessionId, &Session)| SessionUpdate::Open {
            session: *id,
            last: session.last,
        };
        self.sessions.iter().map(update)
    }

    /// How many sessions are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

#[cfg(test)]
mod tests;
