//! Real files in one directory, which is locked against a second process.

use super::{Operation, Storage, StorageError, StorageFile};
use bytes::Bytes;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "lock";

/// Files in one directory of the operating system.
///
/// The directory holds a file `lock`, locked for as long as this value lives, so that no two
/// processes write one log. The lock goes with the process: `kill -9` leaves nothing to clean up.
#[derive(Debug)]
pub struct FileStorage {
    directory: PathBuf,
    /// For `fsync` of the directory itself.
    handle: File,
    /// Held for its lock.
    _lock: Option<File>,
}

impl FileStorage {
    /// Opens a directory, creating it (and its parents) where it does not exist.
    ///
    /// # Errors
    /// [`StorageError::AlreadyOpen`] when it is in use; otherwise when it cannot be made or opened.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let directory = directory.into();
        create_durably(&directory)?;
        let lock = lock(&directory)?;
        let handle = File::open(&directory)
            .map_err(|error| StorageError::io(Operation::Open, &directory, error))?;
        Ok(Self {
            directory,
            handle,
            _lock: Some(lock),
        })
    }

    /// Opens a directory that another process may have open, to look at it: what is read may change or
    /// go at any time, and nothing may be written (see [`ReadOnly`](super::ReadOnly)).
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn look(directory: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let directory = directory.into();
        let handle = File::open(&directory)
            .map_err(|error| StorageError::io(Operation::Open, &directory, error))?;
        Ok(Self {
            directory,
            handle,
            _lock: None,
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Creates a directory and makes its own name durable: a log whose directory can vanish in a power
/// cut keeps nothing.
fn create_durably(directory: &Path) -> Result<(), StorageError> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StorageError::io(Operation::Open, directory, error));
        }
        _ => {}
    }
    File::open(parent)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| StorageError::io(Operation::SyncDirectory, parent, error))
}

fn lock(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| StorageError::io(Operation::Open, &path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StorageError::AlreadyOpen {
                directory: directory.to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => {
            return Err(StorageError::io(Operation::Lock, path, error));
        }
    }
    // The number helps whoever wonders which process it is; on a full disk it is simply missing.
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), %error, "process id not written to the lock file");
    }
    Ok(file)
}

impl Storage for FileStorage {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        let failed = |error| StorageError::io(Operation::List, &self.directory, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string()
                && name != LOCK_FILE
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Box<dyn StorageFile>, StorageError> {
        let path = self.path(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| StorageError::io(Operation::Open, &path, error))?;
        Ok(Box::new(OpenFile { file, path }))
    }

    fn length(&self, name: &str) -> Result<u64, StorageError> {
        let path = self.path(name);
        fs::metadata(&path)
            .map(|metadata| metadata.len())
            .map_err(|error| StorageError::io(Operation::Length, path, error))
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes, StorageError> {
        let path = self.path(name);
        let failed = |error| StorageError::io(Operation::Read, &path, error);
        let mut file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let wanted = (bytes as u64).min(length.saturating_sub(offset));
        let mut buffer = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        file.take(wanted).read_to_end(&mut buffer).map_err(failed)?;
        Ok(buffer.into())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let path = self.path(from);
        fs::rename(&path, self.path(to))
            .map_err(|error| StorageError::io(Operation::Rename, path, error))
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name);
        fs::remove_file(&path).map_err(|error| StorageError::io(Operation::Delete, path, error))
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        self.handle
            .sync_all()
            .map_err(|error| StorageError::io(Operation::SyncDirectory, &self.directory, error))
    }

    fn salt(&self) -> u64 {
        // The standard library seeds its hash maps from the operating system's random numbers.
        RandomState::new().build_hasher().finish()
    }
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
}

impl StorageFile for OpenFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| StorageError::io(Operation::Write, &self.path, error))
    }

    fn set_length(&mut self, bytes: u64) -> Result<(), StorageError> {
        self.file
            .set_len(bytes)
            .map_err(|error| StorageError::io(Operation::SetLength, &self.path, error))
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|error| StorageError::io(Operation::Sync, &self.path, error))
    }
}
