//! Opening what a replica left on its disk: the birth record, the newest certified checkpoint and the
//! log.
//!
//! The same code opens real and simulated disks.

use atlas_common::wire;
use atlas_common::{Digest, Lsn};
use atlas_core::{CheckpointCertificate, Limits, OrderingProtocol, Origin};
use atlas_persistent_log::birth::{self, Birth, BirthError};
use atlas_persistent_log::{
    CheckpointError, CheckpointOptions, CheckpointStore, LogError, LogOptions, LogWriter,
    SealedError, Storage, StorageError,
};
use atlas_smr_core::manifest::Manifest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

mod memory;

/// What is stored with a checkpoint once it is certified.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredCertificate {
    /// The quorum's word.
    pub certificate: CheckpointCertificate,
    /// The protocol's bytes that travel with it.
    pub frontier: Bytes,
}

/// A certified checkpoint as it was found.
#[derive(Clone, Debug)]
pub struct FoundCheckpoint {
    /// What certifies it.
    pub stored: StoredCertificate,
    /// Its chunks' digests.
    pub manifest: Manifest,
}

/// What a replica starts from.
#[derive(Debug)]
pub struct Opened<P: OrderingProtocol> {
    /// How it came to be.
    pub origin: Origin,
    /// The newest checkpoint that is certified and whole.
    pub checkpoint: Option<FoundCheckpoint>,
    /// The protocol's records.
    pub records: Vec<(Lsn, P::Record)>,
    /// The last record the log has had.
    pub last_lsn: Lsn,
    /// The log, ready for the next record.
    pub log: LogWriter,
    /// Where checkpoints are kept.
    pub checkpoints: Arc<CheckpointStore>,
    /// What an operator should read: a torn tail that was cut, a damaged checkpoint passed over.
    pub notes: Vec<String>,
}

/// A replica's disk cannot be used as it is.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The log is of another cluster or version, or cannot be read.
    #[error("the log: {0}")]
    Log(#[from] LogError),
    /// The checkpoints cannot be read.
    #[error("the checkpoints: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The birth record is damaged.
    #[error("the birth record: {0}")]
    Sealed(#[from] SealedError),
    /// The birth record cannot be written.
    #[error("the birth record: {0}")]
    Birth(#[from] BirthError),
    /// The disk fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The directory belongs to another cluster.
    #[error("the data belongs to cluster {found}, not to {expected}: is this the right directory?")]
    OtherCluster {
        /// The genesis digest of the birth record.
        found: Digest,
        /// That of the cluster file.
        expected: Digest,
    },
    /// A record of the log is not one of this protocol.
    #[error(
        "record {lsn} of the log is not one of protocol {protocol}: was the protocol changed in the \
         cluster file? {cause}"
    )]
    Record {
        /// Which record.
        lsn: Lsn,
        /// The protocol.
        protocol: &'static str,
        /// What is wrong.
        cause: wire::DecodeError,
    },
}

/// How to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The cluster.
    pub genesis: Digest,
    /// The log, and when a record counts as durable.
    pub log: LogOptions,
    /// The cluster's limits.
    pub limits: Limits,
}

/// Writes the birth record that tells a new replica from one whose disk was wiped. Once, by whoever
/// creates the cluster.
///
/// # Errors
/// When there is one already, or the disk fails.
pub fn give_birth(storage: &dyn Storage, genesis: Digest) -> Result<(), BirthError> {
    birth::write(
        storage,
        &Birth {
            genesis,
            info: Bytes::new(),
        },
    )
}

/// Opens a replica's disk. `checkpoint_storage` may be another one than the log's (in mode `memory`
/// nothing goes to the disk).
///
/// # Errors
/// When what is there is of another cluster or version, or cannot be read. Damage is no error: a log
/// that is damaged is put aside, and the replica rejoins as one that has forgotten what it said.
pub fn open<P: OrderingProtocol>(
    storage: &Arc<dyn Storage>,
    checkpoint_storage: Arc<dyn Storage>,
    options: &OpenOptions,
) -> Result<Opened<P>, OpenError> {
    let mut notes = Vec::new();
    let born = memory::born(&**storage, &options.genesis, &mut notes)?;
    let checkpoints = open_checkpoints(checkpoint_storage, options.genesis, &options.limits)?;
    let checkpoint = newest_certified(&checkpoints, &mut notes)?;
    let (log, recovered) = memory::open_log(storage, &options.log, &mut notes)?;
    if let Some(torn) = &recovered.torn {
        notes.push(format!(
            "the log ended in an unfinished write, which was cut off: {} at {}, before record {}; \
             nothing acknowledged was in it",
            torn.file, torn.offset, torn.lsn
        ));
    }
    let origin = memory::origin(storage, &options.genesis, born, &recovered)?;
    Ok(Opened {
        origin,
        checkpoint,
        records: decode_records::<P>(recovered.records)?,
        last_lsn: recovered.last,
        log,
        checkpoints: Arc::new(checkpoints),
        notes,
    })
}

/// Opens a replica's checkpoints.
///
/// # Errors
/// When the storage fails.
pub fn open_checkpoints(
    storage: Arc<dyn Storage>,
    genesis: Digest,
    limits: &Limits,
) -> Result<CheckpointStore, CheckpointError> {
    let chunk_bytes = u32::try_from(limits.chunk_bytes).unwrap_or(u32::MAX);
    CheckpointStore::open(
        storage,
        CheckpointOptions {
            genesis,
            chunk_bytes,
        },
    )
}

/// What is wrong with the contents of a checkpoint, all of which is read for it.
#[must_use]
pub fn damage_of(checkpoints: &CheckpointStore, seq: atlas_common::SeqNo) -> Vec<String> {
    let stored = match checkpoints.stored(seq) {
        Ok(stored) => stored,
        Err(error) => return vec![error.to_string()],
    };
    let read = |chunk| checkpoints.read_chunk(seq, chunk).err();
    let damage = (0..stored.index.chunks()).filter_map(read);
    damage.map(|error| error.to_string()).collect()
}

fn decode_records<P: OrderingProtocol>(
    records: Vec<(Lsn, Bytes)>,
) -> Result<Vec<(Lsn, P::Record)>, OpenError> {
    let decode = |(lsn, bytes): (Lsn, Bytes)| match wire::decode(&bytes, wire::ENCODED_BYTES_MAX) {
        Ok(record) => Ok((lsn, record)),
        Err(cause) => Err(OpenError::Record {
            lsn,
            protocol: P::NAME,
            cause,
        }),
    };
    records.into_iter().map(decode).collect()
}

/// The newest checkpoint that has a certificate and whose chunks are whole. Others are passed over,
/// with a note where damage is the reason.
fn newest_certified(
    checkpoints: &CheckpointStore,
    notes: &mut Vec<String>,
) -> Result<Option<FoundCheckpoint>, OpenError> {
    for seq in checkpoints.list()?.into_iter().rev() {
        match read_certified(checkpoints, seq) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(error) => notes.push(format!("a checkpoint was passed over: {error}")),
        }
    }
    Ok(None)
}

/// A stored checkpoint with its certificate, or `None` when it has none.
///
/// # Errors
/// When the store fails or the checkpoint is damaged.
pub fn read_certified(
    checkpoints: &CheckpointStore,
    seq: atlas_common::SeqNo,
) -> Result<Option<FoundCheckpoint>, CheckpointError> {
    let stored = checkpoints.stored(seq)?;
    if stored.meta.certificate.is_empty() {
        return Ok(None);
    }
    let limit = wire::ENCODED_BYTES_MAX;
    let certificate = wire::decode(&stored.meta.certificate, limit);
    let manifest = wire::decode(&stored.meta.info, limit);
    match (certificate, manifest) {
        (Ok(stored), Ok(manifest)) => Ok(Some(FoundCheckpoint { stored, manifest })),
        // Both passed their checksums, so another version of Atlas wrote them.
        _ => Err(CheckpointError::Absent { seq }),
    }
}

/// All chunks of a stored checkpoint, each checked by the store.
///
/// # Errors
/// When a chunk is damaged or cannot be read.
pub fn read_chunks(
    checkpoints: &CheckpointStore,
    found: &FoundCheckpoint,
) -> Result<Vec<Bytes>, CheckpointError> {
    let seq = found.stored.certificate.id.seq;
    let count = found.manifest.chunks.len() as u64;
    (0..count)
        .map(|index| checkpoints.read_chunk(seq, index))
        .collect()
}
