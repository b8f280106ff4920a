//! View changes (OSDI'99, section 4.4; joining and back-off: section 4.5.2).

use crate::message::{
    Message, NewView, Prepared, SignedViewChange, ViewChange, new_view_digest, view_change_digest,
};
use crate::new_view;
use crate::pbft::{Cx, Pbft, Timer};
use crate::record::Record;
use crate::sealed::Sealed;
use crate::slot::Slot;
use crate::verify::leader_of;
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::{Batch, CheckpointCertificate, Reject};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Pbft {
    pub(crate) fn on_leader_timeout(&mut self, cx: &mut Cx<'_>) {
        self.leader_timer = None;
        match self.leader_deadline() {
            Some(deadline) if deadline <= cx.now() => {
                if self.is_far_behind() {
                    // The others go on: what is missing here is not for the leader to bring.
                    let later = cx.now().after(self.config.timeout);
                    self.leader_timer = Some(later);
                    cx.set_timer_at(Timer::Leader, later);
                } else {
                    self.start_view_change(self.view.next(), cx);
                }
            }
            _ => self.watch_leader(cx),
        }
    }

    /// The new leader did not begin its view in time: on to the next.
    pub(crate) fn on_new_view_timeout(&mut self, cx: &mut Cx<'_>) {
        if self.changing {
            self.start_view_change(self.view.next(), cx);
        }
    }

    pub(crate) fn suspect(&mut self, cx: &mut Cx<'_>) {
        if !self.changing {
            self.start_view_change(self.view.next(), cx);
        }
    }

    /// Leaders take turns, so leadership can only be handed to the next: the leader leaves its view,
    /// and the others follow when it has gone quiet.
    pub(crate) fn on_transfer(&mut self, to: NodeId, cx: &mut Cx<'_>) {
        if self.leads() && to == leader_of(&self.membership, self.view.next()) {
            self.start_view_change(self.view.next(), cx);
        }
    }

    /// Leaves the view for `target`: nothing is voted for in an earlier one any more.
    pub(crate) fn start_view_change(&mut self, target: View, cx: &mut Cx<'_>) {
        let target = target.max(self.votes_from);
        if !self.may_change_view() || target <= self.view {
            return;
        }
        self.view = target;
        self.changing = true;
        self.new_view = None;
        self.stalled = None;
        self.fruitless = self.fruitless.saturating_add(1);
        let stable = self.newest_certificate();
        let change = ViewChange {
            view: target,
            stable: stable.map(|certificate| (**certificate).clone()),
            prepared: self.prepared_slots(),
        };
        let change = Sealed::new(change);
        let signing = view_change_digest(&self.membership, &change);
        let signature = self.config.signer.sign(&signing);
        let signed = SignedViewChange {
            from: self.me,
            change,
            signature,
        };
        self.hard_state_lsn = cx.persist(Record::ViewChange(signed.clone()));
        self.changes.insert(self.me, signed.clone());
        cx.broadcast(Message::ViewChange(signed));
        self.change_sent = cx.now();
        cx.leader(target, None);
        if self.new_view_timer.take().is_some() {
            cx.cancel_timer(Timer::NewView);
        }
        self.hurry_status(cx);
        self.check_quorum(cx);
    }

    /// Of the newest checkpoint that this replica knows of, though its own may be older.
    fn newest_certificate(&self) -> Option<&Arc<CheckpointCertificate>> {
        let known = [&self.stable, &self.entered.stable];
        let known = known.into_iter().flatten();
        known.max_by_key(|certificate| certificate.id.seq)
    }

    /// Everything above that checkpoint that may have been decided somewhere.
    fn prepared_slots(&self) -> Vec<Prepared> {
        let above = self.slots.range(self.floor().next()..);
        #[allow(unused_mut, reason = "the seeded bug below changes it")]
        let mut prepared: Vec<Prepared> = above
            .filter_map(|(_, slot)| slot.prepared.clone())
            .collect();
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::DropPreparedSlots) {
            prepared.truncate(1);
        }
        prepared
    }

    pub(crate) fn on_view_change(&mut self, signed: SignedViewChange, cx: &mut Cx<'_>) {
        let (from, view) = (signed.from, signed.change.view);
        if view < self.view || (view == self.view && !self.changing) {
            // It missed that a view has begun.
            if self.may_answer(from, cx.now()) {
                self.send_new_view(from, cx);
            }
            return;
        }
        let newest = self.changes.get(&from).map(|known| known.change.view);
        if newest.is_some_and(|newest| newest >= view) {
            return;
        }
        self.changes.insert(from, signed);
        self.join(cx);
        self.check_quorum(cx);
    }

    /// f+1 members want higher views, so a correct one does: follow to the lowest of these. Fewer
    /// move nobody.
    fn join(&mut self, cx: &mut Cx<'_>) {
        let views = self.changes.values().map(|signed| signed.change.view);
        let higher: Vec<View> = views.filter(|view| *view > self.view).collect();
        if higher.len() >= self.membership.quorums().one_correct()
            && let Some(lowest) = higher.into_iter().min()
        {
            self.start_view_change(lowest, cx);
        }
    }

    /// With a quorum for the wanted view its leader begins it, and the others give it a deadline.
    pub(crate) fn check_quorum(&mut self, cx: &mut Cx<'_>) {
        if !self.changing {
            return;
        }
        let (view, quorum) = (self.view, self.quorum());
        let of_view = || {
            let all = self.changes.values();
            all.filter(|signed| signed.change.view == view)
        };
        if leader_of(&self.membership, view) == self.me && of_view().count() >= quorum {
            let supporters = of_view().cloned().collect();
            self.begin_view(supporters, cx);
            return;
        }
        // Who is further has wanted this view too. Without them, a quorum spread over two views
        // would wait for ever.
        let at_least = self
            .changes
            .values()
            .filter(|s| s.change.view >= view)
            .count();
        if at_least >= quorum && self.new_view_timer != Some(view) {
            self.new_view_timer = Some(view);
            cx.set_timer(Timer::NewView, self.config.timeout_after(self.fruitless));
        }
    }

    fn begin_view(&mut self, changes: Vec<SignedViewChange>, cx: &mut Cx<'_>) {
        let view = self.view;
        let signing = new_view_digest(&self.membership, view, &changes);
        let signature = self.config.signer.sign(&signing);
        let new_view = NewView {
            view,
            changes,
            signature,
        };
        self.enter(new_view.clone(), cx);
        cx.broadcast(Message::NewView(new_view));
    }

    pub(crate) fn on_new_view(&mut self, from: NodeId, new_view: NewView, cx: &mut Cx<'_>) {
        let known = new_view.view < self.view || (new_view.view == self.view && !self.changing);
        if known {
            return cx.reject(from, Reject::Stale);
        }
        self.enter(new_view, cx);
    }

    /// Enters a view: what it begins with follows from its view changes and nothing else.
    fn enter(&mut self, new_view: NewView, cx: &mut Cx<'_>) {
        #[allow(unused_mut, reason = "the seeded bug below changes it")]
        let mut newest_wins = true;
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::OldestCertificateWins) {
            newest_wins = false;
        }
        let entered = new_view::entered(new_view.view, &new_view.changes, newest_wins);
        self.view = entered.view;
        self.changing = false;
        self.view_since = cx.now();
        self.decided_before = self.decided;
        self.view_changes += 1;
        let deadline_set = self.new_view_timer.take().is_some();
        self.changes
            .retain(|_, signed| signed.change.view > entered.view);
        self.entered = entered.clone();
        self.new_view = Some(new_view);
        self.hard_state_lsn = cx.persist(Record::Entered(entered));
        let dropped = self.drop_old_proposals();
        self.leave_slots_behind();
        self.propose_again(cx);
        self.count_early_votes(cx);
        self.unwant_needless(cx);
        if deadline_set {
            cx.cancel_timer(Timer::NewView);
        }
        cx.leader(self.view, Some(self.leader()));
        cx.stopped(dropped);
        if self.entered.low() > self.decided {
            cx.fetch_state(self.entered.low());
        }
        self.stalled = self.pending().then(|| cx.now());
        self.hurry_status(cx);
        self.watch_leader(cx);
        self.advance(cx);
        self.ask_for_batch(cx);
    }

    /// Forgets the proposals of earlier views. Gives the batches that the new view does not hold.
    fn drop_old_proposals(&mut self) -> Vec<Batch> {
        let kept: BTreeMap<SeqNo, Digest> = self.entered.proposals.iter().copied().collect();
        let mut dropped = Vec::new();
        for (seq, slot) in &mut self.slots {
            slot.proposal = None;
            slot.proposal_signature = None;
            if slot.is_decided() {
                continue;
            }
            let kept = kept.get(seq);
            dropped.extend(slot.bodies().filter(|b| Some(&b.digest()) != kept).cloned());
            if kept.is_none() {
                slot.forget_other_bodies();
            }
        }
        self.tidy_bodies();
        dropped.retain(|batch| !batch.is_null());
        dropped
    }

    /// Lets go of the slots between the window above the own checkpoint, in which decisions are still
    /// learnt, and the checkpoint that the view begins at: they are history, by a certificate that every
    /// view change of this replica carries from now on.
    pub(crate) fn leave_slots_behind(&mut self) {
        let (own, begun) = (self.low().plus(self.config.window), self.entered.low());
        self.slots.retain(|seq, _| *seq <= own || *seq > begun);
        self.tidy_bodies();
    }

    /// Takes up the slots that the view begins with, and votes for them where it can.
    pub(crate) fn propose_again(&mut self, cx: &mut Cx<'_>) {
        let proposals = self.entered.proposals.clone();
        let last = proposals.last().map_or(self.entered.low(), |(seq, _)| *seq);
        self.next = last.max(self.low()).max(self.decided).next();
        let null = Batch::null();
        for (seq, digest) in proposals {
            if seq <= self.low() {
                continue;
            }
            let slot = self.slot(seq);
            slot.proposal = Some(digest);
            slot.forget_other_bodies();
            if self.is_long_decided(seq) {
                continue;
            }
            if digest == null.digest() {
                self.keep_body(seq, &null, cx);
            }
            self.accept(seq, digest, cx);
        }
        let decided = self
            .slots
            .iter()
            .rev()
            .find(|(_, slot)| slot.needed_body().is_some());
        self.highest = decided.map_or(SeqNo::ZERO, |(seq, _)| *seq);
    }

    /// Whether a slot needs no vote of this replica in a new view: it is decided here, and longer ago than
    /// others who take part may lag. Who lags further is sent its proof. A view may begin with thousands
    /// of slots, and voting for them again would take longer than its first time-out.
    fn is_long_decided(&self, seq: SeqNo) -> bool {
        let decided = self.slots.get(&seq).is_some_and(Slot::is_decided);
        decided && seq.plus(self.config.in_flight_max) <= self.decided
    }

    /// Votes of this view may have come before its new view.
    fn count_early_votes(&mut self, cx: &mut Cx<'_>) {
        let view = self.view;
        let above = self.slots.range(self.next..);
        let voted = above.filter(|(_, slot)| slot.has_any_vote(view));
        let voted: Vec<SeqNo> = voted.map(|(seq, _)| *seq).collect();
        self.heard = voted.last().copied().unwrap_or_default();
        for seq in voted {
            self.adopt_vouched(seq, cx);
        }
    }

    pub(crate) fn send_new_view(&self, to: NodeId, cx: &mut Cx<'_>) {
        if let Some(new_view) = self.new_view.clone().filter(|_| !self.changing) {
            cx.send_to(to, Message::NewView(new_view));
        }
    }
}
