//! The small files: the metadata of each checkpoint, and what a transfer fetches.

use super::error::{Damage, Damaged, StoreError};
use crate::sealed::{self, SealedError};
use crate::storage::{Storage, StorageError};
use atlas_common::parts::StateDescriptor;
use atlas_common::{Digest, SeqNo, wire};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".meta";
const TARGET: &str = "transfer";
const MAGIC: [u8; 8] = *b"atlascpt";
const TARGET_MAGIC: [u8; 8] = *b"atlastgt";

/// What a checkpoint says besides the state. Certificate, frontier and info together may have at most
/// [`META_BYTES_MAX`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// The last decision whose effect is in the state.
    pub seq: SeqNo,
    /// The evidence that a quorum has the same state; may be set later.
    pub certificate: Bytes,
    /// The protocol's own bytes that travel with a checkpoint.
    pub frontier: Bytes,
    /// The caller's own bytes.
    pub info: Bytes,
}

/// The most bytes of certificate, frontier and info together: 32 MiB.
pub const META_BYTES_MAX: usize = 32 << 20;

/// A checkpoint on the disk: everything but its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCheckpoint {
    /// What is known of it.
    pub meta: CheckpointMeta,
    /// Its parts.
    pub descriptor: StateDescriptor,
}

pub(super) fn name(seq: SeqNo) -> String {
    format!("{PREFIX}{:016x}{SUFFIX}", seq.0)
}

pub(super) fn seq_of(file: &str) -> Option<SeqNo> {
    let digits = file.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let seq = SeqNo(u64::from_str_radix(digits, 16).ok()?);
    (name(seq) == file).then_some(seq)
}

/// The cluster whose checkpoints these are, by the first metadata that can be read.
pub(super) fn cluster_of(storage: &dyn Storage) -> Result<Option<Digest>, StoreError> {
    let names = storage.list()?;
    for file in names.iter().filter(|file| seq_of(file).is_some()) {
        match sealed::read(storage, file, MAGIC) {
            Ok((genesis, _)) => return Ok(Some(genesis)),
            Err(SealedError::Storage(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Whether a file of that name is one of these.
pub(super) fn is_own(file: &str) -> bool {
    file == TARGET || seq_of(file).is_some()
}

pub(super) fn check(seq: SeqNo, meta: &CheckpointMeta) -> Result<(), StoreError> {
    if meta.seq != seq {
        return Err(StoreError::WrongNumber {
            expected: seq,
            found: meta.seq,
        });
    }
    let found_bytes = meta.certificate.len() + meta.frontier.len() + meta.info.len();
    if found_bytes > META_BYTES_MAX {
        return Err(StoreError::TooLong {
            seq,
            found_bytes: found_bytes as u64,
            limit_bytes: META_BYTES_MAX as u64,
        });
    }
    Ok(())
}

pub(super) fn damaged(file: &str) -> Damage {
    Damage {
        file: file.to_owned(),
        offset: 0,
        what: Damaged::Metadata,
        digest: None,
        bytes: None,
    }
}

fn encode<T: Serialize>(file: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    // The lengths were checked: what is left is a mistake of the codec.
    wire::encode(value).map_err(|_error| damaged(file).into())
}

/// Writes the metadata, atomically and durably.
pub(super) fn write(
    storage: &dyn Storage,
    genesis: &Digest,
    stored: &StoredCheckpoint,
) -> Result<(), StoreError> {
    let file = name(stored.meta.seq);
    let body = encode(&file, stored)?;
    Ok(sealed::write(storage, &file, MAGIC, genesis, &body)?)
}

/// The body of a small file, `None` when there is no such file.
fn read_body(
    storage: &dyn Storage,
    genesis: &Digest,
    file: &str,
    magic: [u8; 8],
) -> Result<Option<Bytes>, StoreError> {
    match sealed::read_own(storage, file, magic, genesis) {
        Ok(body) => Ok(Some(body)),
        Err(SealedError::Storage(error)) if error.is_not_found() => Ok(None),
        Err(SealedError::Storage(error)) => Err(error.into()),
        Err(SealedError::Damaged { .. }) => Err(damaged(file).into()),
        Err(error) => Err(StoreError::Foreign(error)),
    }
}

/// Reads and checks the metadata of a checkpoint.
pub(super) fn read(
    storage: &dyn Storage,
    genesis: &Digest,
    seq: SeqNo,
) -> Result<StoredCheckpoint, StoreError> {
    let file = name(seq);
    let body = read_body(storage, genesis, &file, MAGIC)?;
    let body = body.ok_or(StoreError::Absent { seq })?;
    let decoded = wire::decode::<StoredCheckpoint>(&body, wire::ENCODED_BYTES_MAX).ok();
    let whole = decoded.filter(|stored| {
        let right = check(seq, &stored.meta).is_ok();
        right && stored.descriptor.check().is_ok()
    });
    whole.ok_or_else(|| damaged(&file).into())
}

/// Deletes the metadata of a checkpoint. Not durable before the directory is synced.
pub(super) fn delete(storage: &dyn Storage, seq: SeqNo) -> Result<(), StorageError> {
    match storage.delete(&name(seq)) {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

/// What a transfer fetches.
#[derive(Debug)]
pub(super) enum Target {
    None,
    Descriptor(StateDescriptor),
    /// The file is not readable. It is only there to keep what was fetched from being collected.
    Damaged(Damage),
}

pub(super) fn read_target(storage: &dyn Storage, genesis: &Digest) -> Result<Target, StoreError> {
    let body = match read_body(storage, genesis, TARGET, TARGET_MAGIC) {
        Ok(None) => return Ok(Target::None),
        Ok(Some(body)) => body,
        Err(StoreError::Damaged(damage)) => return Ok(Target::Damaged(damage)),
        Err(error) => return Err(error),
    };
    let decoded = wire::decode::<StateDescriptor>(&body, wire::ENCODED_BYTES_MAX).ok();
    Ok(match decoded.filter(|target| target.check().is_ok()) {
        Some(target) => Target::Descriptor(target),
        None => Target::Damaged(damaged(TARGET)),
    })
}

pub(super) fn write_target(
    storage: &dyn Storage,
    genesis: &Digest,
    target: &StateDescriptor,
) -> Result<(), StoreError> {
    let body = encode(TARGET, target)?;
    let written = sealed::write(storage, TARGET, TARGET_MAGIC, genesis, &body);
    Ok(written?)
}

/// Not durable before the directory is synced, which does no harm.
pub(super) fn delete_target(storage: &dyn Storage) -> Result<(), StorageError> {
    match storage.delete(TARGET) {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}
