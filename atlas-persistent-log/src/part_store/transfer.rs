//! Blobs that come from peers: of a state that is fetched, or in place of damaged ones.

use super::error::StoreError;
use super::fetched::{self, Fetched};
use super::index::Pack;
use super::meta::{self, CheckpointMeta, StoredCheckpoint};
use super::pack::{self, PackWriter, Room};
use super::record::{self, Entry};
use super::store::{Incoming, PAGES_AT_ONCE, PartStore, check_blob};
use atlas_common::parts::{Blob, StateDescriptor};
use atlas_common::{Digest, SeqNo};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Bytes of a transfer that a power cut may cost, beside those of the last call.
const SYNC_BYTES: u64 = 16 << 20;

impl PartStore {
    /// States what is fetched from now on: what it reaches is no garbage, also after a restart, until
    /// [`Self::commit`], [`Self::end_transfer`] or another target. What only an earlier target reached
    /// is.
    ///
    /// # Errors
    /// When the descriptor cannot be one, or the storage fails or is full.
    pub fn begin_transfer(&self, target: &StateDescriptor) -> Result<(), StoreError> {
        target.check()?;
        if self.target().as_deref() == Some(target) {
            return Ok(());
        }
        let _pass = self.enter();
        self.change(|| {
            let _metadata = self.inner.metadata.lock();
            meta::write_target(self.storage(), &self.inner.options.genesis, target)?;
            self.inner.checkpoints.lock().target = Some(Arc::new(target.clone()));
            *self.inner.fetched.lock() = Fetched::of(target);
            self.inner.index.write().reserve(fetched::expected(target));
            Ok(())
        })
    }

    /// Gives up what is fetched; it becomes garbage.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn end_transfer(&self) -> Result<(), StoreError> {
        if self.target().is_none() {
            return Ok(());
        }
        self.change(|| {
            let _metadata = self.inner.metadata.lock();
            self.inner.checkpoints.lock().target = None;
            drop(self.take_fetched());
            Ok(meta::delete_target(self.storage())?)
        })
    }

    /// What is being fetched, also from before a restart.
    #[must_use]
    pub fn target(&self) -> Option<Arc<StateDescriptor>> {
        self.inner.checkpoints.lock().target.clone()
    }

    /// Keeps blobs, under the digests they have. They can be read at once; most of them survive a power
    /// cut, all of them do once a checkpoint that reaches them is committed. Those that are here are
    /// not written again, unless they are damaged. Two threads may do this at a time, a third waits.
    ///
    /// # Errors
    /// When a blob is empty or too long, or the storage fails or is full: then what is in the pack that
    /// could not be written is missing again.
    pub fn keep(&self, blobs: Vec<Blob>) -> Result<(), StoreError> {
        for blob in &blobs {
            check_blob(blob.bytes().len())?;
        }
        let _pass = self.enter();
        self.change(|| {
            let mut incoming = self.own_incoming();
            let kept = self.keep_in(&mut incoming, &blobs);
            if kept.is_err() {
                self.abandon(&mut incoming);
                drop(self.take_fetched());
            } else {
                let mut fetched = self.inner.fetched.lock();
                blobs.into_iter().for_each(|blob| fetched.remember(blob));
            }
            kept
        })
    }

    /// A pack that no other thread adds to.
    fn own_incoming(&self) -> MutexGuard<'_, Option<Incoming>> {
        let [first, others @ ..] = &self.inner.incoming;
        let mut free = std::iter::once(first).chain(others);
        let free = free.find_map(Mutex::try_lock);
        free.unwrap_or_else(|| first.lock())
    }

    fn keep_in(&self, incoming: &mut Option<Incoming>, blobs: &[Blob]) -> Result<(), StoreError> {
        let options = &self.inner.options;
        let mut fresh = Vec::with_capacity(blobs.len());
        for blob in self.unknown(blobs) {
            let (digest, blob) = (blob.digest(), blob.bytes());
            let pack = self.incoming_pack(incoming)?;
            let (encoding, stored) = record::compress(blob, options.compression);
            let plain = u32::try_from(blob.len()).unwrap_or(u32::MAX);
            fresh.push(pack.writer.append(digest, plain, encoding, &stored)?);
            if pack.writer.bytes() >= options.pack_bytes {
                self.register(incoming, &mut fresh)?;
                self.seal(incoming)?;
            }
        }
        self.register(incoming, &mut fresh)
    }

    /// Those that are not here, each once. All are looked up in one go: each is a place of its own in much
    /// memory, and the processor waits for several at a time.
    fn unknown<'a>(&self, blobs: &'a [Blob]) -> Vec<&'a Blob> {
        let index = self.inner.index.read();
        let unknown = blobs.iter().filter(|blob| !index.has(&blob.digest()));
        let mut unknown: Vec<&Blob> = unknown.collect();
        drop(index);
        let mut seen = HashSet::with_capacity(unknown.len());
        unknown.retain(|blob| seen.insert(blob.digest()));
        unknown
    }

    fn incoming_pack<'a>(
        &self,
        incoming: &'a mut Option<Incoming>,
    ) -> Result<&'a mut Incoming, StoreError> {
        match incoming {
            Some(pack) => Ok(pack),
            none => {
                let number = self.inner.index.write().take_number();
                let writer = PackWriter::create(
                    Arc::clone(&self.inner.storage),
                    &self.inner.options.genesis,
                    number,
                    pack::incoming_name(number),
                    Room::default(),
                )?;
                Ok(none.insert(Incoming { writer, synced: 0 }))
            }
        }
    }

    /// Makes what was appended readable, and most of it durable.
    fn register(
        &self,
        incoming: &mut Option<Incoming>,
        fresh: &mut Vec<Entry>,
    ) -> Result<(), StoreError> {
        let Some(pack) = incoming.as_mut().filter(|_| !fresh.is_empty()) else {
            return Ok(());
        };
        pack.writer.flush()?;
        let (number, bytes) = (pack.writer.pack, pack.writer.bytes());
        let mut index = self.inner.index.write();
        let state = Pack {
            bytes,
            incoming: true,
            renew: false,
        };
        index.add_pack(number, state);
        for entry in fresh.drain(..) {
            index.add_blob(number, entry);
        }
        drop(index);
        if bytes.saturating_sub(pack.synced) >= SYNC_BYTES {
            let named = pack.synced > 0;
            pack.writer.sync()?;
            pack.synced = bytes;
            if !named {
                self.storage().sync_dir()?;
            }
        }
        Ok(())
    }

    fn abandon(&self, incoming: &mut Option<Incoming>) {
        if let Some(pack) = incoming.take() {
            let lost = BTreeSet::from([pack.writer.pack]);
            self.inner.index.write().remove_packs(&lost);
        }
    }

    fn seal(&self, incoming: &mut Option<Incoming>) -> Result<(), StoreError> {
        if let Some(pack) = incoming.take() {
            let number = pack.writer.pack;
            match pack.writer.finish() {
                // Its blobs were registered as they came.
                Ok(finished) => self.inner.index.write().set_finished(&finished),
                Err(error) => {
                    let lost = BTreeSet::from([number]);
                    self.inner.index.write().remove_packs(&lost);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Makes everything kept so far durable, but for the names of the packs, which need the directory
    /// synced.
    pub(super) fn seal_incoming(&self) -> Result<(), StoreError> {
        let mut all = self.inner.incoming.iter();
        all.try_for_each(|incoming| self.seal(&mut incoming.lock()))
    }

    /// Makes a checkpoint of blobs that are all here: durable on return. It ends the transfer. One of
    /// the same number whose metadata are damaged is replaced.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when blobs are missing or damaged; otherwise when there is such a
    /// checkpoint, metadata or descriptor cannot be right, or the storage fails or is full.
    pub fn commit(
        &self,
        meta: CheckpointMeta,
        descriptor: StateDescriptor,
    ) -> Result<Arc<StoredCheckpoint>, StoreError> {
        meta::check(meta.seq, &meta)?;
        descriptor.check()?;
        let pass = self.enter();
        let stored = self.change(|| {
            let _metadata = self.inner.metadata.lock();
            self.refuse_existing(meta.seq)?;
            self.check_complete(meta.seq, &descriptor)?;
            self.seal_incoming()?;
            self.storage().sync_dir()?;
            let stored = self.write_meta(StoredCheckpoint { meta, descriptor })?;
            self.inner.checkpoints.lock().target = None;
            meta::delete_target(self.storage())?;
            Ok(stored)
        })?;
        drop(pass);
        self.collect_if_due()?;
        Ok(stored)
    }

    fn refuse_existing(&self, seq: SeqNo) -> Result<(), StoreError> {
        let checkpoints = self.inner.checkpoints.lock();
        let exists = matches!(checkpoints.known.get(&seq), Some(Ok(_)));
        if exists || checkpoints.unfinished.contains(&seq) {
            return Err(StoreError::Exists { seq });
        }
        Ok(())
    }

    fn check_complete(&self, seq: SeqNo, descriptor: &StateDescriptor) -> Result<(), StoreError> {
        let mut missing: (u64, Option<Digest>) = (0, None);
        let mut miss = |digests: Vec<Digest>| {
            missing.0 += digests.len() as u64;
            missing.1 = missing.1.or(digests.first().copied());
        };
        let numbers: Vec<usize> = (0..descriptor.pages.len()).collect();
        for numbers in numbers.chunks(PAGES_AT_ONCE) {
            let read = self.pages(descriptor, numbers);
            for (number, refs) in numbers.iter().zip(read) {
                match refs {
                    Ok(refs) => {
                        let parts: Vec<Digest> = refs.iter().map(|part| part.digest).collect();
                        miss(self.missing(&parts));
                    }
                    Err(StoreError::NoSuchBlob { .. } | StoreError::Damaged(_)) => {
                        miss(vec![descriptor.pages[*number].digest]);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        match missing {
            (blobs, Some(first)) => Err(StoreError::Incomplete { seq, blobs, first }),
            (_, None) => Ok(()),
        }
    }

    /// Replaces damaged or missing blobs by these, and writes damaged indexes, and damaged metadata of
    /// checkpoints that are in memory, anew: durable on return. Blobs that are here and whole are passed
    /// over.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub fn repair(&self, blobs: Vec<Blob>) -> Result<(), StoreError> {
        self.keep(blobs)?;
        let pass = self.enter();
        self.change(|| {
            self.seal_incoming()?;
            self.storage().sync_dir()?;
            self.rewrite_metadata()
        })?;
        drop(pass);
        let renew = self.inner.index.read().packs.values().any(|p| p.renew);
        if renew { self.collect() } else { Ok(()) }
    }

    fn rewrite_metadata(&self) -> Result<(), StoreError> {
        let _metadata = self.inner.metadata.lock();
        let rewrite = self.inner.checkpoints.lock().to_rewrite.clone();
        for seq in rewrite {
            if let Ok(stored) = self.stored(seq) {
                self.write_meta((*stored).clone())?;
            }
        }
        Ok(())
    }
}
