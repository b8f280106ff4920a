//! The executor: applies decisions to a state, exactly once, in order. Pure: no thread, no clock.
//!
//! Each operation runs on a fork of the state, which is merged when it has succeeded and dropped when
//! it has failed; a state that cannot fork is made again without the operation that failed.

mod bundles;
mod claims;
mod history;
mod operation;
mod parallel;
mod replies;
mod view;

use crate::application::Application;
use crate::context::ExecutionContext;
use crate::execute::{Applied, Execute, ExecutionCounters, InstallError, ReadView};
use crate::pool::ExecutionPool;
use crate::snapshot::{self, Head, Snapshot};
use crate::state::{
    CheckedParts, DivisibleState, PartReader, PartSource, SnapshotError, ThawError,
};
use atlas_common::parts::StateDescriptor;
use atlas_common::{AgreedTime, ClientId, Digest, Epoch, NodeId, OpNumber, SeqNo, SessionId};
use atlas_core::{Batch, CheckpointId, Limits};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::core::Decision;
use atlas_smr_core::session::SessionTable;
use bytes::Bytes;
use claims::Claims;
use history::History;
use replies::split;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use view::{View, read};

/// What all executors of a cluster share.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// The replica that executes: which bundles it answers depends on it, and nothing else does.
    pub replica: NodeId,
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
    claims: Claims,
    executed: SeqNo,
    time: AgreedTime,
    counters: ExecutionCounters,
    /// Where replies are encoded, so that each costs one allocation of its own size.
    scratch: Vec<u8>,
    #[cfg(feature = "seeded-bugs")]
    loses_sessions: bool,
    #[cfg(feature = "seeded-bugs")]
    ignores_conflicts: bool,
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
            sessions: SessionTable::new(limits),
            claims: Claims::default(),
            application: Arc::new(application),
            config,
            executed: SeqNo::ZERO,
            time: AgreedTime::default(),
            counters: ExecutionCounters::default(),
            scratch: Vec::new(),
            #[cfg(feature = "seeded-bugs")]
            loses_sessions: false,
            #[cfg(feature = "seeded-bugs")]
            ignores_conflicts: false,
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

    /// Plants a fault: operations run in parallel although they share a key.
    #[cfg(feature = "seeded-bugs")]
    pub fn seed_ignored_conflicts(&mut self) {
        self.ignores_conflicts = true;
    }

    fn decode(&mut self, batch: &Batch) -> Vec<RequestBundle> {
        let decode = |raw: &Bytes| {
            RequestBundle::decode(raw.clone(), &self.config.genesis, &self.config.limits).ok()
        };
        let bundles: Vec<_> = batch.bundles().iter().filter_map(decode).collect();
        self.counters.invalid_bundles += (batch.bundles().len() - bundles.len()) as u64;
        bundles
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

    fn read_parts(parts: &mut dyn PartReader) -> Result<(Head, A::State), InstallError> {
        let read = AssertUnwindSafe(|| snapshot::read::<A::State>(parts));
        catch_unwind(read).unwrap_or(Err(InstallError::Panicked))
    }

    /// Puts what the parts hold in the state's place, when all of it is good.
    fn replace(
        &mut self,
        id: &CheckpointId,
        parts: &mut dyn PartReader,
    ) -> Result<(), InstallError> {
        let (head, state) = Self::read_parts(parts)?;
        if head.seq != id.seq {
            return Err(InstallError::Seq {
                found: head.seq,
                certified: id.seq,
            });
        }
        self.history = History::of(&state);
        self.state = state;
        self.sessions = head.sessions;
        self.claims = Claims::default();
        self.executed = head.seq;
        self.time = head.time;
        self.counters.installed += 1;
        #[cfg(feature = "seeded-bugs")]
        if self.loses_sessions {
            self.sessions = SessionTable::new(&self.config.limits);
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
        self.counters.replies_forgotten += self.sessions.settle() as u64;
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
        let (chunk_bytes, pool) = (self.config.limits.chunk_bytes, self.pool.clone());
        let parts = CheckedParts::new(descriptor, source, chunk_bytes, &pool);
        self.replace(id, &mut parts.map_err(ThawError::from)?)
    }

    fn begin_from(
        &mut self,
        descriptor: &StateDescriptor,
        source: &dyn PartSource,
    ) -> Result<(), InstallError> {
        let (offered, executed) = (SeqNo::ZERO, self.executed);
        if offered < executed {
            return Err(InstallError::Old { offered, executed });
        }
        let (chunk_bytes, pool) = (self.config.limits.chunk_bytes, self.pool.clone());
        let parts = CheckedParts::new(descriptor, source, chunk_bytes, &pool);
        let mut parts = parts.map_err(ThawError::from)?;
        let (head, state) = Self::read_parts(&mut parts)?;
        self.history = History::of(&state);
        self.state = state;
        self.time = head.time;
        Ok(())
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
        &mut self,
        client: ClientId,
        session: SessionId,
        first: OpNumber,
        last: OpNumber,
    ) -> Vec<Reply> {
        match self.sessions.client(session) {
            Some(owner) if owner == client => {
                if self.sessions.last(session).is_some_and(|ran| ran < last) {
                    self.claims.note(session, last);
                }
                self.kept_replies(session, first, last)
            }
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
