//! What a transfer has fetched, in memory besides on the disk.

use super::store::PartStore;
use atlas_common::Digest;
use atlas_common::parts::{Blob, StateDescriptor};
use std::collections::HashMap;

/// Blobs of a state that came from peers: whoever takes it over needs not read them back and check them
/// once more. At most as many bytes as the state has.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Never iterated where order could show.
    blobs: HashMap<Digest, Blob>,
    bytes: u64,
    bytes_max: u64,
}

impl Fetched {
    /// Nothing yet of this state.
    pub(super) fn of(target: &StateDescriptor) -> Self {
        let pages = target.pages.iter().map(|page| u64::from(page.bytes));
        Self {
            bytes_max: target.total_bytes.saturating_add(pages.sum()),
            ..Self::default()
        }
    }

    pub(super) fn remember(&mut self, blob: &Blob) {
        let bytes = self.bytes.saturating_add(blob.bytes().len() as u64);
        if bytes <= self.bytes_max && self.blobs.insert(blob.digest(), blob.clone()).is_none() {
            self.bytes = bytes;
        }
    }

    /// A blob, if it was fetched.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }
}

impl PartStore {
    /// Hands over what the last transfer has fetched, as far as it is in memory: for whoever takes the
    /// state over. It is let go of here, as it is when another transfer begins or this one is given up.
    #[must_use]
    pub fn take_fetched(&self) -> Fetched {
        std::mem::take(&mut *self.inner.fetched.lock())
    }
}
