//! Digests: BLAKE3, always under a context that says what is being digested.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A BLAKE3 digest, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of plain bytes, without a context. For content that is only ever compared with
    /// content of the same kind.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
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
#[derive(Clone, Debug)]
pub struct DigestBuilder(blake3::Hasher);

impl DigestBuilder {
    /// Starts a digest for one purpose, e.g. `"atlas v1 pbft prepare"`.
    #[must_use]
    pub fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, value: u64) -> Self {
        self.0.update(&value.to_le_bytes());
        self
    }

    /// Adds another digest.
    #[must_use]
    pub fn digest(mut self, value: &Digest) -> Self {
        self.0.update(&value.0);
        self
    }

    /// Adds bytes of any length.
    #[must_use]
    pub fn bytes(mut self, value: &[u8]) -> Self {
        self.0.update(&(value.len() as u64).to_le_bytes());
        self.0.update(value);
        self
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
