//! Bytes that were checked.

use super::PartRef;
use crate::Digest;
use bytes::Bytes;

/// Bytes under their digest: that it is theirs was found out where they came into this process, from a
/// peer or from a disk, and needs no second look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    digest: Digest,
    bytes: Bytes,
}

impl Blob {
    /// These bytes, whatever their digest is.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        let digest = Digest::of(&bytes);
        Self { digest, bytes }
    }

    /// These bytes, if this is their digest.
    #[must_use]
    pub fn check(digest: Digest, bytes: Bytes) -> Option<Self> {
        (Digest::of(&bytes) == digest).then_some(Self { digest, bytes })
    }

    /// The digest of the bytes.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes alone.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The same in memory of its own, where it may have been a piece of something larger.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            digest: self.digest,
            bytes: Bytes::copy_from_slice(&self.bytes),
        }
    }

    /// Whether this is what is meant.
    #[must_use]
    pub fn is(&self, part: &PartRef) -> bool {
        self.digest == part.digest && self.bytes.len() as u64 == u64::from(part.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_under_another_digest_are_no_blob() {
        let bytes = Bytes::from_static(b"some bytes");
        let blob = Blob::of(bytes.clone());
        let part = PartRef::of(&bytes);
        assert!(blob.is(&part) && !blob.is(&PartRef { bytes: 9, ..part }));
        assert!(!blob.is(&PartRef::of(b"other bytes")));
        assert_eq!(Blob::check(part.digest, bytes), Some(blob));
        assert_eq!(Blob::check(part.digest, Bytes::from_static(b"some")), None);
    }
}
