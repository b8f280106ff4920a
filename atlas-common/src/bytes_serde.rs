//! How fixed numbers of bytes travel: as one byte string on the wire, since serde's arrays go element
//! by element, and as hexadecimal digits in text.

use serde::de::{Error, Visitor};
use std::fmt;

/// Makes a newtype of a byte array travel as one byte string.
macro_rules! byte_string {
    ($name:ident, $length:literal) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&hex::encode(self.0))
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let visitor = $crate::bytes_serde::FixedBytes::<$length>;
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(visitor).map(Self)
                } else {
                    deserializer.deserialize_bytes(visitor).map(Self)
                }
            }
        }
    };
}

pub(crate) use byte_string;

/// Takes exactly `N` bytes.
pub(crate) struct FixedBytes<const N: usize>;

impl<const N: usize> Visitor<'_> for FixedBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        <[u8; N]>::try_from(bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<[u8; N], E> {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).map_err(E::custom)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::crypto::{PublicKey, Signature};
    use crate::digest::Digest;
    use crate::wire;

    #[test]
    fn they_travel_as_one_string_of_exactly_their_length() {
        let digest = Digest::of(b"x");
        let encoded = wire::encode(&digest).unwrap();
        assert_eq!(encoded.len(), 33);
        assert_eq!(wire::decode::<Digest>(&encoded, 64).unwrap(), digest);
        for length in [0, 31, 33] {
            let other = wire::encode(&bytes::Bytes::from(vec![7; length])).unwrap();
            wire::decode::<Digest>(&other, 64).unwrap_err();
            wire::decode::<PublicKey>(&other, 64).unwrap_err();
        }
        let signature = Signature([9; 64]);
        let encoded = wire::encode(&signature).unwrap();
        assert_eq!(wire::decode::<Signature>(&encoded, 80).unwrap(), signature);
    }
}
