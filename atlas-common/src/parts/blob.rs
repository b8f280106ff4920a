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

    /// As by [`Self::of`], in less time.
    #[must_use]
    pub fn of_all(all: Vec<Bytes>) -> Vec<Self> {
        let digests = Digest::of_all(&all);
        let each = digests.into_iter().zip(all);
        each.map(|(digest, bytes)| Self { digest, bytes }).collect()
    }

    /// As by [`Self::check`], for bytes each of which should have the digest beside it; in less time.
    #[must_use]
    pub fn check_all(digests: &[Digest], all: Vec<Bytes>) -> Vec<Option<Self>> {
        let checked = Self::of_all(all).into_iter().zip(digests);
        let check = |(blob, digest): (Self, &Digest)| (blob.digest == *digest).then_some(blob);
        checked.map(check).collect()
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

    #[test]
    fn of_many_those_are_blobs_whose_bytes_are_under_their_digests() {
        let all: Vec<Bytes> = (0..40u8).map(|i| vec![i; 3000].into()).collect();
        let mut digests = Digest::of_all(&all);
        digests.swap(7, 8);
        let checked = Blob::check_all(&digests, all.clone());
        for (number, (blob, bytes)) in checked.into_iter().zip(all).enumerate() {
            let expected = (![7, 8].contains(&number)).then(|| Blob::of(bytes));
            assert_eq!(blob, expected, "blob {number}");
        }
    }
}
