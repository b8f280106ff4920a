//! Opening what a replica left on its disk: the birth record, the newest certified checkpoint and the
//! log.
//!
//! The same code opens real and simulated disks.

use atlas_common::parts::StateDescriptor;
use atlas_common::wire;
use atlas_common::{Digest, Lsn, SeqNo};
use atlas_core::{CheckpointCertificate, Limits, OrderingProtocol, Origin};
use atlas_persistent_log::birth::{self, Birth, BirthError};
use atlas_persistent_log::{
    LogError, LogOptions, LogWriter, PartStore, Remedy, SealedError, Storage, StorageError,
    StoreError, StoreOptions,
};
use atlas_smr_execution::{InstallError, PartError, ThawError};
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
    /// Its pages.
    pub descriptor: StateDescriptor,
}

/// What a replica starts from.
#[derive(Debug)]
pub struct Opened<P: OrderingProtocol> {
    /// How it came to be.
    pub origin: Origin,
    /// The certified checkpoints, the newest first; see [`restore`].
    pub certified: Vec<FoundCheckpoint>,
    /// The disk itself.
    pub files: Arc<dyn Storage>,
    /// The state to begin with where there is no checkpoint, if the cluster was restored.
    pub base: Option<StateDescriptor>,
    /// The protocol's records.
    pub records: Vec<(Lsn, P::Record)>,
    /// The last record the log has had.
    pub last_lsn: Lsn,
    /// The log, ready for the next record.
    pub log: LogWriter,
    /// Where checkpoints are kept.
    pub store: PartStore,
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
    Checkpoint(#[from] StoreError),
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
    /// The cluster was restored from a backup, and this replica has neither that state nor a later
    /// one.
    #[error(
        "the cluster began with state {root} from a backup, and this replica has neither that nor a \
         later one: run `atlas restore --replica` with the backup and this replica's directory"
    )]
    NoInitialState {
        /// The root of the state.
        root: Digest,
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

impl OpenError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Log(error) => error.remedy(),
            Self::Checkpoint(error) => error.remedy(),
            Self::Sealed(error) => error.remedy(),
            Self::Birth(error) => error.remedy(),
            Self::Storage(error) => error.remedy(),
            Self::OtherCluster { .. } | Self::NoInitialState { .. } | Self::Record { .. } => {
                Remedy::Correct
            }
        }
    }
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
    /// How checkpoints are kept.
    pub store: StoreOptions,
    /// The root of the state that the cluster began with, if it was restored from a backup.
    pub initial_state: Option<Digest>,
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
    let store = PartStore::open(checkpoint_storage, options.store.clone())?;
    let damage = store.damage_found().iter();
    notes.extend(damage.map(|damage| format!("checkpoints: {damage}")));
    let certified = certified(&store, &mut notes)?;
    let base = base(&store, options.initial_state, certified.is_empty())?;
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
        files: Arc::clone(storage),
        certified,
        base,
        records: decode_records::<P>(recovered.records)?,
        last_lsn: recovered.last,
        log,
        store,
        notes,
    })
}

/// The state that a restored cluster began with, as long as no checkpoint has taken its place.
fn base(
    store: &PartStore,
    initial_state: Option<Digest>,
    needed: bool,
) -> Result<Option<StateDescriptor>, OpenError> {
    let Some(root) = initial_state else {
        return Ok(None);
    };
    match store.stored(SeqNo::ZERO) {
        Ok(stored) if stored.descriptor.root() == root => Ok(Some(stored.descriptor.clone())),
        _ if needed => Err(OpenError::NoInitialState { root }),
        _ => Ok(None),
    }
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

/// The checkpoints that have a certificate, the newest first. Others are passed over, with a note where
/// damage is the reason.
fn certified(
    store: &PartStore,
    notes: &mut Vec<String>,
) -> Result<Vec<FoundCheckpoint>, OpenError> {
    let mut certified = Vec::new();
    for seq in store.list()?.into_iter().rev() {
        match read_certified(store, seq) {
            Ok(found) => certified.extend(found),
            Err(error) => notes.push(format!("checkpoint {seq} was passed over: {error}")),
        }
    }
    Ok(certified)
}

/// A stored checkpoint with its certificate, or `None` when it has none.
///
/// # Errors
/// When the checkpoint is not there, or its metadata are damaged.
pub fn read_certified(
    store: &PartStore,
    seq: SeqNo,
) -> Result<Option<FoundCheckpoint>, StoreError> {
    let found = store.stored(seq)?;
    if found.meta.certificate.is_empty() {
        return Ok(None);
    }
    let descriptor = found.descriptor.clone();
    match wire::decode(&found.meta.certificate, wire::ENCODED_BYTES_MAX) {
        Ok(stored) => Ok(Some(FoundCheckpoint { stored, descriptor })),
        // It passed its checksum, so another version of Atlas wrote it.
        Err(_) => Err(StoreError::Absent { seq }),
    }
}

/// Has the newest checkpoint installed that can be read. One that is damaged is passed over for the one
/// before, with a note.
///
/// # Errors
/// When a checkpoint is whole and `install` does not take it: then no other will do.
pub fn restore(
    certified: Vec<FoundCheckpoint>,
    notes: &mut Vec<String>,
    mut install: impl FnMut(&FoundCheckpoint) -> Result<(), InstallError>,
) -> Result<Option<FoundCheckpoint>, InstallError> {
    for found in certified {
        match install(&found) {
            Ok(()) => return Ok(Some(found)),
            Err(error) if is_damage(&error) => {
                let seq = found.stored.certificate.id.seq;
                notes.push(format!("checkpoint {seq} was passed over: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether parts are not what they were, as opposed to a state that is none.
const fn is_damage(error: &InstallError) -> bool {
    matches!(
        error,
        InstallError::State(ThawError::Part(
            PartError::Unavailable { .. } | PartError::Digest { .. } | PartError::Page(_)
        ))
    )
}
