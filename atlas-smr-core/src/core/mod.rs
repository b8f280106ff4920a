//! The replica core: ordering protocol, request pool, outbox, checkpoints and transfers as one state
//! machine without I/O.
//!
//! Production and the simulator run this same code; what differs is who carries out its
//! [`CoreEffect`]s. The core and the [executor](../../atlas_smr_execution/index.html) are two such
//! machines, because execution may run on a thread of its own: the core hands it decisions, and hears
//! from it how far sessions have come.
//!
//! ```text
//!  peers ──▶ MessageChecker ──▶┌──────────────────────────────┐──▶ Append ──▶ log ──▶ Durable ─┐
//!  clients ▶ BundleChecker ───▶│ pool ─▶ protocol ─▶ outbox ──│──▶ Send                         │
//!  timers ────────────────────▶│ checkpoints, log and state   │──▶ Execute ─▶ executor ─▶ Executed
//!                              │ transfer                     │◀───────────────────────────────┘
//!                              └──────────────────────────────┘
//! ```

mod bodies;
mod effects;
mod inputs;
mod transfers;

pub use effects::{CoreEffect, CoreTimer, Decision, HaltReason};
pub use inputs::CoreInput;

use crate::checkpoint::CheckpointKeeper;
use crate::decisions::DecisionStore;
use crate::message::SystemMessage;
use crate::pool::RequestPool;
use crate::transfer::{LogTransfer, StateTransfer, StateTransferCounters, StateTransferProtocol};
use atlas_common::crypto::Signer;
use atlas_common::digest_map::MapKey;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Lsn, NodeId, SeqNo, Time, View};
use atlas_core::{
    CheckpointCertificate, Context, Input, Limits, Membership, OrderingProtocol, Outbox,
    ProtocolStatus, Recipients, RecoverError, Recovery, Reject, Waiting,
};
use bodies::BodyFetcher;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The moment of a step, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic.
    pub now: Time,
    /// By the wall clock: for the time in proposals, never for time-outs.
    pub wall: AgreedTime,
}

/// What a core is made of besides its protocol.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The members of the epoch.
    pub membership: Arc<Membership>,
    /// The cluster's limits.
    pub limits: Limits,
    /// This replica's key, for checkpoint votes.
    pub signer: Arc<dyn Signer>,
    /// Where its random numbers come from. Others should not know it, since they could make it slow.
    pub seed: u64,
    /// The most bytes of decisions kept in memory for replicas that are behind.
    pub decisions_bytes_max: usize,
    /// Bytes of states that are fetched, and that are served, per second at most; 0 is no limit.
    pub transfer_bytes_per_second: u64,
    /// Bytes of stored checkpoints that are read again per second, to find damage; 0 is none.
    pub scrub_bytes_per_second: u64,
    /// The last record that the log has had.
    pub last_lsn: Lsn,
}

/// What has been counted since the core started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CoreCounters {
    /// Dropped messages, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Decisions handed to the executor.
    pub decisions: u64,
    /// Decisions learnt by log transfer.
    pub decisions_transferred: u64,
    /// States installed from peers.
    pub states_installed: u64,
    /// Cases of proven misbehaviour.
    pub evidence: u64,
    /// Requests dropped because the pool was full.
    pub pool_full: u64,
    /// Bodies fetched by digest.
    pub bodies_fetched: u64,
}

/// Where a replica stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoreStatus {
    /// The protocol's view of things.
    pub protocol: ProtocolStatus,
    /// The last decision executed.
    pub executed: SeqNo,
    /// The newest certified checkpoint.
    pub checkpoint: SeqNo,
    /// Bundles waiting in the pool.
    pub pool_bundles: usize,
    /// Bytes waiting in the pool.
    pub pool_bytes: usize,
    /// Messages and decisions that wait for the disk.
    pub outbox: usize,
    /// Whether it is fetching decisions or a state.
    pub catching_up: bool,
    /// Of the state that is being fetched: how many bytes are here, and how many it has.
    pub fetching: Option<(u64, u64)>,
    /// Whether it is fetching parts of its checkpoints that were damaged.
    pub repairing: bool,
}

/// One replica without I/O.
#[derive(Debug)]
pub struct ReplicaCore<P: OrderingProtocol> {
    me: NodeId,
    config: CoreConfig,
    protocol: P,
    rng: SeededRng,
    last_lsn: Lsn,
    /// Inputs that the protocol is still to take in this step.
    inbox: VecDeque<Input<P>>,
    pool: RequestPool,
    wants_batch: bool,
    waiting: Option<Waiting>,
    leader: (View, Option<NodeId>),
    sends: Outbox<(Recipients, SystemMessage<P>)>,
    decides: Outbox<(SeqNo, atlas_core::Batch, P::Proof)>,
    /// The newest record that a held decision waits for: later decisions wait with it.
    decides_after: Lsn,
    ready: Vec<Decision>,
    decisions: DecisionStore<P::Proof>,
    executed: SeqNo,
    checkpoints: CheckpointKeeper,
    bodies: BodyFetcher,
    log_transfer: LogTransfer<P::Proof>,
    state_transfer: StateTransfer,
    /// The highest state that is being fetched or installed.
    installing: Option<SeqNo>,
    timers_set: BTreeMap<CoreTimer<P::Timer>, Time>,
    counters: CoreCounters,
    halted: bool,
    out: Vec<CoreEffect<P>>,
}

impl<P: OrderingProtocol> ReplicaCore<P> {
    /// Rebuilds a core from what survived. The executor must have been brought to the state of
    /// `recovery.installed` (or the initial one) beforehand.
    ///
    /// # Errors
    /// When the protocol cannot make sense of the records.
    pub fn recover(
        config: CoreConfig,
        protocol: P::Config,
        recovery: Recovery<P>,
    ) -> Result<Self, RecoverError> {
        let me = recovery.me;
        let membership = Arc::clone(&config.membership);
        if membership.member(me).is_none() {
            return Err(RecoverError::NotAMember(me));
        }
        let stable = recovery
            .installed
            .as_ref()
            .map(|i| Arc::clone(&i.certificate));
        let executed = stable
            .as_ref()
            .map_or(SeqNo::ZERO, |certificate| certificate.id.seq);
        let last_lsn = config.last_lsn;
        let mut rng = SeededRng::new(config.seed);
        let peers: Vec<NodeId> = membership
            .members()
            .iter()
            .map(|m| m.id)
            .filter(|id| *id != me)
            .collect();
        Ok(Self {
            me,
            protocol: P::recover(protocol, Arc::clone(&membership), recovery)?,
            last_lsn,
            inbox: VecDeque::new(),
            pool: RequestPool::new(&config.limits),
            wants_batch: false,
            waiting: None,
            leader: (View::ZERO, None),
            sends: Outbox::new(last_lsn),
            decides: Outbox::new(last_lsn),
            decides_after: Lsn::ZERO,
            ready: Vec::new(),
            decisions: DecisionStore::new(config.decisions_bytes_max),
            executed,
            checkpoints: CheckpointKeeper::new(Arc::clone(&membership), &config.limits, stable),
            bodies: BodyFetcher::new(peers.clone(), rng.fork()),
            log_transfer: LogTransfer::new(peers.clone(), &config.limits),
            state_transfer: StateTransfer::new(
                membership,
                peers,
                &config.limits,
                config.transfer_bytes_per_second,
                MapKey::new(config.seed),
            ),
            installing: None,
            timers_set: BTreeMap::new(),
            counters: CoreCounters::default(),
            halted: false,
            out: Vec::new(),
            rng,
            config,
        })
    }

    /// Takes one input. Call [`Self::flush`] after the last of a group.
    pub fn step(&mut self, input: CoreInput<P>, at: Moment) {
        if self.halted {
            return;
        }
        self.take(input, at);
        self.run_protocol(at);
    }

    /// Ends a group of steps: proposes what gathered, forwards requests, sets timers. Appends what is
    /// to be done to `out`, in order.
    pub fn flush(&mut self, at: Moment, out: &mut Vec<CoreEffect<P>>) {
        if !self.halted {
            self.propose(at);
            self.watch_oldest(at);
            self.forward_requests();
            self.drive_transfers(at);
            self.run_protocol(at);
            self.hand_over_decisions();
            self.set_timers(at);
        }
        out.append(&mut self.out);
    }

    /// Where the replica stands.
    #[must_use]
    pub fn status(&self) -> CoreStatus {
        CoreStatus {
            protocol: self.protocol.status(),
            executed: self.executed,
            checkpoint: self.checkpoints.stable_seq(),
            pool_bundles: self.pool.len(),
            pool_bytes: self.pool.bytes(),
            outbox: self.sends.len() + self.decides.len(),
            catching_up: self.log_transfer.is_active() || self.state_transfer.is_active(),
            fetching: (self.state_transfer.fetching()).map(|_| self.state_transfer.progress()),
            repairing: self.state_transfer.is_repairing(),
        }
    }

    /// What has been counted.
    #[must_use]
    pub const fn counters(&self) -> &CoreCounters {
        &self.counters
    }

    /// What has been fetched and served of states.
    #[must_use]
    pub const fn state_transfer(&self) -> &StateTransferCounters {
        self.state_transfer.counters()
    }

    /// The ordering protocol, for checkers.
    #[must_use]
    pub const fn protocol(&self) -> &P {
        &self.protocol
    }

    /// Which member this is.
    #[must_use]
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// The view, and who leads it.
    #[must_use]
    pub const fn leader(&self) -> (View, Option<NodeId>) {
        self.leader
    }

    /// The newest certified checkpoint.
    #[must_use]
    pub fn stable_checkpoint(&self) -> Option<&Arc<CheckpointCertificate>> {
        self.checkpoints.stable()
    }

    /// Counts a message that the checker refused.
    pub fn count_rejected(&mut self, reason: Reject) {
        *self.counters.rejected.entry(reason.name()).or_default() += 1;
    }

    fn send(&mut self, to: Recipients, message: SystemMessage<P>) {
        self.out.push(CoreEffect::Send { to, message });
    }

    fn send_to(&mut self, to: NodeId, message: SystemMessage<P>) {
        self.send(Recipients::One(to), message);
    }

    /// Steps the protocol until it has taken every input.
    fn run_protocol(&mut self, at: Moment) {
        let mut effects = Vec::new();
        while let Some(input) = self.inbox.pop_front() {
            let (rng, last_lsn) = (&mut self.rng, &mut self.last_lsn);
            let mut cx = Context::new(at.now, at.wall, rng, last_lsn, &mut effects);
            self.protocol.step(input, &mut cx);
            for effect in effects.drain(..) {
                self.carry_out(effect, at);
            }
        }
    }

    /// Hands the protocol batches as long as it asks and requests wait.
    fn propose(&mut self, at: Moment) {
        while self.wants_batch {
            let Some(batch) = self.pool.next_batch(at.wall) else {
                return;
            };
            self.wants_batch = false;
            self.inbox.push_back(Input::Propose(batch));
            self.run_protocol(at);
        }
    }

    fn watch_oldest(&mut self, at: Moment) {
        let waiting = self.pool.waiting();
        if waiting != self.waiting {
            self.waiting = waiting;
            self.inbox.push_back(Input::Waiting(waiting));
            self.run_protocol(at);
        }
    }

    fn forward_requests(&mut self) {
        let Some(leader) = self.leader.1.filter(|leader| *leader != self.me) else {
            return;
        };
        let mut frame = Vec::new();
        let mut bytes = 0;
        for bundle in self.pool.unforwarded() {
            if bytes + bundle.raw().len() > self.config.limits.batch_bytes_max {
                let full = std::mem::take(&mut frame);
                self.send_to(leader, SystemMessage::ForwardedRequests(full));
                bytes = 0;
            }
            bytes += bundle.raw().len();
            frame.push(bundle.raw().clone());
        }
        if !frame.is_empty() {
            self.send_to(leader, SystemMessage::ForwardedRequests(frame));
        }
    }

    fn hand_over_decisions(&mut self) {
        if !self.ready.is_empty() {
            let decisions = std::mem::take(&mut self.ready);
            self.out.push(CoreEffect::Execute(decisions));
        }
    }
}
