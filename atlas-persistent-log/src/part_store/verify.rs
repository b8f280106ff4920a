//! Reading everything, to find damage before it is needed.

use super::error::{Damage, Damaged, StoreError};
use super::meta;
use super::pack;
use super::store::PartStore;
use atlas_common::parts::StateDescriptor;
use atlas_common::{Digest, SeqNo};
use std::collections::BTreeSet;

impl PartStore {
    /// Reads all of a checkpoint: metadata, pages, parts, and the indexes of the packs they lie in.
    /// What is damaged counts as missing from then on, so that [`Self::missing`] names it, and
    /// [`Self::repair`] heals it.
    ///
    /// # Errors
    /// When there is no such checkpoint, or the storage fails.
    pub fn verify(&self, seq: SeqNo) -> Result<Vec<Damage>, StoreError> {
        let mut found = BTreeSet::new();
        let descriptor = match self.stored(seq) {
            Ok(stored) => stored.descriptor.clone(),
            Err(StoreError::Damaged(damage)) => return Ok(vec![damage]),
            Err(error) => return Err(error),
        };
        self.verify_metadata(seq, &mut found)?;
        let packs = self.verify_state(&descriptor, &mut found)?;
        for pack in packs {
            self.verify_index(pack, &mut found)?;
        }
        Ok(found.into_iter().collect())
    }

    fn verify_metadata(&self, seq: SeqNo, found: &mut BTreeSet<Damage>) -> Result<(), StoreError> {
        let _metadata = self.inner.metadata.lock();
        match meta::read(self.storage(), &self.inner.options.genesis, seq) {
            Ok(_) => {}
            Err(StoreError::Damaged(damage)) => {
                self.inner.checkpoints.lock().to_rewrite.insert(seq);
                found.insert(damage);
            }
            // Removed in this moment, or lost.
            Err(StoreError::Absent { .. }) if self.stored(seq).is_err() => {}
            Err(StoreError::Absent { .. }) => {
                self.inner.checkpoints.lock().to_rewrite.insert(seq);
                found.insert(meta::damaged(&meta::name(seq)));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The packs in which the blobs lie.
    fn verify_state(
        &self,
        descriptor: &StateDescriptor,
        found: &mut BTreeSet<Damage>,
    ) -> Result<BTreeSet<u64>, StoreError> {
        let mut packs = BTreeSet::new();
        for (number, page) in descriptor.pages.iter().enumerate() {
            self.verify_blob(&page.digest, &mut packs, found)?;
            // What a damaged page refers to is not known.
            let parts = self.page(descriptor, number).unwrap_or_default();
            for part in parts {
                self.verify_blob(&part.digest, &mut packs, found)?;
            }
        }
        Ok(packs)
    }

    fn verify_blob(
        &self,
        digest: &Digest,
        packs: &mut BTreeSet<u64>,
        found: &mut BTreeSet<Damage>,
    ) -> Result<(), StoreError> {
        let located = self.inner.index.read().locate(digest);
        packs.extend(located.map(|(located, _)| located.pack));
        match self.read_part(digest) {
            Ok(_) => {}
            Err(StoreError::Damaged(damage)) => {
                found.insert(damage);
            }
            Err(StoreError::NoSuchBlob { digest }) => {
                found.insert(Damage {
                    file: String::from("no pack"),
                    offset: 0,
                    what: Damaged::Missing,
                    digest: Some(digest),
                    bytes: None,
                });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn verify_index(&self, pack: u64, found: &mut BTreeSet<Damage>) -> Result<(), StoreError> {
        let known = self.inner.index.read().packs.get(&pack).copied();
        let Some(known) = known.filter(|pack| !pack.incoming) else {
            return Ok(());
        };
        let genesis = &self.inner.options.genesis;
        match pack::read_index(self.storage(), genesis, pack, known.bytes) {
            Ok(Some(_)) => {}
            Ok(None) if self.inner.index.write().set_renew(pack) => {
                found.insert(pack::damaged_index(pack));
            }
            // Gone while it was read, and its file is another's.
            Ok(None) => {}
            // Written anew and deleted in this moment.
            Err(StoreError::Storage(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
