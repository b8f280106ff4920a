//! What a transfer has fetched, in memory besides on the disk.

use super::index::secret_key;
use super::store::PartStore;
use atlas_common::Digest;
use atlas_common::digest_map::DigestMap;
use atlas_common::parts::{Blob, StateDescriptor};

/// Room for more blobs is made as they come: 40 MiB, and as much in the index.
const BLOBS_EXPECTED_MAX: usize = 1 << 19;

/// Blobs of a state that came from peers: whoever takes it over needs not read them back and check them
/// once more. At most as many bytes as the state has.
#[derive(Debug)]
pub struct Fetched {
    blobs: DigestMap<Blob>,
    bytes: u64,
    bytes_max: u64,
}

impl Default for Fetched {
    fn default() -> Self {
        Self::of(&StateDescriptor::default())
    }
}

impl Fetched {
    /// Nothing yet of this state.
    pub(super) fn of(target: &StateDescriptor) -> Self {
        let pages = target.pages.iter().map(|page| u64::from(page.bytes));
        let mut blobs = DigestMap::new(secret_key());
        blobs.reserve(expected(target));
        Self {
            blobs,
            bytes: 0,
            bytes_max: target.total_bytes.saturating_add(pages.sum()),
        }
    }

    pub(super) fn remember(&mut self, blob: Blob) {
        let bytes = self.bytes.saturating_add(blob.bytes().len() as u64);
        if bytes <= self.bytes_max && self.blobs.insert(blob.digest(), blob).is_none() {
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

/// How many blobs a transfer of this state brings at most, as far as room is made for them before.
pub(super) fn expected(target: &StateDescriptor) -> usize {
    let blobs = target.parts.saturating_add(target.pages.len() as u64);
    usize::try_from(blobs)
        .unwrap_or(BLOBS_EXPECTED_MAX)
        .min(BLOBS_EXPECTED_MAX)
}

impl PartStore {
    /// Hands over what the last transfer has fetched, as far as it is in memory: for whoever takes the
    /// state over. It is let go of here, as it is when another transfer begins or this one is given up.
    #[must_use]
    pub fn take_fetched(&self) -> Fetched {
        std::mem::take(&mut *self.inner.fetched.lock())
    }
}
