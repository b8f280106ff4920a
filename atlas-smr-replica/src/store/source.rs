//! Where executors read checkpoints.

use super::StoreKeeper;
use atlas_common::Digest;
use atlas_common::parts::Blob;
use atlas_persistent_log::{Fetched, PartStore};
use atlas_smr_execution::{PartSource, PartUnavailable};

impl StoreKeeper {
    /// Where an executor reads the parts of checkpoints.
    #[must_use]
    pub fn source(&self) -> StoreSource {
        StoreSource::of(self.store.clone())
    }

    /// Where an executor reads the parts of a state that has just come from peers: those that are still in
    /// memory from there.
    #[must_use]
    pub fn source_of_fetched(&self) -> StoreSource {
        StoreSource {
            fetched: self.store.take_fetched(),
            store: self.store.clone(),
        }
    }
}

/// The parts of checkpoints, for executors.
#[derive(Debug)]
pub struct StoreSource {
    store: PartStore,
    /// What came from peers. A message's blobs have memory of their own each.
    fetched: Fetched,
}

impl StoreSource {
    /// The parts that a store holds.
    #[must_use]
    pub fn of(store: PartStore) -> Self {
        let fetched = Fetched::default();
        Self { store, fetched }
    }
}

impl PartSource for StoreSource {
    fn part(&self, digest: &Digest) -> Result<Blob, PartUnavailable> {
        if let Some(blob) = self.fetched.get(digest) {
            return Ok(blob.clone());
        }
        let read = self.store.read_part(digest);
        read.map(|blob| blob.detached())
            .map_err(|error| PartUnavailable(error.to_string()))
    }

    fn parts(&self, digests: &[Digest]) -> Vec<Result<Blob, PartUnavailable>> {
        let here = |digest: &Digest| self.fetched.get(digest).cloned();
        let here: Vec<Option<Blob>> = digests.iter().map(here).collect();
        let rest = digests.iter().zip(&here).filter(|(_, blob)| blob.is_none());
        let rest: Vec<Digest> = rest.map(|(digest, _)| *digest).collect();
        let mut read = self.store.read_parts(&rest, u64::MAX).into_iter();
        let each = here.into_iter().zip(digests);
        each.map(|(here, digest)| match here {
            Some(blob) => Ok(blob),
            None => match read.next() {
                Some(Ok(blob)) => Ok(blob.detached()),
                Some(Err(error)) => Err(PartUnavailable(error.to_string())),
                None => self.part(digest),
            },
        })
        .collect()
    }
}
