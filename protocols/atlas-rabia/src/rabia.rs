//! The state machine: its state, and which handler takes which input.

use crate::config::RabiaConfig;
use crate::message::{Item, Message, Round, Spread};
use crate::questions::{Amnesia, Reads};
use crate::queue::Queue;
use crate::record::Record;
use crate::slot::Slot;
use crate::verify;
use atlas_common::quorum::FaultModel;
use atlas_common::{Digest, Lsn, NodeId, ReplicaSet, SeqNo, Time};
use atlas_core::protocol::Recorded;
use atlas_core::{
    Batch, Context, Input, Membership, OrderingProtocol, ProtocolStatus, Recipients, RecoverError,
    Recovery, Reject,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub(crate) type Cx<'a> = Context<'a, Rabia>;

/// A replica of Rabia.
#[derive(Debug)]
pub struct Rabia {
    pub(crate) me: NodeId,
    pub(crate) config: RabiaConfig,
    pub(crate) membership: Arc<Membership>,
    /// The own durable checkpoint: what lies below is history.
    pub(crate) low: SeqNo,
    /// This replica takes no part up to here.
    pub(crate) floor: SeqNo,
    pub(crate) decided: SeqNo,
    /// The highest slot known to be under way or decided.
    pub(crate) heard: SeqNo,
    /// The highest slot that this replica has taken part in.
    pub(crate) reached: SeqNo,
    pub(crate) slots: BTreeMap<SeqNo, Slot>,
    pub(crate) queue: Queue,
    /// The own proposals of slots in flight.
    pub(crate) proposed: BTreeMap<Digest, SeqNo>,
    /// Batches decided lately, and where.
    pub(crate) done: BTreeMap<Digest, SeqNo>,
    /// Decided batches that are being fetched.
    pub(crate) wanted: BTreeSet<Digest>,
    /// Batches in the log.
    pub(crate) bodies: BTreeMap<Digest, Lsn>,
    /// Decisions that are yet to be written to the log.
    pub(crate) unlogged: Vec<SeqNo>,
    /// The batch that this replica has made and that is not decided.
    pub(crate) own: Option<OwnBatch>,
    pub(crate) asked_for_batch: bool,
    /// The highest stamp seen.
    pub(crate) stamp: u64,
    pub(crate) peers: Vec<Peer>,
    /// Voters whose proposals did not come in time lately.
    pub(crate) absent: ReplicaSet,
    /// Slots in which something is waited for.
    pub(crate) patient: BTreeSet<(Time, SeqNo)>,
    pub(crate) patience_timer: Option<Time>,
    pub(crate) resend_timer: bool,
    /// Resend intervals in a row without a decision.
    pub(crate) fruitless: u32,
    pub(crate) decided_at_resend: SeqNo,
    /// The highest decision that was asked for elsewhere.
    pub(crate) fetch_asked: SeqNo,
    pub(crate) amnesia: Option<Amnesia>,
    pub(crate) reads: Reads,
    pub(crate) hard_state_lsn: Lsn,
    /// What this step says to all.
    pub(crate) items: Vec<Item>,
    pub(crate) batches: Vec<Spread>,
    pub(crate) in_flight: usize,
    pub(crate) null: Batch,
    pub(crate) counters: Counters,
    pub(crate) flips: VecDeque<Flip>,
}

/// The batch that this replica has made last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnBatch {
    pub(crate) digest: Digest,
    /// When it is to be spread again.
    pub(crate) again: Time,
    /// How often it was spread.
    pub(crate) times: u32,
}

/// How much a peer was helped lately.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) answered: Option<Time>,
    /// How many batches it was sent because it asked, and since when they are counted.
    pub(crate) batches: (u64, Time),
}

/// A coin that was flipped: the same for all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// The slot.
    pub seq: SeqNo,
    /// The phase.
    pub phase: u32,
    /// Which side.
    pub one: bool,
}

/// Coins remembered for checkers.
const FLIPS_KEPT: usize = 16;

/// What a replica has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Slots that this replica saw decided empty.
    pub null_slots: u64,
    /// Slots that this replica saw decided in the second phase or later.
    pub second_phases: u64,
    /// Coins flipped.
    pub coins: u64,
    /// Decided batches that had to be fetched.
    pub fetched: u64,
    /// Rounds sent again.
    pub resends: u64,
}

/// The timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// What may spare a null slot should have come by now.
    Patience,
    /// Something should have been decided by now: say again what was said.
    Resend,
    /// Say where this replica stands.
    Status,
}

impl OrderingProtocol for Rabia {
    const NAME: &'static str = "rabia";
    const FAULT_MODEL: FaultModel = FaultModel::Crash;
    type Config = RabiaConfig;
    type Message = Message;
    type Record = Record;
    type Proof = ();
    type Timer = Timer;

    fn recover(
        config: RabiaConfig,
        membership: Arc<Membership>,
        recovery: Recovery<Self>,
    ) -> Result<Self, RecoverError> {
        Self::rebuild(config, membership, recovery)
    }

    fn verify(
        config: &RabiaConfig,
        membership: &Membership,
        from: NodeId,
        message: &Message,
    ) -> Result<(), Reject> {
        verify::message(config, membership, from, message)
    }

    fn batches(message: &Message) -> Vec<&Batch> {
        match message {
            Message::Round(round) => round.batches.iter().map(|spread| &spread.batch).collect(),
            _ => Vec::new(),
        }
    }

    fn verify_decision(
        _config: &RabiaConfig,
        _membership: &Membership,
        _seq: SeqNo,
        _batch: &Digest,
        _proof: &(),
    ) -> Result<(), Reject> {
        Ok(())
    }

    fn recorded(record: &Record) -> Recorded<'_, Self> {
        match record {
            Record::Body(spread) => Recorded::Batch(&spread.batch),
            Record::Decided { seq, digest } => Recorded::Decision {
                seq: *seq,
                batch: digest.unwrap_or_else(|| Batch::null().digest()),
                proof: None,
            },
            _ => Recorded::Other,
        }
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Cx<'_>) {
        match input {
            Input::Start => self.on_start(cx),
            Input::Message { from, message } => self.on_message(from, message.into_inner(), cx),
            Input::Propose(batch) => self.on_propose(batch, cx),
            Input::Body(batch) => self.on_body(batch, cx),
            Input::Timeout(Timer::Patience) => self.on_patience_timer(cx),
            Input::Timeout(Timer::Resend) => self.on_resend_timer(cx),
            Input::Timeout(Timer::Status) => self.on_status_timer(cx),
            Input::Read(id) => self.on_read(id, cx),
            Input::Decided { seq, batch, .. } => self.on_learnt(seq, batch, cx),
            Input::Checkpointed(certificate) => self.on_checkpointed(certificate.id.seq, cx),
            Input::StateInstalled(installed) => self.on_installed(installed.seq(), cx),
            // There is no leader to distrust, to replace or to wait for.
            Input::Waiting(_) | Input::Suspect | Input::Admin(_) | Input::Durable(_) => return,
        }
        self.finish(cx);
    }

    fn body(&self, digest: &Digest) -> Option<Batch> {
        if let Some(spread) = self.queue.get(digest) {
            return Some(spread.batch.clone());
        }
        self.slots.get(self.done.get(digest)?)?.body.clone()
    }

    fn frontier(&self, _seq: SeqNo) -> Bytes {
        Bytes::new()
    }

    fn status(&self) -> ProtocolStatus {
        ProtocolStatus {
            decided: self.decided,
            low: self.low,
            high: self.high(),
            in_flight: self.in_flight,
            // In slots up to the floor it may have taken part before.
            forgot_votes: self.membership.is_voter(self.me)
                && (self.amnesia.is_some() || self.decided < self.floor),
            ..ProtocolStatus::default()
        }
    }
}

impl Rabia {
    fn on_message(&mut self, from: NodeId, message: Message, cx: &mut Cx<'_>) {
        match message {
            Message::Round(round) => self.on_round(from, round, cx),
            Message::Decisions(decisions) => self.on_decisions(&decisions, cx),
            Message::Ask(digest) => self.on_ask(from, &digest, cx),
            Message::Question { nonce } => self.on_question(from, nonce, cx),
            Message::Answer { nonce, reached } => self.on_answer(from, nonce, reached, cx),
        }
    }

    /// What follows from an input: decisions are handed over, slots begun, and everything that is to
    /// be said to all goes out in one message.
    fn finish(&mut self, cx: &mut Cx<'_>) {
        self.deliver(cx);
        self.begin_slots(cx);
        self.deliver(cx);
        if self.own.is_none() && !self.asked_for_batch {
            self.asked_for_batch = true;
            cx.want_batch();
        }
        self.send_round(cx);
        // Behind what was sent: a decision follows from what is durable already, here or elsewhere.
        self.log_decisions(cx);
        self.set_timers(cx);
    }

    fn send_round(&mut self, cx: &mut Cx<'_>) {
        if self.items.is_empty() && self.batches.is_empty() {
            return;
        }
        let round = Round {
            batches: std::mem::take(&mut self.batches),
            items: std::mem::take(&mut self.items),
            ..self.standing()
        };
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::VoteBeforeDurable) {
            // The defect: a crash now forgets what others have heard.
            cx.send_unguarded(Recipients::Others, Message::Round(round));
            return;
        }
        cx.send(Recipients::Others, Message::Round(round));
    }

    /// A round that says nothing but where this replica stands.
    pub(crate) fn standing(&self) -> Round {
        Round {
            decided: self.decided,
            low: self.low,
            heard: self.heard,
            ..Round::default()
        }
    }

    pub(crate) fn high(&self) -> SeqNo {
        self.low.plus(self.config.window)
    }

    /// Whether this replica may take part in a slot.
    pub(crate) fn may_join(&self, seq: SeqNo) -> bool {
        self.membership.is_voter(self.me)
            && self.amnesia.is_none()
            && seq > self.floor
            && seq <= self.high()
    }

    /// Whether this replica may be the first to take part in a slot. That no slot lies further above
    /// the decided ones is what a replica without memory builds on.
    pub(crate) fn may_begin(&self, seq: SeqNo) -> bool {
        self.may_join(seq) && seq <= self.decided.plus(self.config.in_flight_max)
    }

    pub(crate) fn voters(&self) -> usize {
        self.membership.quorums().n()
    }

    /// n − f, which is a majority for every n: how many messages of a kind a replica waits for.
    pub(crate) fn quorum(&self) -> usize {
        let quorum = self.membership.quorums().quorum();
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::QuorumOneShort) {
            return quorum - 1;
        }
        quorum
    }

    /// f + 1: so many equal votes decide, since every quorum meets them.
    pub(crate) fn deciding(&self) -> usize {
        let deciding = self.membership.quorums().faults() + 1;
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::QuorumOneShort) {
            return deciding - 1;
        }
        deciding
    }

    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn has_bug(&self, bug: crate::bugs::SeededBug) -> bool {
        self.config.bug == Some(bug)
    }

    /// What it has counted.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The last coins flipped, for checkers.
    pub fn flips(&self) -> impl Iterator<Item = &Flip> {
        self.flips.iter()
    }

    pub(crate) fn remember_flip(&mut self, flip: Flip) {
        self.counters.coins += 1;
        if self.flips.len() == FLIPS_KEPT {
            self.flips.pop_front();
        }
        self.flips.push_back(flip);
    }
}
