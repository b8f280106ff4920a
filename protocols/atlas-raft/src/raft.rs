//! The state machine: its state, and which handler takes which input.

use crate::amnesia::Amnesia;
use crate::config::RaftConfig;
use crate::election::{Ballot, Role};
use crate::log::Log;
use crate::message::{Body, Message, Proof};
use crate::peer::Peer;
use crate::reads::Reads;
use crate::record::{Hard, Record};
use crate::transfer::Transfer;
use crate::verify;
use atlas_common::quorum::FaultModel;
use atlas_common::{Digest, Lsn, NodeId, SeqNo, Time, View};
use atlas_core::{
    Admin, Batch, Context, Input, Membership, OrderingProtocol, ProtocolStatus, RecoverError,
    Recovery, Reject, Waiting,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Cx<'a> = Context<'a, Raft>;

/// A replica of Raft.
#[derive(Debug)]
pub struct Raft {
    pub(crate) me: NodeId,
    pub(crate) config: RaftConfig,
    pub(crate) membership: Arc<Membership>,
    pub(crate) role: Role,
    pub(crate) term: View,
    pub(crate) voted: Option<NodeId>,
    /// Who leads the term, as far as this replica knows.
    pub(crate) leader: Option<NodeId>,
    /// What was last said about it.
    pub(crate) told: Option<(View, Option<NodeId>)>,
    /// The last term that had a leader, and how many there were since the start.
    pub(crate) last_led: View,
    pub(crate) terms_led: u64,
    pub(crate) log: Log,
    /// Up to which record the disk has everything.
    pub(crate) durable_lsn: Lsn,
    /// Up to which entry it has.
    pub(crate) durable: SeqNo,
    /// The record that holds term and vote.
    pub(crate) hard_lsn: Lsn,
    /// The last entry known to be committed; all up to it are decided.
    pub(crate) commit: SeqNo,
    /// The last checkpoint.
    pub(crate) low: SeqNo,
    /// When something was decided last.
    pub(crate) decided_at: Time,
    pub(crate) waiting: Option<Waiting>,
    /// It has lost its log, and must neither vote nor be counted.
    pub(crate) amnesia: Option<Amnesia>,

    // As a follower.
    /// Up to where the log is known to be that of the term's leader.
    pub(crate) verified: SeqNo,
    /// The newest round of the term's leader.
    pub(crate) round_seen: u64,
    /// Until when a leader was heard recently enough for no other to be helped.
    pub(crate) sticks_until: Time,
    /// Something distrusts the leader of this term.
    pub(crate) suspects: bool,
    /// Entries were turned away because there is no room above the checkpoint.
    pub(crate) cramped: bool,
    /// Since when the election time-out runs, and how long it is this time.
    pub(crate) waits_since: Time,
    pub(crate) patience: Duration,

    // As a candidate.
    pub(crate) ballot: Ballot,

    // As a leader.
    /// By number; the own one means nothing.
    pub(crate) peers: Vec<Peer>,
    /// The first entry of the own term.
    pub(crate) own_first: SeqNo,
    pub(crate) round: u64,
    /// When the rounds began that are not confirmed yet.
    pub(crate) rounds: VecDeque<(u64, Time)>,
    /// The newest round that a majority has seen.
    pub(crate) confirmed: u64,
    pub(crate) leased_until: Time,
    /// Somebody may stand for election without waiting for this leader to fall silent.
    pub(crate) lease_void: bool,
    pub(crate) transfer: Option<Transfer>,

    pub(crate) reads: Reads,
}

/// The timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The leader, or an election, has had enough time.
    Election,
    /// Say again what may have been lost.
    Heartbeat,
}

impl OrderingProtocol for Raft {
    const NAME: &'static str = "raft";
    const FAULT_MODEL: FaultModel = FaultModel::Crash;
    type Config = RaftConfig;
    type Message = Message;
    type Record = Record;
    type Proof = Proof;
    type Timer = Timer;

    fn recover(
        config: RaftConfig,
        membership: Arc<Membership>,
        recovery: Recovery<Self>,
    ) -> Result<Self, RecoverError> {
        Self::rebuild(config, membership, recovery)
    }

    fn verify(
        config: &RaftConfig,
        membership: &Membership,
        from: NodeId,
        message: &Message,
    ) -> Result<(), Reject> {
        verify::message(config, membership, from, message)
    }

    fn batches(message: &Message) -> Vec<&Batch> {
        match &message.body {
            Body::Append(append) => append.entries.iter().map(|entry| &entry.batch).collect(),
            _ => Vec::new(),
        }
    }

    fn verify_decision(
        _config: &RaftConfig,
        _membership: &Membership,
        _seq: SeqNo,
        _batch: &Digest,
        _proof: &Proof,
    ) -> Result<(), Reject> {
        // Nobody lies in a crash cluster, and a term cannot be checked.
        Ok(())
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Cx<'_>) {
        match input {
            Input::Start => self.on_start(cx),
            Input::Message { from, message } => self.on_message(from, message.into_inner(), cx),
            Input::Waiting(waiting) => self.waiting = waiting,
            Input::Propose(batch) => self.on_propose(batch, cx),
            // Entries carry their batches: none is ever fetched.
            Input::Body(_) => {}
            Input::Timeout(Timer::Election) => self.on_election_timeout(cx),
            Input::Timeout(Timer::Heartbeat) => self.on_heartbeat_timeout(cx),
            Input::Durable(lsn) => self.on_durable(lsn, cx),
            Input::Suspect => self.on_suspect(cx),
            Input::Read(id) => self.on_read(id, cx),
            Input::Admin(Admin::TransferLeadership { to }) => self.transfer_to(to, cx),
            Input::Decided { seq, batch, proof } => self.on_learnt(seq, batch, proof, cx),
            Input::Checkpointed(certificate) => self.on_checkpointed(certificate.id.seq, cx),
            Input::StateInstalled(installed) => self.on_installed(&installed, cx),
        }
    }

    fn body(&self, _digest: &Digest) -> Option<Batch> {
        None
    }

    /// The last term travels with a checkpoint (thesis, section 5.1).
    fn frontier(&self, seq: SeqNo) -> Bytes {
        match self.log.term_at(seq) {
            Some(term) => Bytes::copy_from_slice(&term.0.to_le_bytes()),
            None => Bytes::new(),
        }
    }

    fn status(&self) -> ProtocolStatus {
        ProtocolStatus {
            view: self.term,
            changing_view: self.leader.is_none(),
            leader: self.leader,
            decided: self.commit,
            low: self.low,
            high: self.high(),
            in_flight: usize::try_from(self.log.last().since(self.commit)).unwrap_or(usize::MAX),
            view_changes: self.terms_led,
            forgot_votes: self.is_voter() && self.amnesia.is_some(),
        }
    }
}

impl Raft {
    fn on_message(&mut self, from: NodeId, message: Message, cx: &mut Cx<'_>) {
        let Message { term, body, .. } = message;
        match body {
            // The two that do not oblige whoever hears them to enter the term.
            Body::RequestVote(request) => return self.on_request_vote(from, term, request, cx),
            Body::Recall { nonce } => return self.on_recall(from, nonce, cx),
            _ => {}
        }
        if term > self.term {
            self.enter_term(term, cx);
        }
        if let Body::Recalled { nonce } = body {
            return self.on_recalled(from, nonce, term, cx);
        }
        if term < self.term {
            return self.on_outdated(from, &body, cx);
        }
        match body {
            Body::Append(append) => self.on_append(from, append, cx),
            Body::Accepted(accepted) => self.on_accepted(from, accepted, cx),
            Body::Rejected(rejected) => self.on_rejected(from, rejected, cx),
            Body::Heard { round, counts } => self.on_heard(from, round, counts, cx),
            Body::Behind { decided } => self.on_behind(from, decided, cx),
            Body::Vote { pre, granted } => self.on_vote(from, pre, granted, cx),
            Body::TimeoutNow => self.on_timeout_now(from, cx),
            Body::ReadAsk { number } => self.on_read_ask(from, number, cx),
            Body::ReadAnswer { number, at } => self.on_read_answer(number, at, cx),
            Body::Renew => self.on_renew(cx),
            Body::Outdated | Body::RequestVote(_) | Body::Recall { .. } | Body::Recalled { .. } => {
            }
        }
    }

    /// A message of a term that is over. A leader that goes on in it must hear of the newer one, or
    /// a replica that is ahead of it could never come back (etcd #8334).
    fn on_outdated(&mut self, from: NodeId, body: &Body, cx: &mut Cx<'_>) {
        if matches!(
            body,
            Body::Append(_) | Body::Behind { .. } | Body::ReadAsk { .. }
        ) {
            let message = self.message(Body::Outdated);
            return cx.send_to(from, message);
        }
        cx.reject(from, Reject::Stale);
    }

    pub(crate) fn message(&self, body: Body) -> Message {
        Message::new(&self.membership, self.term, body)
    }

    pub(crate) fn leads(&self) -> bool {
        self.role == Role::Leader
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.membership.is_voter(self.me)
    }

    /// It may vote and stand, and what it acknowledges counts.
    pub(crate) fn counts(&self) -> bool {
        self.is_voter() && self.amnesia.is_none()
    }

    /// The last slot that a leader may propose.
    pub(crate) fn high(&self) -> SeqNo {
        self.low.plus(self.config.window)
    }

    /// The last slot that there is room for. A follower's checkpoint may be a window behind the
    /// leader's.
    pub(crate) fn room(&self) -> SeqNo {
        self.high().plus(self.config.window)
    }

    pub(crate) fn quorum(&self) -> usize {
        let quorum = self.membership.quorums().quorum();
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::QuorumOneShort) {
            return (quorum - 1).max(1);
        }
        quorum
    }

    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn has_bug(&self, bug: crate::bugs::SeededBug) -> bool {
        self.config.bug == Some(bug)
    }

    /// Writes down term and vote.
    pub(crate) fn keep_hard_state(&mut self, cx: &mut Cx<'_>) {
        let (term, voted, mute) = (self.term, self.voted, self.amnesia.is_some());
        self.hard_lsn = cx.persist(Record::Hard(Hard { term, voted, mute }));
    }

    /// Says who leads, when that has changed.
    pub(crate) fn tell_leader(&mut self, cx: &mut Cx<'_>) {
        let now = (self.term, self.leader);
        if self.told != Some(now) {
            self.told = Some(now);
            cx.leader(now.0, now.1);
        }
    }

    /// The disk has everything up to this record.
    fn on_durable(&mut self, lsn: Lsn, cx: &mut Cx<'_>) {
        self.durable_lsn = self.durable_lsn.max(lsn);
        // Whether an entry is durable is asked of the record that holds it now: an earlier one in
        // its place, cut off since, counts for nothing (the ABA of asynchronous appends).
        let next = |raft: &Self| raft.log.lsn_of(raft.durable.next());
        while next(self).is_some_and(|held_by| held_by <= self.durable_lsn) {
            self.durable = self.durable.next();
        }
        match self.role {
            Role::Candidate => self.count_votes(cx),
            Role::Leader => self.advance_commit(cx),
            Role::Follower | Role::PreCandidate => {}
        }
    }

    /// Decides everything up to `seq`, which the log holds.
    pub(crate) fn commit_to(&mut self, seq: SeqNo, cx: &mut Cx<'_>) {
        if seq <= self.commit {
            return;
        }
        while self.commit < seq {
            let next = self.commit.next();
            let (Some(batch), Some(term)) = (self.log.batch(next), self.log.term_at(next)) else {
                debug_assert!(false, "{next} is committed and not in the log");
                break;
            };
            // A majority of disks holds the entry, or it would not be committed: whatever becomes
            // of this replica's, the decision stands.
            cx.decide_unguarded(next, batch.clone(), Proof { term });
            self.commit = next;
        }
        self.decided_at = cx.now();
        self.try_to_vote_again(cx);
    }
}
