//! Opening what a replica left on its simulated disk, and the checkpoint store over it.

use crate::machine::Image;
use crate::protocol::SimProtocol;
use atlas_common::{Digest, Lsn, SeqNo, wire};
use atlas_core::{CheckpointCertificate, Installed, Limits, Origin};
use atlas_persistent_log::birth::{self, Birth};
use atlas_persistent_log::{
    CheckpointError, CheckpointMeta, CheckpointOptions, CheckpointStore, LogOptions, LogWriter,
    Storage,
};
use atlas_smr_core::manifest::Manifest;
use atlas_smr_core::transfer::StateTransferMessage;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(crate) type StoreError = CheckpointError;

/// Certified checkpoints kept: the newest, and the one before it.
const KEPT: usize = 2;

#[derive(Serialize, Deserialize)]
struct StoredCertificate {
    certificate: CheckpointCertificate,
    frontier: Bytes,
}

/// A certified checkpoint as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) installed: Installed,
    pub(crate) image: Image,
}

/// What a replica starts from.
#[derive(Debug)]
pub(crate) struct Opened<P: SimProtocol> {
    pub(crate) origin: Origin,
    pub(crate) checkpoint: Option<Found>,
    pub(crate) records: Vec<(Lsn, P::Record)>,
    pub(crate) last_lsn: Lsn,
    pub(crate) log: LogWriter,
    pub(crate) store: Store,
}

const STARTED: &str = "started";

pub(crate) fn give_birth(storage: &dyn Storage, genesis: Digest) -> Result<(), String> {
    let birth = Birth {
        genesis,
        info: Bytes::new(),
    };
    birth::write(storage, &birth).map_err(|error| error.to_string())
}

pub(crate) fn open<P: SimProtocol>(
    storage: &Arc<dyn Storage>,
    genesis: &Digest,
    limits: &Limits,
) -> Result<Opened<P>, String> {
    let born = birth::read(&**storage).map_err(|error| error.to_string())?.is_some();
    let store = Store::open(Arc::clone(storage), genesis, limits).map_err(|e| e.to_string())?;
    let checkpoint = store.newest().map_err(|error| error.to_string())?;
    let options = LogOptions {
        segment_bytes: 64 << 10,
        fill_bytes: 4 << 10,
        ..LogOptions::small(*genesis)
    };
    let (log, recovered) =
        LogWriter::open(Arc::clone(storage), options).map_err(|error| error.to_string())?;
    let started = storage.length(STARTED).is_ok();
    if !started {
        storage.write_atomically(STARTED, b"yes").map_err(|error| error.to_string())?;
    }
    let origin = match (recovered.last, born, started) {
        (Lsn(1..), ..) => Origin::Restart,
        (Lsn::ZERO, true, false) => Origin::Genesis,
        (Lsn::ZERO, ..) => Origin::Amnesiac,
    };
    let decode = |(lsn, bytes): (Lsn, Bytes)| {
        let record = wire::decode(&bytes, wire::ENCODED_BYTES_MAX);
        record.map(|record| (lsn, record)).map_err(|error| format!("record {lsn}: {error}"))
    };
    Ok(Opened {
        origin,
        checkpoint,
        records: recovered.records.into_iter().map(decode).collect::<Result<_, _>>()?,
        last_lsn: recovered.last,
        log,
        store,
    })
}

/// The checkpoint store.
#[derive(Debug)]
pub(crate) struct Store(CheckpointStore);

impl Store {
    fn open(
        storage: Arc<dyn Storage>,
        genesis: &Digest,
        limits: &Limits,
    ) -> Result<Self, StoreError> {
        let chunk_bytes = u32::try_from(limits.chunk_bytes).unwrap_or(u32::MAX);
        let options = CheckpointOptions {
            chunk_bytes,
            ..CheckpointOptions::new(*genesis)
        };
        CheckpointStore::open(storage, options).map(Self)
    }

    /// Writes a state, with its certificate where it has one.
    pub(crate) fn write(
        &self,
        image: &Image,
        certified: Option<(&CheckpointCertificate, &Bytes)>,
    ) -> Result<(), StoreError> {
        let seq = image.id.seq;
        if self.0.list()?.contains(&seq) {
            self.0.remove(seq)?;
        }
        let mut writer = self.0.begin(seq)?;
        for chunk in &image.chunks {
            writer.write(chunk)?;
        }
        writer.commit(CheckpointMeta {
            seq,
            certificate: certified.map(|(c, f)| encode(c, f)).unwrap_or_default(),
            frontier: Bytes::new(),
            info: wire::encode(&image.manifest).unwrap_or_default().into(),
        })?;
        if certified.is_some() {
            self.prune(seq)?;
        }
        Ok(())
    }

    /// Keeps a certificate with a state that was written.
    pub(crate) fn certify(
        &self,
        certificate: &CheckpointCertificate,
        frontier: &Bytes,
    ) -> Result<(), StoreError> {
        let seq = certificate.id.seq;
        self.0.set_certificate(seq, encode(certificate, frontier))?;
        self.prune(seq)
    }

    fn prune(&self, certified: SeqNo) -> Result<(), StoreError> {
        let mut old = self.0.list()?;
        old.retain(|seq| *seq <= certified);
        for seq in old.iter().rev().skip(KEPT) {
            self.0.remove(*seq)?;
        }
        Ok(())
    }

    fn certified(&self, seq: SeqNo) -> Result<Option<(StoredCertificate, Manifest)>, StoreError> {
        let meta = self.0.stored(seq)?.meta;
        if meta.certificate.is_empty() {
            return Ok(None);
        }
        let certificate = wire::decode(&meta.certificate, wire::ENCODED_BYTES_MAX);
        let manifest = wire::decode(&meta.info, wire::ENCODED_BYTES_MAX);
        Ok(certificate.ok().zip(manifest.ok()))
    }

    fn newest(&self) -> Result<Option<Found>, StoreError> {
        for seq in self.0.list()?.into_iter().rev() {
            if let Some((stored, manifest)) = self.certified(seq)? {
                let chunks = 0..manifest.chunks.len() as u64;
                let chunks = chunks.map(|i| self.0.read_chunk(seq, i)).collect::<Result<_, _>>()?;
                let image = Image {
                    id: stored.certificate.id,
                    manifest,
                    chunks,
                };
                let installed = Installed {
                    certificate: Arc::new(stored.certificate),
                    frontier: stored.frontier,
                };
                return Ok(Some(Found { installed, image }));
            }
        }
        Ok(None)
    }

    /// The newest certified checkpoint, for a peer.
    pub(crate) fn offer(&self, above: SeqNo) -> StateTransferMessage {
        let gone = StateTransferMessage::Gone { seq: above };
        let Ok(list) = self.0.list() else { return gone };
        for seq in list.into_iter().rev().filter(|seq| *seq > above) {
            if let Ok(Some((stored, manifest))) = self.certified(seq) {
                return StateTransferMessage::Offer {
                    certificate: stored.certificate,
                    frontier: stored.frontier,
                    manifest,
                };
            }
        }
        gone
    }

    /// A chunk, for a peer.
    pub(crate) fn chunk(&self, seq: SeqNo, index: u32) -> StateTransferMessage {
        match self.0.read_chunk(seq, u64::from(index)) {
            Ok(bytes) => StateTransferMessage::Chunk { seq, index, bytes },
            Err(_) => StateTransferMessage::Gone { seq },
        }
    }
}

fn encode(certificate: &CheckpointCertificate, frontier: &Bytes) -> Bytes {
    let stored = StoredCertificate {
        certificate: certificate.clone(),
        frontier: frontier.clone(),
    };
    wire::encode(&stored).unwrap_or_default().into()
}
