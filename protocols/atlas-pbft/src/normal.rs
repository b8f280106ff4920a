//! The normal case (OSDI'99, section 4.2): proposals, votes, decisions.

use crate::message::{Message, Phase, PrePrepare, Prepared, Proof, Vote, prepare_digest};
use crate::pbft::{Cx, Pbft, Timer};
use crate::record::Record;
use crate::slot::{Counted, Slot};
use crate::verify::leader_of;
use atlas_common::{Digest, NodeId, SeqNo, Time, View};
use atlas_core::{Batch, Reject, Waiting};

impl Pbft {
    /// The leader gives the batch the next slot.
    pub(crate) fn on_propose(&mut self, batch: Batch, cx: &mut Cx<'_>) {
        if !self.can_propose() {
            cx.stopped(vec![batch]);
            return;
        }
        let (view, seq, digest) = (self.view, self.next, batch.digest());
        self.next = self.next.next();
        let signing = prepare_digest(&self.membership, view, seq, &digest);
        let signature = self.config.signer.sign(&signing);
        let slot = self.slot(seq);
        slot.proposal = Some(digest);
        slot.proposal_signature = Some((view, digest, signature));
        self.keep_body(seq, &batch, cx);
        self.highest = self.highest.max(seq);
        self.vote_prepare(seq, digest, cx);
        cx.broadcast(Message::PrePrepare(PrePrepare {
            view,
            seq,
            batch,
            signature,
        }));
        self.check_prepared(seq, cx);
        self.note_in_flight(cx);
        self.ask_for_batch(cx);
    }

    fn can_propose(&self) -> bool {
        let in_flight = self.next.prev().since(self.decided);
        self.leads() && self.next <= self.high() && in_flight < self.config.in_flight_max
    }

    pub(crate) fn ask_for_batch(&self, cx: &mut Cx<'_>) {
        if self.can_propose() {
            cx.want_batch();
        }
    }

    pub(crate) fn on_pre_prepare(&mut self, from: NodeId, proposal: PrePrepare, cx: &mut Cx<'_>) {
        let PrePrepare {
            view,
            seq,
            batch,
            signature,
        } = proposal;
        // Who wants another view follows the one that it left, without a vote, as long as that lives.
        let followed = self.changing && view == self.entered.view;
        if (view < self.view && !followed) || seq <= self.floor() {
            return cx.reject(from, Reject::Stale);
        }
        if view > self.view || (self.changing && !followed) || !self.in_window(seq) {
            return cx.reject(from, Reject::OutOfWindow);
        }
        if batch.time() > cx.wall().after(self.config.clock_skew) {
            return cx.reject(from, Reject::FutureTime);
        }
        let (leader, digest) = (leader_of(&self.membership, view), batch.digest());
        let vote = Vote {
            phase: Phase::Prepare,
            view,
            seq,
            digest,
            signature,
        };
        if !self.count_vote(leader, vote, cx) {
            return;
        }
        if followed {
            self.keep_body(seq, &batch, cx);
            return self.advance(cx);
        }
        let slot = self.slot(seq);
        match slot.proposal {
            Some(known) if known != digest => return cx.reject(from, Reject::Equivocation),
            _ => slot.proposal = Some(digest),
        }
        slot.proposal_signature = Some((view, digest, signature));
        self.highest = self.highest.max(seq);
        self.keep_body(seq, &batch, cx);
        self.vote_prepare(seq, digest, cx);
        self.check_prepared(seq, cx);
        self.note_in_flight(cx);
        self.advance(cx);
    }

    pub(crate) fn on_vote(&mut self, from: NodeId, vote: Vote, cx: &mut Cx<'_>) {
        if vote.seq <= self.low() {
            return;
        }
        if !self.takes_part_in(vote.seq) {
            return cx.reject(from, Reject::OutOfWindow);
        }
        if from == self.me || !self.count_vote(from, vote, cx) {
            return;
        }
        match vote.phase {
            Phase::Prepare if vote.view == self.view && !self.changing => {
                self.heard = self.heard.max(vote.seq);
                self.show_conflict(from, &vote, cx);
                self.adopt_vouched(vote.seq, cx);
                self.check_prepared(vote.seq, cx);
                self.hurry_status(cx);
            }
            Phase::Prepare => {}
            Phase::Commit => self.check_committed(vote.seq, vote.view, vote.digest, cx),
        }
    }

    /// Somebody votes for another proposal than the one that came here: one of the two replicas must
    /// see both of the leader's signatures, or nobody could show that it lied. Once for each vote, so
    /// no more often than votes are counted.
    fn show_conflict(&mut self, to: NodeId, vote: &Vote, cx: &mut Cx<'_>) {
        let slot = self.slot(vote.seq);
        let Some((view, digest, signature)) = slot.proposal_signature else {
            return;
        };
        if (view, digest) == (vote.view, vote.digest) || view != vote.view {
            return;
        }
        if let Some(batch) = slot.body(&digest).cloned() {
            let seq = vote.seq;
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
    }

    /// Counts a vote once per member. Says whether it may have changed anything: a proposal that
    /// comes again does, since its body may be new.
    fn count_vote(&mut self, from: NodeId, vote: Vote, cx: &mut Cx<'_>) -> bool {
        match self.slot(vote.seq).count(from, vote) {
            Counted::New => true,
            Counted::Duplicate => {
                vote.phase == Phase::Prepare && from == leader_of(&self.membership, vote.view)
            }
            Counted::Stale => {
                cx.reject(from, Reject::Stale);
                false
            }
            Counted::Equivocation(earlier) => {
                cx.reject(from, Reject::Equivocation);
                cx.evidence(from, Message::Vote(earlier), Message::Vote(vote));
                false
            }
        }
    }

    /// A batch that f+1 replicas vouch for was proposed by the leader to a correct one: it can be
    /// voted for without the leader's own message (our deviation 2).
    pub(crate) fn adopt_vouched(&mut self, seq: SeqNo, cx: &mut Cx<'_>) {
        let (view, enough) = (self.view, self.membership.quorums().one_correct());
        let barred = self.leader() == self.me || seq <= self.floor();
        let slot = self.slot(seq);
        if slot.proposal.is_some() || barred {
            return;
        }
        if let Some(digest) = slot.vouched(view, enough) {
            slot.proposal = Some(digest);
            self.highest = self.highest.max(seq);
            self.accept(seq, digest, cx);
            self.note_in_flight(cx);
        }
    }

    /// Votes for the slot's proposal as soon as its body is here.
    pub(crate) fn accept(&mut self, seq: SeqNo, digest: Digest, cx: &mut Cx<'_>) {
        if self.has_body(seq, &digest) {
            self.vote_prepare(seq, digest, cx);
            self.check_prepared(seq, cx);
        } else {
            self.want(seq, digest, cx);
        }
    }

    fn has_body(&mut self, seq: SeqNo, digest: &Digest) -> bool {
        self.slot(seq).body(digest).is_some()
    }

    fn want(&mut self, seq: SeqNo, digest: Digest, cx: &mut Cx<'_>) {
        // A slot's proposal, prepared and decided batch: no more than three searches for a slot.
        let first = self.wanted_for(&digest).next().is_none();
        self.wanted.insert((digest, seq));
        if first {
            cx.fetch(digest);
        }
    }

    fn wanted_for(&self, digest: &Digest) -> impl Iterator<Item = SeqNo> {
        let all = (*digest, SeqNo::ZERO)..=(*digest, SeqNo(u64::MAX));
        self.wanted.range(all).map(|(_, seq)| *seq)
    }

    fn unwant(&mut self, seq: SeqNo, digest: Digest, cx: &mut Cx<'_>) {
        if self.wanted.remove(&(digest, seq)) && self.wanted_for(&digest).next().is_none() {
            cx.release(digest);
        }
    }

    /// Ends the searches for bodies that neither a decision nor a proposal of this view needs.
    pub(crate) fn unwant_needless(&mut self, cx: &mut Cx<'_>) {
        let needed = |(digest, seq): &(Digest, SeqNo)| {
            let slot = self.slots.get(seq);
            slot.and_then(Slot::needed_body) == Some(*digest)
        };
        let needless: Vec<_> = self
            .wanted
            .iter()
            .filter(|one| !needed(one))
            .copied()
            .collect();
        for (digest, seq) in needless {
            self.unwant(seq, digest, cx);
        }
    }

    pub(crate) fn keep_body(&mut self, seq: SeqNo, batch: &Batch, cx: &mut Cx<'_>) {
        let digest = batch.digest();
        if !self.has_body(seq, &digest) {
            let (batch, record) = (batch.clone(), batch.clone());
            self.log(seq, Record::Body { seq, batch: record }, cx);
            self.hold_body(seq, batch);
        }
        self.unwant(seq, digest, cx);
    }

    pub(crate) fn on_body(&mut self, batch: Batch, cx: &mut Cx<'_>) {
        let digest = batch.digest();
        let seqs: Vec<SeqNo> = self.wanted_for(&digest).collect();
        for seq in seqs {
            self.keep_body(seq, &batch, cx);
            if self.slot(seq).proposal == Some(digest) && !self.changing {
                self.accept(seq, digest, cx);
            }
        }
        self.advance(cx);
    }

    /// Votes to prepare, once in a view and slot.
    fn vote_prepare(&mut self, seq: SeqNo, digest: Digest, cx: &mut Cx<'_>) {
        let view = self.view;
        let voted = self.slot(seq).voted.is_some_and(|(voted, _)| voted >= view);
        // Slots up to the checkpoint that the view began at are history, whoever proposes what.
        if voted || !self.may_vote() || self.changing || seq <= self.floor() {
            return;
        }
        self.slot(seq).voted = Some((view, digest));
        self.log(seq, Record::Prepare { view, seq, digest }, cx);
        self.cast(Phase::Prepare, seq, digest, cx);
    }

    /// Section 4.2, the predicate *prepared*: the proposal and a quorum of prepare votes for it.
    pub(crate) fn check_prepared(&mut self, seq: SeqNo, cx: &mut Cx<'_>) {
        let (view, me, quorum) = (self.view, self.me, self.quorum());
        if self.changing || !self.may_vote() {
            return;
        }
        let slot = self.slot(seq);
        let Some(digest) = slot.proposal.filter(|d| slot.voted == Some((view, *d))) else {
            return;
        };
        if slot.own_vote(Phase::Commit, me, view).is_some() {
            return;
        }
        if !slot.has_votes(Phase::Prepare, view, &digest, quorum) {
            return;
        }
        let votes = slot.votes(Phase::Prepare, view, &digest);
        let certificate = Prepared {
            seq,
            view,
            digest,
            votes,
        };
        slot.prepared = Some(certificate.clone());
        self.log(seq, Record::Prepared(certificate), cx);
        self.cast(Phase::Commit, seq, digest, cx);
        self.check_committed(seq, view, digest, cx);
    }

    /// Section 4.2, the predicate *committed-local*: a quorum of commit votes. It decides in
    /// whatever view it comes about, since no other batch can be prepared afterwards.
    fn check_committed(&mut self, seq: SeqNo, view: View, digest: Digest, cx: &mut Cx<'_>) {
        let (me, quorum) = (self.me, self.quorum());
        let slot = self.slot(seq);
        if slot.is_decided() || !slot.has_votes(Phase::Commit, view, &digest, quorum) {
            return;
        }
        let votes = slot.votes(Phase::Commit, view, &digest);
        // The others' votes came after their records were durable. If the own vote is needed too,
        // the decision waits for the own record.
        let durable_elsewhere = votes.iter().filter(|(voter, _)| *voter != me).count() >= quorum;
        self.slot(seq).guarded = !durable_elsewhere;
        self.commit(
            seq,
            Proof {
                view,
                digest,
                votes,
            },
            cx,
        );
    }

    fn commit(&mut self, seq: SeqNo, proof: Proof, cx: &mut Cx<'_>) {
        let digest = proof.digest;
        self.slot(seq).proof = Some(proof);
        self.highest = self.highest.max(seq);
        if !self.has_body(seq, &digest) {
            self.want(seq, digest, cx);
        }
        if !self.wanted.is_empty() {
            self.unwant_needless(cx);
        }
        self.advance(cx);
        self.note_in_flight(cx);
    }

    /// A peer shows that a slot is decided.
    pub(crate) fn on_committed(&mut self, from: NodeId, seq: SeqNo, proof: Proof, cx: &mut Cx<'_>) {
        if seq <= self.decided {
            return cx.reject(from, Reject::Stale);
        }
        if !self.takes_part_in(seq) {
            return cx.fetch_state(seq);
        }
        if !self.slot(seq).is_decided() {
            self.commit(seq, proof, cx);
        }
    }

    /// A decision that log transfer brought.
    pub(crate) fn on_learnt(&mut self, seq: SeqNo, batch: Batch, proof: Proof, cx: &mut Cx<'_>) {
        if seq != self.decided.next() {
            return;
        }
        self.keep_body(seq, &batch, cx);
        if !self.slot(seq).is_decided() {
            self.slot(seq).proof = Some(proof);
        }
        self.highest = self.highest.max(seq);
        if !self.wanted.is_empty() {
            self.unwant_needless(cx);
        }
        self.advance(cx);
    }

    /// Decides slots in their order, as far as they are committed and their bodies are here.
    pub(crate) fn advance(&mut self, cx: &mut Cx<'_>) {
        let before = self.decided;
        while let Some((batch, proof, guarded)) = self.next_decision() {
            let seq = self.decided.next();
            self.decided = seq;
            self.next = self.next.max(seq.next());
            self.hand_over(seq, batch, proof, guarded, cx);
            self.slot(seq).forget_other_bodies();
        }
        if self.decided > before {
            self.note_fruit();
            self.stalled = self.pending().then(|| cx.now());
            self.watch_leader(cx);
            self.ask_for_batch(cx);
        }
    }

    /// A view has borne fruit when something was decided in it and nothing waits any more that waited as
    /// it began. One decision is not enough: under more load than the cluster bears each view would make
    /// some, end at the first time-out, and cost the next one its beginning.
    pub(crate) fn note_fruit(&mut self) {
        let old = |waiting: Waiting| waiting.since < self.view_since;
        let begun = self.entered.proposals.last().map(|(seq, _)| *seq);
        let done = self.decided >= begun.unwrap_or_default() && self.decided > self.decided_before;
        if !self.changing && done && !self.waiting.is_some_and(old) {
            self.fruitless = 0;
        }
    }

    fn hand_over(
        &mut self,
        seq: SeqNo,
        batch: Batch,
        proof: Proof,
        guarded: bool,
        cx: &mut Cx<'_>,
    ) {
        let record = Record::Committed {
            seq,
            proof: proof.clone(),
        };
        if self.slot(seq).recorded {
            cx.decide_unguarded(seq, batch, proof);
        } else if self.config.durable_decisions {
            self.log(seq, record, cx);
            cx.decide(seq, batch, proof);
        } else {
            if guarded {
                cx.decide(seq, batch, proof);
            } else {
                // A quorum of others has this durable: the loss of the own record loses nothing.
                cx.decide_unguarded(seq, batch, proof);
            }
            self.log(seq, record, cx);
        }
    }

    fn next_decision(&self) -> Option<(Batch, Proof, bool)> {
        let slot = self.slots.get(&self.decided.next())?;
        let proof = slot.proof.clone()?;
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::ExecuteWithoutBody) {
            // The defect: whatever is at hand is taken for the decided batch.
            let at_hand = slot.bodies().next().cloned().unwrap_or_else(Batch::null);
            return Some((at_hand, proof, slot.guarded));
        }
        let batch = slot.body(&proof.digest)?.clone();
        Some((batch, proof, slot.guarded))
    }

    /// Something is on its way to the next slots.
    pub(crate) fn pending(&self) -> bool {
        self.highest > self.decided
    }

    /// A slot holds a proposal: from now on it is watched.
    pub(crate) fn note_in_flight(&mut self, cx: &mut Cx<'_>) {
        if self.stalled.is_none() && self.pending() && !self.changing {
            self.stalled = Some(cx.now());
            self.watch_leader(cx);
        }
        self.hurry_status(cx);
    }

    /// The leader's deadline: that of the request that waits longest, or of the slot that is to be
    /// decided next, whichever is earlier. Neither is put off by the progress of others.
    pub(crate) fn leader_deadline(&self) -> Option<Time> {
        let since = [self.waiting.map(|waiting| waiting.since), self.stalled];
        let oldest = since.into_iter().flatten().min()?;
        let timeout = self.config.timeout_after(self.fruitless);
        let watched = !self.changing && self.may_change_view();
        watched.then(|| oldest.max(self.view_since).after(timeout))
    }

    /// Sees to it that the timer wakes this replica at the leader's deadline or earlier: one that
    /// moves back with every decision is not worth an effect each time.
    pub(crate) fn watch_leader(&mut self, cx: &mut Cx<'_>) {
        let Some(deadline) = self.leader_deadline() else {
            return;
        };
        if self.leader_timer.is_none_or(|set| deadline < set) {
            self.leader_timer = Some(deadline);
            cx.set_timer_at(Timer::Leader, deadline);
        }
    }
}
