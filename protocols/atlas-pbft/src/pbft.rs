//! The state machine: its state, and which handler takes which input.

use crate::amnesia::Amnesia;
use crate::config::PbftConfig;
use crate::message::{Message, NewView, Phase, Proof, SignedViewChange, Vote};
use crate::record::{Entered, Record};
use crate::slot::Slot;
use crate::verify::{self, leader_of};
use atlas_common::crypto::Signed;
use atlas_common::quorum::FaultModel;
use atlas_common::{Digest, Lsn, NodeId, SeqNo, Time, View};
use atlas_core::protocol::Recorded;
use atlas_core::{
    Admin, Batch, CheckpointCertificate, Context, Input, Limits, Membership, OrderingProtocol,
    ProtocolStatus, RecoverError, Recovery, Reject, Waiting,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) type Cx<'a> = Context<'a, Pbft>;

/// A replica of PBFT.
#[derive(Debug)]
pub struct Pbft {
    pub(crate) me: NodeId,
    pub(crate) config: PbftConfig,
    pub(crate) membership: Arc<Membership>,
    /// The current view, or the one that this replica wants to enter.
    pub(crate) view: View,
    pub(crate) changing: bool,
    /// How the current view began; for view 0, with nothing.
    pub(crate) entered: Entered,
    /// The proof that the current view has begun, for replicas that missed it.
    pub(crate) new_view: Option<NewView>,
    pub(crate) stable: Option<Arc<CheckpointCertificate>>,
    pub(crate) decided: SeqNo,
    /// The next slot that a leader proposes.
    pub(crate) next: SeqNo,
    pub(crate) slots: BTreeMap<SeqNo, Slot>,
    /// The highest slot with a proposal of this view, or a decision.
    pub(crate) highest: SeqNo,
    /// The highest slot that somebody voted in, in this view.
    pub(crate) heard: SeqNo,
    /// Where to look for a body first.
    pub(crate) bodies: BTreeMap<Digest, SeqNo>,
    /// Bodies that are being fetched, and for which slots.
    pub(crate) wanted: BTreeSet<(Digest, SeqNo)>,
    /// The newest view change of each member.
    pub(crate) changes: BTreeMap<NodeId, SignedViewChange>,
    pub(crate) waiting: Option<Waiting>,
    /// Since when the next slot to be decided is on its way.
    pub(crate) stalled: Option<Time>,
    /// When the current view began for this replica.
    pub(crate) view_since: Time,
    /// What was decided when it did.
    pub(crate) decided_before: SeqNo,
    /// View changes in a row to views that bore no fruit.
    pub(crate) fruitless: u32,
    pub(crate) view_changes: u64,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// No vote: the replica has forgotten what it voted for.
    pub(crate) amnesia: Option<Amnesia>,
    /// The first view that this replica votes in, after it had lost its memory.
    pub(crate) votes_from: View,
    /// Records of slots up to here may be gone: a certified checkpoint had taken their place.
    pub(crate) cut: SeqNo,
    pub(crate) hard_state_lsn: Lsn,
    /// When the own view change was sent last.
    pub(crate) change_sent: Time,
    /// What the leader's timer is set to.
    pub(crate) leader_timer: Option<Time>,
    /// The view whose beginning has a deadline.
    pub(crate) new_view_timer: Option<View>,
    /// The status timer is set to its short interval.
    pub(crate) hurried: bool,
    /// The last slot decided when status was last given.
    pub(crate) decided_at_status: SeqNo,
}

/// What a peer said of itself last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) low: SeqNo,
    pub(crate) decided: SeqNo,
    pub(crate) answered: Option<Time>,
}

/// The timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The leader should have made progress by now.
    Leader,
    /// The new view should have begun by now.
    NewView,
    /// Say where this replica stands.
    Status,
}

impl OrderingProtocol for Pbft {
    const NAME: &'static str = "pbft";
    const FAULT_MODEL: FaultModel = FaultModel::Byzantine;
    type Config = PbftConfig;
    type Message = Message;
    type Record = Record;
    type Proof = Proof;
    type Timer = Timer;

    fn recover(
        config: PbftConfig,
        membership: Arc<Membership>,
        recovery: Recovery<Self>,
    ) -> Result<Self, RecoverError> {
        Self::rebuild(config, membership, recovery)
    }

    fn limits_for(voters: usize) -> Limits {
        crate::config::limits_for(voters)
    }

    fn verify(
        config: &PbftConfig,
        membership: &Membership,
        from: NodeId,
        message: &Message,
    ) -> Result<(), Reject> {
        verify::message(config, membership, from, message)
    }

    fn signatures(
        _config: &PbftConfig,
        membership: &Membership,
        from: NodeId,
        message: &Message,
    ) -> Vec<Signed> {
        verify::signatures(membership, from, message)
    }

    fn batches(message: &Message) -> Vec<&Batch> {
        match message {
            Message::PrePrepare(proposal) => vec![&proposal.batch],
            _ => Vec::new(),
        }
    }

    fn verify_decision(
        _config: &PbftConfig,
        membership: &Membership,
        seq: SeqNo,
        batch: &Digest,
        proof: &Proof,
    ) -> Result<(), Reject> {
        verify::proof(membership, seq, batch, proof)
    }

    fn recorded(record: &Record) -> Recorded<'_, Self> {
        match record {
            Record::Body { batch, .. } => Recorded::Batch(batch),
            Record::Committed { seq, proof } => Recorded::Decision {
                seq: *seq,
                batch: proof.digest,
                proof: Some(proof),
            },
            _ => Recorded::Other,
        }
    }

    /// Two votes of one phase, view and slot for different batches.
    fn contradict(first: &Message, second: &Message) -> bool {
        let (Message::Vote(first), Message::Vote(second)) = (first, second) else {
            return false;
        };
        let place = |vote: &Vote| (vote.phase, vote.view, vote.seq);
        place(first) == place(second) && first.digest != second.digest
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Cx<'_>) {
        match input {
            Input::Start => self.on_start(cx),
            Input::Message { from, message } => self.on_message(from, message.into_inner(), cx),
            Input::Waiting(waiting) => {
                self.waiting = waiting;
                self.note_fruit();
                self.watch_leader(cx);
                self.hurry_status(cx);
            }
            Input::Propose(batch) => self.on_propose(batch, cx),
            Input::Body(batch) => self.on_body(batch, cx),
            Input::Timeout(Timer::Leader) => self.on_leader_timeout(cx),
            Input::Timeout(Timer::NewView) => self.on_new_view_timeout(cx),
            Input::Timeout(Timer::Status) => self.on_status_timer(cx),
            Input::Durable(_) => {}
            Input::Suspect => self.suspect(cx),
            // Under lies no single replica knows what the newest decision is: reads are ordered, or
            // the client compares a quorum of answers.
            Input::Read(id) => cx.read_refused(id),
            Input::Admin(Admin::TransferLeadership { to }) => self.on_transfer(to, cx),
            Input::Decided { seq, batch, proof } => self.on_learnt(seq, batch, proof, cx),
            Input::Checkpointed(certificate) => self.on_checkpointed(certificate, cx),
            Input::StateInstalled(installed) => self.on_installed(&installed, cx),
        }
    }

    fn body(&self, digest: &Digest) -> Option<Batch> {
        let slot = self.slots.get(self.bodies.get(digest)?)?;
        slot.body(digest).cloned()
    }

    fn frontier(&self, _seq: SeqNo) -> Bytes {
        Bytes::new()
    }

    fn status(&self) -> ProtocolStatus {
        // All up to there are decided, thousands perhaps.
        let open = self.slots.range(self.decided.next()..);
        ProtocolStatus {
            view: self.view,
            changing_view: self.changing,
            leader: (!self.changing).then(|| self.leader()),
            decided: self.decided,
            low: self.low(),
            high: self.high(),
            in_flight: open.filter(|(_, slot)| slot.in_flight()).count(),
            view_changes: self.view_changes,
            forgot_votes: self.membership.is_voter(self.me) && !self.remembers(),
        }
    }

    /// Without counting slots.
    fn decided(&self) -> SeqNo {
        self.decided
    }
}

impl Pbft {
    fn on_message(&mut self, from: NodeId, message: Message, cx: &mut Cx<'_>) {
        match message {
            Message::PrePrepare(proposal) => self.on_pre_prepare(from, proposal, cx),
            Message::Vote(vote) => self.on_vote(from, vote, cx),
            Message::ViewChange(change) => self.on_view_change(change, cx),
            Message::NewView(new_view) => self.on_new_view(from, new_view, cx),
            Message::Committed { seq, proof } => self.on_committed(from, seq, proof, cx),
            Message::Status(status) => self.on_status(from, status, cx),
        }
    }

    pub(crate) fn leader(&self) -> NodeId {
        leader_of(&self.membership, self.view)
    }

    pub(crate) fn leads(&self) -> bool {
        !self.changing && self.leader() == self.me && self.may_vote()
    }

    pub(crate) fn may_vote(&self) -> bool {
        self.may_change_view() && self.view >= self.votes_from
    }

    pub(crate) fn may_change_view(&self) -> bool {
        self.remembers() && self.membership.is_voter(self.me)
    }

    pub(crate) fn low(&self) -> SeqNo {
        self.stable
            .as_ref()
            .map_or(SeqNo::ZERO, |certificate| certificate.id.seq)
    }

    /// A view counts its window from the newest checkpoint among its view changes, which may be
    /// ahead of this replica's own.
    pub(crate) fn high(&self) -> SeqNo {
        self.floor().plus(self.config.window)
    }

    /// Slots up to here are history in this view: nothing is voted for in them.
    pub(crate) fn floor(&self) -> SeqNo {
        self.low().max(self.entered.low())
    }

    pub(crate) fn in_window(&self, seq: SeqNo) -> bool {
        seq > self.floor() && seq <= self.high()
    }

    /// Slots that memory is kept for: the window above the own checkpoint, and that above the
    /// checkpoint of the view, which may be far ahead.
    pub(crate) fn takes_part_in(&self, seq: SeqNo) -> bool {
        let own = self.low().plus(self.config.window);
        seq > self.low() && (seq <= own || self.in_window(seq))
    }

    pub(crate) fn quorum(&self) -> usize {
        let quorum = self.membership.quorums().quorum();
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::QuorumOneShort) {
            return quorum - 1;
        }
        quorum
    }

    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn has_bug(&self, bug: crate::bugs::SeededBug) -> bool {
        self.config.bug == Some(bug)
    }

    pub(crate) fn slot(&mut self, seq: SeqNo) -> &mut Slot {
        self.slots.entry(seq).or_default()
    }

    /// Signs a vote of this replica, counts it, and sends it once its record is durable.
    pub(crate) fn cast(
        &mut self,
        phase: Phase,
        seq: SeqNo,
        digest: Digest,
        cx: &mut Cx<'_>,
    ) -> Vote {
        let view = self.view;
        let mut vote = Vote {
            phase,
            view,
            seq,
            digest,
            signature: atlas_common::crypto::Signature([0; 64]),
        };
        vote.signature = self
            .config
            .signer
            .sign(&vote.signing_digest(&self.membership));
        let me = self.me;
        self.slot(seq).count(me, vote);
        // The leader's prepare vote is its proposal, but for slots that a new view begins with.
        let proposed = phase == Phase::Prepare
            && self
                .slot(seq)
                .proposal_signature
                .is_some_and(|(v, d, _)| (v, d) == (view, digest));
        if !(proposed && self.leader() == me) {
            self.broadcast_vote(vote, cx);
        }
        vote
    }

    fn broadcast_vote(&self, vote: Vote, cx: &mut Cx<'_>) {
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::VoteBeforeDurable) {
            // The defect: a crash now forgets a vote that others have seen.
            cx.send_unguarded(atlas_core::Recipients::Others, Message::Vote(vote));
            return;
        }
        cx.broadcast(Message::Vote(vote));
    }

    pub(crate) fn hold_body(&mut self, seq: SeqNo, batch: Batch) {
        self.bodies.insert(batch.digest(), seq);
        self.slot(seq).keep_body(batch);
    }

    /// Forgets where bodies lay that have been let go.
    pub(crate) fn tidy_bodies(&mut self) {
        let slots = &self.slots;
        let held = |digest: &Digest, seq: &SeqNo| slots.get(seq)?.body(digest).map(|_| ());
        self.bodies
            .retain(|digest, seq| held(digest, seq).is_some());
    }

    /// Appends a record that concerns one slot.
    pub(crate) fn log(&mut self, seq: SeqNo, record: Record, cx: &mut Cx<'_>) {
        let lsn = cx.persist(record);
        self.slot(seq).logged(lsn);
    }
}
