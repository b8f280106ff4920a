//! A checkpoint as one stream in chunks of a fixed size: all its parts, each behind its length (4
//! bytes, little endian).
//!
//! Only for stores and transfers that know no parts yet; the whole module goes with the last of them.

use crate::execute::InstallError;
use crate::snapshot::CheckpointImage;
use crate::state::{PartError, PartReader, SnapshotError};
use atlas_common::parts::PartsError;
use atlas_core::CheckpointId;
use atlas_smr_core::manifest::Manifest;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// A checkpoint in chunks of a fixed size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkedImage {
    /// What replicas vote on. Its state is the manifest's root.
    pub id: CheckpointId,
    /// How it is cut.
    pub manifest: Manifest,
    /// The chunks, in order.
    pub chunks: Vec<Bytes>,
}

pub(crate) fn of(
    image: CheckpointImage,
    chunk_bytes: usize,
) -> Result<ChunkedImage, SnapshotError> {
    let mut stream = Vec::new();
    for (part, bytes) in image.parts {
        stream.extend_from_slice(&part.bytes.to_le_bytes());
        stream.extend_from_slice(&bytes);
    }
    let stream = Bytes::from(stream);
    let starts = (0..stream.len()).step_by(chunk_bytes.max(1));
    let end = |start: usize| stream.len().min(start.saturating_add(chunk_bytes.max(1)));
    let chunks: Vec<Bytes> = starts
        .map(|start| stream.slice(start..end(start)))
        .collect();
    if chunks.len() > Manifest::CHUNKS_MAX {
        let parts = chunks.len();
        return Err(PartsError::TooMany { parts }.into());
    }
    let manifest = Manifest::of(
        u32::try_from(chunk_bytes.max(1)).unwrap_or(u32::MAX),
        &chunks,
    );
    let state = manifest.root();
    let id = CheckpointId { state, ..image.id };
    Ok(ChunkedImage {
        id,
        manifest,
        chunks,
    })
}

/// Checks that these chunks are what `id` certifies.
pub(crate) fn verify(
    id: &CheckpointId,
    manifest: &Manifest,
    chunks: &[Bytes],
) -> Result<(), InstallError> {
    let (found, certified) = (manifest.root(), id.state);
    if found != certified {
        return Err(InstallError::Root { found, certified });
    }
    manifest.check()?;
    let (found, expected) = (chunks.len(), manifest.chunks.len());
    if found != expected {
        return Err(InstallError::Count { found, expected });
    }
    for (index, chunk) in (0..).zip(chunks) {
        manifest.verify_chunk(index, chunk)?;
    }
    Ok(())
}

/// The parts in a stream.
pub(crate) struct Framed {
    parts: VecDeque<Bytes>,
    bytes_left: u64,
}

impl Framed {
    pub(crate) fn of(chunks: &[Bytes]) -> Result<Self, PartError> {
        let mut stream = Bytes::from(chunks.concat());
        let (mut parts, mut bytes_left) = (VecDeque::new(), 0);
        while !stream.is_empty() {
            let length = stream.try_get_u32_le().map_err(|_| PartError::Ended)? as usize;
            if length > stream.len() {
                return Err(PartError::Ended);
            }
            parts.push_back(stream.split_to(length));
            bytes_left += length as u64;
        }
        Ok(Self { parts, bytes_left })
    }
}

impl PartReader for Framed {
    fn next_part(&mut self) -> Result<Option<Bytes>, PartError> {
        let part = self.parts.pop_front();
        let length = part.as_ref().map_or(0, Bytes::len) as u64;
        self.bytes_left = self.bytes_left.saturating_sub(length);
        Ok(part)
    }

    fn bytes_left(&self) -> u64 {
        self.bytes_left
    }
}
