//! What can go wrong with a store.

use crate::remedy::Remedy;
use crate::sealed::SealedError;
use crate::storage::StorageError;
use atlas_common::parts::PartsError;
use atlas_common::{Digest, SeqNo};
use std::fmt;
use thiserror::Error;

/// A store could not do what was asked.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The disk failed or is full.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Something that was stored is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A file is of another cluster or another version of this program.
    #[error(transparent)]
    Foreign(SealedError),
    /// There is no such checkpoint.
    #[error("there is no checkpoint {seq}")]
    Absent {
        /// Which.
        seq: SeqNo,
    },
    /// There is no such blob.
    #[error("there is no blob {digest}")]
    NoSuchBlob {
        /// Its digest.
        digest: Digest,
    },
    /// A checkpoint was to be committed of which not everything is here.
    #[error("checkpoint {seq} is not complete: {blobs} blobs are missing, {first} among them")]
    Incomplete {
        /// Which checkpoint.
        seq: SeqNo,
        /// How many blobs are missing or damaged.
        blobs: u64,
        /// The first of them.
        first: Digest,
    },
    /// There is a checkpoint of this number already (remove it first), or it is being written.
    #[error("there is a checkpoint {seq} already, or it is being written")]
    Exists {
        /// Which.
        seq: SeqNo,
    },
    /// Metadata are longer than allowed.
    #[error("checkpoint {seq}: {found_bytes} bytes where at most {limit_bytes} are allowed")]
    TooLong {
        /// Which checkpoint.
        seq: SeqNo,
        /// How many bytes.
        found_bytes: u64,
        /// How many are allowed.
        limit_bytes: u64,
    },
    /// A blob is empty or too long.
    #[error("a blob of {found_bytes} bytes, where 1 to {limit_bytes} are allowed")]
    BlobLength {
        /// Its length.
        found_bytes: usize,
        /// How many are allowed.
        limit_bytes: usize,
    },
    /// Bytes were given for a part that are not that part.
    #[error("the bytes given for blob {digest} have another digest or length")]
    WrongDigest {
        /// The part.
        digest: Digest,
    },
    /// The writer was given metadata of another checkpoint.
    #[error("metadata of checkpoint {found} for the state of checkpoint {expected}")]
    WrongNumber {
        /// The number the writer was begun with.
        expected: SeqNo,
        /// The number in the metadata.
        found: SeqNo,
    },
    /// A descriptor or a page cannot be one, or there are too many parts.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// An earlier write or sync failed. That is final: nothing is written any more.
    #[error("the store has failed and must be opened anew: {cause}")]
    Failed {
        /// What failed, in words.
        cause: String,
        /// What helps against that.
        remedy: Remedy,
    },
    /// The system gives no thread for a write that was not to wait.
    #[error("cannot start a thread to write a checkpoint: {cause}")]
    NoThread {
        /// Why not.
        cause: String,
    },
}

impl StoreError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Storage(error) => error.remedy(),
            Self::Foreign(error) => error.remedy(),
            Self::Failed { remedy, .. } => *remedy,
            Self::Damaged(_) | Self::NoSuchBlob { .. } | Self::Incomplete { .. } => Remedy::Repair,
            Self::NoThread { .. } => Remedy::Retry,
            Self::Absent { .. }
            | Self::Exists { .. }
            | Self::TooLong { .. }
            | Self::BlobLength { .. }
            | Self::WrongDigest { .. }
            | Self::WrongNumber { .. }
            | Self::Parts(_) => Remedy::Correct,
        }
    }
}

/// Something that was stored is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Error)]
#[error(
    "{what} is damaged: {file} at byte {offset}{}; fetch it from a peer",
    Named(.digest.as_ref(), *.bytes)
)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What lies there.
    pub what: Damaged,
    /// The digest of the blob that should lie there, where that is known.
    pub digest: Option<Digest>,
    /// The length of that blob, where it is known.
    pub bytes: Option<u32>,
}

struct Named<'a>(Option<&'a Digest>, Option<u32>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (Some(digest), Some(bytes)) => write!(f, ", blob {digest} of {bytes} bytes"),
            (Some(digest), None) => write!(f, ", blob {digest}"),
            (None, _) => Ok(()),
        }
    }
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damaged {
    /// A record of a pack.
    Record,
    /// The header, index or footer of a pack. Its records are found without them.
    PackIndex,
    /// The metadata of a checkpoint.
    Metadata,
    /// A blob that a checkpoint refers to is in no pack.
    Missing,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "a record",
            Self::PackIndex => "the index of a pack",
            Self::Metadata => "the metadata of a checkpoint",
            Self::Missing => "a blob that a checkpoint refers to is missing, and so it",
        })
    }
}
