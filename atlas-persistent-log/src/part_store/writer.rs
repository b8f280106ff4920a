//! Writing a checkpoint as its parts come.

use super::error::StoreError;
use super::gate::Pass;
use super::index::secret_key;
use super::meta::{self, CheckpointMeta, StoredCheckpoint};
use super::pack::{self, PackWriter, Room};
use super::record;
use super::store::{PartStore, check_blob};
use crate::storage::TEMPORARY_SUFFIX;
use atlas_common::digest_map::DigestMap;
use atlas_common::parts::{Blob, PageCutter, PartRef};
use atlas_common::{Digest, SeqNo};
use bytes::Bytes;
use std::sync::Arc;

/// Bytes of pages that are gathered before they are written: they are read by the hundred, and each that
/// lies alone between parts is a read of its own.
const PAGES_BYTES: usize = 1 << 20;

/// Writes one checkpoint, part by part. Nothing of it exists before [`Self::commit`]; of a writer that
/// is dropped at most blobs stay that nothing reaches, until garbage is collected.
///
/// While it lives, nothing is collected: parts that are here already stay.
#[derive(Debug)]
pub struct CheckpointWriter {
    store: PartStore,
    seq: SeqNo,
    pages: PageCutter,
    /// Pages that are not here and not written yet.
    gathered: Vec<(PartRef, Bytes)>,
    gathered_bytes: usize,
    parts_written: u64,
    pages_written: u64,
    packs: Packs,
    pass: Option<Pass>,
}

/// What became of a checkpoint that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The checkpoint.
    pub stored: Arc<StoredCheckpoint>,
    /// Bytes that went into packs: blobs that were not here, their heads and indexes.
    pub bytes_written: u64,
    /// How many parts were not here and had to be written.
    pub parts_written: u64,
    /// How many pages were.
    pub pages_written: u64,
}

/// Packs that are written one after the other.
#[derive(Debug)]
pub(super) struct Packs {
    store: PartStore,
    current: Option<PackWriter>,
    /// What is in the current one, which nobody finds before it is finished.
    unregistered: DigestMap<()>,
    room: Room,
    pub(super) bytes: u64,
}

impl Packs {
    pub(super) fn new(store: PartStore) -> Self {
        Self {
            store,
            current: None,
            unregistered: DigestMap::new(secret_key()),
            room: Room::default(),
            bytes: 0,
        }
    }

    fn current(&mut self) -> Result<&mut PackWriter, StoreError> {
        let inner = &self.store.inner;
        match &mut self.current {
            Some(writer) => Ok(writer),
            none => {
                let number = inner.index.write().take_number();
                let storage = Arc::clone(&inner.storage);
                let (genesis, room) = (&inner.options.genesis, std::mem::take(&mut self.room));
                let spare = inner.spares.lock().take();
                let writer = match spare {
                    Some(name) => PackWriter::over(storage, genesis, number, name, room)?,
                    None => {
                        let name = pack::name(number) + TEMPORARY_SUFFIX;
                        PackWriter::create(storage, genesis, number, name, room)?
                    }
                };
                Ok(none.insert(writer))
            }
        }
    }

    fn has(&self, digest: &Digest) -> bool {
        self.unregistered.contains(digest) || self.store.inner.index.read().has(digest)
    }

    /// Writes a blob under the digest that it is known to have, unless it is here. Whether it was
    /// written.
    fn add(&mut self, part: PartRef, blob: &Bytes) -> Result<bool, StoreError> {
        if self.has(&part.digest) {
            return Ok(false);
        }
        check_blob(blob.len())?;
        self.write(part.digest, blob)?;
        Ok(true)
    }

    /// Writes a blob that is here already to another place.
    pub(super) fn copy(&mut self, blob: &Blob) -> Result<(), StoreError> {
        self.write(blob.digest(), blob.bytes())
    }

    fn write(&mut self, digest: Digest, blob: &[u8]) -> Result<(), StoreError> {
        let options = &self.store.inner.options;
        let (limit, compression) = (options.pack_bytes, options.compression);
        let (encoding, stored) = record::compress(blob, compression);
        let plain = u32::try_from(blob.len()).unwrap_or(u32::MAX);
        let writer = self.current()?;
        writer.append(digest, plain, encoding, &stored)?;
        writer.sync_much()?;
        let full = writer.bytes() >= limit;
        self.unregistered.insert(digest, ());
        if full { self.finish() } else { Ok(()) }
    }

    /// Finishes the current pack. Its name is not durable before the directory is synced.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(writer) = self.current.take() {
            self.unregistered.remove_all();
            let finished = writer.finish()?;
            self.bytes += finished.bytes;
            if finished.bytes >= self.store.inner.options.pack_bytes {
                self.store.inner.spares.lock().count_filled();
            }
            self.store.inner.index.write().add_finished(&finished);
            self.room = finished.room;
        }
        Ok(())
    }
}

impl PartStore {
    /// Begins to write a checkpoint. One whose metadata are damaged is replaced.
    ///
    /// # Errors
    /// When there is one of this number already, or it is being written, or the store has failed.
    pub fn begin(&self, seq: SeqNo) -> Result<CheckpointWriter, StoreError> {
        self.change(|| Ok(()))?;
        let pass = self.enter();
        let mut checkpoints = self.inner.checkpoints.lock();
        let exists = matches!(checkpoints.known.get(&seq), Some(Ok(_)));
        if exists || !checkpoints.unfinished.insert(seq) {
            return Err(StoreError::Exists { seq });
        }
        Ok(CheckpointWriter {
            store: self.clone(),
            seq,
            pages: PageCutter::default(),
            gathered: Vec::new(),
            gathered_bytes: 0,
            parts_written: 0,
            pages_written: 0,
            packs: Packs::new(self.clone()),
            pass: Some(pass),
        })
    }

    /// Writes a checkpoint of these parts, in order: durable on return. Only what is not here is
    /// written.
    ///
    /// # Errors
    /// As [`Self::begin`], [`CheckpointWriter::part`] and [`CheckpointWriter::commit`].
    pub fn write(
        &self,
        meta: CheckpointMeta,
        parts: &mut dyn Iterator<Item = (PartRef, Bytes)>,
    ) -> Result<Written, StoreError> {
        let mut writer = self.begin(meta.seq)?;
        for (part, bytes) in parts {
            writer.part(part, &bytes)?;
        }
        writer.commit(meta)
    }

    /// Writes metadata, and knows them from then on. Everything they reach must be durable.
    pub(super) fn write_meta(
        &self,
        stored: StoredCheckpoint,
    ) -> Result<Arc<StoredCheckpoint>, StoreError> {
        let genesis = &self.inner.options.genesis;
        meta::write(self.storage(), genesis, &stored)?;
        let stored = Arc::new(stored);
        let mut checkpoints = self.inner.checkpoints.lock();
        checkpoints.to_rewrite.remove(&stored.meta.seq);
        checkpoints
            .known
            .insert(stored.meta.seq, Ok(Arc::clone(&stored)));
        Ok(stored)
    }
}

impl CheckpointWriter {
    /// The next part of the state; written only when it is not here. Whether it was written.
    ///
    /// # Errors
    /// When the bytes are not those of the part, it is empty or too long, or the storage fails or is
    /// full.
    pub fn part(&mut self, part: PartRef, bytes: &Bytes) -> Result<bool, StoreError> {
        if !self.packs.has(&part.digest) && !part.matches(bytes) {
            let digest = part.digest;
            return Err(StoreError::WrongDigest { digest });
        }
        self.digested(part, bytes)
    }

    /// As [`Self::part`], of bytes whose digest the caller has computed just now: it is believed, which
    /// saves half of the time that a checkpoint takes.
    ///
    /// # Errors
    /// As [`Self::part`], but that with a wrong digest nobody can read the part.
    pub fn digested(&mut self, part: PartRef, bytes: &Bytes) -> Result<bool, StoreError> {
        if part.bytes as usize != bytes.len() {
            let digest = part.digest;
            return Err(StoreError::WrongDigest { digest });
        }
        let store = self.store.clone();
        store.change(|| {
            let fresh = self.packs.add(part, bytes)?;
            self.parts_written += u64::from(fresh);
            let page = self.pages.push(part)?;
            self.page(page)?;
            Ok(fresh)
        })
    }

    fn page(&mut self, page: Option<(PartRef, Bytes)>) -> Result<(), StoreError> {
        let Some((page, bytes)) = page.filter(|(page, _)| !self.packs.has(&page.digest)) else {
            return Ok(());
        };
        self.gathered_bytes += bytes.len();
        self.gathered.push((page, bytes));
        match self.gathered_bytes >= PAGES_BYTES {
            true => self.write_pages(),
            false => Ok(()),
        }
    }

    fn write_pages(&mut self) -> Result<(), StoreError> {
        for (page, bytes) in self.gathered.drain(..) {
            // One that comes twice is written once.
            self.pages_written += u64::from(self.packs.add(page, &bytes)?);
        }
        self.gathered_bytes = 0;
        Ok(())
    }

    /// Completes the checkpoint: durable on return. Then garbage is collected, if that had to wait.
    ///
    /// # Errors
    /// When the metadata are of another checkpoint or too long, there are too many parts, or the storage
    /// fails or is full; the checkpoint does not exist then.
    pub fn commit(mut self, meta: CheckpointMeta) -> Result<Written, StoreError> {
        meta::check(self.seq, &meta)?;
        let store = self.store.clone();
        let written = store.change(|| self.write(meta))?;
        drop(self);
        store.collect_if_due()?;
        Ok(written)
    }

    fn write(&mut self, meta: CheckpointMeta) -> Result<Written, StoreError> {
        let (descriptor, last) = std::mem::take(&mut self.pages).finish()?;
        self.page(last)?;
        self.write_pages()?;
        self.packs.finish()?;
        // The checkpoint may rely on blobs of a transfer.
        self.store.seal_incoming()?;
        // The metadata must not become durable before the names of the packs.
        self.store.storage().sync_dir()?;
        let _metadata = self.store.inner.metadata.lock();
        let stored = self
            .store
            .write_meta(StoredCheckpoint { meta, descriptor })?;
        Ok(Written {
            stored,
            bytes_written: self.packs.bytes,
            parts_written: self.parts_written,
            pages_written: self.pages_written,
        })
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        let mut checkpoints = self.store.inner.checkpoints.lock();
        checkpoints.unfinished.remove(&self.seq);
        drop(checkpoints);
        self.pass.take();
    }
}
