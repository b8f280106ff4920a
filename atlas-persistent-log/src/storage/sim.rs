//! A disk in memory that forgets at a crash what was not synced.
//!
//! It is as unkind as a real one may be: unsynced writes are lost, kept, torn at any byte, or kept
//! in part and out of order (512-byte sectors); a name is durable only after `sync_dir`; after a
//! failed sync the operating system holds the written bytes to be clean, so that they are read back
//! but no later sync ever writes them (Rebello et al., ATC'20).

mod disk;

use super::blocks::{BLOCK_BYTES, are_blocks};
use super::{Operation, Storage, StorageError, StorageFile};
use atlas_common::rng::SeededRng;
use bytes::Bytes;
use disk::{Disk, FileId};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// How often the disk was asked to do what. Counted from its creation, over all crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Everything that changes something: creations, writes, changes of length, syncs, renames,
    /// deletions. Faults strike by this count.
    pub operations: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes in them.
    pub written_bytes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of the directory.
    pub directory_syncs: u64,
    /// Power cuts ([`SimStorage::crash`]).
    pub crashes: u64,
    /// Crashes at which unsynced bytes or names were really lost.
    pub losses: u64,
    /// Operations that failed because a fault was injected.
    pub faults: u64,
}

/// What can be made to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next sync from then on fails, once, and what it should have made durable never will be.
    SyncFails,
    /// Whatever needs room fails, the first write halfway, until [`SimStorage::free_space`].
    DiskFull,
    /// The operation and all after it fail until [`SimStorage::crash`].
    PowerCut,
}

/// A simulated disk. Clones are handles to the same one, so that a replica restarts on what its
/// earlier life left.
#[derive(Clone, Debug, Default)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
    /// Handles of an earlier life must not write into the next one.
    life: u64,
}

impl SimStorage {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: what was not synced is lost, torn or kept as `rng` decides. All handles to
    /// the disk, and files open on it, fail from now on, but the one that is returned.
    #[must_use]
    pub fn crash(&self, rng: &mut SeededRng) -> Self {
        self.next_life(|disk| disk.crash(rng))
    }

    /// Cuts the power and keeps nothing that was not synced: the plainest case of
    /// [`Self::crash`].
    #[must_use]
    pub fn crash_losing_all(&self) -> Self {
        self.next_life(Disk::crash_losing_all)
    }

    /// Ends the process but not the operating system (`kill -9`): nothing is lost. Handles behave
    /// as after [`Self::crash`].
    #[must_use]
    pub fn kill(&self) -> Self {
        self.next_life(|_disk| ())
    }

    /// Takes the disk away and puts in an empty one. Counters go on.
    #[must_use]
    pub fn wipe(&self) -> Self {
        self.next_life(Disk::wipe)
    }

    fn next_life(&self, end: impl FnOnce(&mut Disk)) -> Self {
        let mut disk = self.disk.lock();
        end(&mut disk);
        Self {
            life: disk.begin_life(),
            disk: Arc::clone(&self.disk),
        }
    }

    /// Lets a fault strike at the `nth` changing operation from now (1 is the very next). A later
    /// call replaces one that has not struck yet.
    pub fn inject(&self, fault: Fault, nth: u64) {
        self.disk.lock().inject(fault, nth);
    }

    /// Ends [`Fault::DiskFull`].
    pub fn free_space(&self) {
        self.disk.lock().free_space();
    }

    /// Whether a power cut was injected, has struck, and waits for [`Self::crash`].
    #[must_use]
    pub fn is_without_power(&self) -> bool {
        self.disk.lock().is_without_power()
    }

    /// Flips one bit (0 to 7) of one byte, on the disk and in what is read. False when there is no
    /// such file or byte.
    pub fn flip_bit(&self, name: &str, byte: u64, bit: u8) -> bool {
        self.disk.lock().flip_bit(name, byte, bit)
    }

    /// Cuts a file short, or deletes it where `bytes` is `None`, as a damaged disk would: at once
    /// and durably. False when there is no such file.
    pub fn lose(&self, name: &str, bytes: Option<u64>) -> bool {
        self.disk.lock().lose(name, bytes)
    }

    /// What a reader sees of a file.
    #[must_use]
    pub fn live_bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.disk.lock().live_bytes(name)
    }

    /// What would be left of a file if all unsynced bytes and names were lost.
    #[must_use]
    pub fn durable_bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.disk.lock().durable_bytes(name)
    }

    /// Another disk with the same durable and live bytes and the same state, on which nothing
    /// touches this one.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let disk = self.disk.lock().clone();
        Self {
            disk: Arc::new(Mutex::new(disk)),
            life: self.life,
        }
    }

    /// How often the disk was asked to do what.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.disk.lock().counters
    }

    fn with<T>(
        &self,
        operation: Operation,
        name: &str,
        act: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        with_disk(&self.disk, self.life, operation, name, act)
    }
}

fn with_disk<T>(
    disk: &Mutex<Disk>,
    life: u64,
    operation: Operation,
    name: &str,
    act: impl FnOnce(&mut Disk) -> io::Result<T>,
) -> Result<T, StorageError> {
    let mut disk = disk.lock();
    disk.check_life(life)
        .and_then(|()| act(&mut disk))
        .map_err(|error| StorageError::io(operation, name, error))
}

impl Storage for SimStorage {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.with(Operation::List, ".", |disk| Ok(disk.list()))
    }

    fn open(&self, name: &str) -> Result<Box<dyn StorageFile>, StorageError> {
        let id = self.with(Operation::Open, name, |disk| disk.open(name))?;
        Ok(Box::new(SimFile {
            disk: Arc::clone(&self.disk),
            life: self.life,
            id,
            name: name.to_owned(),
        }))
    }

    fn length(&self, name: &str) -> Result<u64, StorageError> {
        self.with(Operation::Length, name, |disk| disk.length(name))
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes, StorageError> {
        self.with(Operation::Read, name, |disk| disk.read(name, offset, bytes))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.with(Operation::Rename, from, |disk| disk.rename(from, to))
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        self.with(Operation::Delete, name, |disk| disk.delete(name))
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        self.with(Operation::SyncDirectory, ".", Disk::sync_dir)
    }

    fn salt(&self) -> u64 {
        self.disk.lock().next_salt()
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Disk>>,
    life: u64,
    id: FileId,
    name: String,
}

impl SimFile {
    fn with<T>(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        with_disk(&self.disk, self.life, operation, &self.name, act)
    }
}

impl StorageFile for SimFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let id = self.id;
        self.with(Operation::Write, |disk| disk.write_at(id, offset, bytes))
    }

    /// A real disk would take the bytes in the usual way then, and slowly.
    fn write_past_cache(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        debug_assert!(
            are_blocks(bytes) && offset.is_multiple_of(BLOCK_BYTES as u64),
            "{} bytes at {offset} of {} are no whole blocks",
            bytes.len(),
            self.name
        );
        self.write_at(offset, bytes)
    }

    fn set_length(&mut self, bytes: u64) -> Result<(), StorageError> {
        let id = self.id;
        self.with(Operation::SetLength, |disk| disk.set_length(id, bytes))
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let id = self.id;
        self.with(Operation::Sync, |disk| disk.sync(id))
    }
}

#[cfg(test)]
mod tests;
