//! The checkpoint store at work: everything about checkpoints that touches the disk, so that neither
//! the core nor the executor waits for it.
//!
//! What is done with each job ([`StoreKeeper::carry_out`]) is also what the simulator does, on its
//! simulated disks.

mod collector;
mod scrub;
mod serve;
mod source;
mod thread;
mod writing;

pub use source::StoreSource;
pub(crate) use thread::StoreThread;
pub(crate) use writing::Writing;

use crate::background::InSteps;
use crate::recovery::StoredCertificate;
use atlas_common::parts::{Blob, PartRef, StateDescriptor};
use atlas_common::{Digest, NodeId, SeqNo, wire};
use atlas_core::{CheckpointCertificate, CheckpointId, Limits};
use atlas_persistent_log::{
    CheckpointMeta, Damage, PartStore, Remedy, StoreError, Written as WrittenCheckpoint,
};
use atlas_smr_core::transfer::state::answer_bytes_max;
use atlas_smr_core::transfer::{FetchedState, LookedUp, Lookup, StateTransferMessage};
use atlas_smr_execution::{Snapshot, SnapshotError};
use bytes::Bytes;
use parking_lot::Mutex;
use scrub::Cursor;
use serde::Serialize;
use std::sync::Arc;
use thiserror::Error;

/// Something to do.
#[derive(Debug)]
pub enum StoreJob {
    /// Write the executor's own checkpoint, part by part.
    Write(Snapshot),
    /// Keep a certificate with a written checkpoint.
    Certify {
        /// The certificate.
        certificate: Arc<CheckpointCertificate>,
        /// The protocol's bytes that travel with it.
        frontier: Bytes,
    },
    /// What is being fetched from peers, and must be kept; `None`: nothing any more.
    Target(Option<StateDescriptor>),
    /// Which of these blobs are here.
    LookUp(Lookup),
    /// Keep blobs from peers.
    Keep(Vec<Blob>),
    /// Put blobs from peers in the place of damaged ones.
    Repair(Vec<Blob>),
    /// Make a checkpoint of a state that came from peers.
    Install(FetchedState),
    /// Read the newest certified checkpoint above `above` for a peer.
    Offer {
        /// Who asked.
        to: NodeId,
        /// It has everything up to here.
        above: SeqNo,
    },
    /// Read on through what is stored, about so many bytes, to find damage.
    Scrub(u64),
    /// Read blobs for a peer.
    Parts {
        /// Who asked.
        to: NodeId,
        /// Which blobs.
        digests: Vec<Digest>,
    },
}

/// What became of a job.
#[derive(Debug)]
pub enum StoreEvent {
    /// The executor's checkpoint is durable.
    Written(CheckpointId),
    /// The certificate is durable.
    Certified(Arc<CheckpointCertificate>),
    /// What the store has.
    LookedUp(LookedUp),
    /// So many bytes of blobs from peers are in the store.
    Kept(u64),
    /// The state from peers is a durable checkpoint: the executor may take it over.
    Installed(FetchedState),
    /// It is none: blobs are missing or damaged.
    NotInstalled {
        /// Its decision.
        seq: SeqNo,
        /// What is wrong.
        why: String,
    },
    /// The answer for a peer.
    Read {
        /// Who asked.
        to: NodeId,
        /// What to send.
        messages: Vec<StateTransferMessage>,
    },
    /// These blobs are damaged.
    Damaged(Vec<PartRef>),
    /// [`StoreJob::Scrub`] is done.
    Scrubbed,
    /// The store has failed: the replica must stop, since what it promises to keep is not kept.
    Failed(JobError),
}

/// A job that could not be done; the replica must stop.
#[derive(Debug, Error)]
pub enum JobError {
    /// The store has failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The application's state cannot be stored.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl JobError {
    /// What to do about it, where the disk is the reason.
    #[must_use]
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Store(error) => Some(error.remedy()),
            Self::Snapshot(_) => None,
        }
    }
}

/// What was written of checkpoints since the start: of the executor's own, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckpointFigures {
    /// How many were written.
    pub written: u64,
    /// Bytes that went to the disk for them: parts and pages that were not there, with their heads
    /// and indexes.
    pub bytes_written: u64,
    /// Parts that were not there.
    pub parts_written: u64,
    /// The parts of the newest one.
    pub parts: u64,
    /// Their bytes: the size of the state.
    pub state_bytes: u64,
    /// How many states from peers became durable checkpoints.
    pub fetched: u64,
    /// Bytes on the disk in which parts of checkpoints lie, used or not.
    pub pack_bytes: u64,
    /// Bytes on the disk that the next parts are written over.
    pub spare_bytes: u64,
    /// How often garbage was collected: what no checkpoint needs any more.
    pub collections: u64,
    /// Whether garbage is being collected.
    pub collecting: bool,
}

/// Does what is to be done with the checkpoint store. Clones are handles to the same store.
#[derive(Clone, Debug)]
pub struct StoreKeeper {
    store: PartStore,
    chunk_bytes: usize,
    answer_bytes: usize,
    /// How far [`StoreJob::Scrub`] has come.
    cursor: Arc<Mutex<Cursor>>,
    figures: Arc<Mutex<CheckpointFigures>>,
}

impl StoreKeeper {
    /// A keeper of this store.
    #[must_use]
    pub fn new(store: PartStore, limits: &Limits) -> Self {
        Self {
            store,
            chunk_bytes: limits.chunk_bytes,
            answer_bytes: answer_bytes_max(limits),
            cursor: Arc::default(),
            figures: Arc::default(),
        }
    }

    /// What was written of the executor's own checkpoints, and what there is on the disk; that as it was
    /// the last time, where it is being changed. The core asks, which must wait for nobody.
    #[must_use]
    pub fn figures(&self) -> CheckpointFigures {
        let stats = self.store.try_stats();
        let (collections, collecting) = self.store.collections();
        let mut figures = self.figures.lock();
        figures.collections = collections;
        figures.collecting = collecting;
        if let Some(stats) = stats {
            figures.pack_bytes = stats.pack_bytes;
            figures.spare_bytes = stats.spare_bytes;
        }
        *figures
    }

    /// Does one job, on the calling thread.
    ///
    /// # Errors
    /// When the store fails, the application's state cannot be stored, or a certificate comes for a
    /// checkpoint that was never written.
    pub fn carry_out(&self, job: StoreJob) -> Result<Vec<StoreEvent>, JobError> {
        Ok(match job {
            StoreJob::Write(snapshot) => vec![StoreEvent::Written(self.write(snapshot)?)],
            StoreJob::Certify {
                certificate,
                frontier,
            } => self.certify(certificate, &frontier)?,
            StoreJob::Target(Some(target)) => {
                self.store.begin_transfer(&target)?;
                Vec::new()
            }
            StoreJob::Target(None) => {
                self.store.end_transfer()?;
                Vec::new()
            }
            StoreJob::LookUp(question) => vec![StoreEvent::LookedUp(self.look_up(&question))],
            StoreJob::Keep(blobs) => {
                let bytes = weight(&blobs);
                self.store.keep(blobs)?;
                vec![StoreEvent::Kept(bytes)]
            }
            StoreJob::Repair(blobs) => {
                let bytes = weight(&blobs);
                tracing::info!(blobs = blobs.len(), bytes, "damaged parts came from peers");
                self.store.repair(blobs)?;
                vec![StoreEvent::Kept(bytes)]
            }
            StoreJob::Install(state) => vec![self.install(state)?],
            StoreJob::Offer { to, above } => vec![self.offer(to, above)?],
            StoreJob::Scrub(bytes) => self.scrub(bytes)?,
            StoreJob::Parts { to, digests } => self.parts(to, &digests)?,
        })
    }

    /// Writes the executor's checkpoint: durable on return.
    fn write(&self, snapshot: Snapshot) -> Result<CheckpointId, JobError> {
        let mut writing = self.begin(snapshot)?;
        while writing.step()? > 0 {}
        self.finish(writing)
    }

    /// Begins to write the executor's checkpoint.
    pub(crate) fn begin(&self, snapshot: Snapshot) -> Result<Writing, JobError> {
        let seq = snapshot.seq();
        // After a restart the executor comes again to checkpoints that it had written.
        match self.store.stored(seq) {
            Ok(stored) => {
                let (epoch, state) = (snapshot.epoch(), snapshot.digest(self.chunk_bytes)?);
                if stored.descriptor.root() == state {
                    return Ok(Writing::Stored(CheckpointId { epoch, seq, state }));
                }
                self.store.remove(seq)?;
            }
            // One that is damaged is replaced.
            Err(StoreError::Absent { .. } | StoreError::Damaged(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Writing::begin(&self.store, snapshot, self.chunk_bytes)?)
    }

    /// Makes a durable checkpoint of what was written to its end.
    pub(crate) fn finish(&self, writing: Writing) -> Result<CheckpointId, JobError> {
        let (epoch, written) = match writing {
            Writing::Stored(id) => return Ok(id),
            Writing::New(parts) => (parts.epoch(), parts.commit()?),
        };
        self.count(&written);
        let descriptor = &written.stored.descriptor;
        Ok(CheckpointId {
            epoch,
            seq: written.stored.meta.seq,
            state: descriptor.root(),
        })
    }

    fn count(&self, written: &WrittenCheckpoint) {
        let mut figures = self.figures.lock();
        figures.written += 1;
        figures.bytes_written += written.bytes_written;
        figures.parts_written += written.parts_written;
        figures.parts = written.stored.descriptor.parts;
        figures.state_bytes = written.stored.descriptor.total_bytes;
    }

    fn certify(
        &self,
        certificate: Arc<CheckpointCertificate>,
        frontier: &Bytes,
    ) -> Result<Vec<StoreEvent>, StoreError> {
        let seq = certificate.id.seq;
        // A state that was installed meanwhile is newer, and this one was removed with the old.
        let list = self.store.list()?;
        if !list.contains(&seq) && list.iter().any(|stored| *stored > seq) {
            return Ok(Vec::new());
        }
        let encoded = encode(&certificate, frontier);
        self.store.set_certificate(seq, encoded)?;
        self.store.retire(seq)?;
        Ok(vec![StoreEvent::Certified(certificate)])
    }

    fn look_up(&self, question: &Lookup) -> LookedUp {
        // A page that cannot be read is as good as missing; the store has said what is wrong with it.
        let pages = self.store.read_parts(&question.pages, u64::MAX).into_iter();
        LookedUp {
            ticket: question.ticket,
            pages: pages.map(|page| page.map(Blob::into_bytes).ok()).collect(),
            missing: self.store.missing(&question.parts),
        }
    }

    fn install(&self, state: FetchedState) -> Result<StoreEvent, StoreError> {
        let seq = state.certificate.id.seq;
        let certificate = encode(&state.certificate, &state.frontier);
        let stored = match self.store.stored(seq) {
            Ok(stored) if stored.descriptor == state.descriptor => {
                // It was here, and lacked something.
                self.store.repair(Vec::new())?;
                self.store.set_certificate(seq, certificate)?;
                self.store.end_transfer()
            }
            other => {
                if other.is_ok() {
                    self.store.remove(seq)?;
                }
                let meta = CheckpointMeta {
                    seq,
                    certificate,
                    ..CheckpointMeta::default()
                };
                let committed = self.store.commit(meta, state.descriptor.clone());
                committed.map(drop)
            }
        };
        match stored {
            Ok(()) => {
                self.figures.lock().fetched += 1;
                self.store.retire(seq)?;
                Ok(StoreEvent::Installed(state))
            }
            Err(
                error @ (StoreError::Incomplete { .. }
                | StoreError::NoSuchBlob { .. }
                | StoreError::Damaged(_)),
            ) => Ok(StoreEvent::NotInstalled {
                seq,
                why: error.to_string(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Blobs that are damaged, as peers are asked for them.
    fn damaged(&self, found: &[Damage]) -> Vec<PartRef> {
        // Where the size is not known, it is at most that of a part.
        let most = u32::try_from(self.chunk_bytes).unwrap_or(u32::MAX);
        let part = |damage: &Damage| {
            let bytes = damage.bytes.unwrap_or(most);
            damage.digest.map(|digest| PartRef { digest, bytes })
        };
        found.iter().filter_map(part).collect()
    }
}

fn weight(blobs: &[Blob]) -> u64 {
    blobs.iter().map(|blob| blob.bytes().len() as u64).sum()
}

#[expect(
    clippy::expect_used,
    reason = "a certificate is numbers and byte strings"
)]
fn encode(certificate: &CheckpointCertificate, frontier: &Bytes) -> Bytes {
    let certificate = certificate.clone();
    let stored = StoredCertificate {
        certificate,
        frontier: frontier.clone(),
    };
    wire::encode(&stored)
        .expect("numbers and byte strings encode")
        .into()
}
