//! The client's session: opened by an ordered request, closed by the cluster.

use atlas_common::{NodeId, ReplicaSet, SessionId, Time};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Where the client stands with its session.
#[derive(Debug)]
pub(crate) struct Session {
    /// How many replicas have to say the same.
    needed: usize,
    /// The signed request to open a session: always the same, so made once.
    request: Bytes,
    state: State,
    /// Sessions up to here are closed; numbers are never given out again, so that a late "opened"
    /// for one of them is stale.
    closed: SessionId,
}

#[derive(Debug)]
enum State {
    None,
    Opening {
        sent_at: Time,
        attempts: u32,
        resend_at: Time,
        votes: BTreeMap<NodeId, SessionId>,
    },
    Open {
        id: SessionId,
        expired: ReplicaSet,
    },
}

/// The session is open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// When it was asked for, if that was asked once only: a round trip to measure.
    pub(crate) asked_once_at: Option<Time>,
}

impl Session {
    pub(crate) fn new(needed: usize, request: Bytes) -> Self {
        Self {
            needed,
            request,
            state: State::None,
            closed: SessionId::ZERO,
        }
    }

    pub(crate) fn request(&self) -> Bytes {
        self.request.clone()
    }

    pub(crate) fn id(&self) -> Option<SessionId> {
        match self.state {
            State::Open { id, .. } => Some(id),
            State::None | State::Opening { .. } => None,
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self.state, State::None)
    }

    /// The request was sent, for the first time or again.
    pub(crate) fn request_sent(&mut self, now: Time, resend_at: Time) {
        if let State::Opening {
            attempts,
            resend_at: at,
            ..
        } = &mut self.state
        {
            *attempts += 1;
            *at = resend_at;
            return;
        }
        self.state = State::Opening {
            sent_at: now,
            attempts: 1,
            resend_at,
            votes: BTreeMap::new(),
        };
    }

    /// When the request is to be sent again.
    pub(crate) fn resend_at(&self) -> Option<Time> {
        match self.state {
            State::Opening { resend_at, .. } => Some(resend_at),
            State::None | State::Open { .. } => None,
        }
    }

    /// A replica says that the session is this. Gives something when enough do.
    pub(crate) fn opened(&mut self, from: NodeId, id: SessionId) -> Option<Opened> {
        let State::Opening {
            sent_at,
            attempts,
            votes,
            ..
        } = &mut self.state
        else {
            return None;
        };
        if id <= self.closed {
            return None;
        }
        votes.insert(from, id);
        if votes.values().filter(|vote| **vote == id).count() < self.needed {
            return None;
        }
        let asked_once_at = (*attempts == 1).then_some(*sent_at);
        self.state = State::Open {
            id,
            expired: ReplicaSet::default(),
        };
        Some(Opened { asked_once_at })
    }

    /// A replica says that this session is closed. Whether enough say so now of the client's own.
    pub(crate) fn expired(&mut self, from: NodeId, session: SessionId) -> bool {
        let State::Open { id, expired } = &mut self.state else {
            return false;
        };
        if *id != session {
            return false;
        }
        expired.insert(from);
        if expired.len() < self.needed {
            return false;
        }
        self.closed = session;
        self.state = State::None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ZERO: Opened = Opened {
        asked_once_at: Some(Time::ZERO),
    };

    fn opening() -> Session {
        let mut session = Session::new(2, Bytes::new());
        session.request_sent(Time::ZERO, Time::from_millis(5));
        session
    }

    #[test]
    fn opens_and_closes_on_the_word_of_enough_replicas() {
        let mut session = opening();
        assert_eq!(session.opened(NodeId(0), SessionId(9)), None);
        assert_eq!(session.opened(NodeId(0), SessionId(9)), None);
        assert_eq!(session.opened(NodeId(1), SessionId(4)), None);
        assert_eq!(session.opened(NodeId(2), SessionId(4)), Some(AT_ZERO));
        assert_eq!(session.id(), Some(SessionId(4)));
        assert!(!session.expired(NodeId(3), SessionId(4)));
        assert!(!session.expired(NodeId(3), SessionId(4)));
        assert!(!session.expired(NodeId(2), SessionId(3)));
        assert!(session.expired(NodeId(2), SessionId(4)));
        assert!(session.is_none());
    }

    #[test]
    fn a_closed_session_does_not_open_again() {
        let mut session = opening();
        for replica in 0..2 {
            session.opened(NodeId(replica), SessionId(4));
        }
        for replica in 0..2 {
            session.expired(NodeId(replica), SessionId(4));
        }
        session.request_sent(Time::ZERO, Time::ZERO);
        for replica in 0..4 {
            assert_eq!(session.opened(NodeId(replica), SessionId(4)), None);
        }
        session.opened(NodeId(0), SessionId(5));
        assert_eq!(session.opened(NodeId(1), SessionId(5)), Some(AT_ZERO));
    }
}
