//! Helping each other along: status messages and what they are answered with (TOCS 2002, section
//! 5.2). This is all retransmission there is.

use crate::message::{Message, Phase, PrePrepare, Status};
use crate::pbft::{Cx, Pbft, Timer};
use crate::slot::Slot;
use atlas_common::{NodeId, SeqNo, Time};
use std::time::Duration;

/// Slots that one answer covers.
const SLOTS_PER_ANSWER: u64 = 32;
/// So many decisions behind, log transfer is the faster help.
const FAR_BEHIND: u64 = 2 * SLOTS_PER_ANSWER;
/// A replica that waits for something says so this many times as often.
const HURRY: u32 = 10;

impl Pbft {
    pub(crate) fn on_status_timer(&mut self, cx: &mut Cx<'_>) {
        let waits = self.waits();
        let wants_help = waits && self.decided == self.decided_at_status;
        self.decided_at_status = self.decided;
        // Status moves nobody to a vote, so it need not wait for the disk.
        cx.send_unguarded(
            atlas_core::Recipients::Others,
            Message::Status(Status {
                wants_help,
                asks: self.question(),
                ..self.standing()
            }),
        );
        // A view change can be large: it goes again at the long interval only.
        let rested = cx.now() >= self.change_sent.after(self.config.status_interval);
        if self.changing
            && rested
            && let Some(own) = self.changes.get(&self.me).cloned()
        {
            self.change_sent = cx.now();
            cx.broadcast(Message::ViewChange(own));
        }
        self.hurried = waits;
        self.set_status_timer(cx);
    }

    /// The short or the long interval, spread by a quarter so that replicas do not march in step.
    pub(crate) fn set_status_timer(&self, cx: &mut Cx<'_>) {
        let interval = self.config.status_interval;
        let interval = if self.hurried {
            interval / HURRY
        } else {
            interval
        };
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let delay = nanos - nanos / 4 + cx.rng().below(nanos / 2 + 1);
        cx.set_timer(Timer::Status, Duration::from_nanos(delay));
    }

    /// From now on this replica waits for something.
    pub(crate) fn hurry_status(&mut self, cx: &mut Cx<'_>) {
        if !self.hurried && self.waits() {
            self.hurried = true;
            self.set_status_timer(cx);
        }
    }

    fn waits(&self) -> bool {
        self.changing
            || self.waiting.is_some()
            || self.pending()
            || self.heard > self.decided
            || !self.wanted.is_empty()
            || self.question().is_some()
            || self.vouched_decided() > self.decided
    }

    pub(crate) fn standing(&self) -> Status {
        Status {
            view: self.view,
            changing: self.changing,
            low: self.low(),
            decided: self.decided,
            wants_help: false,
            asks: None,
            answers: None,
        }
    }

    /// Some correct replica has decided this far: f+1 members say so or more.
    fn vouched_decided(&self) -> SeqNo {
        self.vouched(|peer| peer.decided)
    }

    /// More than what is in flight at a time lies between this replica and the others.
    pub(crate) fn is_far_behind(&self) -> bool {
        self.vouched_decided().since(self.decided) > self.config.in_flight_max
    }

    fn vouched(&self, of: impl Fn(&crate::pbft::Peer) -> SeqNo) -> SeqNo {
        let mut claims: Vec<SeqNo> = self.peers.values().map(of).collect();
        claims.sort_unstable_by(|a, b| b.cmp(a));
        let needed = self.membership.quorums().one_correct();
        claims.get(needed - 1).copied().unwrap_or_default()
    }

    pub(crate) fn on_status(&mut self, from: NodeId, status: Status, cx: &mut Cx<'_>) {
        if from == self.me || !self.membership.is_voter(from) {
            return self.help(from, status, cx);
        }
        let peer = self.peers.entry(from).or_default();
        peer.low = status.low;
        peer.decided = status.decided;
        self.answer(from, status, cx);
        self.learn_of_votes(from, status, cx);
        // What others have cut from their logs they cannot send again slot by slot.
        let cut = self.vouched(|peer| peer.low);
        let decided = self.vouched_decided();
        if cut > self.decided || decided.since(self.decided) > FAR_BEHIND {
            cx.fetch_state(decided.max(cut));
        }
        self.help(from, status, cx);
        self.hurry_status(cx);
    }

    fn help(&mut self, to: NodeId, status: Status, cx: &mut Cx<'_>) {
        let behind = status.view < self.view || (status.view == self.view && status.changing);
        let wants = status.wants_help || (behind && !self.changing) || status.decided < self.low();
        if !wants || !self.may_answer(to, cx.now()) {
            return;
        }
        if behind {
            self.send_new_view(to, cx);
        }
        if status.decided < self.decided {
            // Who hears this from enough replicas knows how far it is behind.
            cx.send_to(to, Message::Status(self.standing()));
        }
        let first = status.decided.next();
        let last = first.plus(SLOTS_PER_ANSWER - 1);
        let mut bytes = 0;
        for (seq, slot) in self.slots.range(first..=last) {
            bytes += self.help_with(to, *seq, slot, status, cx);
            if bytes >= self.config.batch_bytes_max {
                return;
            }
        }
    }

    /// One answer to a peer in half its short interval: who asks more often gets no more.
    pub(crate) fn may_answer(&mut self, to: NodeId, now: Time) -> bool {
        let rest = self.config.status_interval / (2 * HURRY);
        let peer = self.peers.entry(to).or_default();
        let may = peer.answered.is_none_or(|last| now >= last.after(rest));
        if may {
            peer.answered = Some(now);
        }
        may
    }

    /// Sends what a peer may lack of a slot. Gives the bytes of the batch that went with it.
    fn help_with(
        &self,
        to: NodeId,
        seq: SeqNo,
        slot: &Slot,
        status: Status,
        cx: &mut Cx<'_>,
    ) -> usize {
        let mut bytes = 0;
        if let Some(proof) = slot.proof.clone() {
            cx.send_to(to, Message::Committed { seq, proof });
            return 0;
        }
        if self.changing || status.changing || status.view != self.view {
            return 0;
        }
        if let Some((view, digest, signature)) = slot.proposal_signature
            && let Some(batch) = slot.body(&digest).cloned()
            && self.leader() == self.me
        {
            bytes = batch.raw().len();
            cx.send_to(
                to,
                Message::PrePrepare(PrePrepare {
                    view,
                    seq,
                    batch,
                    signature,
                }),
            );
        }
        for phase in [Phase::Prepare, Phase::Commit] {
            if let Some(vote) = slot.own_vote(phase, self.me, self.view) {
                cx.send_to(to, Message::Vote(vote));
            }
        }
        bytes
    }
}
