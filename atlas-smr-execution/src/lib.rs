//! Executes what a cluster decides on a user's application.

pub mod application;
pub mod context;
pub mod execute;
pub mod executor;
pub mod executor_thread;
pub mod snapshot;

/// Maps and sets whose clones share what does not change: what a state is best made of.
pub mod map {
    pub use imbl::{OrdMap, OrdSet, Vector};
}

pub use application::{Application, ApplicationData, MonolithicState};
pub use atlas_smr_core::core::Decision;
pub use context::ExecutionContext;
pub use execute::{Applied, Execute, ExecutionCounters, InstallError, Progress};
pub use executor::{Executor, ExecutorConfig};
pub use executor_thread::{
    DecisionExecutorHandle, ExecutionFailure, ExecutionSink, ExecutionStats, ExecutorHandle,
    ExecutorOptions, ExecutorThread,
};
pub use snapshot::{CheckpointImage, Snapshot, SnapshotError};
