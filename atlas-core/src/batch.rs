//! Batches: what a slot orders.

use atlas_common::time::AgreedTime;
use atlas_common::wire::{self, DecodeError};
use atlas_common::{Digest, digest::DigestBuilder};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// A batch of request bundles, opaque to the protocol, with the proposer's time.
///
/// A batch is its encoded bytes: they are what is hashed, sent and logged, exactly as they were
/// received. Cloning copies a pointer.
#[derive(Clone)]
pub struct Batch(Arc<Inner>);

struct Inner {
    raw: Bytes,
    digest: Digest,
    time: AgreedTime,
    bundles: Vec<Bytes>,
}

#[derive(Serialize, Deserialize)]
struct Layout<'a> {
    time: AgreedTime,
    #[serde(borrow)]
    bundles: Vec<&'a [u8]>,
}

impl Batch {
    /// A batch of these encoded bundles, proposed at `time`.
    #[must_use]
    #[expect(clippy::expect_used, reason = "what was just encoded decodes")]
    pub fn new(time: AgreedTime, bundles: &[Bytes]) -> Self {
        let layout = Layout {
            time,
            bundles: bundles.iter().map(AsRef::as_ref).collect(),
        };
        let raw = wire::encode(&layout).expect("numbers and byte strings encode");
        Self::decode(raw.into()).expect("what was just encoded decodes")
    }

    /// The null batch: what an empty slot decides. It holds no bundle and no time.
    #[must_use]
    pub fn null() -> Self {
        Self::new(AgreedTime::default(), &[])
    }

    /// Reads a batch from its bytes, as they came over the network or from the log.
    ///
    /// # Errors
    /// When the bytes are not a batch, or hold more than the batch.
    pub fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let layout: Layout<'_> = wire::decode_borrowed(&raw, wire::ENCODED_BYTES_MAX)?;
        let bundles = layout
            .bundles
            .iter()
            .map(|bundle| raw.slice_ref(bundle))
            .collect();
        let (time, digest) = (layout.time, Self::digest_of(&raw));
        Ok(Self(Arc::new(Inner {
            digest,
            time,
            bundles,
            raw,
        })))
    }

    fn digest_of(raw: &[u8]) -> Digest {
        DigestBuilder::new("atlas v1 batch").bytes(raw).finish()
    }

    /// The encoded batch.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.0.raw
    }

    /// The digest of the encoded batch, computed here and never taken from a message.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The proposer's time.
    #[must_use]
    pub fn time(&self) -> AgreedTime {
        self.0.time
    }

    /// The encoded bundles, in order.
    #[must_use]
    pub fn bundles(&self) -> &[Bytes] {
        &self.0.bundles
    }

    /// Whether this is a batch without bundles.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.bundles.is_empty()
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.0.raw == other.0.raw
    }
}

impl Eq for Batch {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {:?} of {}", self.digest(), self.bundles().len())
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.raw)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::decode(wire::copied(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_survives_the_wire_with_its_digest() {
        let bundles = [
            Bytes::from_static(b"one"),
            Bytes::new(),
            Bytes::from_static(b"two"),
        ];
        let batch = Batch::new(AgreedTime::from_unix_millis(5), &bundles);
        let sent = wire::encode(&batch).unwrap();
        let received: Batch = wire::decode(&sent, 1000).unwrap();
        assert_eq!(received.bundles(), bundles);
        assert_eq!(received.digest(), batch.digest());
        assert_eq!(received.time().unix_millis, 5);
        assert!(Batch::null().is_null());
    }

    #[test]
    fn trailing_bytes_inside_a_batch_are_refused() {
        let mut raw = Batch::null().raw().to_vec();
        raw.push(0);
        assert!(matches!(
            Batch::decode(raw.into()),
            Err(DecodeError::Trailing { .. })
        ));
    }
}
