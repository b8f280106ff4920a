//! What the pool knows of sessions, from decisions and from execution.

use super::{Progress, RequestPool};
use crate::bundle::RequestBundle;
use crate::session::SessionUpdate;
use atlas_common::{ClientId, OpNumber, SessionId, Time};

impl RequestPool {
    /// These bundles are decided: they wait no more.
    pub fn decided<'a>(&mut self, bundles: impl IntoIterator<Item = &'a RequestBundle>) {
        for bundle in bundles {
            let client = bundle.client();
            if let Some(base) = self.base(bundle.session(), client)
                && bundle.first() <= base.next()
                && let Some(progress) = self.sessions.get_mut(&bundle.session())
            {
                progress.decided = Some((client, base.max(bundle.last())));
            }
            let same = self.by_digest.get(&bundle.digest());
            let id = if bundle.opens_session() {
                same.or(self.opens.get(&client))
            } else {
                same
            };
            if let Some(id) = id.copied() {
                self.remove(id);
            }
        }
    }

    /// How far sessions have come by execution. Drops what is executed or of a closed session; what
    /// leaves no gap any more joins the line.
    pub fn executed(&mut self, updates: &[SessionUpdate], last_given: SessionId, now: Time) {
        let given_before = self.last_given;
        self.last_given = self.last_given.max(last_given);
        for update in updates {
            match *update {
                SessionUpdate::Open { session, last } => self.session_at(session, last, now),
                SessionUpdate::Closed(session) => self.session_closed(session),
            }
        }
        self.close_unknown(given_before.next());
    }

    /// A session from `from` on that was given out and is not open is closed already.
    pub(super) fn close_unknown(&mut self, from: SessionId) {
        if from > self.last_given {
            return;
        }
        let given = self
            .queues
            .range(from..=self.last_given)
            .map(|(session, _)| *session);
        let closed: Vec<_> = given.filter(|s| !self.sessions.contains_key(s)).collect();
        for session in closed {
            self.session_closed(session);
        }
    }

    /// As [`Self::executed`], with *all* open sessions: a state came from elsewhere (or the replica
    /// starts), and what is not listed is closed.
    pub fn reset_sessions(&mut self, open: &[SessionUpdate], last_given: SessionId, now: Time) {
        self.sessions.clear();
        self.executed(open, last_given, now);
        self.close_unknown(SessionId::ZERO.next());
    }

    pub(super) fn session_at(&mut self, session: SessionId, last: OpNumber, now: Time) {
        let progress = Progress {
            executed: last,
            decided: None,
        };
        let progress = self.sessions.entry(session).or_insert(progress);
        progress.executed = progress.executed.max(last);
        let executed = progress.executed;
        let clients: Vec<ClientId> = self
            .queues
            .get(&session)
            .into_iter()
            .flat_map(|queues| queues.keys().copied())
            .collect();
        for client in clients {
            while let Some((done, id)) = self
                .queue(session, client)
                .and_then(|queue| queue.by_last.first().copied())
                && done <= executed
            {
                self.counters.executed += 1;
                self.remove(id);
            }
            self.promote(session, client, now);
        }
    }

    pub(super) fn session_closed(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        let Some(queues) = self.queues.get(&session) else {
            return;
        };
        let mut ids: Vec<u64> = queues
            .values()
            .flat_map(|queue| queue.by_last.iter().map(|(_, id)| *id))
            .collect();
        // Newest first: nothing stands behind what is removed.
        ids.sort_unstable_by_key(|id| std::cmp::Reverse(self.rank(*id)));
        for id in ids {
            self.counters.expired += 1;
            self.remove(id);
        }
    }

    pub(super) fn reach(&self, session: SessionId, client: ClientId) -> Option<OpNumber> {
        let base = self.base(session, client)?;
        let queue = self
            .queues
            .get(&session)
            .and_then(|queues| queues.get(&client));
        Some(queue.map_or(base, |queue| queue.reach.max(base)))
    }

    /// The last operation of the session that is executed, or decided and about to be.
    pub(super) fn base(&self, session: SessionId, client: ClientId) -> Option<OpNumber> {
        let progress = self.sessions.get(&session)?;
        let decided = progress.decided.filter(|(of, _)| *of == client);
        Some(decided.map_or(progress.executed, |(_, last)| last.max(progress.executed)))
    }
}
