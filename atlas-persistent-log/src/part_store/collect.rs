//! Removing checkpoints, and what nothing reaches any more.

use super::error::StoreError;
use super::index::Marked;
use super::meta::{self, StoredCheckpoint};
use super::pack;
use super::store::{PAGES_AT_ONCE, PartStore};
use super::writer::Packs;
use atlas_common::parts::StateDescriptor;
use atlas_common::{Digest, SeqNo};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A pack of which less than one part in so many is in use is written anew.
const THIN: u64 = 3;
/// More packs than this that are smaller than a quarter of the length at which a pack is full are
/// written into one.
const SMALL_MAX: usize = 16;
/// Blobs, and bytes of them, that are copied at a time.
const COPY_BLOBS: usize = 1024;
const COPY_BYTES: u64 = 1 << 20;

impl PartStore {
    /// Sets the certificate of a checkpoint; nothing else is written. Atomic and durable.
    ///
    /// # Errors
    /// When there is no such checkpoint, its metadata are damaged, the certificate is too long, or the
    /// storage fails or is full.
    pub fn set_certificate(&self, seq: SeqNo, certificate: Bytes) -> Result<(), StoreError> {
        let _metadata = self.inner.metadata.lock();
        let mut stored = (*self.stored(seq)?).clone();
        stored.meta.certificate = certificate;
        meta::check(seq, &stored.meta)?;
        self.change(|| self.write_meta(stored).map(drop))
    }

    /// Removes a checkpoint, whole or damaged, and collects garbage.
    ///
    /// # Errors
    /// When there is no such checkpoint or the storage fails or is full.
    pub fn remove(&self, seq: SeqNo) -> Result<(), StoreError> {
        if !self.inner.checkpoints.lock().known.contains_key(&seq) {
            return Err(StoreError::Absent { seq });
        }
        self.remove_all(&[seq])
    }

    /// Removes all but the newest `keep` checkpoints, collects garbage, and returns the numbers of those
    /// removed.
    ///
    /// # Errors
    /// When the storage fails or is full.
    pub fn prune(&self, keep: usize) -> Result<Vec<SeqNo>, StoreError> {
        let mut old = self.list()?;
        old.truncate(old.len().saturating_sub(keep));
        self.remove_all(&old)?;
        Ok(old)
    }

    /// Keeps the newest checkpoints with a certificate up to this one, as many as
    /// [`StoreOptions::retention`](super::StoreOptions::retention) says, and everything above it, which
    /// may still be certified. Removes the others, collects garbage, and returns their numbers.
    ///
    /// # Errors
    /// When the storage fails or is full.
    pub fn retire(&self, certified: SeqNo) -> Result<Vec<SeqNo>, StoreError> {
        let mut kept = self.inner.options.retention.max(1);
        let mut old = Vec::new();
        for (seq, known) in self
            .inner
            .checkpoints
            .lock()
            .known
            .range(..=certified)
            .rev()
        {
            let counts = known
                .as_ref()
                .is_ok_and(|stored| !stored.meta.certificate.is_empty());
            match kept.checked_sub(usize::from(counts)) {
                Some(left) if counts => kept = left,
                _ => old.push(*seq),
            }
        }
        self.remove_all(&old)?;
        Ok(old)
    }

    fn remove_all(&self, old: &[SeqNo]) -> Result<(), StoreError> {
        if old.is_empty() {
            return Ok(());
        }
        self.change(|| {
            let _metadata = self.inner.metadata.lock();
            for seq in old {
                meta::delete(self.storage(), *seq)?;
                let mut checkpoints = self.inner.checkpoints.lock();
                checkpoints.known.remove(seq);
                checkpoints.to_rewrite.remove(seq);
            }
            // A checkpoint that came back after a power cut must find its parts: they go later.
            Ok(self.storage().sync_dir()?)
        })?;
        self.collect()
    }

    pub(super) fn collect_if_due(&self) -> Result<(), StoreError> {
        match self.inner.gate.is_due() {
            true => self.collect(),
            false => Ok(()),
        }
    }

    /// Removes packs of which nothing is in use, and writes anew what is in use of thin ones. While a
    /// checkpoint is being written, that waits for its end. While a page is damaged, nothing is removed:
    /// what it refers to is not known.
    ///
    /// # Errors
    /// When the storage fails or is full.
    pub fn collect(&self) -> Result<(), StoreError> {
        let Some(_collecting) = self.inner.gate.collect() else {
            return Ok(());
        };
        self.change(|| {
            let Some(in_use) = self.mark()? else {
                return Ok(());
            };
            // First what frees room without needing any.
            self.delete_packs(&self.unused(&in_use))?;
            match self.rewrite(&self.thin(&in_use)) {
                Ok(rewritten) => self.delete_packs(&rewritten),
                Err(StoreError::Storage(error)) if error.is_full() => {
                    tracing::warn!(%error, "no room to make packs smaller");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })
    }

    fn unused(&self, in_use: &BTreeMap<u64, u64>) -> BTreeSet<u64> {
        let index = self.inner.index.read();
        let sealed = index.packs.iter().filter(|(_, pack)| !pack.incoming);
        let numbers = sealed.map(|(number, _)| *number);
        numbers
            .filter(|number| !in_use.contains_key(number))
            .collect()
    }

    /// Marks what checkpoints and a transfer reach: the bytes in use of each pack. `None` when that
    /// cannot be known.
    fn mark(&self) -> Result<Option<BTreeMap<u64, u64>>, StoreError> {
        self.inner.index.write().begin_marking();
        let mut in_use = BTreeMap::new();
        let checkpoints = self.checkpoints();
        for stored in &checkpoints {
            if !self.mark_state(&stored.descriptor, true, &mut in_use)? {
                tracing::warn!(seq = %stored.meta.seq, "damaged: no garbage is collected");
                return Ok(None);
            }
        }
        if let Some(target) = self.target() {
            self.mark_state(&target, false, &mut in_use)?;
        }
        Ok(Some(in_use))
    }

    fn checkpoints(&self) -> Vec<Arc<StoredCheckpoint>> {
        let checkpoints = self.inner.checkpoints.lock();
        checkpoints.known.values().flatten().cloned().collect()
    }

    /// False when a page cannot be read that should be here.
    fn mark_state(
        &self,
        descriptor: &StateDescriptor,
        complete: bool,
        in_use: &mut BTreeMap<u64, u64>,
    ) -> Result<bool, StoreError> {
        let numbers: Vec<usize> = (0..descriptor.pages.len()).collect();
        for numbers in numbers.chunks(PAGES_AT_ONCE) {
            let mut fresh = Vec::new();
            for number in numbers {
                match self.mark_blob(&descriptor.pages[*number].digest, in_use) {
                    // Its parts were marked with it.
                    Marked::Before => {}
                    Marked::Absent if complete => return Ok(false),
                    Marked::Absent => {}
                    Marked::Now { .. } => fresh.push(*number),
                }
            }
            for parts in self.pages(descriptor, &fresh) {
                match parts {
                    Ok(parts) => parts.iter().for_each(|part| {
                        self.mark_blob(&part.digest, in_use);
                    }),
                    Err(StoreError::Damaged(_) | StoreError::NoSuchBlob { .. }) if complete => {
                        return Ok(false);
                    }
                    // Of a page that is fetched again the parts are, too.
                    Err(StoreError::Damaged(_) | StoreError::NoSuchBlob { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(true)
    }

    fn mark_blob(&self, digest: &Digest, in_use: &mut BTreeMap<u64, u64>) -> Marked {
        let marked = self.inner.index.write().mark(digest);
        if let Marked::Now { pack, bytes } = marked {
            *in_use.entry(pack).or_default() += bytes;
        }
        marked
    }

    /// Packs to be written anew, in part.
    fn thin(&self, in_use: &BTreeMap<u64, u64>) -> BTreeSet<u64> {
        let index = self.inner.index.read();
        let small = self.inner.options.pack_bytes / 4;
        let (mut thin, mut smalls) = (BTreeSet::new(), BTreeSet::new());
        for (number, used) in in_use {
            let Some(pack) = index.packs.get(number).filter(|pack| !pack.incoming) else {
                continue;
            };
            if pack.renew || used.saturating_mul(THIN) < pack.bytes {
                thin.insert(*number);
            } else if pack.bytes < small {
                smalls.insert(*number);
            }
        }
        if smalls.len() > SMALL_MAX {
            thin.append(&mut smalls);
        }
        thin
    }

    /// Writes what is in use of these packs into new ones. Those of which everything was written.
    fn rewrite(&self, thin: &BTreeSet<u64>) -> Result<BTreeSet<u64>, StoreError> {
        let mut packs = Packs::new(self.clone());
        let mut done = BTreeSet::new();
        for number in thin {
            if self.copy_used(*number, &mut packs)? {
                done.insert(*number);
            }
        }
        packs.finish()?;
        Ok(done)
    }

    /// False when something in use is damaged: then the pack stays until that is repaired.
    fn copy_used(&self, number: u64, packs: &mut Packs) -> Result<bool, StoreError> {
        let found = pack::read(self.storage(), &self.inner.options.genesis, number)?;
        let digests = found.entries.iter().map(|entry| entry.digest);
        let index = self.inner.index.read();
        let used: Vec<Digest> = digests.filter(|d| index.is_marked(d, number)).collect();
        drop(index);
        let (mut rest, mut whole) = (&used[..], true);
        while !rest.is_empty() {
            // Read as anybody would, so that no damage is copied.
            let read = self.read_parts(&rest[..rest.len().min(COPY_BLOBS)], COPY_BYTES);
            rest = &rest[read.len()..];
            for blob in read {
                match blob {
                    Ok(blob) => packs.copy(&blob)?,
                    Err(StoreError::Damaged(_)) => whole = false,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(whole)
    }

    fn delete_packs(&self, gone: &BTreeSet<u64>) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        // What was written anew must have its names before the old goes.
        self.storage().sync_dir()?;
        self.inner.index.write().remove_packs(gone);
        for number in gone {
            self.storage().delete(&pack::name(*number))?;
        }
        Ok(())
    }
}
