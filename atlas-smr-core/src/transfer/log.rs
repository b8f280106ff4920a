//! Log transfer: fetching decisions that a replica missed, with their proofs.
//!
//! The fetcher asks several peers at once for ranges of slots and delivers what comes in order. It
//! does not check proofs: **whatever reaches [`LogTransfer::on_message`] has been checked**
//! ([`MessageChecker`](crate::message::MessageChecker) does it outside the core), so that a batch of
//! the wrong content never gets here, whoever sent it. What is left to a lying peer is to stall, and to
//! claim that it has nothing: it is asked less often then, and a state is fetched instead of decisions
//! only when most peers, or all that answer, say that they have cut their logs.

mod schedule;
mod server;
#[cfg(test)]
mod tests;

use super::patience::Patience;
use crate::decisions::DecisionStore;
use atlas_common::{NodeId, SeqNo, Time};
use atlas_core::{Batch, CheckpointCertificate, Limits};
use serde::{Deserialize, Serialize};
use server::Budget;
use std::collections::BTreeMap;
use std::time::Duration;

/// Slots asked of one peer at a time.
const RANGE_SLOTS: u64 = 256;
/// Slots above the delivered ones that are asked for or kept.
const WINDOW_SLOTS: u64 = 8 * RANGE_SLOTS;
/// Received decisions that wait for earlier ones, in responses of the largest size.
const BUFFERED_RESPONSES_MAX: usize = 4;
/// For how long a peer's word that it has no more (or not that far back) is believed.
const WORD_HOLDS: Duration = Duration::from_millis(500);
/// How long decisions that were delivered may take to be decided, and a state to be fetched, before
/// the search begins anew.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// What replicas say about missed decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogTransferMessage<Proof> {
    /// Send me decisions of these slots, both ends included.
    Request {
        /// The first wanted.
        from: SeqNo,
        /// The last wanted.
        to: SeqNo,
    },
    /// Consecutive decisions, perhaps fewer than asked for.
    Decisions {
        /// The slot of the first.
        first: SeqNo,
        /// The decisions with their proofs.
        decisions: Vec<(Batch, Proof)>,
        /// The last decision that the sender has.
        decided: SeqNo,
    },
    /// The first wanted slot is not kept here.
    Unavailable {
        /// The first decision that the sender keeps.
        oldest: Option<SeqNo>,
        /// The last decision that the sender has.
        decided: SeqNo,
        /// The newest certified checkpoint of the sender.
        checkpoint: Option<CheckpointCertificate>,
    },
}

/// What a log transfer asks of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTransferEffect<Proof> {
    /// Send this.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: LogTransferMessage<Proof>,
    },
    /// The next decisions, in order, without gaps.
    Deliver {
        /// The slot of the first.
        first: SeqNo,
        /// The decisions with their proofs.
        decisions: Vec<(Batch, Proof)>,
    },
    /// The peers have cut their logs: fetch a state, of this checkpoint or a newer one.
    NeedState {
        /// The newest certified checkpoint heard of.
        certificate: CheckpointCertificate,
    },
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    from: SeqNo,
    to: SeqNo,
    deadline: Time,
}

#[derive(Clone, Debug)]
struct Peer {
    id: NodeId,
    patience: Patience,
    asked: Option<Asked>,
    /// The last decision it claims to have, and until when that is believed.
    decided: Option<(SeqNo, Time)>,
    /// It keeps nothing before this slot, and until when that is believed.
    cut: Option<(SeqNo, Time)>,
    /// How far it claims to be, once it has proved to have decisions; drives the target.
    tip: SeqNo,
}

impl Peer {
    /// Whether it may be asked for decisions from `from` on now.
    fn may_have(&self, from: SeqNo, now: Time) -> bool {
        let short = self
            .decided
            .is_some_and(|(decided, until)| decided < from && until > now);
        !short && !self.has_cut(from, now) && self.patience.shunned(now).is_none()
    }

    fn has_cut(&self, from: SeqNo, now: Time) -> bool {
        self.cut
            .is_some_and(|(oldest, until)| oldest > from && until > now)
    }

    fn forget_expired(&mut self, now: Time) {
        self.decided = self.decided.filter(|(_, until)| *until > now);
        self.cut = self.cut.filter(|(_, until)| *until > now);
        self.patience.forget_expired(now);
    }
}

#[derive(Clone, Debug)]
struct Received<Proof> {
    decisions: Vec<(Batch, Proof)>,
    bytes: usize,
}

/// Fetches missed decisions, and answers peers that do.
#[derive(Clone, Debug)]
pub struct LogTransfer<Proof> {
    response_bytes_max: usize,
    peers: Vec<Peer>,
    next_peer: usize,
    decided: SeqNo,
    delivered: SeqNo,
    delivered_at: Time,
    /// What the caller wants.
    wanted: SeqNo,
    /// What peers have beyond that.
    extended: SeqNo,
    buffer: BTreeMap<SeqNo, Received<Proof>>,
    buffered_bytes: usize,
    checkpoint: Option<CheckpointCertificate>,
    /// A state was asked for: nothing is fetched until it is there, or this moment has come.
    paused_until: Option<Time>,
    budgets: BTreeMap<NodeId, Budget>,
    effects: Vec<LogTransferEffect<Proof>>,
}

impl<Proof: Clone + Serialize> LogTransfer<Proof> {
    /// A transfer among these peers, at rest.
    #[must_use]
    pub fn new(peers: Vec<NodeId>, limits: &Limits) -> Self {
        let peer = |id| Peer {
            id,
            patience: Patience::default(),
            asked: None,
            decided: None,
            cut: None,
            tip: SeqNo::ZERO,
        };
        Self {
            response_bytes_max: server::response_bytes_max(limits),
            peers: peers.into_iter().map(peer).collect(),
            next_peer: 0,
            decided: SeqNo::ZERO,
            delivered: SeqNo::ZERO,
            delivered_at: Time::ZERO,
            wanted: SeqNo::ZERO,
            extended: SeqNo::ZERO,
            buffer: BTreeMap::new(),
            buffered_bytes: 0,
            checkpoint: None,
            paused_until: None,
            budgets: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// Fetch decisions up to `at_least`; this replica has those up to `decided`.
    pub fn want(&mut self, now: Time, decided: SeqNo, at_least: SeqNo) {
        self.wanted = self.wanted.max(at_least);
        self.on_progress(now, decided);
    }

    /// This replica has the decisions up to `decided`, whichever way it got them.
    pub fn on_progress(&mut self, now: Time, decided: SeqNo) {
        if decided > self.decided {
            self.decided = decided;
            self.delivered_at = now;
            // Whatever was in the way is overcome.
            self.paused_until = None;
            self.checkpoint = None;
        }
        self.delivered = self.delivered.max(self.decided);
        self.drop_buffered_history();
        self.run(now);
    }

    /// A checked message from a peer. Requests are not for here: see [`Self::answer`].
    pub fn on_message(&mut self, now: Time, from: NodeId, message: LogTransferMessage<Proof>) {
        let Some(index) = self.peers.iter().position(|peer| peer.id == from) else {
            return;
        };
        match message {
            LogTransferMessage::Request { .. } => return,
            LogTransferMessage::Decisions {
                first,
                decisions,
                decided,
            } => {
                self.on_decisions(now, index, first, decisions, decided);
            }
            LogTransferMessage::Unavailable {
                oldest,
                decided,
                checkpoint,
            } => {
                let peer = &mut self.peers[index];
                if peer.asked.take().is_none() {
                    return;
                }
                let until = now.after(WORD_HOLDS);
                peer.tip = SeqNo::ZERO;
                peer.decided = Some((decided, until));
                peer.cut = Some((oldest.unwrap_or(decided.next()), until));
                let newest = self
                    .checkpoint
                    .as_ref()
                    .map_or(self.delivered, |c| c.id.seq);
                if let Some(checkpoint) = checkpoint.filter(|c| c.id.seq > newest) {
                    self.checkpoint = Some(checkpoint);
                }
            }
        }
        self.run(now);
    }

    fn on_decisions(
        &mut self,
        now: Time,
        index: usize,
        first: SeqNo,
        decisions: Vec<(Batch, Proof)>,
        decided: SeqNo,
    ) {
        let peer = &mut self.peers[index];
        let asked = peer.asked.take();
        if decisions.is_empty() || first == SeqNo::ZERO {
            // It was to say that it has none.
            peer.patience.shun(now);
            return;
        }
        let last = first.plus(decisions.len() as u64).prev();
        match asked {
            Some(_) => peer.patience.served(),
            None => peer.patience.late(),
        }
        peer.tip = decided.max(last);
        peer.decided = Some((peer.tip, now.after(WORD_HOLDS)));
        self.keep(first, decisions);
        self.deliver(now);
    }

    /// Keeps what a peer sent until what comes before it is there. What does not fit is asked for
    /// again later.
    fn keep(&mut self, first: SeqNo, mut decisions: Vec<(Batch, Proof)>) {
        let mut first = first;
        if first <= self.delivered {
            let known = self.delivered.next().since(first);
            let known = usize::try_from(known)
                .unwrap_or(usize::MAX)
                .min(decisions.len());
            decisions.drain(..known);
            first = self.delivered.next();
        }
        let beyond = first > self.delivered.plus(WINDOW_SLOTS);
        if decisions.is_empty() || beyond || !self.is_active() {
            return;
        }
        let bytes = decisions.iter().map(server::size).sum();
        let room = BUFFERED_RESPONSES_MAX * self.response_bytes_max;
        let head = first == self.delivered.next();
        if !head && self.buffered_bytes + bytes > room {
            return;
        }
        if self
            .buffer
            .get(&first)
            .is_some_and(|old| old.decisions.len() >= decisions.len())
        {
            return;
        }
        self.buffered_bytes += bytes;
        if let Some(old) = self.buffer.insert(first, Received { decisions, bytes }) {
            self.buffered_bytes -= old.bytes;
        }
    }

    fn deliver(&mut self, now: Time) {
        while let Some(mut entry) = self.buffer.first_entry() {
            let first = *entry.key();
            if first > self.delivered.next() {
                return;
            }
            let received = entry.get_mut();
            self.buffered_bytes -= received.bytes;
            let mut decisions = std::mem::take(&mut received.decisions);
            entry.remove();
            let known = usize::try_from(self.delivered.next().since(first)).unwrap_or(usize::MAX);
            if known < decisions.len() {
                decisions.drain(..known);
                let first = self.delivered.next();
                self.delivered = self.delivered.plus(decisions.len() as u64);
                self.delivered_at = now;
                self.effects
                    .push(LogTransferEffect::Deliver { first, decisions });
            }
        }
    }

    fn drop_buffered_history(&mut self) {
        while let Some(entry) = self.buffer.first_entry() {
            if entry.key().plus(entry.get().decisions.len() as u64) > self.delivered.next() {
                return;
            }
            self.buffered_bytes -= entry.remove().bytes;
        }
    }

    /// This peer sent what failed its check: it is left alone for a while.
    pub fn blame(&mut self, now: Time, peer: NodeId) {
        if let Some(peer) = self.peers.iter_mut().find(|known| known.id == peer) {
            peer.asked = None;
            peer.tip = SeqNo::ZERO;
            peer.patience.shun(now);
        }
        self.run(now);
    }

    /// The time-out of [`Self::deadline`] has come.
    pub fn on_deadline(&mut self, now: Time) {
        for peer in &mut self.peers {
            if peer.asked.is_some_and(|asked| asked.deadline <= now) {
                peer.asked = None;
                peer.tip = SeqNo::ZERO;
                peer.patience.too_slow();
                peer.patience.shun(now);
            }
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.checkpoint = None;
        }
        if self.delivered > self.decided && self.delivered_at.after(STUCK_AFTER) <= now {
            // What was delivered came to nothing: it has to come again.
            self.delivered = self.decided;
            self.delivered_at = now;
        }
        self.run(now);
    }

    /// When [`Self::on_deadline`] is to be called; it may be called at any time.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if !self.is_active() {
            return None;
        }
        if self.paused_until.is_some() {
            return self.paused_until;
        }
        let stuck = (self.delivered > self.decided).then(|| self.delivered_at.after(STUCK_AFTER));
        let waits = self.peers.iter().map(|peer| match peer.asked {
            Some(asked) => asked.deadline,
            None => self.again(peer),
        });
        waits.chain(stuck).min().filter(|at| *at < Time::NEVER)
    }

    /// Whether decisions are being fetched (or a state is waited for).
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.target() > self.decided
    }

    /// The decision that is being fetched up to.
    #[must_use]
    pub fn target(&self) -> SeqNo {
        self.wanted.max(self.extended)
    }

    /// What is to be done, in order.
    pub fn drain(&mut self) -> Vec<LogTransferEffect<Proof>> {
        std::mem::take(&mut self.effects)
    }

    /// Answers a peer's request from `store`: with as many decisions as fit a frame, or that there
    /// are none. `None` when the peer asks for more than its share.
    #[must_use]
    pub fn answer(
        &mut self,
        now: Time,
        peer: NodeId,
        wanted: (SeqNo, SeqNo),
        store: &DecisionStore<Proof>,
        decided: SeqNo,
        checkpoint: Option<&CheckpointCertificate>,
    ) -> Option<LogTransferMessage<Proof>> {
        // Only members get here: the budgets are bounded by their number.
        let budget = self.budgets.entry(peer).or_default();
        server::answer(
            budget,
            now,
            wanted,
            store,
            self.response_bytes_max,
            decided,
            checkpoint,
        )
    }
}
