//! The store: which checkpoints there are, and their bytes.

use super::index::{CHUNK_BYTES_MAX, ChunkIndex, chunks};
use super::monolithic::Workers;
use super::writer::{CheckpointWriter, check_meta};
use super::{CheckpointError, CheckpointMeta, CheckpointOptions, META_BYTES_MAX};
use crate::sealed::{self, SealedError};
use crate::storage::{Storage, StorageError, TEMPORARY_SUFFIX};
use atlas_common::{Digest, SeqNo, wire};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

const PREFIX: &str = "checkpoint-";
const STATE: &str = ".state";
const META: &str = ".meta";
const MAGIC: [u8; 8] = *b"atlaschk";

fn name(seq: SeqNo, suffix: &str) -> String {
    format!("{PREFIX}{:016x}{suffix}", seq.0)
}

pub(super) fn unfinished_name(seq: SeqNo) -> String {
    name(seq, STATE) + TEMPORARY_SUFFIX
}

fn seq_of(file: &str, suffix: &str) -> Option<SeqNo> {
    let digits = file.strip_prefix(PREFIX)?.strip_suffix(suffix)?;
    let seq = SeqNo(u64::from_str_radix(digits, 16).ok()?);
    (name(seq, suffix) == file).then_some(seq)
}

/// The body of a metadata file.
#[derive(Serialize, Deserialize)]
struct MetaFile {
    seq: SeqNo,
    state_bytes: u64,
    chunk_bytes: u32,
    root: Digest,
    certificate: Bytes,
    frontier: Bytes,
    info: Bytes,
}

/// A checkpoint on the disk: everything but the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// What is known of it.
    pub meta: CheckpointMeta,
    /// Its chunks.
    pub index: ChunkIndex,
}

/// The newest checkpoint that could be read.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    /// `None` when there is none that could be read.
    pub checkpoint: Option<StoredCheckpoint>,
    /// What was wrong with newer ones, the newest first.
    pub damaged: Vec<CheckpointError>,
}

/// Checkpoints in a [`Storage`]. Clones are handles to the same store.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    inner: Arc<Inner>,
    pub(super) workers: Arc<Workers>,
}

type Written = dyn Fn(Result<SeqNo, CheckpointError>) + Send + Sync;

struct Inner {
    storage: Arc<dyn Storage>,
    options: CheckpointOptions,
    /// What has been read or written; also the lock of everything that changes files.
    known: Mutex<BTreeMap<SeqNo, StoredCheckpoint>>,
    /// Which are being written: each has one unfinished file.
    unfinished: Mutex<BTreeSet<SeqNo>>,
    written: Box<Written>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointStore")
            .field("storage", &self.storage)
            .finish_non_exhaustive()
    }
}

impl CheckpointStore {
    /// Opens a store and removes what interrupted writes left. Outcomes of writes with
    /// [`OperationMode::Notify`](crate::OperationMode::Notify) are logged where they fail.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: CheckpointOptions,
    ) -> Result<Self, CheckpointError> {
        Self::open_with(storage, options, |outcome| {
            if let Err(error) = outcome {
                tracing::error!(%error, "checkpoint not written");
            }
        })
    }

    /// As [`Self::open`], with a callback for the outcome of each write with
    /// [`OperationMode::Notify`](crate::OperationMode::Notify), called on the writing thread.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn open_with(
        storage: Arc<dyn Storage>,
        options: CheckpointOptions,
        written: impl Fn(Result<SeqNo, CheckpointError>) + Send + Sync + 'static,
    ) -> Result<Self, CheckpointError> {
        let chunk_bytes = options.chunk_bytes.clamp(1, CHUNK_BYTES_MAX);
        let store = Self {
            inner: Arc::new(Inner {
                storage,
                options: CheckpointOptions {
                    chunk_bytes,
                    ..options
                },
                known: Mutex::default(),
                unfinished: Mutex::default(),
                written: Box::new(written),
            }),
            workers: Arc::default(),
        };
        store.remove_rubbish()?;
        Ok(store)
    }

    fn remove_rubbish(&self) -> Result<(), CheckpointError> {
        let names = self.storage().list()?;
        for file in &names {
            let temporary = file.starts_with(PREFIX) && file.ends_with(TEMPORARY_SUFFIX);
            let orphan = seq_of(file, STATE)
                .is_some_and(|seq| names.binary_search(&name(seq, META)).is_err());
            if temporary || orphan {
                self.storage().delete(file)?;
            }
        }
        Ok(())
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.inner.storage
    }

    /// Begins to write a checkpoint.
    ///
    /// # Errors
    /// When there is one of this number already or it is being written, or the storage fails or is
    /// full.
    pub fn begin(&self, seq: SeqNo) -> Result<CheckpointWriter, CheckpointError> {
        self.refuse_existing(seq)?;
        if !self.inner.unfinished.lock().insert(seq) {
            return Err(CheckpointError::Exists { seq });
        }
        CheckpointWriter::begin(self.clone(), seq, self.inner.options.chunk_bytes)
            .inspect_err(|_error| self.end_unfinished(seq))
    }

    pub(super) fn end_unfinished(&self, seq: SeqNo) {
        self.inner.unfinished.lock().remove(&seq);
    }

    pub(super) fn refuse_existing(&self, seq: SeqNo) -> Result<(), CheckpointError> {
        match self.storage().length(&name(seq, META)) {
            Ok(_) => Err(CheckpointError::Exists { seq }),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a state that was written and synced its name, and its metadata.
    pub(super) fn adopt(
        &self,
        meta: CheckpointMeta,
        index: ChunkIndex,
    ) -> Result<StoredCheckpoint, CheckpointError> {
        let mut known = self.inner.known.lock();
        self.refuse_existing(meta.seq)?;
        let state = name(meta.seq, STATE);
        self.storage().rename(&unfinished_name(meta.seq), &state)?;
        // The metadata must not become durable before this name does.
        self.storage().sync_dir()?;
        let stored = StoredCheckpoint { meta, index };
        self.write_meta(&stored)?;
        known.insert(stored.meta.seq, stored.clone());
        Ok(stored)
    }

    /// Deletes an unfinished state; what cannot be deleted now goes when the store is opened.
    pub(super) fn forget_unfinished(&self, seq: SeqNo) {
        if let Err(error) = self.storage().delete(&unfinished_name(seq)) {
            tracing::debug!(%error, "unfinished checkpoint not deleted");
        }
        self.end_unfinished(seq);
    }

    fn write_meta(&self, stored: &StoredCheckpoint) -> Result<(), CheckpointError> {
        let meta = &stored.meta;
        let body = wire::encode(&MetaFile {
            seq: meta.seq,
            state_bytes: stored.index.state_bytes,
            chunk_bytes: stored.index.chunk_bytes,
            root: stored.index.root(),
            certificate: meta.certificate.clone(),
            frontier: meta.frontier.clone(),
            info: meta.info.clone(),
        });
        let file = name(meta.seq, META);
        let body = body.map_err(|_| CheckpointError::Metadata {
            seq: meta.seq,
            cause: SealedError::Damaged { file: file.clone() },
        })?;
        sealed::write(
            self.storage(),
            &file,
            MAGIC,
            &self.inner.options.genesis,
            &body,
        )?;
        Ok(())
    }

    /// Sets the certificate of a checkpoint; the state is not touched. Atomic and durable.
    ///
    /// # Errors
    /// When there is no such checkpoint, it is damaged, the certificate is too long, or the storage
    /// fails or is full.
    pub fn set_certificate(&self, seq: SeqNo, certificate: Bytes) -> Result<(), CheckpointError> {
        let mut known = self.inner.known.lock();
        let mut stored = self.load(&mut known, seq)?.clone();
        stored.meta.certificate = certificate;
        check_meta(seq, &stored.meta)?;
        self.write_meta(&stored)?;
        known.insert(seq, stored);
        Ok(())
    }

    /// The numbers of all checkpoints, rising. Whether they are whole is not checked.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn list(&self) -> Result<Vec<SeqNo>, CheckpointError> {
        let names = self.storage().list()?;
        Ok(names.iter().filter_map(|file| seq_of(file, META)).collect())
    }

    /// A checkpoint's metadata and chunk digests, both verified. The chunks are not read.
    ///
    /// # Errors
    /// When there is no such checkpoint, it is damaged, or the storage fails.
    pub fn stored(&self, seq: SeqNo) -> Result<StoredCheckpoint, CheckpointError> {
        let mut known = self.inner.known.lock();
        self.load(&mut known, seq).cloned()
    }

    fn load<'a>(
        &self,
        known: &'a mut BTreeMap<SeqNo, StoredCheckpoint>,
        seq: SeqNo,
    ) -> Result<&'a StoredCheckpoint, CheckpointError> {
        use std::collections::btree_map::Entry;
        match known.entry(seq) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(self.read_stored(seq)?)),
        }
    }

    fn read_stored(&self, seq: SeqNo) -> Result<StoredCheckpoint, CheckpointError> {
        let file = name(seq, META);
        let genesis = &self.inner.options.genesis;
        let body =
            sealed::read_own(self.storage(), &file, MAGIC, genesis).map_err(
                |cause| match cause {
                    SealedError::Storage(error) if error.is_not_found() => {
                        CheckpointError::Absent { seq }
                    }
                    SealedError::Storage(error) => error.into(),
                    cause => CheckpointError::Metadata { seq, cause },
                },
            )?;
        let damaged = || CheckpointError::Metadata {
            seq,
            cause: SealedError::Damaged { file: file.clone() },
        };
        let meta: MetaFile =
            wire::decode(&body, META_BYTES_MAX + 1024).map_err(|_error| damaged())?;
        if meta.seq != seq {
            return Err(damaged());
        }
        let digests = self.read_digests(&meta)?;
        let index = ChunkIndex {
            state_bytes: meta.state_bytes,
            chunk_bytes: meta.chunk_bytes,
            digests,
        };
        if !index.is_consistent() || index.root() != meta.root {
            return Err(self.damaged(seq, None));
        }
        Ok(StoredCheckpoint {
            meta: CheckpointMeta {
                seq,
                certificate: meta.certificate,
                frontier: meta.frontier,
                info: meta.info,
            },
            index,
        })
    }

    fn read_digests(&self, meta: &MetaFile) -> Result<Vec<Digest>, CheckpointError> {
        let file = name(meta.seq, STATE);
        let damaged = || self.damaged(meta.seq, None);
        let found = match self.storage().length(&file) {
            Err(error) if error.is_not_found() => return Err(damaged()),
            other => other?,
        };
        // The length of the file bounds what is allocated.
        let bytes = chunks(meta.state_bytes, meta.chunk_bytes).saturating_mul(32);
        if meta.state_bytes.checked_add(bytes) != Some(found) {
            return Err(damaged());
        }
        let bytes = usize::try_from(bytes).map_err(|_| damaged())?;
        let digests = self.storage().read(&file, meta.state_bytes, bytes)?;
        let (digests, _rest) = digests.as_chunks::<32>();
        Ok(digests.iter().copied().map(Digest).collect())
    }

    fn damaged(&self, seq: SeqNo, chunk: Option<u64>) -> CheckpointError {
        let file = name(seq, STATE);
        CheckpointError::Damaged { seq, file, chunk }
    }

    /// The newest checkpoint whose metadata and chunk digests are whole, and what was wrong with
    /// newer ones. The chunks are not read: [`Self::read_latest`] does.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn latest(&self) -> Result<Latest, CheckpointError> {
        self.newest(|seq| self.stored(seq))
    }

    /// As [`Self::latest`], with every chunk read and verified.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn read_latest(&self) -> Result<Latest, CheckpointError> {
        self.newest(|seq| {
            let stored = self.stored(seq)?;
            for chunk in 0..stored.index.chunks() {
                self.read_verified(&stored, chunk)?;
            }
            Ok(stored)
        })
    }

    fn newest(
        &self,
        read: impl Fn(SeqNo) -> Result<StoredCheckpoint, CheckpointError>,
    ) -> Result<Latest, CheckpointError> {
        let mut latest = Latest::default();
        for seq in self.list()?.into_iter().rev() {
            match read(seq) {
                Ok(stored) => {
                    latest.checkpoint = Some(stored);
                    break;
                }
                Err(error @ CheckpointError::Storage(_)) => return Err(error),
                Err(error) => latest.damaged.push(error),
            }
        }
        Ok(latest)
    }

    /// One chunk of a state, verified.
    ///
    /// # Errors
    /// When there is no such checkpoint or chunk, it is damaged, or the storage fails.
    pub fn read_chunk(&self, seq: SeqNo, chunk: u64) -> Result<Bytes, CheckpointError> {
        // Cloning the digests for each chunk would cost more than reading it.
        let mut known = self.inner.known.lock();
        let stored = self.load(&mut known, seq)?;
        self.read_verified(stored, chunk)
    }

    fn read_verified(
        &self,
        stored: &StoredCheckpoint,
        chunk: u64,
    ) -> Result<Bytes, CheckpointError> {
        let (seq, index) = (stored.meta.seq, &stored.index);
        let (offset, length) =
            index
                .position(chunk)
                .ok_or_else(|| CheckpointError::NoSuchChunk {
                    seq,
                    chunk,
                    chunks: index.chunks(),
                })?;
        let bytes = match self.storage().read(&name(seq, STATE), offset, length) {
            Err(error) if error.is_not_found() => return Err(self.damaged(seq, None)),
            other => other?,
        };
        if !index.matches(chunk, &bytes) {
            return Err(self.damaged(seq, Some(chunk)));
        }
        Ok(bytes)
    }

    /// A whole state of at most `limit_bytes`, verified, in memory.
    ///
    /// # Errors
    /// When there is no such checkpoint, it is damaged or longer, or the storage fails.
    pub fn read_state(&self, seq: SeqNo, limit_bytes: u64) -> Result<Bytes, CheckpointError> {
        let stored = self.stored(seq)?;
        let found_bytes = stored.index.state_bytes;
        if found_bytes > limit_bytes {
            return Err(CheckpointError::TooLong {
                seq,
                found_bytes,
                limit_bytes,
            });
        }
        let mut state = BytesMut::with_capacity(usize::try_from(found_bytes).unwrap_or(0));
        for chunk in 0..stored.index.chunks() {
            state.extend_from_slice(&self.read_verified(&stored, chunk)?);
        }
        Ok(state.freeze())
    }

    /// Removes a checkpoint, whole or damaged.
    ///
    /// # Errors
    /// When there is no such checkpoint or the storage fails.
    pub fn remove(&self, seq: SeqNo) -> Result<(), CheckpointError> {
        let mut known = self.inner.known.lock();
        known.remove(&seq);
        let absent = |error: StorageError| match error.is_not_found() {
            true => CheckpointError::Absent { seq },
            false => error.into(),
        };
        self.storage().delete(&name(seq, META)).map_err(absent)?;
        // The state last: metadata without one would look like damage.
        self.storage().sync_dir()?;
        match self.storage().delete(&name(seq, STATE)) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Removes all but the newest `keep` checkpoints, and returns the numbers of those removed.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn prune(&self, keep: usize) -> Result<Vec<SeqNo>, CheckpointError> {
        let mut old = self.list()?;
        old.truncate(old.len().saturating_sub(keep));
        for seq in &old {
            self.remove(*seq)?;
        }
        Ok(old)
    }

    /// A handle that does not wait for threads: for the threads themselves.
    pub(super) fn without_workers(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            workers: Arc::default(),
        }
    }

    /// Tells the outcome of a write with `Notify`.
    pub(super) fn tell(&self, outcome: Result<SeqNo, CheckpointError>) {
        (self.inner.written)(outcome);
    }
}
