//! Small files that are written whole: a magic, a version, the cluster, a body, and a digest over
//! all of them.

use crate::storage::{Storage, StorageError};
use atlas_common::Digest;
use atlas_common::digest::DigestBuilder;
use thiserror::Error;

const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 32 + 32;
/// The longest such file, in bytes: 64 MiB.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 20;

/// A small file is not what was written.
#[derive(Debug, Clone, Error)]
pub enum SealedError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The digest does not match, or the file is of another kind.
    #[error("{file} is damaged: restore it from a copy")]
    Damaged {
        /// The file.
        file: String,
    },
    /// Written by another version of this program.
    #[error("{file} has format version {found}; this program reads version {expected}")]
    UnknownVersion {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The version that can be read.
        expected: u32,
    },
    /// The file belongs to another cluster.
    #[error("{file} belongs to the cluster with genesis {found}, not to {expected}")]
    WrongCluster {
        /// The file.
        file: String,
        /// The genesis digest in it.
        found: Digest,
        /// The expected one.
        expected: Digest,
    },
}

fn digest(magic: [u8; 8], version: u32, genesis: &Digest, body: &[u8]) -> Digest {
    DigestBuilder::new("atlas v1 sealed file")
        .bytes(&magic)
        .number(u64::from(version))
        .digest(genesis)
        .bytes(body)
        .finish()
}

/// Writes the file atomically, replacing what was there.
pub(crate) fn write(
    storage: &dyn Storage,
    name: &str,
    magic: [u8; 8],
    genesis: &Digest,
    body: &[u8],
) -> Result<(), StorageError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&genesis.0);
    bytes.extend_from_slice(&digest(magic, VERSION, genesis, body).0);
    bytes.extend_from_slice(body);
    storage.write_atomically(name, &bytes)
}

/// Reads the genesis digest and the body of a file.
pub(crate) fn read(
    storage: &dyn Storage,
    name: &str,
    magic: [u8; 8],
) -> Result<(Digest, bytes::Bytes), SealedError> {
    let damaged = || SealedError::Damaged {
        file: name.to_owned(),
    };
    let contents = match storage.read_all(name, FILE_BYTES_MAX) {
        Err(StorageError::TooLong { .. }) => return Err(damaged()),
        other => other?,
    };
    let header = contents.get(..HEADER_BYTES).ok_or_else(damaged)?;
    let (head, seal) = header.split_at(44);
    let (version, genesis) = head[8..].split_at(4);
    let version = u32::from_le_bytes(version.try_into().map_err(|_| damaged())?);
    let genesis = Digest(genesis.try_into().map_err(|_| damaged())?);
    if head[..8] != magic {
        return Err(damaged());
    }
    let body = contents.slice(HEADER_BYTES..);
    if digest(magic, version, &genesis, &body).0 != *seal {
        return Err(damaged());
    }
    // Only now: another version may be a flipped bit.
    if version != VERSION {
        return Err(SealedError::UnknownVersion {
            file: name.to_owned(),
            found: version,
            expected: VERSION,
        });
    }
    Ok((genesis, body))
}

/// As [`read`], for a file of this cluster.
pub(crate) fn read_own(
    storage: &dyn Storage,
    name: &str,
    magic: [u8; 8],
    genesis: &Digest,
) -> Result<bytes::Bytes, SealedError> {
    let (found, body) = read(storage, name, magic)?;
    if found != *genesis {
        return Err(SealedError::WrongCluster {
            file: name.to_owned(),
            found,
            expected: *genesis,
        });
    }
    Ok(body)
}
