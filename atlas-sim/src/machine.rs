//! The executor of a simulated replica, with its application.

use crate::app::SimApp;
use crate::checkers::execution::Ran;
use crate::protocol::SimProtocol;
use atlas_common::{ClientId, Digest, Epoch, OpNumber, SeqNo, SessionId};
use atlas_core::{CheckpointId, Limits};
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::core::{CoreInput, Decision};
use atlas_smr_core::manifest::Manifest;
use atlas_smr_core::session::SessionUpdate;
use atlas_smr_execution::{Execute, Executor, ExecutorConfig};
use atlas_smr_replica::store::Image;
use bytes::Bytes;

/// The executor, and what its application reports.
#[derive(Debug)]
pub(crate) struct Machine {
    executor: Executor<SimApp>,
    app: SimApp,
    chunk_bytes: usize,
}

/// What came of some decisions.
#[derive(Debug, Default)]
pub(crate) struct Executed {
    pub(crate) seq: SeqNo,
    pub(crate) replies: Vec<(ClientId, Reply)>,
    pub(crate) sessions: Vec<SessionUpdate>,
    pub(crate) last_given: SessionId,
    pub(crate) ran: Vec<(SeqNo, Vec<Ran>)>,
    pub(crate) checkpoints: Vec<Image>,
}

impl Machine {
    pub(crate) fn new(genesis: &Digest, limits: &Limits, bug: Option<&str>) -> Self {
        let app = SimApp::default();
        let config = ExecutorConfig {
            genesis: *genesis,
            epoch: Epoch(0),
            limits: limits.clone(),
        };
        let mut executor = Executor::new(app.clone(), config);
        if bug == Some(LOST_SESSIONS) {
            plant_lost_sessions(&mut executor);
        }
        Self {
            executor,
            app,
            chunk_bytes: limits.chunk_bytes,
        }
    }

    /// Executes decisions. Fails when the state cannot be encoded.
    pub(crate) fn execute(&mut self, decisions: &[Decision]) -> Result<Executed, String> {
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
            if let Some(snapshot) = applied.snapshot {
                let image = snapshot
                    .into_chunks(self.chunk_bytes)
                    .map_err(|e| e.to_string())?;
                all.checkpoints.push(Image {
                    id: image.id,
                    manifest: image.manifest,
                    chunks: image.chunks,
                });
            }
        }
        all.seq = self.executor.executed();
        all.last_given = self.executor.sessions().last_given();
        Ok(all)
    }

    pub(crate) fn retransmit(
        &self,
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
        manifest: &Manifest,
        chunks: &[Bytes],
    ) -> Result<(), String> {
        self.executor
            .install(id, manifest, chunks)
            .map_err(|error| error.to_string())
    }

    pub(crate) fn executed(&self) -> SeqNo {
        self.executor.executed()
    }

    pub(crate) fn state_digest(&self) -> Option<Digest> {
        self.executor.state_digest().ok()
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
