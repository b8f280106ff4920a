//! What a replica keeps on its disk.
pub mod log;
pub mod mode;
pub mod storage;

pub use log::{LogError, LogOptions, LogWriter, Recovered};
pub use mode::{Durability, OperationMode};
pub use storage::{FileStorage, SimStorage, Storage, StorageError};
