//! The store: which checkpoints there are, and the blobs they are made of.

use super::error::{Damage, StoreError};
use super::fetched::Fetched;
use super::gate::{Gate, Pass};
use super::index::{Index, Pack};
use super::meta::{self, StoredCheckpoint, Target};
use super::pack::{self, PackWriter, Room};
use super::record::BLOB_BYTES_MAX;
use super::spare::Spares;
use super::{PACK_BYTES_MAX, StoreOptions, StoreStats};
use crate::remedy::Remedy;
use crate::storage::{Storage, StorageError, TEMPORARY_SUFFIX};
use atlas_common::parts::{Blob, PartRef, StateDescriptor};
use atlas_common::{Digest, SeqNo};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Threads that keep blobs at a time; another one waits.
const KEEPING_MAX: usize = 2;
/// Pages that are read in one go.
pub(super) const PAGES_AT_ONCE: usize = 256;

/// Checkpoints and their blobs in a [`Storage`]. Clones are handles to the same store; all methods may
/// be called from any thread.
#[derive(Clone)]
pub struct PartStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) options: StoreOptions,
    /// Held for moments, never over I/O.
    pub(super) index: RwLock<Index>,
    /// Held for moments, never over I/O.
    pub(super) checkpoints: Mutex<Checkpoints>,
    /// The lock of everything that changes metadata files.
    pub(super) metadata: Mutex<()>,
    /// The packs that blobs of a transfer are added to, one for each thread that adds.
    pub(super) incoming: [Mutex<Option<Incoming>>; KEEPING_MAX],
    /// What a transfer has fetched. Held for moments, never over I/O.
    pub(super) fetched: Mutex<Fetched>,
    /// Files to write over. Held for moments, never over I/O.
    pub(super) spares: Mutex<Spares>,
    pub(super) gate: Arc<Gate>,
    failed: Mutex<Option<StoreError>>,
    found: Vec<Damage>,
}

#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) writer: PackWriter,
    /// Bytes of it that were synced.
    pub(super) synced: u64,
}

#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// What the metadata say, or what is wrong with them.
    pub(super) known: BTreeMap<SeqNo, Result<Arc<StoredCheckpoint>, StoreError>>,
    /// Which are being written.
    pub(super) unfinished: BTreeSet<SeqNo>,
    /// What a running transfer fetches.
    pub(super) target: Option<Arc<StateDescriptor>>,
    /// Whose metadata file was found to be damaged after it had been read.
    pub(super) to_rewrite: BTreeSet<SeqNo>,
}

impl fmt::Debug for PartStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartStore")
            .field("storage", &self.inner.storage)
            .finish_non_exhaustive()
    }
}

impl PartStore {
    /// Opens a store. What interrupted writes left is removed, whole blobs of an interrupted transfer
    /// are taken over. Damage is no error here: see [`Self::damage_found`].
    ///
    /// # Errors
    /// When the storage fails, or a file is of another cluster or version.
    pub fn open(storage: Arc<dyn Storage>, options: StoreOptions) -> Result<Self, StoreError> {
        remove_unfinished(&*storage)?;
        Self::open_with(storage, options, take_over_incoming)
    }

    /// Opens a store to look at it: nothing is cleaned up, and what an interrupted transfer left is not
    /// seen.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn look_at(storage: Arc<dyn Storage>, options: StoreOptions) -> Result<Self, StoreError> {
        Self::open_with(storage, options, |_, _, _| Ok(()))
    }

    fn open_with(
        storage: Arc<dyn Storage>,
        options: StoreOptions,
        take_over: impl FnOnce(&Arc<dyn Storage>, &StoreOptions, &mut Index) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let pack_bytes = options.pack_bytes.clamp(1, PACK_BYTES_MAX);
        let options = StoreOptions {
            pack_bytes,
            ..options
        };
        let mut found = Vec::new();
        let mut index = Index::default();
        read_packs(&*storage, &options, &mut index, &mut found)?;
        take_over(&storage, &options, &mut index)?;
        let checkpoints = read_checkpoints(&*storage, &options, &mut found)?;
        for damage in &found {
            tracing::warn!(%damage, "found when the store was opened");
        }
        Ok(Self {
            inner: Arc::new(Inner {
                storage,
                options,
                index: RwLock::new(index),
                checkpoints: Mutex::new(checkpoints),
                metadata: Mutex::new(()),
                incoming: Default::default(),
                fetched: Mutex::default(),
                spares: Mutex::default(),
                gate: Arc::default(),
                failed: Mutex::new(None),
                found,
            }),
        })
    }

    /// The genesis digest of the cluster whose checkpoints a storage holds; `None` where it holds none
    /// that can be read.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn cluster_of(storage: &dyn Storage) -> Result<Option<Digest>, StoreError> {
        meta::cluster_of(storage)
    }

    /// What was damaged when the store was opened: indexes and metadata. Records are checked when they
    /// are read, all of them by [`Self::verify`].
    #[must_use]
    pub fn damage_found(&self) -> &[Damage] {
        &self.inner.found
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.inner.storage
    }

    pub(super) fn enter(&self) -> Pass {
        self.inner.gate.enter()
    }

    /// Does something that changes files. After a failure that leaves unknown what is durable, nothing
    /// is changed any more (a later sync may succeed without writing what an earlier one lost: Rebello
    /// et al., ATC'20). A full disk is no such failure: what did not fit is not there.
    pub(super) fn change<T>(
        &self,
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(error) = &*self.inner.failed.lock() {
            return Err(error.clone());
        }
        let result = act();
        if let Err(StoreError::Storage(error)) = &result
            && error.remedy() != Remedy::FreeSpace
        {
            *self.inner.failed.lock() = Some(StoreError::Failed {
                cause: error.to_string(),
                remedy: error.remedy(),
            });
        }
        result
    }

    /// The numbers of all checkpoints, rising, also of those whose metadata are damaged.
    ///
    /// # Errors
    /// None today; the disk is not asked.
    pub fn list(&self) -> Result<Vec<SeqNo>, StoreError> {
        Ok(self
            .inner
            .checkpoints
            .lock()
            .known
            .keys()
            .copied()
            .collect())
    }

    /// A checkpoint's metadata and descriptor. Its parts are not read: [`Self::verify`] does.
    ///
    /// # Errors
    /// When there is no such checkpoint, or its metadata are damaged.
    pub fn stored(&self, seq: SeqNo) -> Result<Arc<StoredCheckpoint>, StoreError> {
        let checkpoints = self.inner.checkpoints.lock();
        let known = checkpoints.known.get(&seq);
        known.cloned().unwrap_or(Err(StoreError::Absent { seq }))
    }

    /// Which of these blobs are not here, or are known to be damaged, in the order given.
    #[must_use]
    pub fn missing(&self, wanted: &[Digest]) -> Vec<Digest> {
        let index = self.inner.index.read();
        let missing = wanted.iter().filter(|digest| !index.has(digest));
        missing.copied().collect()
    }

    /// The parts of a checkpoint, in order, each read and checked when it is asked for.
    ///
    /// # Errors
    /// As [`Self::stored`].
    pub fn parts(&self, seq: SeqNo) -> Result<StoredParts, StoreError> {
        Ok(StoredParts {
            store: self.clone(),
            stored: self.stored(seq)?,
            page: 0,
            refs: Vec::new().into_iter(),
        })
    }

    /// The references to the parts in a page of a descriptor that was checked.
    pub(super) fn page(
        &self,
        descriptor: &StateDescriptor,
        index: usize,
    ) -> Result<Vec<PartRef>, StoreError> {
        let encoded = self.read_part(&page_digest(descriptor, index))?;
        Ok(descriptor.page(index, encoded.bytes())?)
    }

    /// As [`Self::page`] for several, in the order given, read in one go.
    pub(super) fn pages(
        &self,
        descriptor: &StateDescriptor,
        indexes: &[usize],
    ) -> Vec<Result<Vec<PartRef>, StoreError>> {
        let digests = indexes.iter().map(|index| page_digest(descriptor, *index));
        let digests: Vec<Digest> = digests.collect();
        let read = self.read_parts(&digests, u64::MAX).into_iter();
        let refs = |(index, encoded): (&usize, Result<Blob, StoreError>)| {
            Ok(descriptor.page(*index, encoded?.bytes())?)
        };
        indexes.iter().zip(read).map(refs).collect()
    }

    /// Figures of what is stored.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.stats_of(&self.inner.index.read(), &self.inner.spares.lock())
    }

    /// As [`Self::stats`], for whoever must not wait: `None` while the figures are being changed, which
    /// a collection that has few processors may do for tens of milliseconds.
    #[must_use]
    pub fn try_stats(&self) -> Option<StoreStats> {
        let index = self.inner.index.try_read()?;
        Some(self.stats_of(&index, &*self.inner.spares.try_lock()?))
    }

    fn stats_of(&self, index: &Index, spares: &Spares) -> StoreStats {
        StoreStats {
            packs: index.packs.len() as u64,
            pack_bytes: index.packs.values().map(|pack| pack.bytes).sum(),
            spare_bytes: spares.bytes(),
            blobs: index.blobs(),
            damaged_blobs: index.damaged(),
        }
    }

    /// How often garbage was collected since the store was opened, and whether that is being done. Waits
    /// for nobody.
    #[must_use]
    pub fn collections(&self) -> (u64, bool) {
        self.inner.gate.collections()
    }
}

/// The parts of a checkpoint: see [`PartStore::parts`].
#[derive(Debug)]
pub struct StoredParts {
    store: PartStore,
    stored: Arc<StoredCheckpoint>,
    page: usize,
    refs: std::vec::IntoIter<PartRef>,
}

impl Iterator for StoredParts {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(part) = self.refs.next() {
                return Some(self.store.read_part(&part.digest).map(Blob::into_bytes));
            }
            let descriptor = &self.stored.descriptor;
            if self.page >= descriptor.pages.len() {
                return None;
            }
            let refs = self.store.page(descriptor, self.page);
            self.page += 1;
            match refs {
                Ok(refs) => self.refs = refs.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A number that does not exist is refused by the descriptor.
fn page_digest(descriptor: &StateDescriptor, index: usize) -> Digest {
    let page = descriptor.pages.get(index);
    page.map(|page| page.digest).unwrap_or_default()
}

pub(super) const fn check_blob(bytes: usize) -> Result<(), StoreError> {
    if bytes == 0 || bytes > BLOB_BYTES_MAX {
        return Err(StoreError::BlobLength {
            found_bytes: bytes,
            limit_bytes: BLOB_BYTES_MAX,
        });
    }
    Ok(())
}

fn remove_unfinished(storage: &dyn Storage) -> Result<(), StorageError> {
    for file in storage.list()? {
        let Some(finished) = file.strip_suffix(TEMPORARY_SUFFIX) else {
            continue;
        };
        if pack::pack_of(finished).is_some() || meta::is_own(finished) {
            storage.delete(&file)?;
        }
    }
    Ok(())
}

fn read_packs(
    storage: &dyn Storage,
    options: &StoreOptions,
    index: &mut Index,
    found: &mut Vec<Damage>,
) -> Result<(), StoreError> {
    for number in storage
        .list()?
        .iter()
        .filter_map(|file| pack::pack_of(file))
    {
        let read = pack::read(storage, &options.genesis, number)?;
        let pack = Pack {
            bytes: read.bytes,
            incoming: false,
            renew: !read.damage.is_empty(),
        };
        index.add_pack(number, pack);
        for entry in read.entries {
            index.add_blob(number, entry);
        }
        found.extend(read.damage);
    }
    Ok(())
}

/// What a transfer had kept when the process ended becomes a pack: the records that are whole. They are
/// written anew, for bytes that are read back after a failed sync may not be on the disk.
fn take_over_incoming(
    storage: &Arc<dyn Storage>,
    options: &StoreOptions,
    index: &mut Index,
) -> Result<(), StoreError> {
    for file in storage.list()? {
        let Some(number) = pack::incoming_of(&file) else {
            continue;
        };
        // Its name is not used again while it is there.
        index.next_above(number);
        let bytes = storage.length(&file)?;
        let (entries, torn) = pack::scan(&**storage, number, &file, bytes)?;
        if !torn.is_empty() {
            tracing::debug!(file, records = torn.len(), "unfinished records dropped");
        }
        if !entries.is_empty() {
            let to = index.take_number();
            let unfinished = pack::name(to) + TEMPORARY_SUFFIX;
            let mut writer = PackWriter::create(
                Arc::clone(storage),
                &options.genesis,
                to,
                unfinished,
                Room::default(),
            )?;
            for entry in &entries {
                let record = pack::read_record(&**storage, number, &file, entry)?;
                if let Some(stored) = record {
                    let place = entry.place;
                    writer.append(entry.digest, place.plain, place.encoding, &stored)?;
                }
            }
            index.add_finished(&writer.finish()?);
            storage.sync_dir()?;
        }
        storage.delete(&file)?;
    }
    Ok(())
}

fn read_checkpoints(
    storage: &dyn Storage,
    options: &StoreOptions,
    found: &mut Vec<Damage>,
) -> Result<Checkpoints, StoreError> {
    let mut checkpoints = Checkpoints::default();
    for seq in storage.list()?.iter().filter_map(|file| meta::seq_of(file)) {
        let read = match meta::read(storage, &options.genesis, seq) {
            Err(error @ (StoreError::Storage(_) | StoreError::Foreign(_))) => return Err(error),
            other => other.map(Arc::new),
        };
        if let Err(StoreError::Damaged(damage)) = &read {
            found.push(damage.clone());
        }
        checkpoints.known.insert(seq, read);
    }
    match meta::read_target(storage, &options.genesis)? {
        Target::None => {}
        Target::Descriptor(descriptor) => {
            let mut known = checkpoints.known.values().flatten();
            // A crash came between the end of the transfer and the end of this file.
            if !known.any(|stored| stored.descriptor == descriptor) {
                checkpoints.target = Some(Arc::new(descriptor));
            }
        }
        Target::Damaged(damage) => found.push(damage),
    }
    Ok(checkpoints)
}
