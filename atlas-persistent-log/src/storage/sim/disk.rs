//! The state of a simulated disk: live and durable bytes, and what lies between them.

use super::{Counters, Fault};
use atlas_common::rng::SeededRng;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;

/// Disks write whole sectors, in any order.
const SECTOR_BYTES: usize = 512;

pub(super) type FileId = usize;

/// A change that has not been synced.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLength(usize),
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write(contents, *offset, bytes),
            Self::SetLength(length) => contents.resize(*length, 0),
        }
    }
}

fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(bytes);
}

#[derive(Clone, Debug, Default)]
struct Contents {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// What leads from `durable` to `live`; not so after a failed sync.
    changes: Vec<Change>,
}

impl Contents {
    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            change.apply(&mut self.durable);
        }
    }
}

/// A change of names that has not been synced.
#[derive(Clone, Debug)]
enum NameChange {
    Create(String, FileId),
    Rename(String, String, FileId),
    Delete(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Create(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Rename(from, to, id) => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
            Self::Delete(name) => {
                names.remove(name);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<FileId, Contents>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    name_changes: Vec<NameChange>,
    next_file: FileId,
    life: u64,
    salts: u64,
    pub(super) counters: Counters,
    armed: Option<(Fault, u64)>,
    full: bool,
    without_power: bool,
}

fn not_found() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such file")
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on device")
}

impl Disk {
    pub(super) fn begin_life(&mut self) -> u64 {
        self.life += 1;
        self.life
    }

    pub(super) fn check_life(&self, life: u64) -> io::Result<()> {
        if life != self.life {
            return Err(io::Error::other("handle from before a crash"));
        }
        if self.without_power {
            return Err(io::Error::other("no power"));
        }
        Ok(())
    }

    pub(super) fn next_salt(&mut self) -> u64 {
        self.salts += 1;
        SeededRng::new(self.salts).next_u64()
    }

    pub(super) fn inject(&mut self, fault: Fault, nth: u64) {
        let at = self.counters.operations.saturating_add(nth.max(1));
        self.armed = Some((fault, at));
    }

    pub(super) fn free_space(&mut self) {
        self.full = false;
        if matches!(self.armed, Some((Fault::DiskFull, _))) {
            self.armed = None;
        }
    }

    pub(super) const fn is_without_power(&self) -> bool {
        self.without_power
    }

    /// Counts an operation and lets a fault strike. True when a sync must fail.
    fn operate(&mut self, is_sync: bool) -> bool {
        self.counters.operations += 1;
        match self.armed {
            Some((fault, at)) if self.counters.operations >= at => match fault {
                Fault::SyncFails if is_sync => {
                    self.armed = None;
                    self.counters.faults += 1;
                    return true;
                }
                Fault::SyncFails => {}
                Fault::DiskFull => {
                    self.armed = None;
                    self.full = true;
                }
                Fault::PowerCut => {
                    self.armed = None;
                    self.without_power = true;
                    self.counters.faults += 1;
                    return is_sync;
                }
            },
            _ => {}
        }
        false
    }

    fn id(&self, name: &str) -> io::Result<FileId> {
        self.names.get(name).copied().ok_or_else(not_found)
    }

    fn contents(&mut self, id: FileId) -> io::Result<&mut Contents> {
        self.files.get_mut(&id).ok_or_else(not_found)
    }

    /// The error of an operation that a power cut interrupted. What it did so far stays unsynced.
    fn interrupted(&self) -> io::Result<()> {
        if self.without_power {
            return Err(io::Error::other("power cut"));
        }
        Ok(())
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn open(&mut self, name: &str) -> io::Result<FileId> {
        if let Some(id) = self.names.get(name) {
            return Ok(*id);
        }
        self.operate(false);
        if self.full {
            self.counters.faults += 1;
            return Err(full());
        }
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, Contents::default());
        self.names.insert(name.to_owned(), id);
        self.name_changes
            .push(NameChange::Create(name.to_owned(), id));
        self.interrupted()?;
        Ok(id)
    }

    pub(super) fn length(&mut self, name: &str) -> io::Result<u64> {
        let id = self.id(name)?;
        Ok(self.contents(id)?.live.len() as u64)
    }

    pub(super) fn read(&mut self, name: &str, offset: u64, bytes: usize) -> io::Result<Bytes> {
        self.counters.reads += 1;
        let id = self.id(name)?;
        let live = &self.contents(id)?.live;
        let start = usize::try_from(offset).map_or(live.len(), |offset| offset.min(live.len()));
        let end = start.saturating_add(bytes).min(live.len());
        let read = Bytes::copy_from_slice(&live[start..end]);
        self.counters.read_bytes += read.len() as u64;
        Ok(read)
    }

    pub(super) fn write_at(&mut self, id: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let was_full = self.full;
        self.operate(false);
        self.counters.writes += 1;
        self.counters.written_bytes += bytes.len() as u64;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let (is_full, contents) = (self.full, self.contents(id)?);
        // Overwriting needs no room.
        let refused = is_full && offset + bytes.len() > contents.live.len();
        let kept = match (refused, was_full) {
            (false, _) => bytes,
            (true, false) => &bytes[..bytes.len() / 2],
            (true, true) => &[],
        };
        write(&mut contents.live, offset, kept);
        contents.changes.push(Change::Write {
            offset,
            bytes: kept.to_vec(),
        });
        if refused {
            self.counters.faults += 1;
            return Err(full());
        }
        self.interrupted()
    }

    pub(super) fn set_length(&mut self, id: FileId, bytes: u64) -> io::Result<()> {
        self.operate(false);
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let (is_full, contents) = (self.full, self.contents(id)?);
        if is_full && length > contents.live.len() {
            self.counters.faults += 1;
            return Err(full());
        }
        if length != contents.live.len() {
            contents.live.resize(length, 0);
            contents.changes.push(Change::SetLength(length));
        }
        self.interrupted()
    }

    pub(super) fn sync(&mut self, id: FileId) -> io::Result<()> {
        self.counters.syncs += 1;
        let fails = self.operate(true);
        self.interrupted()?;
        let contents = self.contents(id)?;
        if fails {
            // The pages count as clean now: no later sync writes them.
            contents.changes.clear();
            return Err(io::Error::other("input/output error"));
        }
        contents.sync();
        Ok(())
    }

    pub(super) fn sync_dir(&mut self) -> io::Result<()> {
        self.counters.directory_syncs += 1;
        let fails = self.operate(true);
        self.interrupted()?;
        if fails {
            // Names are in the file system's journal, which is written whole or gives up for good.
            return Err(io::Error::other("input/output error"));
        }
        for change in self.name_changes.drain(..) {
            change.apply(&mut self.durable_names);
        }
        self.collect();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let id = self.id(from)?;
        self.operate(false);
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), id);
        change.apply(&mut self.names);
        self.name_changes.push(change);
        self.interrupted()
    }

    pub(super) fn delete(&mut self, name: &str) -> io::Result<()> {
        self.id(name)?;
        self.operate(false);
        let change = NameChange::Delete(name.to_owned());
        change.apply(&mut self.names);
        self.name_changes.push(change);
        self.interrupted()
    }

    /// Drops files that no name can lead to any more.
    fn collect(&mut self) {
        let Self {
            files,
            names,
            durable_names,
            ..
        } = self;
        if files.len() > names.len() {
            files.retain(|id, _| {
                names.values().any(|used| used == id)
                    || durable_names.values().any(|used| used == id)
            });
        }
    }

    pub(super) fn crash_losing_all(&mut self) {
        for contents in self.files.values_mut() {
            contents.changes.clear();
        }
        self.name_changes.clear();
        self.settle();
    }

    pub(super) fn crash(&mut self, rng: &mut SeededRng) {
        for contents in self.files.values_mut() {
            if !contents.changes.is_empty() {
                let changes = std::mem::take(&mut contents.changes);
                keep_some(&changes, &mut contents.durable, rng);
            }
        }
        let changes = std::mem::take(&mut self.name_changes);
        match rng.below(3) {
            0 => {}
            1 => {
                let kept = rng.below(changes.len() as u64 + 1) as usize;
                for change in &changes[..kept] {
                    change.apply(&mut self.durable_names);
                }
            }
            _ => {
                for change in changes {
                    if rng.chance(0.5) {
                        change.apply(&mut self.durable_names);
                    }
                }
            }
        }
        self.settle();
    }

    /// What is durable is all there is.
    fn settle(&mut self) {
        let mut lost = self.names != self.durable_names;
        self.names.clone_from(&self.durable_names);
        self.collect();
        for contents in self.files.values_mut() {
            lost |= contents.live != contents.durable;
            contents.live.clone_from(&contents.durable);
        }
        self.counters.crashes += 1;
        self.counters.losses += u64::from(lost);
        self.armed = None;
        self.without_power = false;
    }

    pub(super) fn wipe(&mut self) {
        let (counters, life, salts) = (self.counters, self.life, self.salts);
        *self = Self {
            counters,
            life,
            salts,
            ..Self::default()
        };
    }

    pub(super) fn flip_bit(&mut self, name: &str, byte: u64, bit: u8) -> bool {
        let Ok(id) = self.id(name) else { return false };
        let (Ok(contents), Ok(byte)) = (self.contents(id), usize::try_from(byte)) else {
            return false;
        };
        let mask = 1u8 << (bit % 8);
        let Some(live) = contents.live.get_mut(byte) else {
            return false;
        };
        *live ^= mask;
        if let Some(durable) = contents.durable.get_mut(byte) {
            *durable ^= mask;
        }
        true
    }

    pub(super) fn lose(&mut self, name: &str, bytes: Option<u64>) -> bool {
        let Ok(id) = self.id(name) else { return false };
        match bytes {
            None => {
                self.names.remove(name);
                self.durable_names.remove(name);
            }
            Some(bytes) => {
                let length = usize::try_from(bytes).unwrap_or(usize::MAX);
                if let Some(contents) = self.files.get_mut(&id) {
                    contents.live.truncate(length);
                    contents.durable.truncate(length);
                }
            }
        }
        true
    }

    pub(super) fn live_bytes(&self, name: &str) -> Option<Vec<u8>> {
        let contents = self.files.get(self.names.get(name)?)?;
        Some(contents.live.clone())
    }

    pub(super) fn durable_bytes(&self, name: &str) -> Option<Vec<u8>> {
        let contents = self.files.get(self.durable_names.get(name)?)?;
        Some(contents.durable.clone())
    }
}

/// What a power cut leaves of unsynced changes: nothing, all, the first few with the last of them
/// torn at any byte, or any sectors of any of them.
fn keep_some(changes: &[Change], durable: &mut Vec<u8>, rng: &mut SeededRng) {
    match rng.below(4) {
        0 => {}
        1 => changes.iter().for_each(|change| change.apply(durable)),
        2 => {
            let torn = rng.below(changes.len() as u64) as usize;
            changes[..torn]
                .iter()
                .for_each(|change| change.apply(durable));
            if let Change::Write { offset, bytes } = &changes[torn] {
                let kept = rng.below(bytes.len() as u64 + 1) as usize;
                write(durable, *offset, &bytes[..kept]);
            }
        }
        _ => {
            for change in changes {
                match change {
                    Change::SetLength(_) if rng.chance(0.5) => change.apply(durable),
                    Change::SetLength(_) => {}
                    Change::Write { offset, bytes } => keep_sectors(*offset, bytes, durable, rng),
                }
            }
        }
    }
}

fn keep_sectors(offset: usize, bytes: &[u8], durable: &mut Vec<u8>, rng: &mut SeededRng) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done;
        let length = (SECTOR_BYTES - at % SECTOR_BYTES).min(bytes.len() - done);
        if rng.chance(0.5) {
            write(durable, at, &bytes[done..done + length]);
        }
        done += length;
    }
}
