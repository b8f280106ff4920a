//! Snapshots: a state held still, and its encoding cut into chunks.

use atlas_common::wire::{self, EncodeError};
use atlas_common::{AgreedTime, Digest, Epoch, SeqNo};
use atlas_core::CheckpointId;
use atlas_smr_core::manifest::Manifest;
use atlas_smr_core::session::SessionTable;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read, Write};
use thiserror::Error;

use crate::application::MonolithicState;

/// The layout of a checkpoint's bytes.
pub(crate) const FORMAT: u32 = 1;

/// What a checkpoint holds, by reference: everything that decides how execution goes on.
#[derive(Serialize)]
pub(crate) struct ContentRef<'a, S> {
    pub(crate) format: u32,
    pub(crate) seq: SeqNo,
    pub(crate) time: AgreedTime,
    pub(crate) sessions: &'a SessionTable,
    pub(crate) state: &'a S,
}

/// The same, owned.
#[derive(Deserialize)]
pub(crate) struct Content<S> {
    pub(crate) format: u32,
    pub(crate) seq: SeqNo,
    pub(crate) time: AgreedTime,
    pub(crate) sessions: SessionTable,
    pub(crate) state: S,
}

/// A state that cannot become a checkpoint: the application's fault, on every replica alike.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Serde refuses the state.
    #[error("the state of the application {0}")]
    Encode(#[from] EncodeError),
    /// The state has more chunks than a manifest can list.
    #[error(
        "the state has more than {} chunks of {chunk_bytes} bytes: raise limits.chunk_bytes",
        Manifest::CHUNKS_MAX
    )]
    TooLarge {
        /// The size of a chunk.
        chunk_bytes: u32,
    },
    /// The application panicked while its state was encoded.
    #[error("the application panicked while its state was encoded")]
    Panicked,
}

/// A checkpoint as it is stored and transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointImage {
    /// What replicas vote on.
    pub id: CheckpointId,
    /// How it is cut. Its root is `id.state`.
    pub manifest: Manifest,
    /// The chunks, in order.
    pub chunks: Vec<Bytes>,
}

trait Encode: Send {
    fn encode(&self, writer: &mut ChunkWriter) -> Result<(), EncodeError>;
}

struct Frozen<S> {
    seq: SeqNo,
    time: AgreedTime,
    sessions: SessionTable,
    state: S,
}

impl<S: MonolithicState> Encode for Frozen<S> {
    fn encode(&self, writer: &mut ChunkWriter) -> Result<(), EncodeError> {
        let content = ContentRef {
            format: FORMAT,
            seq: self.seq,
            time: self.time,
            sessions: &self.sessions,
            state: &self.state,
        };
        wire::encode_into_writer(&content, writer)
    }
}

/// The state after a decision, held still while execution goes on. Encoding it takes as long as it is
/// large, and is meant for another thread than the one that executes.
pub struct Snapshot {
    epoch: Epoch,
    seq: SeqNo,
    content: Box<dyn Encode>,
}

impl Snapshot {
    pub(crate) fn new<S: MonolithicState>(
        epoch: Epoch,
        seq: SeqNo,
        time: AgreedTime,
        sessions: SessionTable,
        state: S,
    ) -> Self {
        let content = Box::new(Frozen {
            seq,
            time,
            sessions,
            state,
        });
        Self {
            epoch,
            seq,
            content,
        }
    }

    /// The last decision whose effects it holds.
    #[must_use]
    pub fn seq(&self) -> SeqNo {
        self.seq
    }

    /// Encodes the state into chunks of `chunk_bytes` (the last may be shorter). The chunks are the
    /// only copy that is made.
    ///
    /// # Errors
    /// When the application's state cannot be encoded.
    pub fn into_chunks(self, chunk_bytes: usize) -> Result<CheckpointImage, SnapshotError> {
        let mut writer = ChunkWriter::keeping(chunk_bytes);
        self.content.encode(&mut writer)?;
        let (epoch, seq) = (self.epoch, self.seq);
        // What execution has replaced meanwhile is freed here, and not on its thread.
        drop(self.content);
        let (manifest, chunks) = writer.finish()?;
        let state = manifest.root();
        let id = CheckpointId { epoch, seq, state };
        Ok(CheckpointImage {
            id,
            manifest,
            chunks,
        })
    }

    /// The digest that [`Snapshot::into_chunks`] would give, without keeping the chunks.
    ///
    /// # Errors
    /// As [`Snapshot::into_chunks`].
    pub fn digest(&self, chunk_bytes: usize) -> Result<Digest, SnapshotError> {
        let mut writer = ChunkWriter::hashing(chunk_bytes);
        self.content.encode(&mut writer)?;
        Ok(writer.finish()?.0.root())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot after {:?} in {:?}", self.seq, self.epoch)
    }
}

/// Cuts what is written into chunks, and digests them.
pub(crate) struct ChunkWriter {
    chunk_bytes: u32,
    current: Vec<u8>,
    total_bytes: u64,
    digests: Vec<Digest>,
    chunks: Option<Vec<Bytes>>,
}

impl ChunkWriter {
    pub(crate) fn keeping(chunk_bytes: usize) -> Self {
        let mut writer = Self::hashing(chunk_bytes);
        writer.chunks = Some(Vec::new());
        writer
    }

    pub(crate) fn hashing(chunk_bytes: usize) -> Self {
        Self {
            chunk_bytes: u32::try_from(chunk_bytes).unwrap_or(u32::MAX).max(1),
            current: Vec::new(),
            total_bytes: 0,
            digests: Vec::new(),
            chunks: None,
        }
    }

    fn seal(&mut self) {
        self.digests.push(Manifest::chunk_digest(&self.current));
        self.total_bytes += self.current.len() as u64;
        match &mut self.chunks {
            Some(chunks) => {
                let next = Vec::with_capacity(self.chunk_bytes as usize);
                let full = std::mem::replace(&mut self.current, next);
                chunks.push(Bytes::from(full));
            }
            None => self.current.clear(),
        }
    }

    pub(crate) fn finish(mut self) -> Result<(Manifest, Vec<Bytes>), SnapshotError> {
        if !self.current.is_empty() {
            self.current.shrink_to_fit();
            self.seal();
        }
        let chunk_bytes = self.chunk_bytes;
        if self.digests.len() > Manifest::CHUNKS_MAX {
            return Err(SnapshotError::TooLarge { chunk_bytes });
        }
        let manifest = Manifest {
            total_bytes: self.total_bytes,
            chunk_bytes,
            chunks: self.digests,
        };
        Ok((manifest, self.chunks.unwrap_or_default()))
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.chunk_bytes as usize - self.current.len();
        let taken = bytes.len().min(room);
        self.current.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.seal();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads chunks as one stream.
pub(crate) struct ChunkReader<'a> {
    chunks: std::slice::Iter<'a, Bytes>,
    current: &'a [u8],
}

impl<'a> ChunkReader<'a> {
    pub(crate) fn new(chunks: &'a [Bytes]) -> Self {
        Self {
            chunks: chunks.iter(),
            current: &[],
        }
    }
}

impl Read for ChunkReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.next() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        self.current.read(into)
    }
}
