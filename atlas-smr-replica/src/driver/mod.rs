//! The core's task: feeds the replica core with what sockets, disk, executor and clock bring, and
//! carries out what it asks.
//!
//! It runs as one task on the runtime that also holds the replica's sockets, so that at low load a
//! message goes from socket to socket on one thread. Inputs are drained in groups: one flush, one
//! hand-over to the log and one socket write serve many messages.

mod checking;
mod effects;
mod events;
mod inbound;
mod long_frames;
mod reads;

pub(crate) use checking::{Checking, default_workers};
pub(crate) use events::{Command, EventQueue, InstallOutcome};
pub(crate) use long_frames::LONG_FRAMES_BYTES_MAX;
pub(crate) use reads::READS_BYTES_MAX;

use crate::clock::Clock;
use crate::evidence::EvidenceFiles;
use crate::shared::Shared;
use crate::status::ReplicaStatus;
use crate::store::StoreThread;
use atlas_common::{Lsn, NodeId};
use atlas_communication::{ClientInbound, Inbound, ReplicaInbox, ReplicaNetwork};
use atlas_core::{Installed, OrderingProtocol, Timers};
use atlas_persistent_log::LogHandle;
use atlas_smr_core::core::{CoreEffect, CoreInput, CoreTimer, Moment, ReplicaCore};
use atlas_smr_execution::{ExecutorHandle, ExecutorThread};
use bytes::Bytes;
use reads::PendingReads;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Reads of one channel that are taken in one go.
const GROUP: usize = 64;

/// Why a driver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to.
    Asked,
    /// Going on would do harm; the text says why, and what to do.
    Failed(String),
}

/// What the driver is made of.
pub(crate) struct Driver<P: OrderingProtocol> {
    pub(crate) core: ReplicaCore<P>,
    pub(crate) checking: Checking<P>,
    pub(crate) network: Arc<dyn ReplicaNetwork>,
    pub(crate) log: LogHandle,
    pub(crate) executor: ExecutorHandle,
    /// Joined when the driver ends.
    pub(crate) _executor: ExecutorThread,
    pub(crate) store: StoreThread,
    pub(crate) evidence: EvidenceFiles,
    pub(crate) clock: Clock,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: Arc<EventQueue>,
    pub(crate) state: State<P>,
}

/// What the driver keeps between its rounds.
pub(crate) struct State<P: OrderingProtocol> {
    timers: Timers<CoreTimer<P::Timer>>,
    out: Vec<CoreEffect<P>>,
    /// Records on their way to the log, the first of them with this number.
    records: (Lsn, Vec<Bytes>),
    reads: PendingReads,
    /// A state that is stored and on its way into the executor.
    installing: Option<Installed>,
    stopped: Option<Stopped>,
}

impl<P: OrderingProtocol> Default for State<P> {
    fn default() -> Self {
        Self {
            timers: Timers::default(),
            out: Vec::new(),
            records: (Lsn::ZERO, Vec::new()),
            reads: PendingReads::default(),
            installing: None,
            stopped: None,
        }
    }
}

/// Everything that one round takes in.
#[derive(Default)]
struct Round {
    replicas: Vec<Inbound>,
    transfers: Vec<Inbound>,
    clients: Vec<ClientInbound>,
}

impl<P: OrderingProtocol> Driver<P> {
    /// Runs until it is asked to stop, or must.
    pub(crate) async fn run(
        mut self,
        mut inbox: ReplicaInbox,
        mut local: mpsc::Receiver<ClientInbound>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Stopped {
        self.step(CoreInput::Start);
        self.finish_round();
        loop {
            if let Some(stopped) = self.state.stopped.take() {
                return stopped;
            }
            let mut round = Round::default();
            let deadline = self.state.timers.next_deadline();
            let wake = deadline.map(|at| self.clock.instant(at));
            tokio::select! {
                biased;
                () = self.events.ready() => {}
                inbound = inbox.ordering.recv() => match inbound {
                    Some(inbound) => round.replicas.push(inbound),
                    None => return Stopped::Asked,
                },
                Some(inbound) = inbox.transfer.recv() => round.transfers.push(inbound),
                Some(inbound) = inbox.application.recv() => round.replicas.push(inbound),
                Some(inbound) = inbox.clients.recv() => round.clients.push(inbound),
                Some(inbound) = local.recv() => round.clients.push(inbound),
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    // Every handle is gone: nobody could ask it to stop any more.
                    None => return Stopped::Asked,
                },
                () = sleep_until(wake), if wake.is_some() => {}
            }
            drain(&mut inbox.ordering, &mut round.replicas);
            drain(&mut inbox.application, &mut round.replicas);
            drain(&mut inbox.transfer, &mut round.transfers);
            drain(&mut inbox.clients, &mut round.clients);
            drain(&mut local, &mut round.clients);
            self.take_round(round);
            self.finish_round();
        }
    }

    fn take_round(&mut self, round: Round) {
        let events = self.events.take();
        self.take_events(events);
        let checked = self.checking.take();
        self.take_checked(checked);
        self.fire_timers();
        let transfers = self.hand_over_long(round.transfers);
        self.on_frames(round.replicas);
        self.on_frames(transfers);
        self.on_client_frames(round.clients);
    }

    fn finish_round(&mut self) {
        let at = self.clock.moment();
        let mut out = std::mem::take(&mut self.state.out);
        self.core.flush(at, &mut out);
        for effect in out.drain(..) {
            self.carry_out(effect);
        }
        self.state.out = out;
        self.append_records();
    }

    fn step(&mut self, input: CoreInput<P>) {
        let at = self.clock.moment();
        self.core.step(input, at);
    }

    fn moment(&self) -> Moment {
        self.clock.moment()
    }

    fn me(&self) -> NodeId {
        self.core.me()
    }

    fn fire_timers(&mut self) {
        let now = self.moment().now;
        while let Some(timer) = self.state.timers.pop_due(now) {
            self.step(CoreInput::Timeout(timer));
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            // Whoever asked may have lost patience; then nobody needs the answer.
            Command::Status(answer) => drop(answer.send(self.status())),
            Command::Suspect => self.step(CoreInput::Suspect),
            Command::Admin(wish) => self.step(CoreInput::Admin(wish)),
            Command::Stop => self.state.stopped = Some(Stopped::Asked),
        }
    }

    fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            id: self.me(),
            core: self.core.status(),
            counters: self.core.counters().clone(),
            transfer: *self.core.state_transfer(),
            network: self.network.counters(),
            connected: self.network.connected(),
            log: self.log.stats(),
            execution: self.executor.stats(),
            checkpoints: self.store.keeper().figures(),
            workers: self.checking.counters(),
        }
    }

    fn stop(&mut self, why: String) {
        if self.state.stopped.is_none() {
            tracing::error!(replica = self.me().0, "stopping: {why}");
            self.state.stopped = Some(Stopped::Failed(why));
        }
    }
}

fn drain<T>(channel: &mut mpsc::Receiver<T>, into: &mut Vec<T>) {
    for _ in 0..GROUP {
        match channel.try_recv() {
            Ok(item) => into.push(item),
            Err(_) => return,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
