//! A value together with the bytes it was decoded from, so that signatures are checked over what was
//! received.

use atlas_common::Digest;
use atlas_common::digest::DigestBuilder;
use atlas_common::wire::{self, DecodeError};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::Deref;
use std::sync::Arc;

/// An immutable value and its encoding. Cloning copies a pointer.
#[derive(Debug)]
pub struct Sealed<T>(Arc<(Bytes, T)>);

impl<T> Clone for Sealed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Serialize + DeserializeOwned> Sealed<T> {
    /// Encodes a value of ours.
    #[must_use]
    #[expect(clippy::expect_used, reason = "derived encodings do not fail")]
    pub fn new(value: T) -> Self {
        let raw = wire::encode(&value)
            .expect("derived encodings do not fail")
            .into();
        Self(Arc::new((raw, value)))
    }

    fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let value = wire::decode(&raw, wire::ENCODED_BYTES_MAX)?;
        Ok(Self(Arc::new((raw, value))))
    }
}

impl<T> Sealed<T> {
    /// The digest of the encoding under a context.
    #[must_use]
    pub fn digest(&self, context: &str) -> Digest {
        DigestBuilder::new(context).bytes(&self.0.0).finish()
    }
}

impl<T> Deref for Sealed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> Serialize for Sealed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.0)
    }
}

impl<'de, T: Serialize + DeserializeOwned> Deserialize<'de> for Sealed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::decode(Bytes::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
