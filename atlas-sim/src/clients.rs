//! The clients of a run: correct ones, which run the real client core, and Byzantine ones.

mod bad;

pub use bad::{BadActor, PAUSE as BAD_PAUSE};

use crate::app;
use crate::checkers::Violation;
use crate::checkers::execution::Label;
use crate::checkers::history::{ACCOUNTS, Answer, BANK, Call, History, INITIAL_BALANCE};
use crate::network::exponential;
use crate::plan::ClientPlan;
use atlas_client::{
    ApplicationError, CallError, CallId, ClientCore, ConfigError, CoreConfig, Output,
};
use atlas_common::crypto::Signer;
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::rng::SeededRng;
use atlas_common::{ClientId, Digest, NodeId, OpNumber, Time};
use atlas_core::Limits;
use atlas_smr_core::client_message::{ClientMessage, Consistency, ReplyMessage};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A correct client: the real client core, and somebody who makes calls.
#[derive(Debug)]
pub struct Client {
    number: usize,
    core: ClientCore,
    plan: ClientPlan,
    keys: u64,
    /// How many of its calls are about accounts, and of those, how many fail.
    banking: (f64, f64),
    /// Some of its reads are not ordered.
    reads: bool,
    rng: SeededRng,
    called: u64,
    answered: u64,
    unknown: u64,
    /// Calls on which the application failed, as it was to.
    failed: u64,
    calls: BTreeMap<CallId, (Label, Call)>,
    /// What this client last saw under a key, to guess with.
    seen: BTreeMap<u64, Option<u64>>,
    next_call: Time,
}

/// What a client wants sent.
#[derive(Debug)]
pub enum Sending {
    /// To one replica.
    One(NodeId, ClientMessage),
    /// To all.
    All(ClientMessage),
}

/// A cluster as its clients know it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name.
    pub genesis: Digest,
    /// Its size.
    pub quorums: Quorums,
    /// Its limits.
    pub limits: Limits,
    /// Whether reads are not ordered although replicas may lie.
    pub quorum_reads: bool,
    /// How many calls are about accounts, and of those, how many fail.
    pub banking: (f64, f64),
    /// A deliberate defect, by name.
    pub bug: Option<&'static str>,
}

/// The defect of a client that takes f + 1 replies for enough although reads are not ordered.
#[cfg(feature = "seeded-bugs")]
pub(crate) const FEW_REPLIES: &str = "few-replies";

impl Known {
    /// Whether replicas answer linearizable reads without ordering them.
    #[must_use]
    pub fn unordered_reads(&self) -> bool {
        self.quorums.model() == FaultModel::Crash || self.quorum_reads
    }
}

/// How many reads are not ordered, where that can be had.
const UNORDERED: f64 = 0.6;

impl Client {
    /// Client number `number`, which is also its instance.
    ///
    /// # Errors
    /// When the client core refuses the cluster's limits.
    pub fn new(
        number: usize,
        plan: ClientPlan,
        keys: u64,
        known: &Known,
        signer: Arc<dyn Signer>,
        mut rng: SeededRng,
    ) -> Result<Self, ConfigError> {
        let config = CoreConfig {
            limits: known.limits.clone(),
            call_timeout: plan.timeout.unwrap_or(Duration::from_secs(1 << 20)),
            retransmit_initial: Duration::from_millis(200),
            retransmit_min: Duration::from_millis(100),
            retransmit_max: Duration::from_millis(1000),
            unordered_reads: known.unordered_reads(),
            #[cfg(feature = "seeded-bugs")]
            few_replies: known.bug == Some(FEW_REPLIES),
            ..CoreConfig::new(known.genesis, known.quorums, number as u64)
        };
        let first = exponential(Duration::from_millis(30), &mut rng);
        Ok(Self {
            number,
            core: ClientCore::new(config, signer)?,
            plan,
            keys: keys.max(1),
            banking: known.banking,
            reads: known.unordered_reads(),
            rng,
            called: 0,
            answered: 0,
            unknown: 0,
            failed: 0,
            calls: BTreeMap::new(),
            seen: BTreeMap::new(),
            next_call: Time::ZERO.after(first),
        })
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.core.id()
    }

    /// Whether it has all the answers it wanted.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.answered >= self.plan.operations
    }

    /// How many of its calls have come to an end.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.answered + self.unknown
    }

    /// How many answers it has.
    #[must_use]
    pub const fn answered(&self) -> u64 {
        self.answered
    }

    /// How many of its calls ended without an answer.
    #[must_use]
    pub const fn unknown(&self) -> u64 {
        self.unknown
    }

    /// How many of its calls were answered with the application's failure.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.failed
    }

    /// When it wants to be woken; [`Time::NEVER`]: only by a message.
    #[must_use]
    pub fn wake_at(&self) -> Time {
        let call = if self.wants_to_call() {
            self.next_call
        } else {
            Time::NEVER
        };
        call.min(self.core.next_deadline())
    }

    fn wants_to_call(&self) -> bool {
        let hoped_for = self.answered + self.calls.len() as u64;
        hoped_for < self.plan.operations && self.calls.len() < self.plan.outstanding
    }

    /// Time has passed.
    ///
    /// # Errors
    /// As [`Self::on_reply`].
    pub fn on_wake(
        &mut self,
        now: Time,
        history: &mut History,
        out: &mut Vec<Sending>,
    ) -> Result<(), Violation> {
        if self.core.next_deadline() <= now {
            self.core.on_timeout(now);
        }
        if self.next_call <= now {
            for _ in 0..self.plan.burst {
                if self.wants_to_call() {
                    self.call(now, history);
                }
            }
            self.next_call = now.after(exponential(self.plan.pause, &mut self.rng));
        }
        self.drain(now, history, out)
    }

    /// A replica answers.
    ///
    /// # Errors
    /// When the answer, confirmed by enough replicas, is no answer to the call.
    pub fn on_reply(
        &mut self,
        now: Time,
        from: NodeId,
        reply: ReplyMessage,
        history: &mut History,
        out: &mut Vec<Sending>,
    ) -> Result<(), Violation> {
        self.core.on_message(now, from, reply);
        self.drain(now, history, out)
    }

    fn call(&mut self, now: Time, history: &mut History) {
        self.called += 1;
        let mut label = Label {
            client: self.number as u64,
            operation: self.called,
        };
        let (key, call) = self.choose(label);
        let reads = matches!(call, Call::Get | Call::Audit);
        let unordered = reads && self.reads && self.rng.chance(UNORDERED);
        if unordered {
            label.client += Label::READS;
        }
        history.called(label, key, call, now);
        let operation = app::encode(label, key, call);
        let id = if unordered {
            self.core.read(now, operation, Consistency::Linearizable)
        } else {
            self.core.call(now, operation)
        };
        self.calls.insert(id, (label, call));
    }

    fn choose_banking(&mut self) -> Call {
        let from = self.rng.below(ACCOUNTS as u64);
        let amount = self.rng.between(1, INITIAL_BALANCE / 2);
        if self.rng.chance(self.banking.1) {
            return Call::Fail { from, amount };
        }
        let to = (from + self.rng.between(1, ACCOUNTS as u64 - 1)) % ACCOUNTS as u64;
        match self.rng.below(4) {
            0 => Call::Audit,
            _ => Call::Transfer { from, to, amount },
        }
    }

    fn choose(&mut self, label: Label) -> (u64, Call) {
        // Runs without accounts draw as if there were none.
        if self.banking.0 > 0.0 && self.rng.chance(self.banking.0) {
            return (BANK, self.choose_banking());
        }
        let key = self.rng.below(self.keys);
        // No two writes of a run write the same value.
        let value = label.client << 32 | label.operation;
        let call = match self.rng.below(10) {
            0..4 => Call::Get,
            4..7 => Call::Put(value),
            7..9 => Call::Cas {
                expected: self.seen.get(&key).copied().flatten(),
                new: value,
            },
            _ => Call::Delete,
        };
        if let Call::Put(value) = call {
            self.seen.insert(key, Some(value));
        }
        (key, call)
    }

    fn drain(
        &mut self,
        now: Time,
        history: &mut History,
        out: &mut Vec<Sending>,
    ) -> Result<(), Violation> {
        while let Some(output) = self.core.poll(now) {
            match output {
                Output::Send { to, message } => out.push(Sending::One(to, message)),
                Output::SendAll { message } => out.push(Sending::All(message)),
                Output::Completed { call, result } => self.completed(now, call, result, history)?,
            }
        }
        Ok(())
    }

    fn completed(
        &mut self,
        now: Time,
        id: CallId,
        result: Result<Bytes, CallError>,
        history: &mut History,
    ) -> Result<(), Violation> {
        let Some((label, call)) = self.calls.remove(&id) else {
            return Ok(());
        };
        match result {
            Ok(bytes) => {
                let answer = app::decode_answer(call, &bytes).ok_or(Violation::WrongReply {
                    client: label.client,
                    operation: OpNumber(label.operation),
                })?;
                history.returned(label, answer, now);
                self.answered += 1;
            }
            Err(CallError::Application(ApplicationError::Failed))
                if matches!(call, Call::Fail { .. }) =>
            {
                history.returned(label, Answer::Failed, now);
                self.answered += 1;
                self.failed += 1;
            }
            Err(_gave_up) => {
                history.gave_up();
                self.unknown += 1;
            }
        }
        Ok(())
    }
}
