//! Asking the others how far they have come: for linearizable reads, and for a replica that lost its
//! disk.
//!
//! # Reads
//!
//! A write is acknowledged by a replica that saw its slot decided, and so after n − f replicas had
//! taken part in that slot. Whoever asks n − f replicas afterwards (itself included) for the highest
//! slot that each has taken part in asks one of those. So a read that waits for the maximum of the
//! answers sees every write acknowledged before it began. One question serves all reads that came
//! before it was asked.
//!
//! # A lost disk
//!
//! A replica W that lost its disk may have said things that it does not remember; saying otherwise
//! now could split a decision. It asks the others, and takes part again only in slots *above the
//! highest answer of f + 1 others plus `in_flight_max`*. Why nothing forgotten lies up there:
//!
//! 1. A slot s that W took part in was begun by somebody, and a replica begins a slot only within
//!    `in_flight_max` of its last decided slot d. So s ≤ d + `in_flight_max`.
//! 2. Slot d was decided, so n − f replicas had taken part in it, with that on their disks; at least
//!    n − f − 1 of these are not W. Any f + 1 of the n − 1 others include one of them, which answers
//!    at least d: what a replica answers never shrinks, its disk remembers it.
//! 3. All this was before W lost its disk, and the question was asked after.
//!
//! Those who answer must not have lost their own disks (or be done with this rule): a replica without
//! memory does not answer. Up to the bound W follows, without a word. It tells the others the bound as
//! a slot that it has heard of, so they run empty slots up to there even if no client wants anything,
//! and W counts again a moment later.
//!
//! The rule needs f + 1 others. A cluster of one cannot help itself: its history is gone.

use crate::message::Message;
use crate::rabia::{Cx, Rabia};
use crate::record::Record;
use atlas_common::{NodeId, ReplicaSet, SeqNo};
use atlas_core::{ReadId, Recipients};

/// Reads that wait for an answer at most; more are refused.
const READS_MAX: usize = 4096;

/// What a replica without memory has learnt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amnesia {
    /// Drawn at each start, so that answers from before it are told apart.
    nonce: u64,
    answered: ReplicaSet,
    highest: SeqNo,
}

/// Reads on their way.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    nonce: u64,
    answered: ReplicaSet,
    highest: SeqNo,
    /// Those that the open question is asked for; empty: none is open.
    asked: Vec<ReadId>,
    /// Those that came after it was asked.
    waiting: Vec<ReadId>,
}

impl Rabia {
    pub(crate) fn on_read(&mut self, id: ReadId, cx: &mut Cx<'_>) {
        if self.amnesia.is_some() || self.reads.waiting.len() >= READS_MAX {
            return cx.read_refused(id);
        }
        self.reads.waiting.push(id);
        self.ask_for_reads(cx);
    }

    fn ask_for_reads(&mut self, cx: &mut Cx<'_>) {
        if !self.reads.asked.is_empty() || self.reads.waiting.is_empty() {
            return;
        }
        self.reads = Reads {
            nonce: cx.rng().next_u64(),
            answered: ReplicaSet::default(),
            highest: self.reached.max(self.decided),
            asked: std::mem::take(&mut self.reads.waiting),
            waiting: Vec::new(),
        };
        if self.membership.is_voter(self.me) {
            self.reads.answered.insert(self.me);
        }
        self.ask(self.reads.nonce, cx);
        self.try_to_answer_reads(cx);
    }

    fn ask(&self, nonce: u64, cx: &mut Cx<'_>) {
        // A question commits to nothing, so it need not wait for the disk.
        cx.send_unguarded(Recipients::Others, Message::Question { nonce });
    }

    /// Asks again whatever is not answered.
    pub(crate) fn ask_again(&self, cx: &mut Cx<'_>) {
        if !self.reads.asked.is_empty() {
            self.ask(self.reads.nonce, cx);
        }
        if let Some(amnesia) = &self.amnesia {
            self.ask(amnesia.nonce, cx);
        }
    }

    pub(crate) fn has_questions(&self) -> bool {
        !self.reads.asked.is_empty() || self.amnesia.is_some()
    }

    pub(crate) fn on_question(&self, from: NodeId, nonce: u64, cx: &mut Cx<'_>) {
        if self.amnesia.is_none() && self.membership.is_voter(self.me) {
            let reached = self.reached.max(self.decided);
            // What is not yet durable has not left either: an answer that names it is merely higher
            // than it need be.
            let answer = Message::Answer { nonce, reached };
            cx.send_unguarded(Recipients::One(from), answer);
        }
    }

    pub(crate) fn on_answer(&mut self, from: NodeId, nonce: u64, reached: SeqNo, cx: &mut Cx<'_>) {
        if let Some(amnesia) = self.amnesia.as_mut().filter(|a| a.nonce == nonce) {
            amnesia.answered.insert(from);
            amnesia.highest = amnesia.highest.max(reached);
            self.try_to_remember(cx);
        } else if nonce == self.reads.nonce && !self.reads.asked.is_empty() {
            self.reads.answered.insert(from);
            self.reads.highest = self.reads.highest.max(reached);
            self.try_to_answer_reads(cx);
        }
    }

    fn try_to_answer_reads(&mut self, cx: &mut Cx<'_>) {
        if self.reads.answered.len() < self.membership.quorums().quorum() {
            return;
        }
        let seq = self.reads.highest;
        // The slot has to be decided, even if nobody else cares for it any more.
        self.heard = self.heard.max(seq.min(self.high()));
        for id in std::mem::take(&mut self.reads.asked) {
            cx.read_at(id, seq);
        }
        self.ask_for_reads(cx);
    }

    /// The loss is on record before anything else is: a crash must not look like a restart.
    pub(crate) fn start_asking(&mut self, cx: &mut Cx<'_>) {
        if let Some(amnesia) = &mut self.amnesia {
            amnesia.nonce = cx.rng().next_u64();
            self.hard_state_lsn = cx.persist(Record::Amnesiac);
            self.ask_again(cx);
        }
    }

    fn try_to_remember(&mut self, cx: &mut Cx<'_>) {
        let needed = self.membership.quorums().faults() + 1;
        let Some(amnesia) = self.amnesia.filter(|a| a.answered.len() >= needed) else {
            return;
        };
        self.amnesia = None;
        self.floor = self
            .floor
            .max(amnesia.highest.plus(self.config.in_flight_max));
        // It may have reached as far as that, and says so when it is asked, by itself too.
        self.reached = self.reached.max(self.floor);
        self.heard = self.heard.max(self.floor.min(self.high()));
        cx.persist(Record::Floor(self.floor));
        cx.persist(Record::Remembers);
    }
}
