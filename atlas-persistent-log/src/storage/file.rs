//! Real files in one directory, which is locked against a second process.

use super::direct::{self, Direct, ReadMemory};
use super::{Operation, Storage, StorageError, StorageFile};
use atlas_common::crypto;
use bytes::Bytes;
use parking_lot::Mutex;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK_FILE: &str = "lock";
/// Memory for a read of so many bytes is taken without asking whether the file has them.
const READ_BYTES_UNASKED: usize = 2 << 20;
/// Fewer bytes are read through the page cache.
const DIRECT_READ_BYTES_MIN: usize = 64 << 10;
/// Files that are kept open to be read again.
const READERS_MAX: usize = 64;

/// Files in one directory of the operating system.
///
/// The directory holds a file `lock`, locked for as long as this value lives, so that no two
/// processes write one log. The lock goes with the process: `kill -9` leaves nothing to clean up.
#[derive(Debug)]
pub struct FileStorage {
    directory: PathBuf,
    /// For `fsync` of the directory itself.
    handle: File,
    /// Files that were read last.
    readers: Mutex<Readers>,
    /// Those that were read past the page cache.
    direct_readers: Mutex<Readers>,
    /// What is read past the page cache is read into.
    memory: Arc<ReadMemory>,
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
            readers: Mutex::default(),
            direct_readers: Mutex::default(),
            memory: Arc::default(),
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
            readers: Mutex::default(),
            direct_readers: Mutex::default(),
            memory: Arc::default(),
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

    /// A file to read from: one that is open already, or one that is opened now.
    fn reader(&self, name: &str) -> io::Result<Arc<File>> {
        reader(&self.readers, name, || File::open(self.path(name)))
    }

    /// As [`Self::reader`], to be read past the page cache.
    fn direct_reader(&self, name: &str) -> io::Result<Arc<File>> {
        let open = || direct::open(OpenOptions::new().read(true), &self.path(name));
        reader(&self.direct_readers, name, open)
    }

    fn forget(&self, names: &[&str]) {
        self.readers.lock().forget(names);
        self.direct_readers.lock().forget(names);
    }
}

fn reader(
    readers: &Mutex<Readers>,
    name: &str,
    open: impl FnOnce() -> io::Result<File>,
) -> io::Result<Arc<File>> {
    let changes = match readers.lock().find(name) {
        Ok(file) => return Ok(file),
        Err(changes) => changes,
    };
    let file = Arc::new(open()?);
    readers.lock().keep(name, &file, changes);
    Ok(file)
}

/// Files open for reading, at most [`READERS_MAX`]: a transfer or a collection reads hundreds of thousands
/// of blobs out of some dozens of packs.
#[derive(Debug, Default)]
struct Readers {
    /// The one used last at the end.
    open: Vec<(String, Arc<File>)>,
    /// How often names were forgotten.
    changes: u64,
}

impl Readers {
    /// An open file, or how often names were forgotten until now.
    fn find(&mut self, name: &str) -> Result<Arc<File>, u64> {
        let index = self.open.iter().rposition(|(open, _)| open == name);
        let Some(index) = index else {
            return Err(self.changes);
        };
        self.open[index..].rotate_left(1);
        let last = self.open.last();
        last.map(|(_, file)| Arc::clone(file)).ok_or(self.changes)
    }

    /// Keeps a file, unless a name was forgotten since `changes`: it may have been this one.
    fn keep(&mut self, name: &str, file: &Arc<File>, changes: u64) {
        let known = self.open.iter().any(|(open, _)| open == name);
        if known || changes != self.changes {
            return;
        }
        if self.open.len() >= READERS_MAX {
            self.open.remove(0);
        }
        self.open.push((name.to_owned(), Arc::clone(file)));
    }

    fn forget(&mut self, names: &[&str]) {
        self.changes += 1;
        self.open
            .retain(|(open, _)| !names.contains(&open.as_str()));
    }
}

/// Reads until the buffer is full or the file ends; how much that is.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
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
        let direct = Direct::default();
        Ok(Box::new(OpenFile { file, path, direct }))
    }

    fn length(&self, name: &str) -> Result<u64, StorageError> {
        let path = self.path(name);
        fs::metadata(&path)
            .map(|metadata| metadata.len())
            .map_err(|error| StorageError::io(Operation::Length, path, error))
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes, StorageError> {
        let failed = |error| StorageError::io(Operation::Read, self.path(name), error);
        let file = self.reader(name).map_err(failed)?;
        let wanted = match bytes {
            0..=READ_BYTES_UNASKED => bytes,
            _ => {
                let length = file.metadata().map_err(failed)?.len();
                let there = usize::try_from(length.saturating_sub(offset));
                bytes.min(there.unwrap_or(usize::MAX))
            }
        };
        let mut buffer = vec![0; wanted];
        let read = read_full(&file, &mut buffer, offset).map_err(failed)?;
        buffer.truncate(read);
        Ok(buffer.into())
    }

    fn read_past_cache(
        &self,
        name: &str,
        offset: u64,
        bytes: usize,
    ) -> Result<Bytes, StorageError> {
        // Less is as well read as usual, and of more it is to be known first whether it is there.
        if (DIRECT_READ_BYTES_MIN..=READ_BYTES_UNASKED).contains(&bytes)
            && let Ok(file) = self.direct_reader(name)
            && let Ok(read) = direct::read(&file, offset, bytes, &self.memory)
        {
            return Ok(read);
        }
        self.read(name, offset, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let path = self.path(from);
        let renamed = fs::rename(&path, self.path(to));
        // Behind the change, and before anybody hears of it: what was opened until now is forgotten.
        self.forget(&[from, to]);
        renamed.map_err(|error| StorageError::io(Operation::Rename, path, error))
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name);
        let deleted = fs::remove_file(&path);
        self.forget(&[name]);
        deleted.map_err(|error| StorageError::io(Operation::Delete, path, error))
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        self.handle
            .sync_all()
            .map_err(|error| StorageError::io(Operation::SyncDirectory, &self.directory, error))
    }

    fn salt(&self) -> u64 {
        crypto::random_number()
    }
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    direct: Direct,
}

impl StorageFile for OpenFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| StorageError::io(Operation::Write, &self.path, error))
    }

    fn write_past_cache(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        match self.direct.write(&self.path, offset, bytes) {
            Some(Err(error)) => Err(StorageError::io(Operation::Write, &self.path, error)),
            Some(Ok(())) => Ok(()),
            None => self.write_at(offset, bytes),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Blocks;

    fn storage() -> (tempfile::TempDir, FileStorage) {
        let dir = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(dir.path()).unwrap();
        (dir, storage)
    }

    #[test]
    fn what_is_read_is_what_has_the_name_now() {
        let (_dir, storage) = storage();
        let read = |name| storage.read(name, 1, 10);
        storage.write_atomically("a", b"first").unwrap();
        assert_eq!(read("a").unwrap(), "irst");
        storage.write_atomically("a", b"second").unwrap();
        assert_eq!(read("a").unwrap(), "econd");
        storage.open("a").unwrap().write_at(6, b"!!").unwrap();
        assert_eq!(read("a").unwrap(), "econd!!");
        storage.rename("a", "b").unwrap();
        assert!(read("a").unwrap_err().is_not_found());
        assert_eq!(read("b").unwrap(), "econd!!");
        storage.delete("b").unwrap();
        assert!(read("b").unwrap_err().is_not_found());
        storage.write_atomically("b", b"third").unwrap();
        assert_eq!(read("b").unwrap(), "hird");
    }

    #[test]
    fn what_goes_past_the_cache_and_what_goes_through_it_is_one_file() {
        let (_dir, storage) = storage();
        let mut file = storage.open("a").unwrap();
        let mut blocks = Blocks::new(64 << 10);
        let bytes: Vec<u8> = (0..200_001u32).map(|n| (n % 251) as u8).collect();
        let (mut rest, mut written) = (&bytes[..], 0);
        while !rest.is_empty() {
            rest = blocks.push(rest);
            file.write_past_cache(written, blocks.padded()).unwrap();
            written += blocks.drop_whole() as u64;
        }
        file.set_length(bytes.len() as u64).unwrap();
        file.write_at(100_000, b"later").unwrap();
        let mut expected = bytes;
        expected[100_000..100_005].copy_from_slice(b"later");
        file.sync().unwrap();
        for offset in [0, 1, 4095, 4096, 100_001, 199_999, 200_001, 1_000_000] {
            for length in [0, 1, 65_536, 65_537, 100_000, 131_072, 400_000] {
                let from = offset.min(expected.len());
                let to = (offset + length).min(expected.len());
                let read = storage.read_past_cache("a", offset as u64, length).unwrap();
                assert_eq!(read, expected[from..to], "{length} bytes from {offset}");
            }
        }
        storage.rename("a", "b").unwrap();
        let gone = storage.read_past_cache("a", 0, 100_000).unwrap_err();
        assert!(gone.is_not_found());
    }

    #[test]
    fn a_file_opened_before_its_name_changed_is_not_kept() {
        let (_dir, storage) = storage();
        storage.write_atomically("a", b"old").unwrap();
        let changes = storage.readers.lock().find("a").unwrap_err();
        let stale = Arc::new(File::open(storage.path("a")).unwrap());
        storage.write_atomically("a", b"new").unwrap();
        storage.readers.lock().keep("a", &stale, changes);
        assert_eq!(storage.read("a", 0, 3).unwrap(), "new");
    }

    #[test]
    fn only_so_many_files_stay_open_those_that_were_read_last() {
        let (_dir, storage) = storage();
        for number in 0..=READERS_MAX {
            let name = number.to_string();
            storage.open(&name).unwrap().write_at(0, b"x").unwrap();
            storage.read(&name, 0, 1).unwrap();
            storage.read("0", 0, 1).unwrap();
        }
        let mut readers = storage.readers.lock();
        assert_eq!(readers.open.len(), READERS_MAX);
        assert!(readers.find("0").is_ok() && readers.find("1").is_err());
    }
}
