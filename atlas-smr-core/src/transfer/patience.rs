//! How long to wait for a peer, and whom to leave alone.

use atlas_common::Time;
use std::time::Duration;

/// How long a peer has for an answer at first; twice that after each time it was too slow, so that a
/// slow link is no obstacle.
const ANSWER_FIRST: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(16);
/// For how long a peer is left alone at first after it lied or stalled.
const SHUN_FIRST: Duration = Duration::from_secs(1);
const SHUN_MAX: Duration = Duration::from_secs(60);

/// What experience with a peer teaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    answer: Duration,
    shun: Duration,
    shunned_until: Time,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: ANSWER_FIRST,
            shun: SHUN_FIRST,
            shunned_until: Time::ZERO,
        }
    }
}

impl Patience {
    /// When an answer to what is asked now is overdue.
    pub(super) fn deadline(&self, now: Time) -> Time {
        now.after(self.answer)
    }

    /// The peer gave something of use.
    pub(super) fn served(&mut self) {
        self.answer = (self.answer - self.answer / 8).max(ANSWER_FIRST);
        self.shun = SHUN_FIRST;
    }

    /// The peer gave something of use, too late: it is slow, not silent.
    pub(super) fn late(&mut self) {
        self.shunned_until = Time::ZERO;
        self.shun = SHUN_FIRST;
    }

    /// Forgets what is over, so that [`Self::shunned`] holds without a moment to compare with.
    pub(super) fn forget_expired(&mut self, now: Time) {
        if self.shunned_until <= now {
            self.shunned_until = Time::ZERO;
        }
    }

    /// The peer did not answer in time: the next answer may take longer.
    pub(super) fn too_slow(&mut self) {
        self.answer = (self.answer * 2).min(ANSWER_MAX);
    }

    /// Leaves the peer alone for a while, each time longer.
    pub(super) fn shun(&mut self, now: Time) {
        self.shunned_until = now.after(self.shun);
        self.shun = (self.shun * 2).min(SHUN_MAX);
    }

    /// Until when the peer is left alone, if that is not over.
    pub(super) fn shunned(&self, now: Time) -> Option<Time> {
        (self.shunned_until > now).then_some(self.shunned_until)
    }
}
