//! A replica's disk: the log with its group commits, the checkpoint store, and what a crash leaves
//! of both.

use super::{Name, Node, Running, damage};
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::machine::Machine;
use crate::network::exponential;
use crate::plan::{CrashKind, DiskFault};
use crate::protocol::{Setup, SimProtocol};
use crate::shared::{Event, Shared};
use atlas_common::{Lsn, Time, wire};
use atlas_core::{CheckpointCertificate, Installed, Recovery, Timers};
use atlas_persistent_log::LogOptions;
use atlas_persistent_log::storage::Fault;
use atlas_persistent_log::{LogWriter, Storage, StoreOptions};
use atlas_smr_core::core::{CoreConfig, CoreInput, ReplicaCore};
use atlas_smr_core::message::MessageChecker;
use atlas_smr_core::request_pre_processing::{BundleChecker, ClientAdmission};
use atlas_smr_replica::recovery::{self, OpenOptions};
use atlas_smr_replica::store::{StoreEvent, StoreJob, StoreKeeper};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The log, the checkpoint store, and the work that is on its way to them.
#[derive(Debug)]
pub(super) struct Disk {
    log: LogWriter,
    pub(super) keeper: StoreKeeper,
    /// The last record that was handed to the log, and the last that is durable.
    appended: Lsn,
    durable: Lsn,
    /// Whether a group is being synced.
    syncing: bool,
    /// Whether records were appended since the last sync began.
    dirty: bool,
    /// Work of the checkpoint store; the first is being done.
    work: VecDeque<StoreJob>,
}

impl Disk {
    /// Leaves the log as a replica does that is stopped: nothing of it can be taken for a torn write.
    fn stop(&mut self) {
        let log = &mut self.log;
        let stopped = log.commit().and_then(|_| log.mark_tail());
        // A disk that fails in this moment has been counted as one that fails.
        drop(stopped.and_then(|_| log.sync()));
    }
}

/// Bytes of decisions kept for replicas that are behind.
const DECISIONS_BYTES_MAX: usize = 64 << 10;
/// Enough to go on, and little enough for transfers to wait for it.
const TRANSFER_BYTES_PER_SECOND: u64 = 4 << 20;
/// Some checkpoints' worth.
const SCRUB_BYTES_PER_SECOND: u64 = 64 << 10;

impl<P: SimProtocol> Node<P> {
    pub(super) fn append(&mut self, lsn: Lsn, record: &P::Record, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let result = wire::encode(record)
            .map_err(|error| error.to_string())
            .and_then(|bytes| {
                running
                    .disk
                    .log
                    .append(lsn, &bytes)
                    .map_err(|e| e.to_string())
            });
        running.disk.dirty = true;
        running.disk.appended = lsn;
        if let Err(error) = result {
            self.halt(&format!("the log failed: {error}"), shared);
        }
    }

    pub(super) fn compact(&mut self, below: Lsn, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        if let Err(error) = running.disk.log.truncate_below(below) {
            self.halt(&format!("the log failed: {error}"), shared);
        }
    }

    fn disk_delay(&mut self, shared: &Shared<P>) -> Duration {
        let (least, mean) = shared.plan.sync;
        (least + exponential(mean, &mut self.rng)) * self.slowness
    }

    /// Begins to sync what was appended, unless a sync is under way.
    pub(super) fn start_sync(&mut self, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let disk = &mut running.disk;
        if disk.dirty && !disk.syncing {
            disk.syncing = true;
            disk.dirty = false;
            let delay = self.disk_delay(shared);
            let (node, life) = (self.id, self.life);
            shared.queue.after(delay, Event::Synced { node, life });
        }
    }

    pub(super) fn on_synced(&mut self, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        running.disk.syncing = false;
        // What was appended meanwhile is written with the rest, as a file system would.
        running.disk.dirty = false;
        match running.disk.log.commit() {
            Ok(lsn) => {
                shared.trace.mix(lsn.0);
                running.disk.durable = lsn;
                self.input(CoreInput::Durable(lsn), shared);
            }
            Err(error) => self.halt(&format!("the log failed: {error}"), shared),
        }
    }

    pub(super) fn save_certificate(
        &mut self,
        certificate: Arc<CheckpointCertificate>,
        frontier: Bytes,
        shared: &mut Shared<P>,
    ) {
        let job = StoreJob::Certify {
            certificate,
            frontier,
        };
        self.store_later(job, shared);
    }

    pub(super) fn store_later(&mut self, job: StoreJob, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        running.disk.work.push_back(job);
        if running.disk.work.len() == 1 {
            self.schedule_store(shared);
        }
    }

    fn schedule_store(&mut self, shared: &mut Shared<P>) {
        let delay = self.disk_delay(shared);
        let (node, life) = (self.id, self.life);
        shared.queue.after(delay, Event::Stored { node, life });
    }

    /// The checkpoint store does the first piece of its work.
    pub(super) fn on_stored(&mut self, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(job) = running.disk.work.pop_front() else {
            return;
        };
        match running.disk.keeper.carry_out(job) {
            Ok(event) => {
                event
                    .into_iter()
                    .for_each(|event| self.stored(event, shared));
            }
            Err(error) => self.halt(&format!("the checkpoint store failed: {error}"), shared),
        }
        if self
            .running
            .as_ref()
            .is_some_and(|running| !running.disk.work.is_empty())
        {
            self.schedule_store(shared);
        }
    }

    fn stored(&mut self, event: StoreEvent, shared: &mut Shared<P>) {
        match event {
            StoreEvent::Written(id) => {
                if self.is_correct() {
                    let agreement = &mut shared.oracles.agreement;
                    let same = agreement.state(self.id, id.seq, id.state);
                    shared.note(same);
                }
                self.input(CoreInput::CheckpointTaken(id), shared);
            }
            StoreEvent::Certified(certificate) => {
                self.input(CoreInput::CertificateSaved(certificate), shared);
            }
            StoreEvent::LookedUp(found) => self.input(CoreInput::LookedUp(found), shared),
            StoreEvent::Kept(bytes) => self.input(CoreInput::PartsKept(bytes), shared),
            StoreEvent::Scrubbed => self.input(CoreInput::Scrubbed, shared),
            StoreEvent::Damaged(parts) => {
                let count = parts.len();
                shared.counts.add(FaultKind::DamagedPart, count as u64);
                let line = format_args!("finds {count} damaged parts of its checkpoints");
                shared.line(Name(self.id), line);
                self.input(CoreInput::Damaged(parts), shared);
            }
            StoreEvent::Installed(state) => self.install(state, shared),
            StoreEvent::NotInstalled { seq, why } => self.install_failed(seq, &why, shared),
            StoreEvent::Read { to, messages } => {
                self.input(CoreInput::StoreRead { to, messages }, shared);
            }
            StoreEvent::Failed(error) => {
                self.halt(&format!("the checkpoint store failed: {error}"), shared);
            }
        }
    }

    /// The replica goes down; its disk keeps what the kind of crash leaves. False when it was down.
    pub(crate) fn crash(&mut self, kind: CrashKind, shared: &mut Shared<P>) -> bool {
        let Some(mut running) = self.running.take() else {
            return false;
        };
        self.gather_counters(&running, shared);
        self.life += 1;
        self.paused = None;
        if self.broken.take().is_some() {
            self.storage.free_space();
        }
        let losses = self.storage.counters().losses;
        if kind == CrashKind::DuringWrite {
            self.storage.inject(Fault::PowerCut, self.rng.between(1, 6));
            // Whatever was on its way is cut off somewhere.
            let committed = running.disk.log.commit().is_ok();
            let job = running.disk.work.pop_front();
            let stored = job.is_none_or(|job| running.disk.keeper.carry_out(job).is_ok());
            if !committed || !stored {
                shared.counts.count(FaultKind::TornWrite);
            }
        }
        let appended = running.disk.appended;
        let mut pending = appended.since(running.disk.durable);
        if matches!(kind, CrashKind::Damage(_)) {
            running.disk.stop();
            pending = 0;
        }
        drop(running);
        self.storage = match kind {
            CrashKind::PowerCut | CrashKind::DuringWrite => self.storage.crash(&mut self.rng),
            CrashKind::LosingAll => self.storage.crash_losing_all(),
            CrashKind::Kill => self.storage.kill(),
            CrashKind::Wipe => self.storage.wipe(),
            CrashKind::Damage(_) => self.storage.kill(),
        };
        shared.counts.count(FaultKind::Crash);
        if let CrashKind::Damage(flip) = kind {
            self.damaged = damage::flip(&self.storage, flip, &mut self.rng);
        }
        if kind == CrashKind::Wipe {
            shared.counts.count(FaultKind::Wipe);
        }
        if self.storage.counters().losses > losses {
            shared.counts.count(FaultKind::LostWrites);
        }
        shared.counts.add(FaultKind::LostRecord, pending);
        shared.trace.mix(u64::from(self.id.0));
        shared.line(Name(self.id), format_args!("crashes ({kind:?})"));
        true
    }

    /// Bits flip in the packs of its checkpoints, one in each half kibibyte. Whether that hits something
    /// in use shows when it is read.
    pub(crate) fn damage_parts(&mut self) {
        const EVERY_BYTES: u64 = 512;
        let files = self.storage.list().unwrap_or_default();
        for name in files.iter().filter(|name| name.starts_with("pack-")) {
            let length = self.storage.length(name).unwrap_or_default();
            for start in (0..length).step_by(EVERY_BYTES as usize) {
                let byte = start + self.rng.below(EVERY_BYTES.min(length - start));
                let bit = self.rng.below(8) as u8;
                self.storage.flip_bit(name, byte, bit);
            }
        }
    }

    /// The disk will fail the replica at one of its next operations.
    pub(crate) fn break_disk(&mut self, fault: DiskFault) {
        if self.running.is_some() && self.broken.is_none() {
            self.broken = Some(fault);
            let (kind, nth) = match fault {
                DiskFault::SyncFails => (Fault::SyncFails, self.rng.between(1, 6)),
                DiskFault::Full => (Fault::DiskFull, self.rng.between(1, 6)),
                DiskFault::PowerCut { nth } => (Fault::PowerCut, nth),
            };
            self.storage.inject(kind, nth);
        }
    }

    /// The disk is replaced by one that works, before it has failed.
    pub(crate) fn mend_disk(&mut self) {
        if self.broken.take().is_some() {
            self.storage.inject(Fault::SyncFails, u64::MAX);
            self.storage.free_space();
        }
    }

    /// Whether the replica has stopped because its disk failed it. What the disk holds then is what a
    /// power cut leaves; and there is room again when it restarts.
    pub(super) fn stopped_by_disk(&mut self, shared: &mut Shared<P>) -> bool {
        let Some(fault) = self.broken.take() else {
            return false;
        };
        shared.counts.count(match fault {
            DiskFault::SyncFails => FaultKind::SyncFailed,
            DiskFault::Full => FaultKind::DiskFull,
            DiskFault::PowerCut { .. } => FaultKind::TornWrite,
        });
        self.paused = None;
        self.storage.free_space();
        self.storage = self.storage.crash(&mut self.rng);
        true
    }

    /// The replica starts from what its disk holds. Nothing happens when it is up.
    pub(crate) fn start(&mut self, shared: &mut Shared<P>) {
        if self.running.is_some() {
            return;
        }
        if self.life > 0 {
            shared.counts.count(FaultKind::Restart);
        }
        self.life += 1;
        self.corrupted = false;
        match self.open(shared) {
            Ok((running, sessions)) => {
                let executed = running.machine.executed();
                if self.is_correct() {
                    shared.oracles.agreement.starts_from(self.id, executed);
                }
                let line = format_args!("starts at decision {executed}");
                shared.line(Name(self.id), line);
                self.running = Some(running);
                self.input(sessions, shared);
                self.input(CoreInput::Start, shared);
            }
            Err(reason) => {
                shared.line(Name(self.id), format_args!("does not start: {reason}"));
                if self.is_correct() {
                    let replica = self.id;
                    shared.note::<()>(Err(Violation::Unrecoverable { replica, reason }));
                }
            }
        }
    }

    /// Rebuilds everything from the disk.
    fn open(&mut self, shared: &mut Shared<P>) -> Result<(Running<P>, CoreInput<P>), String> {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let membership = Arc::clone(&shared.membership);
        let limits = &shared.plan.limits.clone();
        let options = OpenOptions {
            genesis: *membership.genesis(),
            log: LogOptions {
                segment_bytes: 64 << 10,
                fill_bytes: 4 << 10,
                ..LogOptions::small(*membership.genesis())
            },
            limits: limits.clone(),
            store: StoreOptions {
                pack_bytes: shared.plan.pack_bytes,
                ..StoreOptions::new(*membership.genesis())
            },
            initial_state: None,
        };
        let opened = recovery::open::<P>(&storage, Arc::clone(&storage), &options)
            .map_err(|error| error.to_string())?;
        let bug = shared.plan.bug.filter(|_| self.is_correct());
        let order = self.order(shared);
        let mut machine = Machine::new(self.id, membership.genesis(), limits, order, bug);
        let keeper = StoreKeeper::new(opened.store, limits);
        let mut notes = opened.notes;
        let found = recovery::restore(opened.certified, &mut notes, |found| {
            let id = &found.stored.certificate.id;
            machine.install(id, &found.descriptor, &keeper.source())
        });
        if std::mem::take(&mut self.damaged) && !notes.is_empty() {
            shared.counts.count(FaultKind::Damage);
        }
        for note in notes {
            shared.line(Name(self.id), format_args!("{note}"));
        }
        let found = found.map_err(|error| error.to_string())?;
        if let Some(found) = found.as_ref().filter(|_| self.is_correct()) {
            // What is kept as certified is what was certified.
            let id = found.stored.certificate.id;
            let same = shared.oracles.agreement.state(self.id, id.seq, id.state);
            shared.note(same);
        }
        let installed = found.map(|found| Installed {
            certificate: Arc::new(found.stored.certificate),
            frontier: found.stored.frontier,
        });
        let config = P::config(&Setup {
            me: self.id,
            replicas: shared.plan.replicas,
            genesis: *membership.genesis(),
            signer: Arc::clone(&self.signer),
            limits: limits.clone(),
            patience: shared.plan.patience,
            quorum_reads: shared.plan.quorum_reads,
            bug,
        });
        let bundles = BundleChecker::new(&membership, limits, ClientAdmission::Any);
        let checker =
            MessageChecker::new(config.clone(), Arc::clone(&membership), Arc::new(bundles));
        let core_config = CoreConfig {
            membership,
            limits: limits.clone(),
            signer: Arc::clone(&self.signer),
            seed: self.rng.next_u64(),
            decisions_bytes_max: DECISIONS_BYTES_MAX,
            transfer_bytes_per_second: TRANSFER_BYTES_PER_SECOND,
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
            last_lsn: opened.last_lsn,
        };
        let recovery = Recovery {
            me: self.id,
            origin: opened.origin,
            installed,
            records: opened.records,
        };
        let core =
            ReplicaCore::recover(core_config, config, recovery).map_err(|e| e.to_string())?;
        let sessions = machine.sessions();
        let running = Running {
            started: shared.now(),
            core,
            checker,
            machine,
            disk: Disk {
                log: opened.log,
                keeper,
                appended: opened.last_lsn,
                durable: opened.last_lsn,
                syncing: false,
                dirty: false,
                work: VecDeque::new(),
            },
            timers: Timers::default(),
            wake: Time::NEVER,
            jobs: VecDeque::new(),
            reads: super::Reads::default(),
            flush_scheduled: false,
            left_with: 0,
            in_flight: 0,
            left_busy: false,
        };
        Ok((running, sessions))
    }

    /// Where some run in parallel, every other replica does, each life in another order.
    fn order(&self, shared: &Shared<P>) -> Option<u64> {
        let other = shared.plan.parallel && self.id.0.is_multiple_of(2);
        other.then(|| shared.plan.seed ^ u64::from(self.id.0) << 32 ^ self.life)
    }

    /// Writes the birth record, as `init` does once.
    pub(crate) fn give_birth(&mut self, shared: &mut Shared<P>) {
        let genesis = *shared.membership.genesis();
        if let Err(error) = recovery::give_birth(&self.storage, genesis) {
            let (replica, reason) = (self.id, error.to_string());
            shared.note::<()>(Err(Violation::Unrecoverable { replica, reason }));
        }
    }

    /// Adds up what a life has counted.
    pub(super) fn gather_counters(&self, running: &Running<P>, shared: &mut Shared<P>) {
        if !self.is_correct() {
            return;
        }
        let counters = running.core.counters();
        for (reason, times) in &counters.rejected {
            shared.count(reason, *times);
        }
        shared.count("decisions", counters.decisions);
        shared.count("decisions_transferred", counters.decisions_transferred);
        shared.count("states_installed", counters.states_installed);
        shared.count("pool_full", counters.pool_full);
        shared.count("bodies_fetched", counters.bodies_fetched);
        let transfer = running.core.state_transfer();
        shared.count("parts_fetched", transfer.parts_fetched);
        shared.count("parts_reused", transfer.parts_reused);
        shared.count("parts_rejected", transfer.parts_rejected);
        shared.count("parts_repaired", transfer.parts_repaired);
        shared.count("offers_rejected", transfer.offers_rejected);
        shared.count("peers_blamed", transfer.peers_blamed);
        shared.count("state_bytes_fetched", transfer.bytes_fetched);
        for (name, times) in running.core.protocol().counters() {
            shared.count(name, times);
        }
    }

    /// The run is over: what the last life has counted.
    pub(crate) fn finish(&mut self, shared: &mut Shared<P>) {
        if let Some(running) = self.running.take() {
            self.gather_counters(&running, shared);
        }
    }
}
