//! The few things a log needs of a disk, so that the same log runs on real files and in a simulator.
//!
//! One [`Storage`] is one flat directory. What has been written is *live*: later reads see it. It is
//! *durable*, that is, outlives a power cut, only after [`StorageFile::sync`] (contents and length)
//! and, for a name that appeared, changed or went, [`Storage::sync_dir`].

mod blocks;
mod direct;
mod file;
mod read_only;
mod sim;

pub(crate) use blocks::{BLOCK_BYTES, Blocks};
pub use file::FileStorage;
pub use read_only::ReadOnly;
pub use sim::{Counters, Fault, SimStorage};

use bytes::Bytes;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// A flat directory of files. Shared between threads; a file has one writer at a time.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The names of all files, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> Result<Vec<String>, StorageError>;

    /// Opens a file for writing, creating it empty when it does not exist.
    ///
    /// # Errors
    /// When the file cannot be opened or created.
    fn open(&self, name: &str) -> Result<Box<dyn StorageFile>, StorageError>;

    /// The length of a file in bytes.
    ///
    /// # Errors
    /// When there is no such file.
    fn length(&self, name: &str) -> Result<u64, StorageError>;

    /// Reads `bytes` bytes from `offset`, fewer where the file ends before.
    ///
    /// # Errors
    /// When there is no such file or it cannot be read.
    fn read(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes, StorageError>;

    /// As [`Self::read`], for many bytes that are not read again soon: where it can be done, past what the
    /// system keeps of files in memory, which costs more than the reading.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_past_cache(
        &self,
        name: &str,
        offset: u64,
        bytes: usize,
    ) -> Result<Bytes, StorageError> {
        self.read(name, offset, bytes)
    }

    /// Gives a file another name, replacing whatever had it, atomically.
    ///
    /// # Errors
    /// When there is no such file.
    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError>;

    /// Deletes a file.
    ///
    /// # Errors
    /// When there is no such file.
    fn delete(&self, name: &str) -> Result<(), StorageError>;

    /// Makes all names durable.
    ///
    /// # Errors
    /// When the disk fails; then nothing may be assumed about names changed since the last success.
    fn sync_dir(&self) -> Result<(), StorageError>;

    /// A number that no client can guess, another one each time. It is mixed into the checksums of a
    /// segment, so that nobody can prepare a payload that looks like a record.
    fn salt(&self) -> u64;

    /// Reads a whole file of at most `limit_bytes`, which is checked before anything is allocated.
    ///
    /// # Errors
    /// When there is no such file, it cannot be read, or it is longer.
    fn read_all(&self, name: &str, limit_bytes: u64) -> Result<Bytes, StorageError> {
        let found_bytes = self.length(name)?;
        if found_bytes > limit_bytes {
            return Err(StorageError::TooLong {
                file: name.to_owned(),
                found_bytes,
                limit_bytes,
            });
        }
        self.read(name, 0, usize::try_from(found_bytes).unwrap_or(usize::MAX))
    }

    /// Writes a small file so that after a crash it is there whole or not at all (or as it was
    /// before): under a temporary name, synced, renamed, the directory synced.
    ///
    /// # Errors
    /// When the disk fails or is full.
    fn write_atomically(&self, name: &str, contents: &[u8]) -> Result<(), StorageError> {
        let temporary = format!("{name}{TEMPORARY_SUFFIX}");
        let mut file = self.open(&temporary)?;
        file.set_length(0)?;
        file.write_at(0, contents)?;
        file.sync()?;
        drop(file);
        self.rename(&temporary, name)?;
        self.sync_dir()
    }
}

/// How the names of files end that are not complete yet. After a crash they are rubbish.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file open for writing.
pub trait StorageFile: Send + fmt::Debug {
    /// Writes at an offset, extending the file where needed; a gap reads as zeros.
    ///
    /// # Errors
    /// When the disk fails or is full; any part of it may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// As [`Self::write_at`], for much that is not read soon: where offset, length and memory are whole
    /// blocks of 4 KiB, and the file system can, past what the system keeps of files in memory.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    fn write_past_cache(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.write_at(offset, bytes)
    }

    /// Cuts the file or extends it with zeros.
    ///
    /// # Errors
    /// When the disk fails or is full.
    fn set_length(&mut self, bytes: u64) -> Result<(), StorageError>;

    /// Makes contents and length durable (`fdatasync`).
    ///
    /// # Errors
    /// When the disk fails. That is final: what was written since the last success may be lost even
    /// if a later call succeeds.
    fn sync(&mut self) -> Result<(), StorageError>;
}

/// What was being done when a storage failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Listing a directory.
    List,
    /// Opening or creating a file or directory.
    Open,
    /// Asking for a length.
    Length,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Changing a length.
    SetLength,
    /// Syncing a file.
    Sync,
    /// Syncing a directory.
    SyncDirectory,
    /// Renaming.
    Rename,
    /// Deleting.
    Delete,
    /// Locking a directory.
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Open => "open",
            Self::Length => "get the length of",
            Self::Read => "read",
            Self::Write => "write",
            Self::SetLength => "set the length of",
            Self::Sync => "sync",
            Self::SyncDirectory => "sync the directory",
            Self::Rename => "rename",
            Self::Delete => "delete",
            Self::Lock => "lock",
        })
    }
}

/// A storage could not do what was asked.
#[derive(Debug, Clone, Error)]
pub enum StorageError {
    /// The operating system (or the simulated disk) refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was being done.
        operation: Operation,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// Another process, or another part of this one, has the directory open.
    #[error(
        "{} is in use by another process: stop it first, or choose another directory",
        directory.display()
    )]
    AlreadyOpen {
        /// The directory.
        directory: PathBuf,
    },
    /// A file is longer than it can rightly be.
    #[error("{file} has {found_bytes} bytes where at most {limit_bytes} are expected")]
    TooLong {
        /// The file.
        file: String,
        /// Its length.
        found_bytes: u64,
        /// The most it could have.
        limit_bytes: u64,
    },
}

impl StorageError {
    /// Whether the disk, or a quota on it, is full: free space, then start again.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    /// Whether a file that was named does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// That the operating system, or whatever a storage stands on, refused.
    #[must_use]
    pub fn io(operation: Operation, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.into(),
            source: Arc::new(source),
        }
    }
}
