//! The segment files of a log that is open for writing.

use super::LogOptions;
use super::format::{self, HEAD_BYTES, HEADER_BYTES, Head, Header, Kind, RESERVE_BYTES, Sealer};
use super::recover::{Found, SEGMENT_BYTES_CAP};
use crate::mode::Durability;
use crate::storage::{BLOCK_BYTES, Blocks, Storage, StorageError, StorageFile};
use atlas_common::Lsn;
use std::sync::Arc;

/// A segment before it has its name.
const NEXT: &str = "log-next.tmp";
/// Bytes that are written in one go at most.
const WRITE_BYTES: usize = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// Zeros as a disk takes them.
#[repr(align(4096))]
struct Zeros([u8; 1 << 18]);
static ZEROS: Zeros = Zeros([0; 1 << 18]);
const _: () = assert!(align_of::<Zeros>() == BLOCK_BYTES);
/// Files of a log that are kept to be written over, where there are as many: nothing need be filled with
/// zeros then, nor given back to the file system and taken from it again.
pub const SPARES_MAX: usize = 4;
/// A buffer larger than this is given back after its group.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Segments {
    storage: Arc<dyn Storage>,
    options: LogOptions,
    /// The first lsns of all segments, in order; the last one is being written.
    firsts: Vec<Lsn>,
    /// Files that wait to be written over.
    spares: Vec<String>,
    current: Current,
    /// Frames that are not written yet.
    buffer: Vec<u8>,
}

/// The segment that is being written: in whole blocks, the last of which is written again when frames
/// are added to it, so that it can go past the page cache of the system. There each new page costs more
/// than what is done with the frames in it, and `fdatasync` has to look for it again.
#[derive(Debug)]
struct Current {
    file: Box<dyn StorageFile>,
    /// Whether it goes past the page cache: where each group is synced, it has to be on the disk anyway.
    past_cache: bool,
    /// The frames of the last block that is written, or about to be.
    blocks: Blocks,
    sealer: Sealer,
    /// The body checksum of the last frame, written or not.
    chain: u32,
    /// Where the written frames end.
    position: u64,
    /// Up to where they are durable.
    synced: u64,
    /// Whether the last frame, written or not, is a marker which says that all before it is durable
    /// (or whether there is none).
    covered: bool,
    /// The length of the file.
    filled: u64,
}

impl Segments {
    /// The first segment of an empty log.
    pub(super) fn begin(
        storage: Arc<dyn Storage>,
        options: LogOptions,
    ) -> Result<Self, StorageError> {
        let mut spares = find_spares(&*storage)?;
        let header = Header {
            genesis: options.genesis,
            first: Lsn(1),
            salt: storage.salt(),
            low: Lsn(1),
            chain: 0,
        };
        let current = Current::create(&*storage, &options, &header, &mut spares)?;
        Ok(Self {
            storage,
            options,
            firsts: vec![header.first],
            spares,
            current,
            buffer: Vec::new(),
        })
    }

    /// Goes on where a log was left: cuts what is torn, makes durable whatever no frame says is
    /// durable, finishes a removal.
    pub(super) fn resume(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        found: &Found,
    ) -> Result<Self, StorageError> {
        let tail = &found.tail;
        let mut file = storage.open(&format::segment_name(tail.header.first))?;
        let mut filled = tail.contents.len() as u64;
        let end = tail.end as u64;
        if found.torn.is_some() {
            file.set_length(end)?;
            filled = end;
        }
        // Written anew, not only synced: after a failed sync the system may hold these bytes to be
        // on the disk while they are not.
        let stated = usize::try_from(tail.stated).unwrap_or(tail.end);
        let again = stated.min(tail.end) / BLOCK_BYTES * BLOCK_BYTES;
        let mut current = Current {
            file,
            past_cache: options.durability == Durability::Sync,
            blocks: Blocks::new(WRITE_BYTES),
            sealer: Sealer::new(tail.header.salt),
            chain: tail.chain,
            position: again as u64,
            synced: end,
            covered: tail.covered,
            filled,
        };
        current.write(&tail.contents[again..tail.end], &options)?;
        current.file.sync()?;
        let mut segments = Self {
            current,
            spares: find_spares(&*storage)?,
            storage,
            options,
            firsts: found.segments.clone(),
            buffer: Vec::new(),
        };
        for name in &found.leftover {
            if !segments.reuse(name)? {
                segments.storage.delete(name)?;
            }
        }
        // A new segment may have its name without that being durable.
        segments.storage.sync_dir()?;
        Ok(segments)
    }

    pub(super) const fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The first lsn of the oldest segment.
    pub(super) fn low(&self) -> Lsn {
        self.firsts.first().copied().unwrap_or(Lsn(1))
    }

    /// Where the next frame goes.
    fn end(&self) -> u64 {
        self.current.position + self.buffer.len() as u64
    }

    /// Whether a record of this length belongs into the next segment. An empty segment takes any.
    pub(super) fn is_full_for(&self, record_bytes: usize) -> bool {
        let end = self.end() + (HEAD_BYTES + record_bytes + RESERVE_BYTES) as u64;
        end > self.options.segment_bytes && self.end() > HEADER_BYTES as u64
    }

    pub(super) fn append(&mut self, lsn: Lsn, record: &[u8]) {
        self.encode(Kind::Record, lsn, record);
        self.current.covered = false;
    }

    /// States what is durable and where the log begins.
    fn mark(&mut self, last: Lsn) {
        let covered = self.current.synced == self.end();
        let low = self.low().0.to_le_bytes();
        self.encode(Kind::Marker, last, &low);
        self.current.covered = covered;
    }

    fn encode(&mut self, kind: Kind, lsn: Lsn, payload: &[u8]) {
        let head = Head {
            kind,
            length: payload.len(),
            chain: self.current.chain,
            lsn,
            durable_end: self.current.synced,
        };
        let checksum = self.current.sealer.encode(&head, payload, &mut self.buffer);
        self.current.chain = checksum;
    }

    /// Hands the buffer to the operating system.
    pub(super) fn write(&mut self) -> Result<(), StorageError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.current.write(&self.buffer, &self.options)?;
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        self.current.file.sync()?;
        self.current.synced = self.current.position;
        Ok(())
    }

    /// Writes a marker where everything is durable and no frame says so. True when it did.
    pub(super) fn mark_tail(&mut self, last: Lsn) -> Result<bool, StorageError> {
        let current = &self.current;
        if current.covered || current.synced < self.end() {
            return Ok(false);
        }
        self.mark(last);
        self.write()?;
        Ok(true)
    }

    /// Goes on in a new segment, which begins with `first`. Everything is durable on return.
    pub(super) fn rotate(&mut self, first: Lsn) -> Result<(), StorageError> {
        self.write()?;
        self.sync()?;
        let header = Header {
            genesis: self.options.genesis,
            first,
            salt: self.storage.salt(),
            low: self.low(),
            chain: self.current.chain,
        };
        let next = Current::create(&*self.storage, &self.options, &header, &mut self.spares)?;
        self.firsts.push(first);
        // Only now that the new segment is durable may the old one say that it exists.
        self.encode(Kind::Seal, first.prev(), &[]);
        self.write()?;
        self.sync()?;
        self.current = next;
        Ok(())
    }

    /// Lets go of the segments whose records are all below `lsn`, if there are any: everything is durable
    /// then, and the files that are given may be deleted at any time. `last` is the last record.
    pub(super) fn release_below(
        &mut self,
        lsn: Lsn,
        last: Lsn,
    ) -> Result<Option<Vec<String>>, StorageError> {
        let next_firsts = self.firsts.iter().skip(1);
        let count = next_firsts.take_while(|first| **first <= lsn).count();
        if count == 0 {
            return Ok(None);
        }
        let removed: Vec<Lsn> = self.firsts.drain(..count).collect();
        // Without this an opening could not tell removed segments from lost ones.
        self.mark(last);
        self.write()?;
        self.sync()?;
        let mut useless = Vec::new();
        for first in removed {
            let name = format::segment_name(first);
            if !self.reuse(&name)? {
                useless.push(name);
            }
        }
        self.storage.sync_dir()?;
        Ok(Some(useless))
    }

    /// Keeps a segment file to be written over, unless there are enough of them.
    fn reuse(&mut self, name: &str) -> Result<bool, StorageError> {
        let longest = self.options.segment_bytes.next_multiple_of(BLOCK);
        let mut free = (0..SPARES_MAX).map(format::spare_name);
        let free = free.find(|spare| !self.spares.contains(spare));
        let Some(spare) = free.filter(|_| self.spares.len() < SPARES_MAX) else {
            return Ok(false);
        };
        if self.storage.length(name)? > longest {
            return Ok(false);
        }
        self.storage.rename(name, &spare)?;
        self.spares.push(spare);
        Ok(true)
    }
}

fn find_spares(storage: &dyn Storage) -> Result<Vec<String>, StorageError> {
    let mut spares = Vec::new();
    for name in storage.list()? {
        if format::is_spare(&name) && storage.length(&name)? <= SEGMENT_BYTES_CAP {
            spares.push(name);
        }
    }
    Ok(spares)
}

impl Current {
    /// Makes a segment: it gets its name when its header is durable.
    fn create(
        storage: &dyn Storage,
        options: &LogOptions,
        header: &Header,
        spares: &mut Vec<String>,
    ) -> Result<Self, StorageError> {
        let spare = spares.pop();
        let unnamed = spare.as_deref().unwrap_or(NEXT);
        let name = format::segment_name(header.first);
        let mut file = storage.open(unnamed)?;
        let filled = if spare.is_some() {
            storage.length(unnamed)?
        } else {
            file.set_length(0)?;
            0
        };
        let mut current = Self {
            file,
            past_cache: options.durability == Durability::Sync,
            blocks: Blocks::new(WRITE_BYTES),
            sealer: Sealer::new(header.salt),
            chain: header.chain,
            position: 0,
            synced: HEADER_BYTES as u64,
            covered: true,
            filled,
        };
        current.write(&header.encode(), options)?;
        current.file.sync()?;
        storage.rename(unnamed, &name)?;
        storage.sync_dir()?;
        // Under its name, so that errors tell it.
        current.file = storage.open(&name)?;
        Ok(current)
    }

    /// Writes bytes behind those that are written, and zeros behind them, which end the frames.
    fn write(&mut self, bytes: &[u8], options: &LogOptions) -> Result<(), StorageError> {
        let end = self.position + bytes.len() as u64;
        self.fill((end + HEAD_BYTES as u64).next_multiple_of(BLOCK), options)?;
        let mut rest = bytes;
        loop {
            rest = self.blocks.push(rest);
            let at = end - (rest.len() + self.blocks.len()) as u64;
            // What is to come ends the frames where there is more.
            let zeros = if rest.is_empty() { HEAD_BYTES } else { 0 };
            let (file, blocks) = (&mut self.file, self.blocks.terminated(zeros));
            if self.past_cache {
                file.write_past_cache(at, blocks)?;
            } else {
                file.write_at(at, blocks)?;
            }
            self.blocks.drop_whole();
            if rest.is_empty() {
                self.position = end;
                return Ok(());
            }
        }
    }

    /// Sees to it that the file reaches to `end`, the end of a block, when a write up to there has been
    /// made: extends it with zeros behind that.
    fn fill(&mut self, end: u64, options: &LogOptions) -> Result<(), StorageError> {
        if end <= self.filled {
            return Ok(());
        }
        let wanted = (self.filled + options.fill_bytes).min(options.segment_bytes);
        let wanted = wanted.next_multiple_of(BLOCK);
        let mut at = end;
        while at < wanted {
            let bytes = (wanted - at).min(ZEROS.0.len() as u64);
            let zeros = &ZEROS.0[..bytes as usize];
            if self.past_cache {
                self.file.write_past_cache(at, zeros)?;
            } else {
                self.file.write_at(at, zeros)?;
            }
            at += bytes;
        }
        self.filled = wanted.max(end);
        Ok(())
    }
}
