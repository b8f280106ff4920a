//! Writing a state as it comes.

use super::index::ChunkIndex;
use super::store::{self, CheckpointStore, StoredCheckpoint};
use super::{CheckpointError, CheckpointMeta, META_BYTES_MAX};
use crate::storage::{StorageError, StorageFile};
use atlas_common::{Digest, SeqNo};

/// Writes the state of one checkpoint, in pieces of any length. Nothing exists before
/// [`Self::commit`]; a writer that is dropped leaves nothing.
#[derive(Debug)]
pub struct CheckpointWriter {
    store: CheckpointStore,
    seq: SeqNo,
    /// `None` once it is committed.
    file: Option<Box<dyn StorageFile>>,
    index: ChunkIndex,
    /// The beginning of the next chunk, always shorter than one.
    pending: Vec<u8>,
}

impl CheckpointWriter {
    pub(super) fn begin(
        store: CheckpointStore,
        seq: SeqNo,
        chunk_bytes: u32,
    ) -> Result<Self, CheckpointError> {
        let mut file = store.storage().open(&store::unfinished_name(seq))?;
        file.set_length(0)?;
        Ok(Self {
            store,
            seq,
            file: Some(file),
            index: ChunkIndex {
                state_bytes: 0,
                chunk_bytes,
                digests: Vec::new(),
            },
            pending: Vec::new(),
        })
    }

    /// Appends to the state.
    ///
    /// # Errors
    /// When the storage fails or is full.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), CheckpointError> {
        let chunk_bytes = self.index.chunk_bytes as usize;
        while !bytes.is_empty() {
            if self.pending.is_empty() && bytes.len() >= chunk_bytes {
                let (chunk, rest) = bytes.split_at(chunk_bytes);
                self.write_chunk(chunk)?;
                bytes = rest;
                continue;
            }
            let room = chunk_bytes - self.pending.len();
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(part);
            bytes = rest;
            if self.pending.len() == chunk_bytes {
                self.write_pending()?;
            }
        }
        Ok(())
    }

    fn write_pending(&mut self) -> Result<(), StorageError> {
        let mut chunk = std::mem::take(&mut self.pending);
        let result = self.write_chunk(&chunk);
        chunk.clear();
        self.pending = chunk;
        result
    }

    fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        if let Some(file) = &mut self.file {
            file.write_at(self.index.state_bytes, chunk)?;
        }
        self.index.digests.push(Digest::of(chunk));
        self.index.state_bytes += chunk.len() as u64;
        Ok(())
    }

    /// Completes the checkpoint: durable on return.
    ///
    /// # Errors
    /// When the metadata is of another checkpoint or too long, there is a checkpoint of this number
    /// by now, or the storage fails or is full; the checkpoint does not exist then.
    pub fn commit(mut self, meta: CheckpointMeta) -> Result<StoredCheckpoint, CheckpointError> {
        check_meta(self.seq, &meta)?;
        if !self.pending.is_empty() {
            self.write_pending()?;
        }
        if let Some(mut file) = self.file.take() {
            let written = self.write_index(&mut *file);
            if written.is_err() {
                self.file = Some(file);
            }
            written?;
        }
        let index = self.index.clone();
        let result = self.store.adopt(meta, index);
        match result {
            Ok(_) => self.store.end_unfinished(self.seq),
            Err(_) => self.store.forget_unfinished(self.seq),
        }
        result
    }

    fn write_index(&self, file: &mut dyn StorageFile) -> Result<(), StorageError> {
        let digests = self.index.digests.iter();
        let bytes: Vec<u8> = digests.flat_map(|digest| digest.0).collect();
        file.write_at(self.index.state_bytes, &bytes)?;
        file.sync()
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            self.store.forget_unfinished(self.seq);
        }
    }
}

pub(super) fn check_meta(seq: SeqNo, meta: &CheckpointMeta) -> Result<(), CheckpointError> {
    if meta.seq != seq {
        return Err(CheckpointError::WrongNumber {
            expected: seq,
            found: meta.seq,
        });
    }
    let found_bytes = meta.certificate.len() + meta.frontier.len() + meta.info.len();
    if found_bytes > META_BYTES_MAX {
        return Err(CheckpointError::TooLong {
            seq,
            found_bytes: found_bytes as u64,
            limit_bytes: META_BYTES_MAX as u64,
        });
    }
    Ok(())
}
