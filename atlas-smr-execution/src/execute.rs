//! The executor's face, without its application: what a replica drives.

use crate::snapshot::Snapshot;
use crate::state::{PartSource, SnapshotError, ThawError};
use atlas_common::parts::StateDescriptor;
use atlas_common::{AgreedTime, ClientId, Digest, OpNumber, SeqNo, SessionId};
use atlas_core::CheckpointId;
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::core::Decision;
use atlas_smr_core::session::{SessionTable, SessionUpdate};
use serde::Serialize;
use std::sync::Arc;
use thiserror::Error;

/// Executes decisions on some application. Implemented by [`Executor`](crate::Executor); a replica
/// holds it as `Box<dyn Execute>`, inline or behind an
/// [`ExecutorThread`](crate::executor_thread::ExecutorThread).
pub trait Execute: Send {
    /// Executes the next decision. One that was executed before does nothing.
    ///
    /// # Panics
    /// When a decision was left out: the caller keeps their order.
    fn apply(&mut self, decision: &Decision) -> Applied;

    /// Puts a checkpoint in the state's place, if every byte of it is certified by `id`. Pages and
    /// parts are read from `source` one by one.
    ///
    /// # Errors
    /// When it is not, is not a state, or is older than the present one; nothing has changed then.
    fn install_parts(
        &mut self,
        id: &CheckpointId,
        descriptor: &StateDescriptor,
        source: &dyn PartSource,
    ) -> Result<(), InstallError>;

    /// Begins a new cluster with the application's state of another one, before the first decision.
    /// Agreed time goes on from there; sessions do not. The caller has checked the descriptor's root.
    ///
    /// # Errors
    /// When something was executed already, or the parts are not what the descriptor says; nothing
    /// has changed then.
    fn begin_from(
        &mut self,
        descriptor: &StateDescriptor,
        source: &dyn PartSource,
    ) -> Result<(), InstallError>;

    /// Answers an encoded request from the state after [`Execute::executed`].
    fn read(&self, operation: &[u8]) -> OperationResult;

    /// The present state, for reads on other threads; `None` when the application does not say that its
    /// state may be cloned for that
    /// ([`Application::CONCURRENT_READS`](crate::Application::CONCURRENT_READS)).
    fn view(&self) -> Option<Arc<dyn ReadView>>;

    /// What to tell a client that asks this replica itself for the replies to these operations: what is
    /// kept of them, if the session is its own; nothing to anybody else. A closed session is answered
    /// as such. Operations that have not been executed yet are answered when they are, whomever their
    /// bundle names ([`RequestBundle::repliers`](atlas_smr_core::bundle::RequestBundle::repliers)).
    fn retransmit(
        &mut self,
        client: ClientId,
        session: SessionId,
        first: OpNumber,
        last: OpNumber,
    ) -> Vec<Reply>;

    /// The last decision that was executed.
    fn executed(&self) -> SeqNo;

    /// The agreed time of that decision.
    fn time(&self) -> AgreedTime;

    /// The open sessions.
    fn sessions(&self) -> &SessionTable;

    /// The present state, held still.
    fn snapshot(&self) -> Snapshot;

    /// The digest of the present state and session table: that of a checkpoint taken now. Takes as
    /// long as the state is large.
    ///
    /// # Errors
    /// When the application's state cannot be encoded.
    fn state_digest(&self) -> Result<Digest, SnapshotError>;

    /// What has been counted since the start.
    fn counters(&self) -> ExecutionCounters;

    /// How far execution and each session have come: what the rest of the replica is told after a
    /// start or [`Execute::install_parts`].
    fn progress(&self) -> Progress {
        let sessions = self.sessions();
        Progress {
            seq: self.executed(),
            sessions: sessions.progress().collect(),
            last_given: sessions.last_given(),
        }
    }
}

/// A state that no longer changes, to be read from any thread.
pub trait ReadView: Send + Sync {
    /// Answers an encoded request, as [`Execute::read`] did when the view was taken.
    fn read(&self, operation: &[u8]) -> OperationResult;
}

/// What came of one decision.
#[derive(Debug, Default)]
pub struct Applied {
    /// Answers, in the order of the bundles. A bundle has one, unless its results are larger than a
    /// batch may be: then they come in several, in order.
    pub replies: Vec<(ClientId, Reply)>,
    /// Sessions that moved; the last word on each counts.
    pub sessions: Vec<SessionUpdate>,
    /// The session number given out last.
    pub last_given: SessionId,
    /// How many operations were executed.
    pub operations: usize,
    /// The state, when a checkpoint is due.
    pub snapshot: Option<Snapshot>,
}

/// How far execution has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last executed decision.
    pub seq: SeqNo,
    /// Sessions that moved; the last word on each counts.
    pub sessions: Vec<SessionUpdate>,
    /// The session number given out last.
    pub last_given: SessionId,
}

/// What an executor has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExecutionCounters {
    /// Decisions executed.
    pub decisions: u64,
    /// Operations executed, whatever came of them.
    pub operations: u64,
    /// Operations on which the application panicked.
    pub application_failures: u64,
    /// Operations that are no request of the application.
    pub invalid_requests: u64,
    /// Operations whose reply was larger than allowed.
    pub replies_too_large: u64,
    /// Replies given up because those of all sessions took more than the cluster allows.
    pub replies_forgotten: u64,
    /// Operations that had been executed before, answered from the cache.
    pub duplicates: u64,
    /// Bundles skipped because they left a gap in their session.
    pub gaps: u64,
    /// Bundles of sessions that are closed.
    pub expired: u64,
    /// Bundles skipped because they do not decode, or are under another client's session.
    pub invalid_bundles: u64,
    /// Checkpoints begun.
    pub snapshots: u64,
    /// Checkpoints installed.
    pub installed: u64,
}

/// A checkpoint that was not installed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InstallError {
    /// The descriptor is not the certified one.
    #[error("the state's root is {found}, certified is {certified}")]
    Root {
        /// The root of what was given.
        found: Digest,
        /// What was certified.
        certified: Digest,
    },
    /// A part is missing or damaged, or the certified bytes are no state of this application.
    #[error(
        "the checkpoint cannot be read; where its parts are whole, is this the application (and \
         version) that wrote them? {0}"
    )]
    State(#[from] ThawError),
    /// The checkpoint does not begin with what every checkpoint begins with.
    #[error("the checkpoint has no head: it is none, or cut wrongly")]
    Head,
    /// The application panicked while the state was decoded.
    #[error("the application panicked while its state was decoded")]
    Panicked,
    /// The checkpoint has a layout that this version does not know.
    #[error("the checkpoint has layout {found}, this version of Atlas knows {expected}")]
    Format {
        /// The layout.
        found: u32,
        /// The only one known.
        expected: u32,
    },
    /// The checkpoint is of another decision than its certificate says.
    #[error("the state is that after decision {found}, certified as that after {certified}")]
    Seq {
        /// What the state says.
        found: SeqNo,
        /// What was certified.
        certified: SeqNo,
    },
    /// Execution has come further already.
    #[error("a state after decision {offered}, but decision {executed} is executed already")]
    Old {
        /// The checkpoint's decision.
        offered: SeqNo,
        /// The last executed decision.
        executed: SeqNo,
    },
}
