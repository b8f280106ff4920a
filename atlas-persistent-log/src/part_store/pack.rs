//! Pack files: written once, blob behind blob, and read back by their index or record by record.

use super::error::{Damage, Damaged, StoreError};
use super::record::{
    self, Encoding, Entry, FOOTER_BYTES, HEAD_BYTES, HEADER_BYTES, Head, Place, VERSION,
};
use crate::sealed::SealedError;
use crate::storage::{Blocks, Storage, StorageError, StorageFile};
use atlas_common::Digest;
use bytes::Bytes;
use std::sync::Arc;

/// Bytes that are gathered before they are written: enough that the disk is not waited for at each turn.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes of a checkpoint that are given to the disk at a time.
const SYNC_BYTES: u64 = 4 << 20;
/// Bytes that are read at a time where there is no index.
const WINDOW_BYTES: usize = 1 << 20;

const PREFIX: &str = "pack-";
/// How the names of packs begin that blobs of a transfer are added to.
pub(crate) const INCOMING: &str = "incoming-";

pub(super) fn name(pack: u64) -> String {
    format!("{PREFIX}{pack:016x}")
}

/// The name of a pack that blobs of a transfer are added to.
pub(super) fn incoming_name(pack: u64) -> String {
    format!("{INCOMING}{pack:016x}")
}

fn number_of(file: &str, prefix: &str) -> Option<u64> {
    u64::from_str_radix(file.strip_prefix(prefix)?, 16).ok()
}

/// The number of a pack, by the name of its file.
pub(super) fn pack_of(file: &str) -> Option<u64> {
    number_of(file, PREFIX).filter(|pack| name(*pack) == file)
}

/// The number of an incoming pack, by the name of its file.
pub(super) fn incoming_of(file: &str) -> Option<u64> {
    number_of(file, INCOMING).filter(|pack| incoming_name(*pack) == file)
}

/// What a pack is written with. The next one can be written with the same: memory that is new costs more
/// than what is done in it.
#[derive(Debug, Default)]
pub(super) struct Room {
    buffer: Blocks,
    entries: Vec<Entry>,
    index: Vec<u8>,
}

/// A pack being written. One that is dropped before it is finished leaves no file.
#[derive(Debug)]
pub(super) struct PackWriter {
    storage: Arc<dyn Storage>,
    pub(super) pack: u64,
    file_name: String,
    header: Vec<u8>,
    /// `None` once it is finished.
    file: Option<Box<dyn StorageFile>>,
    /// Bytes written to the file for good, in whole blocks.
    written: u64,
    /// How many of them were synced.
    synced: u64,
    /// Its buffer holds what comes behind. Whether some of that is in the file already, is not known here.
    room: Room,
}

impl PackWriter {
    pub(super) fn create(
        storage: Arc<dyn Storage>,
        genesis: &Digest,
        pack: u64,
        file_name: String,
        room: Room,
    ) -> Result<Self, StorageError> {
        storage.open(&file_name)?.set_length(0)?;
        Self::over(storage, genesis, pack, file_name, room)
    }

    /// As [`Self::create`], over what a file holds: until it is finished, that is behind what was written.
    pub(super) fn over(
        storage: Arc<dyn Storage>,
        genesis: &Digest,
        pack: u64,
        file_name: String,
        mut room: Room,
    ) -> Result<Self, StorageError> {
        let file = storage.open(&file_name)?;
        let header = record::header(genesis, pack);
        room.entries.clear();
        room.buffer.clear();
        // The default one has no memory yet.
        if room.buffer.is_full() {
            room.buffer = Blocks::new(BUFFER_BYTES);
        }
        // It has room for much more than a header.
        room.buffer.push(&header);
        Ok(Self {
            storage,
            pack,
            file_name,
            header,
            file: Some(file),
            written: 0,
            synced: 0,
            room,
        })
    }

    /// Bytes of the pack so far, without its index.
    pub(super) const fn bytes(&self) -> u64 {
        self.written + self.room.buffer.len() as u64
    }

    /// Appends what stands for a blob.
    pub(super) fn append(
        &mut self,
        digest: Digest,
        plain: u32,
        encoding: Encoding,
        stored: &[u8],
    ) -> Result<Entry, StorageError> {
        let place = Place {
            // A pack is closed long before it has 4 GiB.
            offset: u32::try_from(self.bytes()).unwrap_or(u32::MAX),
            stored: u32::try_from(stored.len()).unwrap_or(u32::MAX),
            plain,
            encoding,
        };
        let entry = Entry { digest, place };
        let head = Head::of(entry, stored);
        self.push(&head.encode(self.pack))?;
        self.push(stored)?;
        self.room.entries.push(entry);
        Ok(entry)
    }

    /// Gathers bytes, and writes the buffer whenever it is full.
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), StorageError> {
        while !bytes.is_empty() {
            bytes = self.room.buffer.push(bytes);
            if self.room.buffer.is_full() {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Hands everything to the file, so that it can be read: in whole blocks, the last of which is written
    /// again when there is more.
    pub(super) fn flush(&mut self) -> Result<(), StorageError> {
        if let Some(file) = &mut self.file
            && self.room.buffer.len() > 0
        {
            let buffer = &mut self.room.buffer;
            file.write_past_cache(self.written, buffer.padded())?;
            self.written += buffer.drop_whole() as u64;
        }
        Ok(())
    }

    /// Makes what was flushed durable; its name needs the directory synced.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        self.synced = self.written;
        self.file.as_mut().map_or(Ok(()), |file| file.sync())
    }

    /// Syncs what was written when that is much, so that the disk is never long busy with a pack while
    /// the log waits for it.
    pub(super) fn sync_much(&mut self) -> Result<(), StorageError> {
        if self.written - self.synced >= SYNC_BYTES {
            return self.sync();
        }
        Ok(())
    }

    /// Writes the index, syncs, and gives the pack its name, which needs the directory synced.
    pub(super) fn finish(mut self) -> Result<Finished, StorageError> {
        let offset = self.bytes();
        let mut index = std::mem::take(&mut self.room.index);
        record::index(&self.header, offset, &self.room.entries, &mut index);
        self.push(&index)?;
        self.room.index = index;
        self.flush()?;
        let bytes = self.bytes();
        if let Some(file) = &mut self.file {
            // Without what fills the last block, and what a file that is written over had behind it.
            file.set_length(bytes)?;
        }
        self.sync()?;
        self.file = None;
        let renamed = self.storage.rename(&self.file_name, &name(self.pack));
        if renamed.is_err() {
            self.delete();
        }
        renamed?;
        Ok(Finished {
            pack: self.pack,
            bytes,
            room: std::mem::take(&mut self.room),
        })
    }

    /// What cannot be deleted now goes when the store is opened.
    fn delete(&self) {
        if let Err(error) = self.storage.delete(&self.file_name) {
            tracing::debug!(%error, "unfinished pack not deleted");
        }
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            self.delete();
        }
    }
}

/// A pack that is written.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) pack: u64,
    pub(super) bytes: u64,
    /// What it was written with, for the next one.
    pub(super) room: Room,
}

impl Finished {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.room.entries
    }
}

/// A pack as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) bytes: u64,
    pub(super) entries: Vec<Entry>,
    /// Empty for a pack whose header and index are whole: its records have not been read then.
    pub(super) damage: Vec<Damage>,
}

/// Reads which blobs a pack holds: from its index, or, where that is damaged, from its records, each
/// of which is checked then.
pub(super) fn read(
    storage: &dyn Storage,
    genesis: &Digest,
    pack: u64,
) -> Result<Found, StoreError> {
    let file = name(pack);
    let bytes = storage.length(&file)?;
    if let Some(entries) = read_index(storage, genesis, pack, bytes)? {
        return Ok(Found {
            bytes,
            entries,
            damage: Vec::new(),
        });
    }
    let (entries, mut damage) = scan(storage, pack, &file, bytes)?;
    damage.insert(0, damaged_index(pack));
    Ok(Found {
        bytes,
        entries,
        damage,
    })
}

pub(super) fn damaged_index(pack: u64) -> Damage {
    Damage {
        file: name(pack),
        offset: 0,
        what: Damaged::PackIndex,
        digest: None,
        bytes: None,
    }
}

/// The entries of a pack's index; `None` where it, or the header, is damaged.
pub(super) fn read_index(
    storage: &dyn Storage,
    genesis: &Digest,
    pack: u64,
    bytes: u64,
) -> Result<Option<Vec<Entry>>, StoreError> {
    let file = name(pack);
    let header = storage.read(&file, 0, HEADER_BYTES)?;
    if let Some(found) = record::read_header(&header) {
        if found.version != VERSION {
            return Err(StoreError::Foreign(SealedError::UnknownVersion {
                file,
                found: found.version,
                expected: VERSION,
            }));
        }
        if found.genesis != *genesis {
            return Err(StoreError::Foreign(SealedError::WrongCluster {
                file,
                found: found.genesis,
                expected: *genesis,
            }));
        }
    }
    let footer = bytes.saturating_sub(FOOTER_BYTES as u64);
    let footer = storage.read(&file, footer, FOOTER_BYTES)?;
    let Some(footer) = record::read_footer(&footer, bytes) else {
        return Ok(None);
    };
    let index = storage.read(&file, footer.offset, footer.index_bytes)?;
    // A header of another pack is one that this seal does not fit.
    let header_is_own = header == record::header(genesis, pack);
    Ok(record::read_index(&header, &index, &footer).filter(|_| header_is_own))
}

/// Part of a file in memory, that moves along.
struct Window<'a> {
    storage: &'a dyn Storage,
    file: &'a str,
    start: u64,
    bytes: Bytes,
}

impl Window<'_> {
    /// So many bytes from there, fewer only at the end of the file.
    fn get(&mut self, at: u64, length: usize) -> Result<Bytes, StorageError> {
        let inside = |window: &Self| {
            let from = usize::try_from(at.checked_sub(window.start)?).ok()?;
            let end = from.checked_add(length)?;
            (end <= window.bytes.len()).then(|| window.bytes.slice(from..end))
        };
        if let Some(found) = inside(self) {
            return Ok(found);
        }
        self.bytes = self.storage.read(self.file, at, length.max(WINDOW_BYTES))?;
        self.start = at;
        Ok(self.bytes.slice(..length.min(self.bytes.len())))
    }
}

/// Finds records without an index. Each is checked against its digest. Where a head is not whole, the
/// next one that is goes on: what is found by imitation of a head is still checked by its digest.
pub(super) fn scan(
    storage: &dyn Storage,
    pack: u64,
    file: &str,
    bytes: u64,
) -> Result<(Vec<Entry>, Vec<Damage>), StorageError> {
    let (mut entries, mut damage) = (Vec::new(), Vec::new());
    let mut window = Window {
        storage,
        file,
        start: 0,
        bytes: Bytes::new(),
    };
    let damaged = |offset, digest| Damage {
        file: file.to_owned(),
        offset,
        what: Damaged::Record,
        digest,
        bytes: None,
    };
    let (mut at, mut gap) = (HEADER_BYTES as u64, None);
    while let Ok(offset) = u32::try_from(at)
        && at < bytes
    {
        let found = Head::read(pack, offset, &window.get(at, HEAD_BYTES)?);
        let Some(head) = found else {
            gap.get_or_insert(at);
            at += 1;
            continue;
        };
        // What lies behind the last record is the index.
        damage.extend(gap.take().map(|gap| damaged(gap, None)));
        let entry = head.entry;
        let length = entry.place.record_bytes();
        let record = window.get(at, length)?;
        let stored = record.slice(HEAD_BYTES.min(record.len())..);
        if head.fits(&stored) && record::restore(&entry, stored).is_some() {
            entries.push(entry);
        } else {
            damage.push(damaged(at, Some(entry.digest)));
        }
        at += length as u64;
    }
    Ok((entries, damage))
}

/// The bytes that stand for a blob; `None` where they, or their head, are not what was written.
pub(super) fn read_record(
    storage: &dyn Storage,
    pack: u64,
    file: &str,
    entry: &Entry,
) -> Result<Option<Bytes>, StorageError> {
    let length = entry.place.record_bytes();
    let bytes = storage.read(file, u64::from(entry.place.offset), length)?;
    Ok(stored_in(pack, entry, bytes))
}

/// The bytes that stand for a blob, out of its record; `None` where it is not what was written.
pub(super) fn stored_in(pack: u64, entry: &Entry, mut record: Bytes) -> Option<Bytes> {
    let head = Head::read(pack, entry.place.offset, &record)?;
    let stored = record.split_off(HEAD_BYTES);
    (head.entry == *entry && head.fits(&stored)).then_some(stored)
}
