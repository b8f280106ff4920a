//! What a replica keeps on its disk: the log of its records, checkpoints of its state, and a birth
//! record by which a wiped disk is told from a new one.
//!
//! All of it works on a [`Storage`], one flat directory: [`FileStorage`] is real files,
//! [`SimStorage`] a disk in memory that forgets at a crash what was not synced. The simulator and
//! production run the same code above that line.
//!
//! # Invariants
//!
//! - Records are numbered by [`Lsn`](atlas_common::Lsn) from 1 without gaps. What
//!   [`LogWriter::commit`] returns, or [`LogEvents::durable`] is told, is what the chosen
//!   [`Durability`] promises, never more.
//! - An error of the disk is final for the log that met it: nothing is acknowledged afterwards,
//!   nothing is tried again. Opening it anew is the way back, also after a full disk.
//! - A write that a crash interrupted is cut off; a record that was durable and is not whole any more
//!   is reported and nothing is changed. [`log`] states the rule that tells the two apart, and why
//!   it is right.
//! - A checkpoint exists whole, or is reported as damaged, or does not exist.
//! - No file makes an opening panic or allocate more than its own length.
//!
//! A driver chooses where group commits run: on its own thread with a [`LogWriter`] (the simulator
//! does), on the log's thread with [`LogHandle::append`] and [`OperationMode::Notify`], or, record by
//! record, with [`OperationMode::Blocking`], which uses the calling thread when nothing is queued.
//!
//! # Example
//!
//! ```
//! use atlas_common::{Digest, Lsn};
//! use atlas_persistent_log::{LogOptions, LogWriter, SimStorage};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), atlas_persistent_log::LogError> {
//! let disk = SimStorage::new();
//! let options = LogOptions::small(Digest::of(b"genesis"));
//! let (mut log, found) = LogWriter::open(Arc::new(disk.clone()), options.clone())?;
//! assert!(found.records.is_empty());
//!
//! // Two records, one write, one sync.
//! log.append(Lsn(1), b"prepared")?;
//! log.append(Lsn(2), b"committed")?;
//! assert_eq!(log.commit()?, Lsn(2));
//! // A third one that is appended but not committed when the power goes.
//! log.append(Lsn(3), b"forgotten")?;
//!
//! let disk = disk.crash_losing_all();
//! let (log, found) = LogWriter::open(Arc::new(disk), options)?;
//! assert_eq!(found.last, Lsn(2));
//! assert_eq!(&found.records[1].1[..], b"committed");
//! assert_eq!(log.next_lsn(), Lsn(3));
//! # Ok(())
//! # }
//! ```

pub mod birth;
pub mod handle;
pub mod log;
pub mod mode;
pub mod part_store;
mod remedy;
mod sealed;
mod state_log;
pub mod storage;

pub use birth::Birth;
pub use handle::{LogEvents, LogHandle, LogStats};
pub use log::{LogError, LogOptions, LogWriter, Recovered, SPARES_MAX};
pub use mode::{Durability, OperationMode};
pub use part_store::{
    CheckpointMeta, CheckpointWriter, Collection, Compression, Damage, Damaged, Fetched, PartStore,
    StoreError, StoreOptions, StoreStats, StoredCheckpoint, StoredParts, Written,
};
pub use remedy::Remedy;
pub use sealed::SealedError;
pub use state_log::{Checkpoint, DivisibleStateLog, MonolithicStateLog};
pub use storage::{FileStorage, SimStorage, Storage, StorageError};
