//! The log's own thread: group commit for a driver that must not wait for the disk.

mod sweep;

use crate::log::{LogError, LogWriter};
use crate::mode::{Durability, OperationMode};
use crate::remedy::Remedy;
use atlas_common::Lsn;
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sweep::Sweeper;

/// The most calls that wait for the log thread.
pub const QUEUE_JOBS_MAX: usize = 4096;
/// The most bytes in them, unless a single call has more.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// A group is written when it has as many bytes, even if more is waiting.
const GROUP_BYTES: usize = 8 << 20;
/// After so long without work the tail is marked.
const IDLE: Duration = Duration::from_millis(500);

/// How a log tells what became of records appended with [`OperationMode::Notify`].
///
/// Both are called on the log thread (in mode `memory` on the caller's) with no lock held; they must
/// not block.
pub struct LogEvents {
    /// The highest durable record, once for each group that was committed.
    pub durable: Box<dyn Fn(Lsn) + Send + Sync>,
    /// The log has failed. Called once; nothing is durable afterwards that was not before.
    pub failed: Box<dyn Fn(LogError) + Send + Sync>,
}

impl fmt::Debug for LogEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogEvents")
    }
}

/// What a log has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Group commits.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes in those.
    pub record_bytes: u64,
    /// Time spent in writes and syncs, in microseconds.
    pub commit_micros: u64,
}

/// A log with a thread of its own.
///
/// Dropping it writes and syncs what was appended and ends the thread, as [`Self::shutdown`] does,
/// which also tells whether that worked.
#[derive(Debug)]
pub struct LogHandle {
    shared: Arc<Shared>,
    /// `None` in mode `memory` and after the shutdown.
    queue: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Locked before `writer`, never after.
    intake: Mutex<Intake>,
    /// Signalled when the queue has become shorter.
    room: Condvar,
    writer: Mutex<LogWriter>,
    sweeper: Sweeper,
    durability: Durability,
    record_bytes_max: usize,
    sync_interval: Duration,
    events: LogEvents,
    failed: OnceLock<(String, Remedy)>,
    groups: AtomicU64,
    records: AtomicU64,
    record_bytes: AtomicU64,
    commit_micros: AtomicU64,
}

/// What has been taken and not yet committed.
#[derive(Debug)]
struct Intake {
    next: Lsn,
    jobs: usize,
    bytes: usize,
}

type Waiter = Sender<Result<Lsn, LogError>>;

#[derive(Debug)]
enum Work {
    Append(Lsn, Bytes),
    AppendGroup(Lsn, Vec<Bytes>),
    Compact(Lsn),
}

#[derive(Debug)]
struct Job {
    work: Work,
    waiter: Option<Waiter>,
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Append(_, record) => record.len(),
            Self::AppendGroup(_, records) => records.iter().map(Bytes::len).sum(),
            Self::Compact(_) => 0,
        }
    }

    fn records(&self) -> &[Bytes] {
        match self {
            Self::Append(_, record) => std::slice::from_ref(record),
            Self::AppendGroup(_, records) => records,
            Self::Compact(_) => &[],
        }
    }

    fn first(&self) -> Option<Lsn> {
        match self {
            Self::Append(lsn, _) | Self::AppendGroup(lsn, _) => Some(*lsn),
            Self::Compact(_) => None,
        }
    }

    /// Gives files that are to be deleted.
    fn perform(&self, writer: &mut LogWriter) -> Result<Vec<String>, LogError> {
        if let Self::Compact(below) = self {
            return writer.release_below(*below);
        }
        let mut lsn = self.first().unwrap_or_default();
        for record in self.records() {
            writer.append(lsn, record)?;
            lsn = lsn.next();
        }
        Ok(Vec::new())
    }
}

impl LogHandle {
    /// Starts the thread of an open log. In mode `memory` there is none.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(writer: LogWriter, events: LogEvents) -> Result<Self, LogError> {
        let options = writer.options();
        let durability = options.durability;
        let shared = Arc::new(Shared {
            intake: Mutex::new(Intake {
                next: writer.next_lsn(),
                jobs: 0,
                bytes: 0,
            }),
            room: Condvar::new(),
            durability,
            record_bytes_max: options.record_bytes_max,
            sync_interval: options.sync_interval,
            writer: Mutex::new(writer),
            sweeper: Sweeper::default(),
            events,
            failed: OnceLock::new(),
            groups: AtomicU64::new(0),
            records: AtomicU64::new(0),
            record_bytes: AtomicU64::new(0),
            commit_micros: AtomicU64::new(0),
        });
        let (mut queue, mut thread) = (None, None);
        if durability != Durability::Memory {
            let (sender, receiver) = bounded(QUEUE_JOBS_MAX);
            let for_thread = Arc::clone(&shared);
            let spawned = std::thread::Builder::new()
                .name("atlas-log".to_owned())
                .spawn(move || for_thread.run(&receiver))
                .map_err(|error| LogError::Failed {
                    cause: format!("cannot start the log thread: {error}"),
                    remedy: Remedy::Retry,
                })?;
            queue = Some(sender);
            thread = Some(spawned);
        }
        Ok(Self {
            shared,
            queue,
            thread,
        })
    }

    /// Appends a record. With [`OperationMode::Notify`] it never waits for the disk, and
    /// [`LogEvents::durable`] is called when the record is durable. With
    /// [`OperationMode::Blocking`] it is durable on return; where nothing is queued the group commit
    /// runs on the calling thread, which spares two hand-overs, and the callback is not called for
    /// it.
    ///
    /// # Errors
    /// [`LogError::QueueFull`] (with `Notify` only): nothing was taken, try again when the next
    /// group is durable. Otherwise when the number is not the next one, the record too long, or the
    /// log has failed.
    pub fn append(&self, lsn: Lsn, record: Bytes, mode: OperationMode) -> Result<(), LogError> {
        self.submit(Work::Append(lsn, record), mode)
    }

    /// Appends several records, the first of which has number `first`: one hand-over for all.
    /// Otherwise as [`Self::append`].
    ///
    /// # Errors
    /// As [`Self::append`]; all records are taken or none.
    pub fn append_group(
        &self,
        first: Lsn,
        records: Vec<Bytes>,
        mode: OperationMode,
    ) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        self.submit(Work::AppendGroup(first, records), mode)
    }

    /// Removes segments that lie wholly below `below`.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn compact(&self, below: Lsn, mode: OperationMode) -> Result<(), LogError> {
        self.submit(Work::Compact(below), mode)
    }

    /// What the log has done since it was started.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        LogStats {
            groups: self.shared.groups.load(Ordering::Relaxed),
            records: self.shared.records.load(Ordering::Relaxed),
            record_bytes: self.shared.record_bytes.load(Ordering::Relaxed),
            commit_micros: self.shared.commit_micros.load(Ordering::Relaxed),
        }
    }

    /// Writes and syncs everything and ends the thread. Returns the last durable record.
    ///
    /// # Errors
    /// When the log has failed, or fails now.
    pub fn shutdown(mut self) -> Result<Lsn, LogError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<Lsn, LogError> {
        self.queue = None;
        let thread = self.thread.take().map(JoinHandle::join);
        self.shared.sweeper.wait();
        if let Some(Err(_panic)) = thread {
            return Err(LogError::Failed {
                cause: "the log thread panicked".to_owned(),
                remedy: Remedy::Retry,
            });
        }
        let result = self.shared.writer.lock().settle();
        result.inspect_err(|error| self.shared.fail(error))
    }

    fn submit(&self, work: Work, mode: OperationMode) -> Result<(), LogError> {
        let shared = &*self.shared;
        let mut intake = shared.intake.lock();
        loop {
            shared.check(&intake, &work)?;
            let inline =
                self.queue.is_none() || (mode == OperationMode::Blocking && intake.jobs == 0);
            if inline {
                // Under both locks the record is the next one; the writer's lock keeps it so.
                let writer = shared.writer.lock();
                intake.take(&work);
                drop(intake);
                return shared.run_inline(writer, &work, mode);
            }
            if intake.has_room(work.bytes()) {
                break;
            }
            if mode == OperationMode::Notify {
                let lsn = work.first().unwrap_or(intake.next);
                return Err(LogError::QueueFull { lsn });
            }
            shared.room.wait(&mut intake);
        }
        let (waiter, outcome) = match mode {
            OperationMode::Notify => (None, None),
            OperationMode::Blocking => {
                let (sender, receiver) = bounded(1);
                (Some(sender), Some(receiver))
            }
        };
        intake.take(&work);
        intake.jobs += 1;
        intake.bytes += work.bytes();
        let queue = self.queue.as_ref().ok_or(LogError::Closed)?;
        // There is room: `jobs` counts what is queued.
        queue
            .try_send(Job { work, waiter })
            .map_err(|_disconnected| LogError::Closed)?;
        drop(intake);
        match outcome {
            Some(outcome) => outcome.recv().unwrap_or(Err(LogError::Closed)).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        if self.thread.is_some()
            && let Err(error) = self.stop()
        {
            tracing::error!(%error, "the log was not closed cleanly");
        }
    }
}

impl Intake {
    const fn has_room(&self, bytes: usize) -> bool {
        self.jobs == 0 || (self.jobs < QUEUE_JOBS_MAX && self.bytes + bytes <= QUEUE_BYTES_MAX)
    }

    fn take(&mut self, work: &Work) {
        self.next = self.next.plus(work.records().len() as u64);
    }
}

impl Shared {
    fn check(&self, intake: &Intake, work: &Work) -> Result<(), LogError> {
        if let Some((cause, remedy)) = self.failed.get() {
            return Err(LogError::Failed {
                cause: cause.clone(),
                remedy: *remedy,
            });
        }
        let Some(first) = work.first() else {
            return Ok(());
        };
        if first != intake.next {
            return Err(LogError::OutOfOrder {
                expected: intake.next,
                found: first,
            });
        }
        for (n, record) in work.records().iter().enumerate() {
            if record.len() > self.record_bytes_max {
                return Err(LogError::RecordTooLong {
                    lsn: first.plus(n as u64),
                    found_bytes: record.len(),
                    limit_bytes: self.record_bytes_max,
                });
            }
        }
        Ok(())
    }

    fn run_inline(
        &self,
        mut writer: parking_lot::MutexGuard<'_, LogWriter>,
        work: &Work,
        mode: OperationMode,
    ) -> Result<(), LogError> {
        let result = self.commit(&mut writer, std::slice::from_ref(work));
        drop(writer);
        match result {
            Ok(durable) => {
                if mode == OperationMode::Notify && work.first().is_some() {
                    (self.events.durable)(durable);
                }
                Ok(())
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    /// Performs and commits; a compaction comes after the records that were queued before it.
    fn commit(&self, writer: &mut LogWriter, group: &[Work]) -> Result<Lsn, LogError> {
        let began = Instant::now();
        let mut useless = Vec::new();
        for work in group {
            useless.extend(work.perform(writer)?);
        }
        let durable = writer.commit()?;
        if let Some(storage) = writer.storage() {
            self.sweeper.delete(storage, useless);
        }
        let records = group.iter().map(|work| work.records().len() as u64).sum();
        let bytes = group.iter().map(|work| work.bytes() as u64).sum();
        self.groups
            .fetch_add(u64::from(records > 0), Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.record_bytes.fetch_add(bytes, Ordering::Relaxed);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.commit_micros.fetch_add(micros, Ordering::Relaxed);
        Ok(durable)
    }

    /// Reports a failure, the first time.
    fn fail(&self, error: &LogError) {
        let failed = (error.to_string(), error.remedy());
        if self.failed.set(failed).is_ok() {
            (self.events.failed)(error.clone());
        }
    }

    fn run(&self, queue: &Receiver<Job>) {
        let _released = ReleaseOnPanic(self);
        let tick = match self.durability {
            Durability::Async => self.sync_interval.min(IDLE),
            Durability::Sync | Durability::Memory => IDLE,
        };
        let mut synced = Instant::now();
        loop {
            match queue.recv_timeout(tick) {
                Ok(first) => self.run_group(first, queue),
                Err(RecvTimeoutError::Timeout) => self.run_idle(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.durability == Durability::Async && synced.elapsed() >= self.sync_interval {
                self.sync_in_background();
                synced = Instant::now();
            }
        }
    }

    /// Commits one job and whatever waits behind it.
    fn run_group(&self, first: Job, queue: &Receiver<Job>) {
        let mut bytes = first.work.bytes();
        let (mut group, mut waiters) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(job) = next {
            group.push(job.work);
            waiters.extend(job.waiter);
            next = (bytes < GROUP_BYTES)
                .then(|| queue.try_recv().ok())
                .flatten();
            bytes += next.as_ref().map_or(0, |job| job.work.bytes());
        }
        let result = self.commit(&mut self.writer.lock(), &group);
        if let Err(error) = &result {
            self.fail(error);
        }
        {
            let mut intake = self.intake.lock();
            intake.jobs -= group.len();
            intake.bytes -= bytes;
            self.room.notify_all();
        }
        if let Ok(durable) = result
            && group.iter().any(|work| work.first().is_some())
        {
            (self.events.durable)(durable);
        }
        for waiter in waiters {
            // A caller that does not wait any more has its answer by other means.
            waiter.try_send(result.clone()).ok();
        }
    }

    fn run_idle(&self) {
        let result = self.writer.lock().mark_tail();
        if let Err(error) = result {
            self.fail(&error);
        }
    }

    fn sync_in_background(&self) {
        let mut writer = self.writer.lock();
        let result = match writer.needs_sync() {
            true => writer.sync(),
            false => Ok(()),
        };
        drop(writer);
        if let Err(error) = result {
            self.fail(&error);
        }
    }
}

/// Should a callback panic, nobody may wait for ever for room in the queue.
struct ReleaseOnPanic<'a>(&'a Shared);

impl Drop for ReleaseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Where a failure was reported before, that one stays.
            self.0
                .failed
                .get_or_init(|| ("the log thread panicked".to_owned(), Remedy::Retry));
            drop(self.0.intake.lock());
            self.0.room.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
