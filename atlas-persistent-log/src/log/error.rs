//! What can go wrong with a log.

use crate::remedy::Remedy;
use crate::storage::StorageError;
use atlas_common::{Digest, Lsn};
use thiserror::Error;

/// A log could not be opened or written.
#[derive(Debug, Clone, Error)]
pub enum LogError {
    /// The disk failed or is full.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A part of the log that was durable is not what was written. Nothing has been changed.
    #[error(
        "the log is damaged: {damage} in {file} at byte {offset}; records from {lsn} on are \
         unreliable. Restore the file from a copy, or set the log aside and let the replica rejoin \
         from its peers without a vote; do not delete only the file"
    )]
    Damaged {
        /// The segment.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// The first record that is not whole.
        lsn: Lsn,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The log belongs to another cluster.
    #[error("{file} belongs to the cluster with genesis {found}, not to {expected}")]
    WrongCluster {
        /// The segment.
        file: String,
        /// The genesis digest in it.
        found: Digest,
        /// The one in the options.
        expected: Digest,
    },
    /// The log was written by another version of this program.
    #[error("{file} has format version {found}; this program reads version {expected}")]
    UnknownVersion {
        /// The segment.
        file: String,
        /// Its version.
        found: u32,
        /// The version that can be read.
        expected: u32,
    },
    /// Mode `memory` was chosen where a log exists.
    #[error(
        "{file} holds records of an earlier run: mode `memory` would leave them behind; choose \
         `sync` or `async`, or another directory"
    )]
    ExistingLog {
        /// One of its segments.
        file: String,
    },
    /// A record is longer than the options allow.
    #[error("record {lsn} has {found_bytes} bytes where at most {limit_bytes} are allowed")]
    RecordTooLong {
        /// The record.
        lsn: Lsn,
        /// Its length.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Records are numbered without gaps.
    #[error("record {found} was appended where {expected} comes next")]
    OutOfOrder {
        /// The number that comes next.
        expected: Lsn,
        /// The number that was given.
        found: Lsn,
    },
    /// The queue of the log thread is full; the record was not taken and can be offered again when
    /// the next group is durable.
    #[error("the log's queue is full at record {lsn}")]
    QueueFull {
        /// The (first) record that was not taken.
        lsn: Lsn,
    },
    /// An earlier write or sync failed. That is final: nothing is written or acknowledged any more.
    #[error("the log has failed and must be opened anew: {cause}")]
    Failed {
        /// What failed, in words.
        cause: String,
        /// What helps against that.
        remedy: Remedy,
    },
    /// The log was shut down.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Storage(error) => error.remedy(),
            Self::Failed { remedy, .. } => *remedy,
            Self::Damaged { .. } => Remedy::Repair,
            Self::QueueFull { .. } | Self::Closed => Remedy::Retry,
            Self::WrongCluster { .. }
            | Self::UnknownVersion { .. }
            | Self::ExistingLog { .. }
            | Self::RecordTooLong { .. }
            | Self::OutOfOrder { .. } => Remedy::Correct,
        }
    }
}

/// What is wrong with a damaged log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// A segment's header is not whole.
    #[error("bad segment header")]
    Header,
    /// A frame is not whole, although it had been durable.
    #[error("bad frame")]
    Frame,
    /// A whole frame stands in the wrong place.
    #[error("frame out of sequence")]
    Sequence,
    /// A segment should be there and is not.
    #[error("missing segment")]
    Missing,
    /// A file is longer than any segment.
    #[error("oversized segment")]
    Oversized,
}
