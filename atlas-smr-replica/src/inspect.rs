//! Looking at what a stopped replica left on its disk, without changing any of it.

use crate::config::NodeConfig;
use crate::proof::{ProofFile, Proven};
use crate::recovery::{self, FoundCheckpoint};
use crate::registry::{ProtocolRegistry, ProtocolTools, RecordedDecisions};
use atlas_common::{Lsn, SeqNo};
use atlas_persistent_log::birth;
use atlas_persistent_log::log::{self, TornTail};
use atlas_persistent_log::storage::ReadOnly;
use atlas_persistent_log::{
    FileStorage, LogError, LogOptions, PartStore, SealedError, Storage, StorageError, StoreError,
    StoreOptions,
};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// What was found on a replica's disk.
#[derive(Debug)]
pub struct Inspection {
    /// Where.
    pub directory: PathBuf,
    /// The protocol of its cluster.
    pub protocol: &'static str,
    /// Whether the replica was born here, or lost its disk since.
    pub born: Result<bool, SealedError>,
    /// The records of its log.
    pub log: Result<InspectedLog, LogError>,
    /// Its checkpoints, the oldest first.
    pub checkpoints: Vec<InspectedCheckpoint>,
}

/// A log that could be read.
#[derive(Debug, Default)]
pub struct InspectedLog {
    /// Its records.
    pub records: Vec<(Lsn, Bytes)>,
    /// An unfinished write at its end, which the replica's next start cuts off.
    pub torn: Option<TornTail>,
    /// What the records say about decisions.
    pub decisions: RecordedDecisions,
    /// Records that are none of the protocol.
    pub foreign: Vec<Lsn>,
}

/// A checkpoint.
#[derive(Debug)]
pub struct InspectedCheckpoint {
    /// The last decision whose effects it holds.
    pub seq: SeqNo,
    /// What certifies it; `None` where nothing does yet.
    pub found: Result<Option<FoundCheckpoint>, StoreError>,
    /// What is wrong with its contents.
    pub damage: Vec<String>,
}

/// A replica's disk cannot be looked at.
#[derive(Debug, Error)]
pub enum InspectError {
    /// There is nothing.
    #[error("{} does not exist: the replica has never started here", .0.display())]
    Absent(PathBuf),
    /// The directory is in use, or cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The checkpoints cannot be listed.
    #[error("the checkpoints: {0}")]
    Checkpoint(#[from] StoreError),
    /// The cluster's protocol is not known here.
    #[error("protocol `{0}` is not known here")]
    UnknownProtocol(&'static str),
}

/// Why there is no proof to export.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The log has no such decision.
    #[error(
        "the log does not hold decision {seq} with its batch: it holds {held}; older ones went when \
         a checkpoint made them unnecessary, and another replica may still have it"
    )]
    NoDecision {
        /// Which was asked for.
        seq: SeqNo,
        /// What there is.
        held: String,
    },
    /// There is no such certified checkpoint.
    #[error("there is no certified checkpoint {0}: `atlas inspect` lists what there is")]
    NoCheckpoint(String),
    /// Nothing is signed.
    #[error("protocol `{0}` signs nothing: there are no proofs to export")]
    NothingSigned(&'static str),
    /// The log is damaged.
    #[error("the log: {0}")]
    Log(String),
}

impl Inspection {
    /// Looks at the disk of a stopped replica.
    ///
    /// # Errors
    /// When the directory is not there, in use, or cannot be read. Damage is no error: it is what
    /// the inspection is about.
    pub fn read(node: &NodeConfig, registry: &ProtocolRegistry) -> Result<Self, InspectError> {
        let protocol = node.cluster.protocol().name;
        let tools = registry.tools(protocol);
        let tools = tools.ok_or(InspectError::UnknownProtocol(protocol))?;
        if !node.data_dir.is_dir() {
            return Err(InspectError::Absent(node.data_dir.clone()));
        }
        let files = Arc::new(FileStorage::open(&node.data_dir)?);
        let storage: Arc<dyn Storage> = Arc::new(ReadOnly::new(files));
        let options = LogOptions::new(*node.cluster.genesis());
        let layout = StoreOptions::new(*node.cluster.genesis());
        let checkpoints = PartStore::look_at(Arc::clone(&storage), layout)?;
        Ok(Self {
            directory: node.data_dir.clone(),
            protocol,
            born: birth::read(&*storage).map(|birth| birth.is_some()),
            log: log::read(&*storage, &options).map(|recovered| inspect_log(recovered, tools)),
            checkpoints: inspect_checkpoints(&checkpoints)?,
        })
    }

    /// Whether nothing is damaged. A torn tail is no damage.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let log = self.log.as_ref().is_ok_and(|log| log.foreign.is_empty());
        let whole = |checkpoint: &InspectedCheckpoint| {
            checkpoint.found.is_ok() && checkpoint.damage.is_empty()
        };
        self.born.is_ok() && log && self.checkpoints.iter().all(whole)
    }

    /// The proof of a decision that the log holds.
    ///
    /// # Errors
    /// When it does not, or nothing is signed.
    pub fn decision(&self, node: &NodeConfig, seq: SeqNo) -> Result<ProofFile, ExportError> {
        self.must_be_signed(node)?;
        let log = self.log.as_ref();
        let log = log.map_err(|error| ExportError::Log(error.to_string()))?;
        let RecordedDecisions { batches, decided } = &log.decisions;
        let found = decided.get(&seq).and_then(|(digest, proof)| {
            let batch = batches.get(digest)?.clone();
            Some(Proven::Decision {
                protocol: self.protocol.to_owned(),
                seq,
                batch,
                proof: proof.clone(),
            })
        });
        let held = || match (decided.first_key_value(), decided.last_key_value()) {
            (Some((first, _)), Some((last, _))) => format!("{first} to {last}"),
            _ => "none".to_owned(),
        };
        let proven = found.ok_or_else(|| ExportError::NoDecision { seq, held: held() })?;
        let genesis = *node.cluster.genesis();
        Ok(ProofFile { genesis, proven })
    }

    /// The proof of a checkpoint: of this one, or of the newest that is certified.
    ///
    /// # Errors
    /// When there is none, or nothing is signed.
    pub fn checkpoint(
        &self,
        node: &NodeConfig,
        seq: Option<SeqNo>,
    ) -> Result<ProofFile, ExportError> {
        self.must_be_signed(node)?;
        let certified = self.checkpoints.iter().rev().find_map(|checkpoint| {
            let found = checkpoint.found.as_ref().ok()?.as_ref()?;
            let wanted = seq.is_none_or(|seq| seq == checkpoint.seq);
            wanted.then(|| found.stored.certificate.clone())
        });
        let which = || seq.map_or_else(|| "at all".to_owned(), |seq| seq.to_string());
        let certificate = certified.ok_or_else(|| ExportError::NoCheckpoint(which()))?;
        Ok(ProofFile {
            genesis: *node.cluster.genesis(),
            proven: Proven::Checkpoint(certificate),
        })
    }

    fn must_be_signed(&self, node: &NodeConfig) -> Result<(), ExportError> {
        match node.cluster.protocol().model {
            atlas_common::quorum::FaultModel::Byzantine => Ok(()),
            atlas_common::quorum::FaultModel::Crash => {
                Err(ExportError::NothingSigned(self.protocol))
            }
        }
    }
}

fn inspect_log(recovered: log::Recovered, tools: &dyn ProtocolTools) -> InspectedLog {
    let mut inspected = InspectedLog {
        torn: recovered.torn,
        ..InspectedLog::default()
    };
    for (lsn, record) in &recovered.records {
        if tools.read(record, &mut inspected.decisions).is_err() {
            inspected.foreign.push(*lsn);
        }
    }
    inspected.records = recovered.records;
    inspected
}

fn inspect_checkpoints(store: &PartStore) -> Result<Vec<InspectedCheckpoint>, StoreError> {
    let inspect = |seq| InspectedCheckpoint {
        seq,
        found: recovery::read_certified(store, seq),
        damage: damage_of(store, seq),
    };
    Ok(store.list()?.into_iter().map(inspect).collect())
}

/// What is wrong with a checkpoint, all of which is read for it.
fn damage_of(store: &PartStore, seq: SeqNo) -> Vec<String> {
    match store.verify(seq) {
        Ok(damage) => damage.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    }
}
