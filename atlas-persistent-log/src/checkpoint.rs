//! The checkpoint store: states of the application, each with what makes it believable.
//!
//! # Files
//!
//! A checkpoint of sequence number *s* is two files. `checkpoint-<s>.state` has the bytes of the
//! state and behind them the BLAKE3 digest of each chunk of it; it never changes.
//! `checkpoint-<s>.meta` has the certificate, the frontier, the caller's `info`, and the root over
//! those digests, sealed by a digest of its own; it is small and is replaced when a certificate
//! arrives later. The state is synced and has its name before the metadata is written, and each is
//! renamed into place, so that **a checkpoint exists when its metadata does**, and then it is whole
//! or damaged. States without metadata are rubbish of an interrupted write: opening removes them.
//!
//! Chunks are read, verified and served one by one; neither writing nor reading holds a whole state
//! in memory unless it is asked to ([`CheckpointStore::read_state`], [`MonolithicStateLog`]).

mod index;
mod monolithic;
mod store;
mod writer;

pub use index::{CHUNK_BYTES_MAX, ChunkIndex};
pub use store::{CheckpointStore, Latest, StoredCheckpoint};
pub use writer::CheckpointWriter;

use crate::mode::OperationMode;
use crate::sealed::SealedError;
use crate::storage::StorageError;
use atlas_common::{Digest, SeqNo};
use bytes::Bytes;
use thiserror::Error;

pub use crate::part_store::{CheckpointMeta, META_BYTES_MAX};

/// A checkpoint in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// What is known of it.
    pub meta: CheckpointMeta,
    /// The state.
    pub state: Bytes,
}

/// How a store lays out checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// The cluster. Checkpoints of another one are refused.
    pub genesis: Digest,
    /// The length of a chunk, from 1 to [`CHUNK_BYTES_MAX`]. Default 1 MiB.
    pub chunk_bytes: u32,
}

impl CheckpointOptions {
    /// The defaults.
    #[must_use]
    pub const fn new(genesis: Digest) -> Self {
        Self {
            genesis,
            chunk_bytes: 1 << 20,
        }
    }
}

/// Where checkpoints of a monolithic state are kept.
pub trait MonolithicStateLog: Send {
    /// The newest checkpoint that is whole; `None` when there has never been one.
    ///
    /// # Errors
    /// When the storage fails, or there are checkpoints and all are damaged.
    fn read_checkpoint(&self) -> Result<Option<Checkpoint>, CheckpointError>;

    /// Writes a checkpoint. With [`OperationMode::Notify`] it is written on a thread of its own.
    ///
    /// # Errors
    /// With [`OperationMode::Blocking`] whatever goes wrong; with `Notify` only what is known at
    /// once, the rest is reported.
    fn write_checkpoint(
        &self,
        mode: OperationMode,
        checkpoint: Checkpoint,
    ) -> Result<(), CheckpointError>;
}

/// A checkpoint could not be written or read.
#[derive(Debug, Clone, Error)]
pub enum CheckpointError {
    /// The storage failed or is full.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The metadata is not what was written.
    #[error("checkpoint {seq}: {cause}")]
    Metadata {
        /// Which checkpoint.
        seq: SeqNo,
        /// What is wrong.
        cause: SealedError,
    },
    /// The state is not what was written.
    #[error(
        "checkpoint {seq} is damaged: {} of {file}; use the checkpoint before it, or fetch the \
         state from a peer",
        chunk.map_or_else(|| "the chunk digests".to_owned(), |chunk| format!("chunk {chunk}"))
    )]
    Damaged {
        /// Which checkpoint.
        seq: SeqNo,
        /// The file.
        file: String,
        /// The chunk; `None` when the list of digests is damaged or the file has a wrong length.
        chunk: Option<u64>,
    },
    /// There is no such checkpoint.
    #[error("there is no checkpoint {seq}")]
    Absent {
        /// Which.
        seq: SeqNo,
    },
    /// There is no such chunk.
    #[error("checkpoint {seq} has {chunks} chunks, not a chunk number {chunk}")]
    NoSuchChunk {
        /// Which checkpoint.
        seq: SeqNo,
        /// The number asked for, counted from 0.
        chunk: u64,
        /// How many there are.
        chunks: u64,
    },
    /// There is a checkpoint of this number already (remove it first), or it is being written.
    #[error("there is a checkpoint {seq} already, or it is being written")]
    Exists {
        /// Which.
        seq: SeqNo,
    },
    /// Metadata or state are longer than allowed.
    #[error("checkpoint {seq}: {found_bytes} bytes where at most {limit_bytes} are allowed")]
    TooLong {
        /// Which checkpoint.
        seq: SeqNo,
        /// How many bytes.
        found_bytes: u64,
        /// How many are allowed.
        limit_bytes: u64,
    },
    /// The writer was given metadata of another checkpoint.
    #[error("metadata of checkpoint {found} for the state of checkpoint {expected}")]
    WrongNumber {
        /// The number the writer was begun with.
        expected: SeqNo,
        /// The number in the metadata.
        found: SeqNo,
    },
    /// The system gives no thread for a write with [`OperationMode::Notify`].
    #[error("cannot start a thread to write a checkpoint: {cause}")]
    NoThread {
        /// Why not.
        cause: String,
    },
}

#[cfg(test)]
mod tests;
