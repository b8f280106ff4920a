//! The first exchange on a new connection: the dialler says who it is and what for, the acceptor
//! welcomes or refuses it with a reason.

use super::stream::read_exactly;
use crate::error::Refusal;
use crate::frame::HEADER_BYTES;
use crate::network::Lane;
use atlas_common::{Digest, NodeId, wire};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Stands first in every greeting and answer.
const MAGIC: [u8; 8] = *b"atlasnet";

/// The version of everything that follows; raised by any change to it.
pub(super) const VERSION: u16 = 1;

/// The longest greeting or answer, in bytes.
const GREETING_BYTES_MAX: usize = 128;

const PREFIX_BYTES: usize = MAGIC.len() + size_of::<u16>();

/// What the dialler says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Which cluster it believes to talk to.
    pub(super) genesis: Digest,
    pub(super) role: Role,
}

/// What the connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Role {
    /// Frames of one lane, from this replica.
    Replica { id: NodeId, lane: Lane },
    /// Requests from a client, and replies to it.
    Client { instance: u64 },
}

/// What the acceptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Welcome,
    Refused(Refusal),
}

/// A greeting or answer did not come, or is not one.
#[derive(Debug, Error)]
pub(super) enum GreetingError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A greeting or answer with its frame around it.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    encode_as(VERSION, value)
}

#[expect(clippy::expect_used, reason = "numbers and digests always encode")]
pub(super) fn encode_as<T: Serialize>(version: u16, value: &T) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    wire::encode_into(value, &mut bytes).expect("a greeting encodes");
    let len = (bytes.len() - HEADER_BYTES) as u32;
    bytes[..HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// Sends bytes that [`encode`] made.
pub(super) async fn send<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// Reads a greeting or answer, and not one byte more.
pub(super) async fn receive<R, T>(reader: &mut R) -> Result<T, GreetingError>
where
    R: AsyncRead + Unpin,
    T: DeserializeOwned,
{
    let mut header = [0; HEADER_BYTES];
    read_exactly(reader, &mut header).await?;
    let len = u32::from_le_bytes(header) as usize;
    if !(PREFIX_BYTES..=GREETING_BYTES_MAX).contains(&len) {
        return Err(Refusal::NotAtlas.into());
    }
    let mut bytes = [0; GREETING_BYTES_MAX];
    read_exactly(reader, &mut bytes[..len]).await?;
    Ok(decode(&bytes[..len])?)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let (prefix, body) = bytes
        .split_at_checked(PREFIX_BYTES)
        .ok_or(Refusal::NotAtlas)?;
    let version = prefix.strip_prefix(&MAGIC).ok_or(Refusal::NotAtlas)?;
    if version != VERSION.to_le_bytes() {
        return Err(Refusal::WrongVersion);
    }
    wire::decode(body, GREETING_BYTES_MAX).map_err(|_| Refusal::NotAtlas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_greeting_survives_the_wire_and_another_version_is_told_from_garbage() {
        let hello = Hello {
            genesis: Digest::of(b"x"),
            role: Role::Replica {
                id: NodeId(u32::MAX),
                lane: Lane::Transfer,
            },
        };
        let bytes = encode(&hello);
        assert!(bytes.len() <= GREETING_BYTES_MAX);
        assert_eq!(decode::<Hello>(&bytes[HEADER_BYTES..]), Ok(hello));
        let newer = encode_as(VERSION + 1, &"of another shape altogether");
        assert_eq!(
            decode::<Hello>(&newer[HEADER_BYTES..]),
            Err(Refusal::WrongVersion)
        );
        let longer = [&bytes[HEADER_BYTES..], &[0]].concat();
        assert_eq!(decode::<Hello>(&longer), Err(Refusal::NotAtlas));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            prop_assert!(decode::<Hello>(&bytes).is_err());
        }
    }
}
