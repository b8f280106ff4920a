//! Removing checkpoints, and having collected what nothing reaches any more.

use super::collection::Collection;
use super::error::StoreError;
use super::meta;
use super::store::PartStore;
use atlas_common::SeqNo;
use bytes::Bytes;

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
    /// what it refers to is not known. Somebody to whom collections are left ([`Self::leave_collections`])
    /// does it later.
    ///
    /// # Errors
    /// When the storage fails or is full.
    pub fn collect(&self) -> Result<(), StoreError> {
        if self.inner.gate.leave_to_collector() {
            return Ok(());
        }
        let Some(collecting) = self.inner.gate.collect() else {
            return Ok(());
        };
        let mut collection = Collection::new(self.clone(), collecting);
        while collection.step()? > 0 {}
        Ok(())
    }

    /// From now on collections are left to whoever calls [`Self::wait_for_collection`], for which there
    /// must be somebody; or no longer: then that returns. What is due stays so.
    pub fn leave_collections(&self, leave: bool) {
        self.inner.gate.set_collector(leave);
    }

    /// Waits until a collection is due and nobody writes. `None` when none are left to the caller any more.
    #[must_use]
    pub fn wait_for_collection(&self) -> Option<Collection> {
        let collecting = self.inner.gate.wait()?;
        Some(Collection::new(self.clone(), collecting))
    }
}
