//! The wire codec: serde with bincode, always under a size limit, trailing bytes refused.
//!
//! This module is the only one that knows bincode (`docs/adr/0001-codec.md` says what a change would
//! touch). Signatures and digests are made over encoded bytes as they were received, never over a
//! re-encoding.
//!
//! A type that is decoded from a peer must not contain a sequence of zero-sized elements: such a
//! sequence has a length without bytes to back it.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Visitor};
use std::fmt;
use std::io::{Read, Write};
use thiserror::Error;

/// The largest message that can be encoded or decoded, in bytes: 64 MiB.
pub const ENCODED_BYTES_MAX: usize = 64 << 20;

/// Bytes could not be turned into the expected type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More bytes than the caller's limit.
    #[error("{found_bytes} bytes where at most {limit_bytes} are allowed")]
    TooLong {
        /// How many bytes there were.
        found_bytes: usize,
        /// How many are allowed.
        limit_bytes: usize,
    },
    /// The value ended before the bytes did.
    #[error("{trailing_bytes} bytes left over after the value")]
    Trailing {
        /// How many bytes were left.
        trailing_bytes: usize,
    },
    /// The bytes are not an encoding of the type.
    #[error("not a valid encoding: {0}")]
    Malformed(String),
}

/// A value could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot be encoded: {0}")]
pub struct EncodeError(String);

const fn config<const N: usize>() -> Configuration<LittleEndian, Varint, Limit<N>> {
    bincode::config::standard().with_limit::<N>()
}

/// Encodes a value.
///
/// # Errors
/// When serde refuses the value (a type of ours that derives `Serialize` never does).
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    encode_with_room(value, 0)
}

/// As [`encode`], for a value that takes about so many bytes besides some small fields: a large buffer that
/// grows costs more than what is put into it.
///
/// # Errors
/// As [`encode`].
pub fn encode_with_room<T: Serialize + ?Sized>(
    value: &T,
    room_bytes: usize,
) -> Result<Vec<u8>, EncodeError> {
    // Room for a vote, so that the most frequent messages grow no buffer.
    let mut bytes = Vec::with_capacity(room_bytes.saturating_add(192));
    encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Encodes a value behind what `bytes` already holds.
///
/// # Errors
/// As [`encode`].
pub fn encode_into<T: Serialize + ?Sized>(
    value: &T,
    bytes: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    encode_into_writer(value, bytes)
}

/// Encodes a value piece by piece, for one too large to be in memory a second time as a whole.
///
/// # Errors
/// As [`encode`], and when the writer fails.
pub fn encode_into_writer<T: Serialize + ?Sized, W: Write>(
    value: &T,
    writer: &mut W,
) -> Result<(), EncodeError> {
    bincode::serde::encode_into_std_write(value, writer, bincode::config::standard())
        .map(|_written| ())
        .map_err(|error| EncodeError(error.to_string()))
}

/// Decodes a value that fills `bytes` exactly, of at most `limit_bytes`.
///
/// # Errors
/// [`DecodeError`] for bytes over the limit, malformed, or left over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit_bytes: usize) -> Result<T, DecodeError> {
    decode_borrowed(bytes, limit_bytes)
}

/// As [`decode`], for a type that borrows from `bytes`.
///
/// # Errors
/// As [`decode`].
pub fn decode_borrowed<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    limit_bytes: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > limit_bytes {
        return Err(DecodeError::TooLong {
            found_bytes: bytes.len(),
            limit_bytes,
        });
    }
    // bincode's limit is a constant, and counts a number as its full width however few bytes its
    // varint took: eight times the input is enough for any honest message, and a length field can
    // ask for no more than the next step above that.
    let result = match bytes.len() {
        0..=0x1000 => bincode::serde::borrow_decode_from_slice(bytes, config::<0x1_0000>()),
        0x1001..=0x2_0000 => bincode::serde::borrow_decode_from_slice(bytes, config::<0x10_0000>()),
        0x2_0001..=0x40_0000 => {
            bincode::serde::borrow_decode_from_slice(bytes, config::<0x200_0000>())
        }
        _ => bincode::serde::borrow_decode_from_slice(bytes, config::<0x2000_0000>()),
    };
    let (value, read) = result.map_err(|error| DecodeError::Malformed(error.to_string()))?;
    match bytes.len() - read {
        0 => Ok(value),
        trailing_bytes => Err(DecodeError::Trailing { trailing_bytes }),
    }
}

/// Decodes a value that fills the next `total_bytes` of `reader` exactly. For bytes whose digest was
/// checked: there is no other limit, so that a state may be larger than any message.
///
/// # Errors
/// [`DecodeError`] for bytes that are malformed or left over; a reader that fails or ends early counts
/// as malformed.
pub fn decode_from_reader<T: DeserializeOwned, R: Read>(
    reader: R,
    total_bytes: u64,
) -> Result<T, DecodeError> {
    let mut reader = reader.take(total_bytes);
    // As above, but up to 32 times the input, enough for a sequence of small 128-bit numbers.
    let result = match total_bytes {
        0..=0x10_0000 => from_reader::<T, 0x200_0000>(&mut reader),
        0x10_0001..=0x200_0000 => from_reader::<T, 0x4000_0000>(&mut reader),
        0x200_0001..=0x4000_0000 => from_reader::<T, 0x8_0000_0000>(&mut reader),
        _ => from_reader::<T, 0x4_0000_0000_0000>(&mut reader),
    };
    let value = result.map_err(|error| DecodeError::Malformed(error.to_string()))?;
    match usize::try_from(reader.limit()).unwrap_or(usize::MAX) {
        0 => Ok(value),
        trailing_bytes => Err(DecodeError::Trailing { trailing_bytes }),
    }
}

fn from_reader<T: DeserializeOwned, const N: usize>(
    reader: &mut impl Read,
) -> Result<T, bincode::error::DecodeError> {
    bincode::serde::decode_from_std_read(reader, config::<N>())
}

/// Decodes a byte string, copied once: for `#[serde(deserialize_with)]` where byte strings are long. As
/// `Bytes` is decoded by itself, its memory is filled with zeros first.
///
/// # Errors
/// When there is no byte string, or not all of it.
pub fn copied<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    deserializer.deserialize_bytes(Copied)
}

/// As [`copied`], for many.
///
/// # Errors
/// As [`copied`].
pub fn all_copied<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Bytes>, D::Error> {
    #[derive(serde::Deserialize)]
    struct One(#[serde(deserialize_with = "copied")] Bytes);
    let all = Vec::<One>::deserialize(deserializer)?;
    Ok(all.into_iter().map(|One(bytes)| bytes).collect())
}

struct Copied;

impl Visitor<'_> for Copied {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    #[test]
    fn a_length_of_2_to_the_62_is_refused_without_allocating() {
        // varint marker 253: a u64 follows.
        let mut bomb = vec![253];
        bomb.extend_from_slice(&(1u64 << 62).to_le_bytes());
        assert!(matches!(
            decode::<Bytes>(&bomb, 1024),
            Err(DecodeError::Malformed(_))
        ));
        assert!(matches!(
            decode::<Vec<u64>>(&bomb, 1024),
            Err(DecodeError::Malformed(_))
        ));
        assert!(matches!(
            decode::<String>(&bomb, 1024),
            Err(DecodeError::Malformed(_))
        ));
    }

    #[test]
    fn trailing_bytes_and_excess_are_refused() {
        let mut bytes = encode(&7u32).unwrap();
        bytes.push(0);
        assert_eq!(
            decode::<u32>(&bytes, 10),
            Err(DecodeError::Trailing { trailing_bytes: 1 })
        );
        let long = DecodeError::TooLong {
            found_bytes: 2,
            limit_bytes: 1,
        };
        assert_eq!(decode::<u32>(&bytes, 1), Err(long));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // The verdict does not matter here, only that there is one.
            drop(decode::<Vec<(u64, String, Option<Bytes>)>>(&bytes, 4096));
        }

        #[test]
        fn what_was_encoded_decodes(value: Vec<(u64, Vec<u8>)>) {
            let bytes = encode(&value).unwrap();
            prop_assert_eq!(decode::<Vec<(u64, Vec<u8>)>>(&bytes, usize::MAX), Ok(value));
        }

        #[test]
        fn a_stream_reads_as_a_slice_does(value: Vec<(u128, Vec<u8>)>, cut in 0u64..3) {
            let mut bytes = Vec::new();
            encode_into_writer(&value, &mut bytes).unwrap();
            let total_bytes = bytes.len() as u64;
            prop_assert_eq!(decode_from_reader(&bytes[..], total_bytes), Ok(value));
            bytes.push(0);
            let short = decode_from_reader::<Vec<(u128, Vec<u8>)>, _>(&bytes[..], total_bytes - cut.min(total_bytes));
            prop_assert_eq!(short.is_ok(), cut == 0);
            let long = decode_from_reader::<Vec<(u128, Vec<u8>)>, _>(&bytes[..], total_bytes + 1);
            prop_assert_eq!(long, Err(DecodeError::Trailing { trailing_bytes: 1 }));
        }

        #[test]
        fn the_largest_numbers_fit_the_limit(count in 0usize..9000) {
            let value = vec![u64::MAX; count];
            let small = vec![1u64; count];
            for value in [value, small] {
                let bytes = encode(&value).unwrap();
                prop_assert_eq!(decode::<Vec<u64>>(&bytes, usize::MAX), Ok(value));
            }
        }
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Long(#[serde(deserialize_with = "super::copied")] Bytes, u8);

    #[test]
    fn a_copied_byte_string_is_the_same_from_a_slice_and_from_a_reader() {
        for length in [0, 1, 300, 70_000] {
            let long = Long(vec![7; length].into(), 9);
            let encoded = encode(&long).unwrap();
            assert_eq!(encoded, encode(&(&long.0, 9_u8)).unwrap());
            assert_eq!(
                decode::<Long>(&encoded, 1 << 20),
                Ok(Long(long.0.clone(), 9))
            );
            let read = decode_from_reader(&encoded[..], encoded.len() as u64);
            assert_eq!(read, Ok(long));
            assert!(decode::<Long>(&encoded[..encoded.len() - 2], 1 << 20).is_err());
        }
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Many(#[serde(deserialize_with = "super::all_copied")] Vec<Bytes>);

    #[test]
    fn many_copied_byte_strings_are_the_same_and_no_more_are_there_than_come() {
        let many = Many(
            (0..300u16)
                .map(|n| vec![n as u8; n.into()].into())
                .collect(),
        );
        let encoded = encode(&many).unwrap();
        assert_eq!(encoded, encode(&many.0).unwrap());
        assert_eq!(decode::<Many>(&encoded, 1 << 20), Ok(many));
        // 2^60 of them, it says.
        let bomb = [&[253][..], &(1u64 << 60).to_le_bytes(), &encoded[3..]].concat();
        assert!(decode::<Many>(&bomb, 1 << 20).is_err());
        assert!(decode::<Many>(&encoded[..encoded.len() - 1], 1 << 20).is_err());
    }
}
