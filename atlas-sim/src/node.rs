//! A replica in the simulator: the real core and executor over a simulated disk.
//!
//! Inputs take the way they take in production: a message is checked, stepped, and what the core
//! wants is carried out: records go to the log, and are reported durable when the disk has synced;
//! decisions go to the executor, and replies to the clients when they have been executed.

mod damage;
mod disk;
mod execution;
mod reads;
mod traffic;

use crate::adversary::{self, Adversary};
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::machine::Machine;
use crate::network::exponential;
use crate::plan::{Clock, DiskFault};
use crate::protocol::SimProtocol;
use crate::shared::{Event, Shared};
use atlas_common::crypto::Signer;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, NodeId, SeqNo, Time, View};
use atlas_core::{Recipients, Timers};
use atlas_persistent_log::SimStorage;
use atlas_smr_core::core::{CoreEffect, CoreInput, CoreStatus, CoreTimer, Moment, ReplicaCore};
use atlas_smr_core::message::MessageChecker;
use atlas_smr_replica::store::StoreJob;
use disk::Disk;
use execution::Job;
use reads::Reads;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// A replica, up or down.
#[derive(Debug)]
pub(crate) struct Node<P: SimProtocol> {
    pub(crate) id: NodeId,
    pub(crate) adversary: Option<Box<dyn Adversary<P>>>,
    signer: Arc<dyn Signer>,
    clock: Clock,
    rng: SeededRng,
    /// Counts lives: what was meant for an earlier one happens no more.
    life: u64,
    storage: SimStorage,
    /// How many times slower than planned its disk is.
    pub(crate) slowness: u32,
    running: Option<Running<P>>,
    /// While it stands still: what has arrived meanwhile.
    paused: Option<Vec<Event<P>>>,
    /// Its disk is about to fail it.
    broken: Option<DiskFault>,
    /// A bit has flipped in what it stored, and it has not started since.
    damaged: bool,
    /// Its state has been changed behind its back, and it has not started since.
    corrupted: bool,
    /// The last view it entered, over all lives.
    view: View,
}

/// What a crash ends.
#[derive(Debug)]
struct Running<P: SimProtocol> {
    started: Time,
    core: ReplicaCore<P>,
    checker: MessageChecker<P>,
    machine: Machine,
    disk: Disk,
    timers: Timers<CoreTimer<P::Timer>>,
    /// The earliest moment for which an [`Event::Timer`] is scheduled.
    wake: Time,
    jobs: VecDeque<Job>,
    reads: Reads,
    /// Whether an [`Event::Flush`] is on its way.
    flush_scheduled: bool,
    /// Slots in flight when the last view was left, if it was left with any.
    left_with: usize,
    in_flight: usize,
    /// Whether calls were outstanding when it last found itself without a leader.
    left_busy: bool,
}

/// A node's name in the transcript.
struct Name(NodeId);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("n{}", self.0))
    }
}

impl<P: SimProtocol> Node<P> {
    pub(crate) fn new(
        id: NodeId,
        clock: Clock,
        adversary: Option<&str>,
        signer: Arc<dyn Signer>,
        rng: SeededRng,
    ) -> Self {
        Self {
            id,
            adversary: adversary.and_then(adversary::by_name),
            signer,
            clock,
            rng,
            life: 0,
            storage: SimStorage::new(),
            slowness: 1,
            running: None,
            paused: None,
            broken: None,
            damaged: false,
            corrupted: false,
            view: View::ZERO,
        }
    }

    /// Whether it keeps to the rules.
    pub(crate) fn is_correct(&self) -> bool {
        self.adversary.is_none() && !self.corrupted
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Where it stands, while it is up.
    pub(crate) fn status(&self) -> Option<CoreStatus> {
        self.running.as_ref().map(|running| running.core.status())
    }

    /// Whom it takes for the leader.
    pub(crate) fn leader(&self) -> Option<(View, NodeId)> {
        let (view, leader) = self.running.as_ref()?.core.leader();
        leader.map(|leader| (view, leader))
    }

    /// The last decision whose effects its application holds.
    pub(crate) fn executed(&self) -> SeqNo {
        self.running
            .as_ref()
            .map_or(SeqNo::ZERO, |running| running.machine.executed())
    }

    /// Its application's state, by digest.
    pub(crate) fn state_digest(&self) -> Option<atlas_common::Digest> {
        self.running.as_ref()?.machine.state_digest()
    }

    /// Takes an event of its own.
    pub(crate) fn take(&mut self, event: Event<P>, shared: &mut Shared<P>) {
        if let Some(backlog) = &mut self.paused {
            backlog.push(event);
            return;
        }
        match event {
            Event::Packet { from, packet, .. } => self.on_packet(from, *packet, shared),
            Event::Request {
                client,
                id,
                message,
                ..
            } => self.on_request(client, id, message, shared),
            Event::Flush { life, .. } if life == self.life => self.flush(shared),
            Event::Timer { life, .. } if life == self.life => self.on_timer(shared),
            Event::Synced { life, .. } if life == self.life => self.on_synced(shared),
            Event::Stored { life, .. } if life == self.life => self.on_stored(shared),
            Event::Executed { life, .. } if life == self.life => self.on_executed(shared),
            Event::Answer { life, number, .. } if life == self.life => {
                self.answer_read(number, shared);
            }
            Event::Tick { .. } => self.on_tick(shared),
            _of_an_earlier_life => {}
        }
    }

    pub(crate) fn pause(&mut self) -> bool {
        let pauses = self.is_up() && self.paused.is_none();
        if pauses {
            self.paused = Some(Vec::new());
        }
        pauses
    }

    pub(crate) fn resume(&mut self, shared: &mut Shared<P>) {
        for event in self.paused.take().unwrap_or_default() {
            self.take(event, shared);
        }
    }

    /// Its monitor distrusts the leader.
    pub(crate) fn suspect(&mut self, shared: &mut Shared<P>) {
        if self.paused.is_none() {
            self.input(CoreInput::Suspect, shared);
        }
    }

    /// Its wall clock jumps.
    pub(crate) fn set_wall(&mut self, ahead_ms: u64) {
        self.clock.wall_ahead_ms = ahead_ms;
    }

    fn moment(&self, started: Time, now: Time) -> Moment {
        Moment {
            now: self.clock.local(now.since(started)),
            wall: self.wall(now),
        }
    }

    fn wall(&self, now: Time) -> AgreedTime {
        let millis = now.as_nanos() / 1_000_000;
        AgreedTime::from_unix_millis(millis + self.clock.wall_ahead_ms)
    }

    /// Steps the core with an input. What it wants is carried out at once, or, where the plan groups
    /// inputs as a busy node does, together with what follows from the next few.
    fn input(&mut self, input: CoreInput<P>, shared: &mut Shared<P>) {
        let now = shared.now();
        let wall = self.wall(now);
        let Some(running) = &mut self.running else {
            return;
        };
        let now = self.clock.local(now.since(running.started));
        running.core.step(input, Moment { now, wall });
        if shared.plan.grouping.is_zero() {
            return self.flush(shared);
        }
        if !running.flush_scheduled {
            running.flush_scheduled = true;
            let delay = exponential(shared.plan.grouping, &mut self.rng);
            let (node, life) = (self.id, self.life);
            shared.queue.after(delay, Event::Flush { node, life });
        }
    }

    /// Ends a group of steps: carries out what the core wants.
    fn flush(&mut self, shared: &mut Shared<P>) {
        let now = shared.now();
        let wall = self.wall(now);
        let Some(running) = &mut self.running else {
            return;
        };
        running.flush_scheduled = false;
        let now = self.clock.local(now.since(running.started));
        let mut effects = Vec::new();
        running.core.flush(Moment { now, wall }, &mut effects);
        for effect in effects {
            self.carry_out(effect, shared);
        }
        self.watch_slots();
        self.check_facts(shared);
        self.start_sync(shared);
        self.schedule_timer(shared);
    }

    fn check_facts(&self, shared: &mut Shared<P>) {
        let Some(running) = self.running.as_ref().filter(|_| self.is_correct()) else {
            return;
        };
        for fact in running.core.protocol().facts() {
            let same = shared.oracles.facts.held(self.id, fact);
            shared.note(same);
        }
    }

    /// Remembers how many slots were in flight when a view was left.
    fn watch_slots(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let status = running.core.protocol().status();
        if status.changing_view {
            running.left_with = running.left_with.max(running.in_flight);
        } else {
            running.in_flight = status.in_flight;
        }
    }

    fn carry_out(&mut self, effect: CoreEffect<P>, shared: &mut Shared<P>) {
        match effect {
            CoreEffect::Append { lsn, record } => self.append(lsn, &record, shared),
            CoreEffect::CompactLog { below } => self.compact(below, shared),
            CoreEffect::Send { to, message } => match to {
                Recipients::One(to) => self.send(to, message, shared),
                Recipients::Others => self.broadcast(message, shared),
            },
            CoreEffect::Execute(decisions) => self.execute(decisions, shared),
            CoreEffect::Retransmit {
                client,
                session,
                first,
                last,
            } => self.enqueue(
                Job::Retransmit {
                    client,
                    session,
                    first,
                    last,
                },
                shared,
            ),
            CoreEffect::Expired { client, session } => {
                self.enqueue(Job::Expired { client, session }, shared);
            }
            CoreEffect::Leader { view, leader } => self.on_leader(view, leader, shared),
            CoreEffect::SetTimer { timer, at } => {
                if let Some(running) = &mut self.running {
                    running.timers.set(timer, at);
                }
            }
            CoreEffect::CancelTimer(timer) => {
                if let Some(running) = &mut self.running {
                    running.timers.cancel(timer);
                }
            }
            CoreEffect::SaveCertificate {
                certificate,
                frontier,
            } => self.save_certificate(certificate, frontier, shared),
            CoreEffect::ServeOffer { to, above } => {
                self.store_later(StoreJob::Offer { to, above }, shared);
            }
            CoreEffect::ServeParts { to, digests } => {
                self.store_later(StoreJob::Parts { to, digests }, shared);
            }
            CoreEffect::TransferTarget(target) => {
                self.store_later(StoreJob::Target(target), shared);
            }
            CoreEffect::LookUpParts(question) => {
                self.store_later(StoreJob::LookUp(question), shared);
            }
            CoreEffect::KeepParts(blobs) => self.store_later(StoreJob::Keep(blobs), shared),
            CoreEffect::RepairParts(blobs) => self.store_later(StoreJob::Repair(blobs), shared),
            CoreEffect::Scrub { bytes } => self.store_later(StoreJob::Scrub(bytes), shared),
            CoreEffect::Unrepairable(digests) => {
                let count = digests.len();
                let line = format_args!("finds {count} damaged parts nowhere");
                shared.line(Name(self.id), line);
            }
            CoreEffect::InstallState(state) => self.enqueue(Job::Install(state), shared),
            CoreEffect::ReadAt { id, seq } => self.allow_read(id, seq, shared),
            CoreEffect::ReadRefused(id) => self.refuse_read(id, shared),
            CoreEffect::Evidence { culprit, .. } => {
                if self.is_correct() {
                    shared.count("evidence", 1);
                }
                shared.line(
                    Name(self.id),
                    format_args!("has evidence against n{culprit}"),
                );
            }
            CoreEffect::Halt(reason) => self.halt(&reason.to_string(), shared),
        }
    }

    fn on_leader(&mut self, view: View, leader: Option<NodeId>, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(leader) = leader else {
            running.left_busy |= shared.oracles.history.outstanding() > 0;
            shared.line(Name(self.id), format_args!("leaves for view {view}"));
            return;
        };
        shared.line(
            Name(self.id),
            format_args!("is in view {view}, led by n{leader}"),
        );
        shared.trace.mix(view.0);
        let in_flight = std::mem::take(&mut running.left_with);
        let busy = std::mem::take(&mut running.left_busy);
        if self.adversary.is_none() && view > self.view {
            self.view = view;
            let change = shared.oracles.views.entry(view).or_default();
            change.in_flight |= in_flight > 0;
            change.under_load |= busy;
        }
    }

    /// Going on would do harm; a correct replica never comes to that.
    fn halt(&mut self, reason: &str, shared: &mut Shared<P>) {
        shared.line(Name(self.id), format_args!("stops: {reason}"));
        if let Some(running) = self.running.take() {
            self.gather_counters(&running, shared);
        }
        self.life += 1;
        if self.stopped_by_disk(shared) || self.stopped_by_corruption(shared) {
            return; // as it should
        }
        if self.is_correct() {
            let (replica, reason) = (self.id, reason.to_owned());
            shared.note::<()>(Err(Violation::Halted { replica, reason }));
        }
    }

    /// The state is changed behind the replica's back.
    pub(crate) fn corrupt(&mut self, shared: &mut Shared<P>) {
        if let Some(running) = self.running.as_ref().filter(|_| self.adversary.is_none()) {
            running.machine.corrupt();
            self.corrupted = true;
            shared.counts.count(FaultKind::Corruption);
        }
    }

    /// Whether the replica has stopped because it found its state to be wrong.
    fn stopped_by_corruption(&mut self, shared: &mut Shared<P>) -> bool {
        if self.corrupted {
            shared.counts.count(FaultKind::Diverged);
            self.paused = None;
            self.storage = self.storage.kill();
        }
        self.corrupted
    }

    /// Makes sure that an event comes when the next timer runs out.
    fn schedule_timer(&mut self, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(deadline) = running.timers.next_deadline() else {
            return;
        };
        let at = running.started.after(self.clock.global(deadline));
        if at < running.wake {
            running.wake = at;
            let (node, life) = (self.id, self.life);
            shared.queue.at(at, Event::Timer { node, life });
        }
    }

    fn on_timer(&mut self, shared: &mut Shared<P>) {
        let now = shared.now();
        let Some(running) = &mut self.running else {
            return;
        };
        if running.wake > now {
            // A later deadline replaced the one that this event was for, and has its own event.
            return;
        }
        running.wake = Time::NEVER;
        let local = self.moment_of(now);
        while let Some(timer) = self.running.as_mut().and_then(|r| r.timers.pop_due(local)) {
            if shared.trace.is_readable() && matches!(timer, CoreTimer::Protocol(_)) {
                shared.line(Name(self.id), format_args!("timer {timer:?}"));
            }
            self.input(CoreInput::Timeout(timer), shared);
        }
        self.schedule_timer(shared);
    }

    fn moment_of(&self, now: Time) -> Time {
        let started = self
            .running
            .as_ref()
            .map_or(Time::ZERO, |running| running.started);
        self.moment(started, now).now
    }
}
