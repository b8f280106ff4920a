//! The executor of a simulated replica, with its application.

use crate::app::{self, SimApp};
use crate::checkers::execution::Ran;
use crate::checkers::history::Balances;
use crate::protocol::SimProtocol;
use atlas_common::parts::StateDescriptor;
use atlas_common::{ClientId, Digest, Epoch, NodeId, OpNumber, SeqNo, SessionId};
use atlas_core::{CheckpointId, Limits};
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::core::{CoreInput, Decision};
use atlas_smr_core::session::SessionUpdate;
use atlas_smr_execution::{
    Execute, ExecutionPool, Executor, ExecutorConfig, InstallError, PartSource, ReadView, Snapshot,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The executor, and what its application reports.
#[derive(Debug)]
pub(crate) struct Machine {
    executor: Executor<SimApp>,
    app: SimApp,
    /// The present state, once a read has asked for it; the one before the last decisions.
    view: Option<View>,
    before: Option<View>,
    bug: Option<&'static str>,
}

/// A state held still, and the last decision in it.
#[derive(Clone)]
pub(crate) struct View {
    state: Arc<dyn ReadView>,
    pub(crate) at: SeqNo,
}

impl View {
    pub(crate) fn read(&self, operation: &[u8]) -> OperationResult {
        self.state.read(operation)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state after decision {}", self.at)
    }
}

/// What came of some decisions.
#[derive(Debug, Default)]
pub(crate) struct Executed {
    pub(crate) seq: SeqNo,
    pub(crate) replies: Vec<(ClientId, Reply)>,
    pub(crate) sessions: Vec<SessionUpdate>,
    pub(crate) last_given: SessionId,
    pub(crate) ran: Vec<(SeqNo, Vec<Ran>)>,
    pub(crate) checkpoints: Vec<Snapshot>,
    /// The first decision after which money had been made or lost, and how much there was.
    pub(crate) unbalanced: Option<(SeqNo, u64)>,
}

impl Machine {
    /// With `shuffled`, what can run in parallel runs in an order drawn from that.
    pub(crate) fn new(
        replica: NodeId,
        genesis: &Digest,
        limits: &Limits,
        shuffled: Option<u64>,
        bug: Option<&'static str>,
    ) -> Self {
        let app = SimApp::default();
        let config = ExecutorConfig {
            replica,
            genesis: *genesis,
            epoch: Epoch(0),
            limits: limits.clone(),
        };
        let pool = shuffled.map_or(ExecutionPool::sequential(), ExecutionPool::shuffled);
        let mut executor = Executor::new(app.clone(), config).with_pool(pool);
        plant(&mut executor, bug);
        Self {
            executor,
            app,
            view: None,
            before: None,
            bug,
        }
    }

    /// Executes decisions.
    pub(crate) fn execute(&mut self, decisions: &[Decision]) -> Executed {
        let mut all = Executed::default();
        self.before = self.view_now();
        if self.bug != Some(STALE_VIEW) {
            self.view = None;
        }
        for decision in decisions {
            if decision.seq <= self.executor.executed() {
                continue;
            }
            let applied = self.executor.apply(decision);
            all.replies.extend(applied.replies);
            all.sessions.extend(applied.sessions);
            let mut ran = std::mem::take(&mut *self.app.ran.lock());
            // Whatever ran first: they are compared in the order of the decision.
            ran.sort_by_key(|(index, _)| *index);
            let ran = ran.into_iter().map(|(_, ran)| ran).collect();
            all.ran.push((decision.seq, ran));
            let unbalanced = self.unbalanced().map(|found| (decision.seq, found));
            all.unbalanced = all.unbalanced.or(unbalanced);
            all.checkpoints.extend(applied.snapshot);
        }
        all.seq = self.executor.executed();
        all.last_given = self.executor.sessions().last_given();
        all
    }

    pub(crate) fn retransmit(
        &mut self,
        client: ClientId,
        session: SessionId,
        first: OpNumber,
        last: OpNumber,
    ) -> Vec<Reply> {
        self.executor.retransmit(client, session, first, last)
    }

    /// The present state, for a read: made once for all reads between two decisions, as the executor's
    /// thread does. With `late`, the state before the last decisions.
    pub(crate) fn view(&mut self, late: bool) -> Option<View> {
        if late && self.before.is_some() {
            return self.before.clone();
        }
        if self.view.is_none() {
            self.view = self.view_now();
        }
        self.view.clone()
    }

    fn view_now(&self) -> Option<View> {
        let at = self.executor.executed();
        self.executor.view().map(|state| View { state, at })
    }

    /// What all accounts hold together, when that is not what was paid in.
    pub(crate) fn unbalanced(&self) -> Option<u64> {
        let total = app::balances(self.executor.state()).total();
        (total != Balances::default().total()).then_some(total)
    }

    pub(crate) fn install(
        &mut self,
        id: &CheckpointId,
        descriptor: &StateDescriptor,
        source: &dyn PartSource,
    ) -> Result<(), InstallError> {
        self.view = None;
        self.executor.install_parts(id, descriptor, source)
    }

    pub(crate) fn executed(&self) -> SeqNo {
        self.executor.executed()
    }

    pub(crate) fn state_digest(&self) -> Option<Digest> {
        self.executor.state_digest().ok()
    }

    /// Changes the state behind everybody's back, at the next operation.
    pub(crate) fn corrupt(&self) {
        self.app.corrupt.store(true, Ordering::Relaxed);
    }

    /// All sessions, as the core is told after a start or a new state.
    pub(crate) fn sessions<P: SimProtocol>(&self) -> CoreInput<P> {
        let progress = self.executor.progress();
        CoreInput::Sessions {
            sessions: progress.sessions,
            last_given: progress.last_given,
        }
    }
}

/// The defect of an executor that installs a checkpoint without its session table.
#[cfg(feature = "seeded-bugs")]
pub(crate) const LOST_SESSIONS: &str = "lost-sessions";

/// The defect of an executor that runs operations in parallel although they share a key.
#[cfg(feature = "seeded-bugs")]
pub(crate) const IGNORED_CONFLICTS: &str = "ignored-conflicts";

/// The defect of an executor that answers reads from a state that it took for an earlier one.
pub(crate) const STALE_VIEW: &str = "stale-view";

#[cfg(feature = "seeded-bugs")]
fn plant(executor: &mut Executor<SimApp>, bug: Option<&str>) {
    match bug {
        Some(LOST_SESSIONS) => executor.seed_lost_sessions(),
        Some(IGNORED_CONFLICTS) => executor.seed_ignored_conflicts(),
        _ => {}
    }
}

#[cfg(not(feature = "seeded-bugs"))]
fn plant(_executor: &mut Executor<SimApp>, _bug: Option<&str>) {}
