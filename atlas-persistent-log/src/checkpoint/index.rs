//! The digests of a state's chunks.

use atlas_common::Digest;
use atlas_common::digest::DigestBuilder;
use serde::{Deserialize, Serialize};

/// The longest chunk, in bytes: 16 MiB.
pub const CHUNK_BYTES_MAX: u32 = 16 << 20;

/// How a state is cut into chunks, and the digest of each. Whoever has one that he believes can
/// check chunks from anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkIndex {
    /// The length of the state.
    pub state_bytes: u64,
    /// The length of every chunk but the last, at least 1.
    pub chunk_bytes: u32,
    /// The BLAKE3 digest of each chunk.
    pub digests: Vec<Digest>,
}

impl ChunkIndex {
    /// Whether the numbers agree with each other. To be asked of one that came from a peer.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        (1..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes)
            && self.digests.len() as u64 == chunks(self.state_bytes, self.chunk_bytes)
    }

    /// One digest for all of it.
    #[must_use]
    pub fn root(&self) -> Digest {
        let start = DigestBuilder::new("atlas v1 checkpoint chunks")
            .number(self.state_bytes)
            .number(u64::from(self.chunk_bytes));
        self.digests
            .iter()
            .fold(start, |builder, digest| builder.digest(digest))
            .finish()
    }

    /// How many chunks there are. An empty state has none.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.digests.len() as u64
    }

    /// Where in the state a chunk lies, and its length; `None` when there is no such chunk.
    #[must_use]
    pub fn position(&self, chunk: u64) -> Option<(u64, usize)> {
        let offset = chunk.checked_mul(u64::from(self.chunk_bytes))?;
        let rest = self.state_bytes.checked_sub(offset)?;
        let length = rest.min(u64::from(self.chunk_bytes));
        (length > 0).then_some((offset, length as usize))
    }

    /// Whether these bytes are that chunk.
    #[must_use]
    pub fn matches(&self, chunk: u64, bytes: &[u8]) -> bool {
        let expected = usize::try_from(chunk)
            .ok()
            .and_then(|n| self.digests.get(n));
        let length = self.position(chunk).map(|(_, length)| length);
        length == Some(bytes.len()) && expected == Some(&Digest::of(bytes))
    }
}

pub(super) fn chunks(state_bytes: u64, chunk_bytes: u32) -> u64 {
    state_bytes.div_ceil(u64::from(chunk_bytes.max(1)))
}
