//! Digests: BLAKE3, always under a context that says what is being digested.

mod many;

use crate::bytes_serde::byte_string;
use blake3::hazmat::HasherExt as _;
use std::cmp::Ordering;
use std::fmt;

/// A BLAKE3 digest, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub [u8; 32]);

byte_string!(Digest, 32);

/// As byte strings are ordered. Nearly always the first eight bytes decide: so they are compared as a
/// number first, which is several times as fast in a map of many digests.
impl Ord for Digest {
    fn cmp(&self, other: &Self) -> Ordering {
        let begin = |digest: &Self| {
            digest
                .0
                .first_chunk()
                .map(|begin| u64::from_be_bytes(*begin))
        };
        match begin(self).cmp(&begin(other)) {
            Ordering::Equal => self.0.cmp(&other.0),
            unequal => unequal,
        }
    }
}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Digest {
    /// The digest of plain bytes, without a context. For content that is only ever compared with
    /// content of the same kind.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digests of many inputs, each as by [`Self::of`]. For inputs of some kilobytes this is several
    /// times as fast as one by one, and takes 150 KiB of memory meanwhile at most.
    #[must_use]
    pub fn of_all(inputs: &[impl AsRef<[u8]>]) -> Vec<Self> {
        many::digests(inputs)
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex::encode(&self.0[..4]))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Builds a digest from fields, each of fixed width or preceded by its length, so that two different
/// lists of fields never give the same input.
///
/// The context (BLAKE3's `derive_key` mode) separates domains: a digest made for one purpose is never
/// valid for another.
///
/// A hasher is two kilobytes, and a builder is moved at every step; so what is short (most of what is
/// signed) is gathered here and hashed at the end.
#[derive(Clone, Debug)]
pub struct DigestBuilder {
    context_key: [u8; 32],
    gathered: [u8; GATHERED_BYTES],
    used: usize,
    /// What did not fit.
    hasher: Option<Box<blake3::Hasher>>,
}

/// Two digests and a handful of numbers.
const GATHERED_BYTES: usize = 128;

impl DigestBuilder {
    /// Starts a digest for one purpose, e.g. `"atlas v1 pbft prepare"`.
    #[must_use]
    pub fn new(context: &str) -> Self {
        Self {
            context_key: blake3::hazmat::hash_derive_key_context(context),
            gathered: [0; GATHERED_BYTES],
            used: 0,
            hasher: None,
        }
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, value: u64) -> Self {
        self.add(&value.to_le_bytes());
        self
    }

    /// Adds another digest.
    #[must_use]
    pub fn digest(mut self, value: &Digest) -> Self {
        self.add(&value.0);
        self
    }

    /// Adds bytes of any length.
    #[must_use]
    pub fn bytes(mut self, value: &[u8]) -> Self {
        self.add(&(value.len() as u64).to_le_bytes());
        self.add(value);
        self
    }

    fn add(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if self.hasher.is_none() && end <= GATHERED_BYTES {
            self.gathered[self.used..end].copy_from_slice(bytes);
            self.used = end;
            return;
        }
        let hasher = self.hasher.get_or_insert_with(|| {
            let mut hasher = Box::new(blake3::Hasher::new_from_context_key(&self.context_key));
            hasher.update(&self.gathered[..self.used]);
            hasher
        });
        hasher.update(bytes);
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> Digest {
        let hash = match &self.hasher {
            Some(hasher) => hasher.finalize(),
            None => {
                let mut hasher = blake3::Hasher::new_from_context_key(&self.context_key);
                hasher.update(&self.gathered[..self.used]).finalize()
            }
        };
        Digest(*hash.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_is_hashed_as_blake3_hashes_it() {
        for lengths in [&[][..], &[5], &[0, 120], &[121], &[60, 60, 60], &[3000, 1]] {
            let mut builder = DigestBuilder::new("context");
            let mut hasher = blake3::Hasher::new_derive_key("context");
            for length in lengths {
                let bytes = vec![7; *length];
                builder = builder.bytes(&bytes).number(9);
                hasher.update(&(*length as u64).to_le_bytes());
                hasher.update(&bytes).update(&9u64.to_le_bytes());
            }
            assert_eq!(
                builder.finish().0,
                *hasher.finalize().as_bytes(),
                "{lengths:?}"
            );
        }
    }

    #[test]
    fn digests_are_ordered_as_their_bytes_are() {
        let values = [0, 1, 127, 128, 255];
        let places = [0, 1, 7, 8, 31];
        let one = |(place, value): (usize, u8)| {
            let mut bytes = [9; 32];
            bytes[place] = value;
            bytes
        };
        let all = places.into_iter().flat_map(|p| values.map(|v| (p, v)));
        let all: Vec<[u8; 32]> = all.map(one).collect();
        for a in &all {
            for b in &all {
                assert_eq!(Digest(*a).cmp(&Digest(*b)), a.cmp(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn contexts_and_field_borders_separate() {
        let digest = |context: &str, fields: &[&[u8]]| {
            fields
                .iter()
                .fold(DigestBuilder::new(context), |b, f| b.bytes(f))
                .finish()
        };
        assert_ne!(digest("a", &[b"xy"]), digest("b", &[b"xy"]));
        assert_ne!(digest("a", &[b"x", b"y"]), digest("a", &[b"xy"]));
        assert_ne!(digest("a", &[b"x", b""]), digest("a", &[b"", b"x"]));
    }
}
