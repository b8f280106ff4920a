//! The manifest of a state: how it is cut into chunks, and the digest of each.

use atlas_common::Digest;
use atlas_common::digest::DigestBuilder;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A state's chunks by their digests. Its [`Manifest::root`] is the state digest that replicas certify,
/// so that each chunk can be checked by itself as soon as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The size of the state, in bytes.
    pub total_bytes: u64,
    /// The size of every chunk but the last, in bytes.
    pub chunk_bytes: u32,
    /// The digests of the chunks, in order.
    pub chunks: Vec<Digest>,
}

/// A manifest that cannot be one, or a chunk that does not fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Size, chunk size and number of chunks contradict each other.
    #[error("{chunks} chunks of {chunk_bytes} bytes are not a state of {total_bytes} bytes")]
    Shape {
        /// The stated size.
        total_bytes: u64,
        /// The stated chunk size.
        chunk_bytes: u32,
        /// How many chunks there are.
        chunks: usize,
    },
    /// There is no chunk of this number.
    #[error("chunk {index} of {chunks}")]
    Index {
        /// The number.
        index: u32,
        /// How many chunks there are.
        chunks: usize,
    },
    /// The chunk has another size than the manifest says.
    #[error("chunk {index} has {found} bytes instead of {expected}")]
    Size {
        /// The chunk.
        index: u32,
        /// Its size.
        found: usize,
        /// The size it should have.
        expected: usize,
    },
    /// The chunk has another digest than the manifest says.
    #[error("chunk {index} has the wrong digest")]
    Digest {
        /// The chunk.
        index: u32,
    },
}

impl Manifest {
    /// The most chunks of a state: with the default of 1 MiB each, 256 GiB.
    pub const CHUNKS_MAX: usize = 1 << 18;

    /// The manifest of a state that is these chunks.
    #[must_use]
    pub fn of<T: AsRef<[u8]>>(chunk_bytes: u32, chunks: &[T]) -> Self {
        Self {
            total_bytes: chunks.iter().map(|chunk| chunk.as_ref().len() as u64).sum(),
            chunk_bytes,
            chunks: chunks
                .iter()
                .map(|chunk| Self::chunk_digest(chunk.as_ref()))
                .collect(),
        }
    }

    /// The digest of a chunk.
    #[must_use]
    pub fn chunk_digest(chunk: &[u8]) -> Digest {
        DigestBuilder::new("atlas v1 state chunk")
            .bytes(chunk)
            .finish()
    }

    /// The digest of the state.
    #[must_use]
    pub fn root(&self) -> Digest {
        let head = DigestBuilder::new("atlas v1 state root")
            .number(self.total_bytes)
            .number(u64::from(self.chunk_bytes))
            .number(self.chunks.len() as u64);
        self.chunks
            .iter()
            .fold(head, DigestBuilder::digest)
            .finish()
    }

    /// Checks that size, chunk size and number of chunks fit each other.
    ///
    /// # Errors
    /// [`ManifestError::Shape`] when they do not, or there are too many chunks.
    pub fn check(&self) -> Result<(), ManifestError> {
        let chunks = self.chunks.len();
        let fits = self.chunk_bytes > 0
            && chunks <= Self::CHUNKS_MAX
            && self.total_bytes.div_ceil(u64::from(self.chunk_bytes)) == chunks as u64;
        let shape = ManifestError::Shape {
            total_bytes: self.total_bytes,
            chunk_bytes: self.chunk_bytes,
            chunks,
        };
        if fits { Ok(()) } else { Err(shape) }
    }

    /// The size of a chunk of a manifest that passed [`Self::check`], in bytes.
    fn chunk_len(&self, index: u32) -> usize {
        let before = u64::from(index) * u64::from(self.chunk_bytes);
        self.total_bytes
            .saturating_sub(before)
            .min(u64::from(self.chunk_bytes)) as usize
    }

    /// Checks a chunk, of a manifest that passed [`Self::check`].
    ///
    /// # Errors
    /// What does not fit.
    pub fn verify_chunk(&self, index: u32, chunk: &[u8]) -> Result<(), ManifestError> {
        let chunks = self.chunks.len();
        let digest = self
            .chunks
            .get(index as usize)
            .ok_or(ManifestError::Index { index, chunks })?;
        let (found, expected) = (chunk.len(), self.chunk_len(index));
        if found != expected {
            return Err(ManifestError::Size {
                index,
                found,
                expected,
            });
        }
        if Self::chunk_digest(chunk) == *digest {
            Ok(())
        } else {
            Err(ManifestError::Digest { index })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_22_a_chunk_counts_only_at_its_own_index_and_size() {
        let manifest = Manifest::of(4, &[&b"aaaa"[..], b"bbbb", b"c"]);
        assert_eq!(manifest.check(), Ok(()));
        assert_eq!(manifest.verify_chunk(1, b"bbbb"), Ok(()));
        assert_eq!(manifest.verify_chunk(2, b"c"), Ok(()));
        assert_eq!(
            manifest.verify_chunk(0, b"bbbb"),
            Err(ManifestError::Digest { index: 0 })
        );
        let size = ManifestError::Size {
            index: 2,
            found: 4,
            expected: 1,
        };
        assert_eq!(manifest.verify_chunk(2, b"aaaa"), Err(size));
        assert_eq!(
            manifest.verify_chunk(3, b""),
            Err(ManifestError::Index {
                index: 3,
                chunks: 3
            })
        );
    }

    #[test]
    fn row_22_a_manifest_of_the_wrong_shape_is_refused() {
        let good = Manifest::of(4, &[&b"aaaa"[..], b"b"]);
        for (total_bytes, chunk_bytes) in [(4, 4), (9, 4), (5, 0), (u64::MAX, 1)] {
            let bad = Manifest {
                total_bytes,
                chunk_bytes,
                ..good.clone()
            };
            assert!(
                matches!(bad.check(), Err(ManifestError::Shape { .. })),
                "{bad:?}"
            );
            assert_ne!(bad.root(), good.root());
        }
        assert_eq!(Manifest::of::<&[u8]>(4, &[]).check(), Ok(()));
    }
}
