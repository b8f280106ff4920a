//! What a leader knows of each other member.

use atlas_common::{SeqNo, Time};

/// How entries go out to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Where the two logs meet is not known: one append at a time, until it is accepted.
    Probe {
        /// The append is on its way. If it gets lost, the answer to a heartbeat tells.
        waiting: bool,
    },
    /// Appends follow each other without waiting for the answers (section 10.2.1).
    Pipeline,
}

/// What a leader knows of another member, in its own term.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) flow: Flow,
    /// Its log is the leader's, durably, up to here.
    pub(crate) matched: SeqNo,
    /// What of that counts in a majority: nothing that came from one without memory.
    pub(crate) durable: SeqNo,
    /// The next entry to send.
    pub(crate) next: SeqNo,
    /// Up to where it has room.
    pub(crate) room: SeqNo,
    /// Since when it has been silent, as far as it counts.
    pub(crate) heard: Time,
    /// Since when it has been silent.
    pub(crate) alive: Time,
    /// The newest round that it has seen, as far as it counts.
    pub(crate) round: u64,
    /// The last commit index that was sent to it.
    pub(crate) told: SeqNo,
}

impl Peer {
    /// A member of which nothing is known but that it exists.
    pub(crate) fn new(next: SeqNo, now: Time) -> Self {
        Self {
            flow: Flow::Probe { waiting: false },
            matched: SeqNo::ZERO,
            durable: SeqNo::ZERO,
            next,
            room: SeqNo(u64::MAX),
            heard: now,
            alive: now,
            round: 0,
            told: SeqNo::ZERO,
        }
    }

    /// It has said something in the leader's term.
    pub(crate) fn hear(&mut self, now: Time, round: u64, counts: bool) {
        self.alive = now;
        if counts {
            self.heard = now;
            self.round = self.round.max(round);
        }
    }

    /// Begins anew to look for the place where the two logs meet, at `next`.
    pub(crate) fn probe_from(&mut self, next: SeqNo) {
        self.next = next;
        self.flow = Flow::Probe { waiting: false };
    }
}
