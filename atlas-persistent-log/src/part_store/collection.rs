//! Collecting garbage, in steps that any thread may take.

use super::error::StoreError;
use super::gate::Collecting;
use super::index::Marked;
use super::meta::StoredCheckpoint;
use super::pack;
use super::store::{PAGES_AT_ONCE, PartStore};
use super::writer::Packs;
use crate::storage::TEMPORARY_SUFFIX;
use atlas_common::Digest;
use atlas_common::parts::{PartRef, StateDescriptor};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A pack of which less than one part in so many is in use may be written anew. And no more than so many
/// times what is in use is kept on the disk.
const THIN: u64 = 3;
/// Thin packs are, the thinnest first, while all packs have more than so many times the bytes that are in
/// use: what is left alone until then goes on becoming thinner, and less of it must be copied (the cleaning
/// policies of Rosenblum and Ousterhout, SOSP'91, section 3.5, weigh the same).
const ROOMY: u64 = 2;
/// More packs than this that are smaller than a quarter of the length at which a pack is full are
/// written into one.
const SMALL_MAX: usize = 16;
/// Blobs, and bytes of them, that are copied at a time.
const COPY_BLOBS: usize = 1024;
const COPY_BYTES: u64 = 1 << 20;
/// Places of the index that are gone over at a time.
const PLACES_AT_ONCE: usize = 1 << 14;

/// A piece of the work.
enum Piece {
    /// Mark what some pages of a state reach.
    Mark(State, Range<usize>),
    /// Everything is marked: choose what goes, and what is copied.
    Choose,
    /// Look for what is in use of a thin pack.
    Look(u64),
    /// Copy some of it.
    Copy(u64, Vec<Digest>),
    /// Everything is copied.
    Copied,
    /// Names must be durable before anything goes that they stand for.
    SyncNames,
    /// Forget which blobs lay in these packs, as far as they are in these places.
    Forget(Arc<BTreeSet<u64>>, Range<usize>),
    /// A pack of which nothing is in use goes.
    Remove(u64),
    /// Make the names durable of packs that went and are to be written over.
    SyncSpares,
    /// Delete a file that is not to be written over any more.
    Delete(String),
}

/// A state that is in use.
#[derive(Clone)]
enum State {
    /// All of it should be here.
    Whole(Arc<StoredCheckpoint>),
    /// What is being fetched.
    Target(Arc<StateDescriptor>),
}

impl State {
    fn descriptor(&self) -> &StateDescriptor {
        match self {
            Self::Whole(stored) => &stored.descriptor,
            Self::Target(target) => target,
        }
    }
}

/// A collection of garbage that is under way. While it lives, nobody writes to the store; one that is
/// dropped leaves garbage behind, and nothing else.
pub struct Collection {
    store: PartStore,
    collecting: Collecting,
    pieces: VecDeque<Piece>,
    /// The bytes in use of each pack, as far as they are marked.
    in_use: BTreeMap<u64, u64>,
    /// What of thin packs is in use.
    packs: Packs,
    /// Thin packs of which everything that is in use was copied.
    copied: BTreeSet<u64>,
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collection({} pieces)", self.pieces.len())
    }
}

impl Collection {
    pub(super) fn new(store: PartStore, collecting: Collecting) -> Self {
        store.inner.index.write().begin_marking();
        let stored = store.checkpoints().into_iter().map(State::Whole);
        let states = stored.chain(store.target().map(State::Target));
        let mut pieces: VecDeque<Piece> = states
            .flat_map(|state| {
                let pages = state.descriptor().pages.len();
                chunks(pages, PAGES_AT_ONCE).map(move |some| Piece::Mark(state.clone(), some))
            })
            .collect();
        pieces.push_back(Piece::Choose);
        Self {
            packs: Packs::new(store.clone()),
            store,
            collecting,
            pieces,
            in_use: BTreeMap::new(),
            copied: BTreeSet::new(),
        }
    }

    /// Whether somebody waits for the end of this collection.
    #[must_use]
    pub fn urgent(&self) -> Arc<AtomicBool> {
        self.collecting.urgent()
    }

    /// Does a step, of a mebibyte at most, and says how many there are still about; none when all is done,
    /// or collections are no longer left to the one who does this.
    ///
    /// # Errors
    /// When the storage fails. It cannot be gone on with then.
    pub fn step(&mut self) -> Result<usize, StoreError> {
        if !self.collecting.is_wanted() {
            self.pieces.clear();
        }
        let Some(piece) = self.pieces.pop_front() else {
            return Ok(0);
        };
        let store = self.store.clone();
        let done = store.change(|| self.carry_out(piece));
        if done.is_err() {
            self.pieces.clear();
        }
        done?;
        Ok(self.pieces.len() + self.still_unknown())
    }

    /// About how many pieces will come to those that are known.
    fn still_unknown(&self) -> usize {
        match self.pieces.back() {
            Some(Piece::Choose) => 2 * self.store.inner.index.read().packs.len(),
            _ => 0,
        }
    }

    fn carry_out(&mut self, piece: Piece) -> Result<(), StoreError> {
        match piece {
            Piece::Mark(state, pages) => self.mark(&state, pages),
            Piece::Choose => {
                self.choose();
                Ok(())
            }
            Piece::Look(pack) => self.unless_full(|this| this.look(pack)),
            Piece::Copy(pack, blobs) => self.unless_full(|this| this.copy(pack, blobs)),
            Piece::Copied => self.unless_full(|this| {
                this.packs.finish()?;
                let copied = std::mem::take(&mut this.copied);
                this.leave(copied);
                Ok(())
            }),
            Piece::SyncNames => Ok(self.store.storage().sync_dir()?),
            Piece::Forget(packs, places) => {
                self.store.inner.index.write().forget(places, &packs);
                Ok(())
            }
            Piece::Remove(pack) => self.remove(pack),
            Piece::SyncSpares => self.sync_spares(),
            Piece::Delete(file) => Ok(self.store.storage().delete(&file)?),
        }
    }

    fn remove(&self, number: u64) -> Result<(), StoreError> {
        let storage = self.store.storage();
        let removed = self.store.inner.index.write().packs.remove(&number);
        let bytes = removed.map_or(0, |pack| pack.bytes);
        let name = pack::name(number);
        let spares = &self.store.inner.spares;
        let is_full = bytes >= self.store.inner.options.pack_bytes;
        if !is_full || !spares.lock().wants(bytes) {
            return Ok(storage.delete(&name)?);
        }
        let file = format!("{name}{TEMPORARY_SUFFIX}");
        storage.rename(&name, &file)?;
        spares.lock().add(file, bytes);
        Ok(())
    }

    fn sync_spares(&self) -> Result<(), StoreError> {
        let spares = &self.store.inner.spares;
        if spares.lock().has_renamed() {
            self.store.storage().sync_dir()?;
            spares.lock().set_durable();
        }
        Ok(())
    }

    /// Copies nothing more where there is no room for it.
    fn unless_full(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match act(self) {
            Err(StoreError::Storage(error)) if error.is_full() => {
                tracing::warn!(%error, "no room to make packs smaller");
                self.pieces.clear();
                Ok(())
            }
            other => other,
        }
    }

    fn mark(&mut self, state: &State, pages: Range<usize>) -> Result<(), StoreError> {
        let whole = match state {
            State::Whole(_) => self.mark_pages(state.descriptor(), pages, true)?,
            State::Target(_) => self.mark_pages(state.descriptor(), pages, false)?,
        };
        if let (false, State::Whole(stored)) = (whole, state) {
            tracing::warn!(seq = %stored.meta.seq, "damaged: no garbage is collected");
            self.pieces.clear();
        }
        Ok(())
    }

    /// False when a page cannot be read that should be here.
    fn mark_pages(
        &mut self,
        descriptor: &StateDescriptor,
        numbers: Range<usize>,
        complete: bool,
    ) -> Result<bool, StoreError> {
        let mut fresh = Vec::new();
        for number in numbers {
            match self.mark_blob(&descriptor.pages[number].digest) {
                // Its parts were marked with it.
                Marked::Before => {}
                Marked::Absent if complete => return Ok(false),
                Marked::Absent => {}
                Marked::Now { .. } => fresh.push(number),
            }
        }
        for parts in self.store.pages(descriptor, &fresh) {
            match parts {
                Ok(parts) => self.mark_parts(&parts),
                Err(StoreError::Damaged(_) | StoreError::NoSuchBlob { .. }) if complete => {
                    return Ok(false);
                }
                // Of a page that is fetched again the parts are, too.
                Err(StoreError::Damaged(_) | StoreError::NoSuchBlob { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn mark_blob(&mut self, digest: &Digest) -> Marked {
        let marked = self.store.inner.index.write().mark(digest);
        self.count(marked);
        marked
    }

    /// All are looked up in one go, see [`PartStore::unknown`].
    fn mark_parts(&mut self, parts: &[PartRef]) {
        let mut index = self.store.inner.index.write();
        let marked = parts.iter().map(|part| index.mark(&part.digest));
        let marked: Vec<Marked> = marked.collect();
        drop(index);
        marked.into_iter().for_each(|marked| self.count(marked));
    }

    fn count(&mut self, marked: Marked) {
        if let Marked::Now { pack, bytes } = marked {
            *self.in_use.entry(pack).or_default() += bytes;
        }
    }

    fn choose(&mut self) {
        let too_many = self.store.inner.spares.lock().keep(self.room());
        self.pieces.extend(too_many.into_iter().map(Piece::Delete));
        // First what frees room without needing any.
        self.leave(self.unused());
        let thin = self.thin();
        if !thin.is_empty() {
            self.pieces.extend(thin.into_iter().map(Piece::Look));
            self.pieces.push_back(Piece::Copied);
        }
    }

    fn unused(&self) -> BTreeSet<u64> {
        let index = self.store.inner.index.read();
        let sealed = index.packs.iter().filter(|(_, pack)| !pack.incoming);
        let numbers = sealed.map(|(number, _)| *number);
        numbers
            .filter(|number| !self.in_use.contains_key(number))
            .collect()
    }

    /// How many bytes files to write over may have, besides what packs have that are in use.
    fn room(&self) -> u64 {
        let index = self.store.inner.index.read();
        let packs = self.in_use.keys().filter_map(|pack| index.packs.get(pack));
        let bytes: u64 = packs.map(|pack| pack.bytes).sum();
        let most = self.in_use.values().sum::<u64>().saturating_mul(THIN);
        most.saturating_sub(bytes)
    }

    /// Packs to be written anew, in part.
    fn thin(&self) -> BTreeSet<u64> {
        let index = self.store.inner.index.read();
        let small = self.store.inner.options.pack_bytes / 4;
        let (mut chosen, mut thin, mut smalls) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        let mut all_bytes = 0;
        for (number, used) in &self.in_use {
            let Some(pack) = index.packs.get(number).filter(|pack| !pack.incoming) else {
                continue;
            };
            all_bytes += pack.bytes;
            if pack.renew {
                chosen.insert(*number);
            } else if used.saturating_mul(THIN) < pack.bytes {
                // A pack has some 2^30 bytes at most: this does not overflow.
                thin.push((used * 1024 / pack.bytes, *number, pack.bytes - used));
            } else if pack.bytes < small {
                smalls.insert(*number);
            }
        }
        if smalls.len() > SMALL_MAX {
            chosen.append(&mut smalls);
        }
        let enough = self.in_use.values().sum::<u64>().saturating_mul(ROOMY);
        thin.sort_unstable();
        for (_, number, garbage) in thin {
            if all_bytes > enough {
                chosen.insert(number);
                all_bytes -= garbage;
            }
        }
        chosen
    }

    fn look(&mut self, number: u64) -> Result<(), StoreError> {
        let genesis = &self.store.inner.options.genesis;
        let found = pack::read(self.store.storage(), genesis, number)?;
        let digests = found.entries.iter().map(|entry| entry.digest);
        let index = self.store.inner.index.read();
        let used: Vec<Digest> = digests.filter(|d| index.is_marked(d, number)).collect();
        drop(index);
        self.copied.insert(number);
        if !used.is_empty() {
            self.pieces.push_front(Piece::Copy(number, used));
        }
        Ok(())
    }

    fn copy(&mut self, number: u64, mut used: Vec<Digest>) -> Result<(), StoreError> {
        // Read as anybody would, so that no damage is copied.
        let some = &used[..used.len().min(COPY_BLOBS)];
        let read = self.store.read_parts(some, COPY_BYTES);
        used.drain(..read.len());
        if !used.is_empty() {
            self.pieces.push_front(Piece::Copy(number, used));
        }
        for blob in read {
            match blob {
                Ok(blob) => self.packs.copy(&blob)?,
                // The pack stays until that is repaired.
                Err(StoreError::Damaged(_)) => {
                    self.copied.remove(&number);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has packs removed of which nothing is in use any more.
    fn leave(&mut self, packs: BTreeSet<u64>) {
        if packs.is_empty() {
            return;
        }
        self.pieces.push_back(Piece::SyncNames);
        let packs = Arc::new(packs);
        let places = self.store.inner.index.read().places();
        for some in chunks(places, PLACES_AT_ONCE) {
            self.pieces
                .push_back(Piece::Forget(Arc::clone(&packs), some));
        }
        self.pieces
            .extend(packs.iter().map(|number| Piece::Remove(*number)));
        self.pieces.push_back(Piece::SyncSpares);
    }
}

impl PartStore {
    fn checkpoints(&self) -> Vec<Arc<StoredCheckpoint>> {
        let checkpoints = self.inner.checkpoints.lock();
        checkpoints.known.values().flatten().cloned().collect()
    }
}

fn chunks(all: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..all)
        .step_by(length)
        .map(move |start| start..all.min(start + length))
}
