//! What a protocol has at hand during a step, and how it says what it wants.

use crate::batch::Batch;
use crate::effect::{Effect, Recipients};
use crate::input::ReadId;
use crate::protocol::OrderingProtocol;
use crate::verified::Reject;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Lsn, NodeId, SeqNo, Time, View};
use std::time::Duration;

/// The surroundings of one step.
///
/// **Persist before send is the default**: what is sent or decided through this context waits until
/// everything persisted before it is durable.
#[derive(Debug)]
pub struct Context<'a, P: OrderingProtocol> {
    now: Time,
    wall: AgreedTime,
    rng: &'a mut SeededRng,
    last_lsn: &'a mut Lsn,
    effects: &'a mut Vec<Effect<P>>,
}

impl<'a, P: OrderingProtocol> Context<'a, P> {
    /// A context at `now` (and `wall` by the wall clock), numbering records after `last_lsn` and
    /// appending effects to `effects`.
    pub fn new(
        now: Time,
        wall: AgreedTime,
        rng: &'a mut SeededRng,
        last_lsn: &'a mut Lsn,
        effects: &'a mut Vec<Effect<P>>,
    ) -> Self {
        Self {
            now,
            wall,
            rng,
            last_lsn,
            effects,
        }
    }

    /// The present moment.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The present by the wall clock. Only to judge the time in proposals, never for time-outs.
    #[must_use]
    pub const fn wall(&self) -> AgreedTime {
        self.wall
    }

    /// Random numbers.
    pub fn rng(&mut self) -> &mut SeededRng {
        self.rng
    }

    /// The number of the last record persisted.
    #[must_use]
    pub const fn last_lsn(&self) -> Lsn {
        *self.last_lsn
    }

    /// Appends a record to the log. Returns its number.
    pub fn persist(&mut self, record: P::Record) -> Lsn {
        let lsn = self.last_lsn.next();
        *self.last_lsn = lsn;
        self.effects.push(Effect::Persist { lsn, record });
        lsn
    }

    /// Sends a message once everything persisted so far is durable.
    pub fn send(&mut self, to: Recipients, message: P::Message) {
        let after = *self.last_lsn;
        self.effects.push(Effect::Send { to, message, after });
    }

    /// Sends a message to one replica once everything persisted so far is durable.
    pub fn send_to(&mut self, to: NodeId, message: P::Message) {
        self.send(Recipients::One(to), message);
    }

    /// Sends a message to all others once everything persisted so far is durable.
    pub fn broadcast(&mut self, message: P::Message) {
        self.send(Recipients::Others, message);
    }

    /// Sends a message that overtakes the log. Every use says in a comment why a crash between the
    /// send and the write does no harm.
    pub fn send_unguarded(&mut self, to: Recipients, message: P::Message) {
        self.effects.push(Effect::Send {
            to,
            message,
            after: Lsn::ZERO,
        });
    }

    /// Sets a timer to run out after `delay`, whatever it was set to before.
    pub fn set_timer(&mut self, timer: P::Timer, delay: Duration) {
        self.set_timer_at(timer, self.now.after(delay));
    }

    /// Sets a timer to run out at this moment, whatever it was set to before.
    pub fn set_timer_at(&mut self, timer: P::Timer, at: Time) {
        self.effects.push(Effect::SetTimer { timer, at });
    }

    /// Forgets a timer.
    pub fn cancel_timer(&mut self, timer: P::Timer) {
        self.effects.push(Effect::CancelTimer(timer));
    }

    /// Asks for a batch to propose.
    pub fn want_batch(&mut self) {
        self.effects.push(Effect::WantBatch);
    }

    /// Asks for the batch with this digest.
    pub fn fetch(&mut self, digest: Digest) {
        self.effects.push(Effect::Fetch(digest));
    }

    /// Ends the search for a batch.
    pub fn release(&mut self, digest: Digest) {
        self.effects.push(Effect::Release(digest));
    }

    /// Decides a slot, to be acted on once everything persisted so far is durable.
    pub fn decide(&mut self, seq: SeqNo, batch: Batch, proof: P::Proof) {
        let after = *self.last_lsn;
        self.effects.push(Effect::Decide {
            seq,
            batch,
            proof,
            after,
        });
    }

    /// Decides a slot that a quorum's durable votes already imply, so that the local disk need not be
    /// waited for. Every use says in a comment why that is so.
    pub fn decide_unguarded(&mut self, seq: SeqNo, batch: Batch, proof: P::Proof) {
        self.effects.push(Effect::Decide {
            seq,
            batch,
            proof,
            after: Lsn::ZERO,
        });
    }

    /// Gives the requests of dropped proposals back.
    pub fn stopped(&mut self, batches: Vec<Batch>) {
        if !batches.is_empty() {
            self.effects.push(Effect::Stopped(batches));
        }
    }

    /// Lets a read go on once decisions up to `seq` are executed.
    pub fn read_at(&mut self, id: ReadId, seq: SeqNo) {
        self.effects.push(Effect::ReadAt { id, seq });
    }

    /// Refuses a read.
    pub fn read_refused(&mut self, id: ReadId) {
        self.effects.push(Effect::ReadRefused(id));
    }

    /// Says who leads.
    pub fn leader(&mut self, view: View, leader: Option<NodeId>) {
        self.effects.push(Effect::Leader { view, leader });
    }

    /// Says that decisions up to `at_least` are to be had elsewhere.
    pub fn fetch_state(&mut self, at_least: SeqNo) {
        self.effects.push(Effect::FetchState { at_least });
    }

    /// Frees the log below a record.
    pub fn compact(&mut self, below: Lsn) {
        self.effects.push(Effect::Compact { below });
    }

    /// Counts a dropped message.
    pub fn reject(&mut self, from: NodeId, reason: Reject) {
        self.effects.push(Effect::Rejected { from, reason });
    }

    /// Keeps proof of a replica's misbehaviour.
    pub fn evidence(&mut self, culprit: NodeId, first: P::Message, second: P::Message) {
        self.effects.push(Effect::Evidence {
            culprit,
            messages: Box::new((first, second)),
        });
    }
}
