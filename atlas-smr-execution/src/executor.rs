//! The executor: applies decisions to a state, exactly once, in order. Pure: no thread, no clock.
//!
//! Each operation runs on a fork of the state, which is merged when it has succeeded and dropped when
//! it has failed; a state that cannot fork is made again without the operation that failed.

mod history;
mod operation;
mod parallel;

use crate::application::Application;
use crate::context::ExecutionContext;
use crate::execute::{Applied, Execute, ExecutionCounters, InstallError, ReadView};
use crate::pool::ExecutionPool;
use crate::snapshot::{self, Head, Snapshot};
use crate::state::{
    CheckedParts, DivisibleState, PartReader, PartSource, SnapshotError, ThawError,
};
use atlas_common::parts::StateDescriptor;
use atlas_common::{AgreedTime, ClientId, Digest, Epoch, OpNumber, SeqNo, SessionId};
use atlas_core::{Batch, CheckpointId, Limits};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::core::Decision;
use atlas_smr_core::session::{Admission, SessionTable, SessionUpdate};
use bytes::Bytes;
use history::History;
use operation::{carry_out, decode, keeps_writes};
use parallel::{Operation, Parallel};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What all executors of a cluster share.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// The cluster.
    pub genesis: Digest,
    /// The epoch whose decisions are executed.
    pub epoch: Epoch,
    /// The cluster's limits.
    pub limits: Limits,
}

/// Executes decisions on an application's state.
///
/// Everything it does follows from the decisions alone, in their order: two executors that were given
/// the same ones have equal sessions, states and digests, and gave equal replies.
pub struct Executor<A: Application> {
    application: Arc<A>,
    config: ExecutorConfig,
    state: A::State,
    /// For a state that cannot fork.
    history: Option<History<A::State>>,
    pool: ExecutionPool,
    sessions: SessionTable,
    executed: SeqNo,
    time: AgreedTime,
    counters: ExecutionCounters,
    /// Where replies are encoded, so that each costs one allocation of its own size.
    scratch: Vec<u8>,
    #[cfg(feature = "seeded-bugs")]
    loses_sessions: bool,
}

impl<A: Application> Executor<A> {
    /// An executor before the first decision.
    #[must_use]
    pub fn new(application: A, config: ExecutorConfig) -> Self {
        let limits = &config.limits;
        let state = application.initial_state();
        Self {
            history: History::of(&state),
            state,
            pool: ExecutionPool::sequential(),
            sessions: SessionTable::new(limits.sessions_max, limits.session_replies_max),
            application: Arc::new(application),
            config,
            executed: SeqNo::ZERO,
            time: AgreedTime::default(),
            counters: ExecutionCounters::default(),
            scratch: Vec::new(),
            #[cfg(feature = "seeded-bugs")]
            loses_sessions: false,
        }
    }

    /// Runs operations on the threads of a pool, where their keys
    /// ([`Application::keys`]) and the state ([`DivisibleState::fork`]) allow it. What comes of them is
    /// the same.
    #[must_use]
    pub fn with_pool(mut self, pool: ExecutionPool) -> Self {
        self.pool = pool;
        self
    }

    /// The application's state.
    #[must_use]
    pub fn state(&self) -> &A::State {
        &self.state
    }

    /// Plants a fault: a checkpoint is installed without its session table.
    #[cfg(feature = "seeded-bugs")]
    pub fn seed_lost_sessions(&mut self) {
        self.loses_sessions = true;
    }

    fn decode(&mut self, batch: &Batch) -> Vec<RequestBundle> {
        let decode = |raw: &Bytes| {
            RequestBundle::decode(raw.clone(), &self.config.genesis, &self.config.limits).ok()
        };
        let bundles: Vec<_> = batch.bundles().iter().filter_map(decode).collect();
        self.counters.invalid_bundles += (batch.bundles().len() - bundles.len()) as u64;
        bundles
    }

    /// Executes bundles one after the other, or, if that is worth it, those in parallel that cannot
    /// change what becomes of each other.
    fn bundles(
        &mut self,
        bundles: &[&RequestBundle],
        cx: &mut ExecutionContext,
        out: &mut Applied,
    ) {
        let operations = bundles.iter().map(|bundle| bundle.operations().len()).sum();
        let pool = self.pool.clone();
        let parallel = self.history.is_none() && pool.chooses_parallel(operations);
        pool.timed(parallel, operations, || {
            if parallel {
                self.in_groups(bundles, cx, out);
            } else {
                self.one_by_one(bundles, cx, out);
            }
        });
    }

    fn one_by_one(
        &mut self,
        bundles: &[&RequestBundle],
        cx: &mut ExecutionContext,
        out: &mut Applied,
    ) {
        for bundle in bundles {
            let admission = self.sessions.admit(bundle, cx.seq());
            if let Admission::Run { from } = admission {
                self.run(bundle, from, cx, out);
            }
            self.answer(bundle, admission, out);
        }
    }

    fn in_groups(
        &mut self,
        mut bundles: &[&RequestBundle],
        cx: &mut ExecutionContext,
        out: &mut Applied,
    ) {
        while !bundles.is_empty() {
            let (group, rest) = bundles.split_at(parallel::group(bundles));
            self.group(group, cx, out);
            bundles = rest;
        }
    }

    fn group(&mut self, group: &[&RequestBundle], cx: &mut ExecutionContext, out: &mut Applied) {
        let (mut admissions, mut operations) = (Vec::new(), Vec::new());
        for bundle in group {
            let admission = self.sessions.admit(bundle, cx.seq());
            admissions.push(admission);
            let Admission::Run { from } = admission else {
                continue;
            };
            for (number, request) in bundle.numbered().filter(|(number, _)| *number >= from) {
                let index = (out.operations + operations.len()) as u64;
                cx.turn_to(index, bundle.client(), bundle.session(), number);
                operations.push(Operation {
                    cx: cx.clone(),
                    request: request.clone(),
                });
            }
        }
        let limit_bytes = self.config.limits.operation_bytes_max;
        let (application, pool) = (&*self.application, &self.pool);
        let run = Parallel::new(application, pool, limit_bytes, &mut self.state);
        let mut results = run.run(operations).into_iter();
        for (bundle, admission) in group.iter().zip(admissions) {
            if let Admission::Run { from } = admission {
                for (number, _) in bundle.numbered() {
                    if number < from {
                        self.counters.duplicates += 1;
                    } else if let Some(result) = results.next() {
                        self.record(bundle.session(), result, out);
                    }
                }
            }
            self.answer(bundle, admission, out);
        }
    }

    fn run(
        &mut self,
        bundle: &RequestBundle,
        from: OpNumber,
        cx: &mut ExecutionContext,
        out: &mut Applied,
    ) {
        for (number, request) in bundle.numbered() {
            if number < from {
                self.counters.duplicates += 1;
                continue;
            }
            let index = out.operations as u64;
            cx.turn_to(index, bundle.client(), bundle.session(), number);
            let result = self.operation(request, cx);
            self.record(bundle.session(), result, out);
        }
    }

    fn operation(&mut self, request: &Bytes, cx: &mut ExecutionContext) -> OperationResult {
        let limit_bytes = self.config.limits.operation_bytes_max;
        let decoded = match decode::<A>(request, limit_bytes) {
            Ok(decoded) => decoded,
            Err(result) => return result,
        };
        let (application, scratch) = (&self.application, &mut self.scratch);
        let Some(mut fork) = self.state.fork() else {
            let update = |request| application.update(&mut self.state, request, cx);
            let result = carry_out::<A>(decoded, limit_bytes, scratch, update);
            self.remember(request, cx, &result);
            return result;
        };
        let update = |request| application.update(&mut fork, request, cx);
        let result = carry_out::<A>(decoded, limit_bytes, scratch, update);
        if keeps_writes(&result) {
            self.state.merge(fork);
        }
        result
    }

    /// Notes an operation on a state that cannot fork, or undoes it.
    fn remember(&mut self, request: &Bytes, cx: &ExecutionContext, result: &OperationResult) {
        if keeps_writes(result) {
            if let Some(history) = &mut self.history {
                history.ran(cx, request);
            }
        } else if let Some(history) = self.history.take() {
            let limit_bytes = self.config.limits.operation_bytes_max;
            self.state = history.restore(&*self.application, limit_bytes);
            self.history = History::of(&self.state);
        }
    }

    fn record(&mut self, session: SessionId, result: OperationResult, out: &mut Applied) {
        out.operations += 1;
        self.counters.operations += 1;
        match &result {
            OperationResult::Ok(_) => {}
            OperationResult::InvalidRequest => self.counters.invalid_requests += 1,
            OperationResult::ApplicationFailed => self.counters.application_failures += 1,
            OperationResult::ReplyTooLarge => self.counters.replies_too_large += 1,
        }
        self.sessions.record(session, result);
    }

    /// Tells a bundle's client what became of it.
    fn answer(&mut self, bundle: &RequestBundle, admission: Admission, out: &mut Applied) {
        let (client, session) = (bundle.client(), bundle.session());
        match admission {
            Admission::Opened { session, closed } => {
                out.sessions.extend(closed.map(SessionUpdate::Closed));
                self.moved(session, out);
                out.replies.push((client, Reply::Opened(session)));
            }
            Admission::Run { .. } => {
                self.moved(session, out);
                let replies = self.kept_replies(session, bundle.first(), bundle.last());
                out.replies
                    .extend(replies.into_iter().map(|reply| (client, reply)));
            }
            Admission::Gap => self.counters.gaps += 1,
            Admission::Expired => {
                self.counters.expired += 1;
                out.replies.push((client, Reply::SessionExpired(session)));
            }
            Admission::NotTheirs => self.counters.invalid_bundles += 1,
        }
    }

    fn moved(&self, session: SessionId, out: &mut Applied) {
        if let Some(last) = self.sessions.last(session) {
            out.sessions.push(SessionUpdate::Open { session, last });
        }
    }

    /// What is kept of these operations' results, in as few replies as fit a frame each.
    fn kept_replies(&self, session: SessionId, first: OpNumber, last: OpNumber) -> Vec<Reply> {
        let Some((first, results)) = self.sessions.cached(session, first, last) else {
            return Vec::new();
        };
        // A frame has room for a batch, and an operation's reply is never larger than that.
        split(results, self.config.limits.batch_bytes_max)
            .into_iter()
            .scan(first, |next, results| {
                let first = *next;
                *next = next.plus(results.len() as u64);
                Some(Reply::Results {
                    session,
                    first,
                    results,
                })
            })
            .collect()
    }

    fn check_age(&self, id: &CheckpointId) -> Result<(), InstallError> {
        let (offered, executed) = (id.seq, self.executed);
        if offered < executed {
            return Err(InstallError::Old { offered, executed });
        }
        Ok(())
    }

    /// Puts what the parts hold in the state's place, when all of it is good.
    fn replace(
        &mut self,
        id: &CheckpointId,
        parts: &mut dyn PartReader,
    ) -> Result<(), InstallError> {
        let read = AssertUnwindSafe(|| snapshot::read::<A::State>(parts));
        let (head, state) = catch_unwind(read).unwrap_or(Err(InstallError::Panicked))?;
        if head.seq != id.seq {
            return Err(InstallError::Seq {
                found: head.seq,
                certified: id.seq,
            });
        }
        self.history = History::of(&state);
        self.state = state;
        self.sessions = head.sessions;
        self.executed = head.seq;
        self.time = head.time;
        self.counters.installed += 1;
        #[cfg(feature = "seeded-bugs")]
        if self.loses_sessions {
            let limits = &self.config.limits;
            self.sessions = SessionTable::new(limits.sessions_max, limits.session_replies_max);
        }
        Ok(())
    }
}

impl<A: Application> Execute for Executor<A> {
    fn apply(&mut self, decision: &Decision) -> Applied {
        let Decision {
            seq,
            batch,
            bundles,
        } = decision;
        let mut out = Applied {
            last_given: self.sessions.last_given(),
            ..Applied::default()
        };
        if *seq <= self.executed {
            return out;
        }
        assert_eq!(*seq, self.executed.next(), "decisions come without gaps");
        self.time = self.time.max(batch.time());
        let genesis = self.config.genesis;
        let mut cx = ExecutionContext::of_decision(*seq, self.time, &genesis, &batch.digest());
        if let Some(bundles) = bundles {
            let bundles: Vec<_> = bundles.iter().collect();
            self.bundles(&bundles, &mut cx, &mut out);
        } else {
            let bundles = self.decode(batch);
            let bundles: Vec<_> = bundles.iter().collect();
            self.bundles(&bundles, &mut cx, &mut out);
        }
        self.executed = *seq;
        self.counters.decisions += 1;
        out.last_given = self.sessions.last_given();
        if seq.0.is_multiple_of(self.config.limits.checkpoint_interval) {
            self.counters.snapshots += 1;
            out.snapshot = Some(self.snapshot());
            self.history = History::of(&self.state);
        }
        out
    }

    fn install_parts(
        &mut self,
        id: &CheckpointId,
        descriptor: &StateDescriptor,
        source: &dyn PartSource,
    ) -> Result<(), InstallError> {
        self.check_age(id)?;
        snapshot::check_root(id, descriptor)?;
        let chunk_bytes = self.config.limits.chunk_bytes;
        let parts = CheckedParts::new(descriptor, source, chunk_bytes);
        self.replace(id, &mut parts.map_err(ThawError::from)?)
    }

    fn read(&self, operation: &[u8]) -> OperationResult {
        let limit_bytes = self.config.limits.operation_bytes_max;
        read(&*self.application, &self.state, operation, limit_bytes)
    }

    fn view(&self) -> Option<Arc<dyn ReadView>> {
        A::CONCURRENT_READS.then(|| {
            let view: Arc<dyn ReadView> = Arc::new(View {
                application: Arc::clone(&self.application),
                state: self.state.clone(),
                limit_bytes: self.config.limits.operation_bytes_max,
            });
            view
        })
    }

    fn retransmit(
        &self,
        client: ClientId,
        session: SessionId,
        first: OpNumber,
        last: OpNumber,
    ) -> Vec<Reply> {
        match self.sessions.client(session) {
            Some(owner) if owner == client => self.kept_replies(session, first, last),
            Some(_) => Vec::new(),
            None if session <= self.sessions.last_given() => vec![Reply::SessionExpired(session)],
            // Not open yet, as far as this replica knows.
            None => Vec::new(),
        }
    }

    fn executed(&self) -> SeqNo {
        self.executed
    }

    fn time(&self) -> AgreedTime {
        self.time
    }

    fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    fn snapshot(&self) -> Snapshot {
        let head = Head {
            seq: self.executed,
            time: self.time,
            sessions: self.sessions.clone(),
        };
        Snapshot::new(self.config.epoch, head, self.state.freeze())
    }

    fn state_digest(&self) -> Result<Digest, SnapshotError> {
        self.snapshot().digest(self.config.limits.chunk_bytes)
    }

    fn counters(&self) -> ExecutionCounters {
        self.counters
    }
}

impl<A: Application> fmt::Debug for Executor<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("executed", &self.executed)
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

/// A clone of the state, and what answers from it.
struct View<A: Application> {
    application: Arc<A>,
    state: A::State,
    limit_bytes: usize,
}

impl<A: Application> ReadView for View<A> {
    fn read(&self, operation: &[u8]) -> OperationResult {
        read(&*self.application, &self.state, operation, self.limit_bytes)
    }
}

fn read<A: Application>(
    application: &A,
    state: &A::State,
    operation: &[u8],
    limit_bytes: usize,
) -> OperationResult {
    let read = |request| {
        let read = |request| application.read(state, request);
        carry_out::<A>(request, limit_bytes, &mut Vec::new(), read)
    };
    decode::<A>(operation, limit_bytes).map_or_else(|result| result, read)
}

/// Cuts results into runs of at most `limit_bytes`, of one result at least.
fn split(results: Vec<OperationResult>, limit_bytes: usize) -> Vec<Vec<OperationResult>> {
    /// What a result adds to its bytes, at most.
    const OVERHEAD: usize = 16;
    let size = |result: &OperationResult| match result {
        OperationResult::Ok(bytes) => bytes.len() + OVERHEAD,
        _ => OVERHEAD,
    };
    if results.iter().map(size).sum::<usize>() <= limit_bytes {
        return vec![results];
    }
    let (mut runs, mut run, mut bytes) = (Vec::new(), Vec::new(), 0);
    for result in results {
        if !run.is_empty() && bytes + size(&result) > limit_bytes {
            runs.push(std::mem::take(&mut run));
            bytes = 0;
        }
        bytes += size(&result);
        run.push(result);
    }
    runs.push(run);
    runs
}
