//! What a replica keeps on its disk.
pub mod birth;
pub mod checkpoint;
pub mod handle;
pub mod log;
pub mod mode;
mod sealed;
pub mod storage;

pub use birth::Birth;
pub use checkpoint::{
    Checkpoint, CheckpointError, CheckpointMeta, CheckpointOptions, CheckpointStore,
    MonolithicStateLog,
};
pub use handle::{LogEvents, LogHandle, LogStats};
pub use log::{LogError, LogOptions, LogWriter, Recovered};
pub use mode::{Durability, OperationMode};
pub use sealed::SealedError;
pub use storage::{FileStorage, SimStorage, Storage, StorageError};
