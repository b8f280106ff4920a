//! Snapshots: a state held still, and cut into parts.

use crate::execute::InstallError;
use crate::state::{
    DivisibleState, FrozenState, PartBytes, PartReader, PartWriter, SnapshotError, ThawError,
};
use atlas_common::parts::{PartRef, StateDescriptor};
use atlas_common::{AgreedTime, Digest, Epoch, SeqNo, wire};
use atlas_core::CheckpointId;
use atlas_smr_core::session::SessionTable;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

/// The layout of a checkpoint.
const FORMAT: u32 = 3;
/// What the head begins with: the layout (4 bytes) and how long the rest is (8), little endian.
const PREFIX_BYTES: usize = 4 + 8;

/// Everything besides the application's state that decides how execution goes on.
///
/// It fills the first parts of a checkpoint by itself: behind a prefix that says how long it is comes
/// its encoding, cut where a part is full. The application's state begins with the part after that.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) seq: SeqNo,
    pub(crate) time: AgreedTime,
    pub(crate) sessions: SessionTable,
}

impl Head {
    fn write(&self, out: &mut PartWriter) -> Result<(), SnapshotError> {
        let mut bytes = vec![0; PREFIX_BYTES];
        wire::encode_into(self, &mut bytes)?;
        let length = (bytes.len() - PREFIX_BYTES) as u64;
        bytes[..4].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[4..PREFIX_BYTES].copy_from_slice(&length.to_le_bytes());
        let mut rest = Bytes::from(bytes);
        while !rest.is_empty() {
            let length = rest.len().min(out.chunk_bytes());
            out.part(rest.split_to(length), None)?;
        }
        Ok(())
    }

    pub(crate) fn read(parts: &mut dyn PartReader) -> Result<Self, InstallError> {
        let total_bytes = parts.bytes_left();
        let mut bytes = PartBytes::new(parts);
        let head = Self::decode(&mut bytes, total_bytes);
        bytes.end().map_err(ThawError::from)?;
        match bytes.rest() {
            0 => head,
            _ => head.and(Err(InstallError::Head)),
        }
    }

    fn decode(bytes: &mut PartBytes<'_>, total_bytes: u64) -> Result<Self, InstallError> {
        let (mut format, mut length) = ([0; 4], [0; 8]);
        bytes
            .read_exact(&mut format)
            .map_err(|_| InstallError::Head)?;
        let (found, expected) = (u32::from_le_bytes(format), FORMAT);
        if found != expected {
            return Err(InstallError::Format { found, expected });
        }
        bytes
            .read_exact(&mut length)
            .map_err(|_| InstallError::Head)?;
        match u64::from_le_bytes(length) {
            length if length <= total_bytes => {
                Ok(wire::decode_from_reader(bytes, length).map_err(ThawError::from)?)
            }
            _ => Err(InstallError::Head),
        }
    }
}

/// A checkpoint as it is stored and transferred: a tree of blobs, each under the digest of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointImage {
    /// What replicas vote on. Its state is the descriptor's root.
    pub id: CheckpointId,
    /// The pages by their digests.
    pub descriptor: StateDescriptor,
    /// The encoded pages, in order: which parts there are.
    pub pages: Vec<Bytes>,
    /// The parts, in order: first those of the head, then the application's.
    pub parts: Vec<(PartRef, Bytes)>,
}

impl CheckpointImage {
    /// All pages and parts by their digests, to install the checkpoint from.
    #[must_use]
    pub fn blobs(&self) -> BTreeMap<Digest, Bytes> {
        let pages = self.descriptor.pages.iter().zip(&self.pages);
        let parts = self.parts.iter().map(|(part, bytes)| (part, bytes));
        pages
            .chain(parts)
            .map(|(blob, bytes)| (blob.digest, bytes.clone()))
            .collect()
    }
}

/// The state after a decision, held still while execution goes on. Cutting it takes as long as it is
/// large (or as much of it has changed), and is meant for another thread than the one that executes.
pub struct Snapshot {
    epoch: Epoch,
    head: Head,
    state: Box<dyn FrozenState>,
}

impl Snapshot {
    pub(crate) fn new(epoch: Epoch, head: Head, state: impl FrozenState) -> Self {
        let state = Box::new(state);
        Self { epoch, head, state }
    }

    /// The last decision whose effects it holds.
    #[must_use]
    pub fn seq(&self) -> SeqNo {
        self.head.seq
    }

    /// The epoch it was taken in.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Cuts head and state into parts of at most `chunk_bytes`. What has to be encoded for that is
    /// encoded once, part by part.
    ///
    /// # Errors
    /// When the application's state cannot be encoded, or has too many parts or too large ones.
    pub fn into_image(self, chunk_bytes: usize) -> Result<CheckpointImage, SnapshotError> {
        let (epoch, seq) = (self.epoch, self.seq());
        let mut writer = self.written_to(PartWriter::keeping(chunk_bytes));
        while writer.write_some()? > 0 {}
        let (refs, bytes) = writer.out.finish();
        let (descriptor, pages) = StateDescriptor::cut(&refs)?;
        let state = descriptor.root();
        Ok(CheckpointImage {
            id: CheckpointId { epoch, seq, state },
            descriptor,
            pages,
            parts: refs.into_iter().zip(bytes).collect(),
        })
    }

    /// Hands head and state, cut as by [`Snapshot::into_image`], to `take` part by part: of a state that
    /// is encoded for it no more than one part is in memory a second time.
    pub fn write_to(
        self,
        chunk_bytes: usize,
        take: impl FnMut(PartRef, Bytes) -> Result<(), SnapshotError> + Send + 'static,
    ) -> SnapshotWriter {
        let out = PartWriter::handing_over(chunk_bytes, Box::new(take));
        self.written_to(out)
    }

    fn written_to(self, out: PartWriter) -> SnapshotWriter {
        SnapshotWriter {
            head: Some(self.head),
            state: self.state,
            out,
        }
    }

    /// The digest that [`Snapshot::into_image`] would give, without keeping the parts.
    ///
    /// # Errors
    /// As [`Snapshot::into_image`].
    pub fn digest(&self, chunk_bytes: usize) -> Result<Digest, SnapshotError> {
        let mut writer = PartWriter::hashing(chunk_bytes);
        self.head.write(&mut writer)?;
        self.state.write_parts(&mut writer)?;
        Ok(StateDescriptor::cut(&writer.finish().0)?.0.root())
    }
}

/// A snapshot on its way to whoever takes its parts.
pub struct SnapshotWriter {
    /// Until it was written.
    head: Option<Head>,
    state: Box<dyn FrozenState>,
    out: PartWriter,
}

impl SnapshotWriter {
    /// Writes some of what is left, and tells how many parts are left then. What execution has replaced
    /// meanwhile is freed on the way, and not on its thread.
    ///
    /// # Errors
    /// When the application's state cannot be encoded, or has too many parts or too large ones; and what
    /// the taker fails with. There is no going on after that.
    pub fn write_some(&mut self) -> Result<usize, SnapshotError> {
        if let Some(head) = self.head.take() {
            head.write(&mut self.out)?;
        }
        self.state.write_some(&mut self.out)
    }
}

impl fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a snapshot that is being written")
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot after {:?} in {:?}", self.seq(), self.epoch)
    }
}

/// Reads head and state, which fill the parts exactly.
pub(crate) fn read<S: DivisibleState>(
    parts: &mut dyn PartReader,
) -> Result<(Head, S), InstallError> {
    let head = Head::read(parts)?;
    let state = S::thaw(parts)?;
    let bytes = parts.bytes_left();
    let left_over = bytes > 0 || parts.next_part().map_err(ThawError::from)?.is_some();
    if left_over {
        return Err(ThawError::LeftOver { bytes }.into());
    }
    Ok((head, state))
}

/// Checks that `id` certifies this descriptor.
pub(crate) fn check_root(
    id: &CheckpointId,
    descriptor: &StateDescriptor,
) -> Result<(), InstallError> {
    let (found, certified) = (descriptor.root(), id.state);
    if found == certified {
        Ok(())
    } else {
        Err(InstallError::Root { found, certified })
    }
}
