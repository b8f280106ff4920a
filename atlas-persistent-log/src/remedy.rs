//! What to do about an error.

use crate::sealed::SealedError;
use crate::storage::StorageError;
use std::fmt;
use std::io::ErrorKind;

/// What helps against an error of a log or a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The same again, a little later.
    Retry,
    /// Bytes that were stored are not what was written: fetch them from peers.
    Repair,
    /// The disk does not do what it is asked: nothing that was not acknowledged may be believed.
    /// Start again on a disk that works.
    ReplaceDisk,
    /// The disk or a quota on it is full: make room, then start again.
    FreeSpace,
    /// What was asked cannot be done: another directory, setting or argument is needed.
    Correct,
}

impl Remedy {
    /// What that means for whoever runs a replica.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Retry => "start it again; no other process may use its data directory",
            Self::Repair => {
                "move its data directory away and start it again: it fetches its state from the other \
                 replicas, and votes again when it is safe"
            }
            Self::ReplaceDisk => {
                "start it on a disk that works, with an empty data directory: it fetches its state from \
                 the other replicas, and votes again when it is safe"
            }
            Self::FreeSpace => "make room on the disk, and start it again",
            Self::Correct => "correct what it says, and start it again; the data are as they were",
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retry => "try again",
            Self::Repair => "repair from peers",
            Self::ReplaceDisk => "replace the disk",
            Self::FreeSpace => "free space on the disk",
            Self::Correct => "correct the configuration or the call",
        })
    }
}

impl StorageError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::AlreadyOpen { .. } => Remedy::Retry,
            Self::TooLong { .. } => Remedy::Repair,
            Self::Io { source, .. } => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Remedy::FreeSpace,
                ErrorKind::NotFound => Remedy::Repair,
                ErrorKind::Interrupted | ErrorKind::OutOfMemory | ErrorKind::ResourceBusy => {
                    Remedy::Retry
                }
                ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
                | ErrorKind::FileTooLarge => Remedy::Correct,
                _ => Remedy::ReplaceDisk,
            },
        }
    }
}

impl SealedError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Storage(error) => error.remedy(),
            Self::Damaged { .. } => Remedy::Repair,
            Self::UnknownVersion { .. } | Self::WrongCluster { .. } => Remedy::Correct,
        }
    }
}
