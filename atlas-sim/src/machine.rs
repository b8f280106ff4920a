//! The executor of a simulated replica, with its application.

use crate::app::SimApp;
use crate::checkers::execution::Ran;
use crate::protocol::SimProtocol;
use atlas_common::parts::StateDescriptor;
use atlas_common::{ClientId, Digest, Epoch, NodeId, OpNumber, SeqNo, SessionId};
use atlas_core::{CheckpointId, Limits};
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::core::{CoreInput, Decision};
use atlas_smr_core::session::SessionUpdate;
use atlas_smr_execution::{Execute, Executor, ExecutorConfig, InstallError, PartSource, Snapshot};
use std::sync::atomic::Ordering;

/// The executor, and what its application reports.
#[derive(Debug)]
pub(crate) struct Machine {
    executor: Executor<SimApp>,
    app: SimApp,
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
}

impl Machine {
    pub(crate) fn new(
        replica: NodeId,
        genesis: &Digest,
        limits: &Limits,
        bug: Option<&str>,
    ) -> Self {
        let app = SimApp::default();
        let config = ExecutorConfig {
            replica,
            genesis: *genesis,
            epoch: Epoch(0),
            limits: limits.clone(),
        };
        let mut executor = Executor::new(app.clone(), config);
        if bug == Some(LOST_SESSIONS) {
            plant_lost_sessions(&mut executor);
        }
        Self { executor, app }
    }

    /// Executes decisions.
    pub(crate) fn execute(&mut self, decisions: &[Decision]) -> Executed {
        let mut all = Executed::default();
        for decision in decisions {
            if decision.seq <= self.executor.executed() {
                continue;
            }
            let applied = self.executor.apply(decision);
            all.replies.extend(applied.replies);
            all.sessions.extend(applied.sessions);
            let ran = std::mem::take(&mut *self.app.ran.lock());
            all.ran.push((decision.seq, ran));
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

    pub(crate) fn read(&self, operation: &[u8]) -> OperationResult {
        self.executor.read(operation)
    }

    pub(crate) fn install(
        &mut self,
        id: &CheckpointId,
        descriptor: &StateDescriptor,
        source: &dyn PartSource,
    ) -> Result<(), InstallError> {
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
pub(crate) const LOST_SESSIONS: &str = "lost-sessions";

#[cfg(feature = "seeded-bugs")]
fn plant_lost_sessions(executor: &mut Executor<SimApp>) {
    executor.seed_lost_sessions();
}

#[cfg(not(feature = "seeded-bugs"))]
fn plant_lost_sessions(_executor: &mut Executor<SimApp>) {}
