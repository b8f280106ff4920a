//! Parts on their way out of a state and into one.

use super::SnapshotError;
use atlas_common::Digest;
use atlas_common::parts::{Blob, PartRef, PartsError};
use bytes::Bytes;
use std::fmt;
use std::io::{self, Read, Write};
use thiserror::Error;

/// Takes the parts of a state, and digests them.
#[derive(Debug)]
pub struct PartWriter {
    chunk_bytes: u32,
    refs: Vec<PartRef>,
    parts: Parts,
}

/// What takes a part as soon as it is cut.
pub(crate) type TakePart = Box<dyn FnMut(PartRef, Bytes) -> Result<(), SnapshotError> + Send>;

/// What becomes of the parts themselves.
enum Parts {
    /// Only their digests matter.
    Dropped,
    Kept(Vec<Bytes>),
    HandedOver(TakePart),
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "dropped",
            Self::Kept(_) => "kept",
            Self::HandedOver(_) => "handed over",
        })
    }
}

impl PartWriter {
    pub(crate) fn keeping(chunk_bytes: usize) -> Self {
        let mut writer = Self::hashing(chunk_bytes);
        writer.parts = Parts::Kept(Vec::new());
        writer
    }

    pub(crate) fn handing_over(chunk_bytes: usize, take: TakePart) -> Self {
        let mut writer = Self::hashing(chunk_bytes);
        writer.parts = Parts::HandedOver(take);
        writer
    }

    /// A writer that keeps digests only: what a checkpoint costs without storing it.
    #[must_use]
    pub fn hashing(chunk_bytes: usize) -> Self {
        Self {
            chunk_bytes: u32::try_from(chunk_bytes).unwrap_or(u32::MAX).max(1),
            refs: Vec::new(),
            parts: Parts::Dropped,
        }
    }

    /// The most bytes of a part.
    #[must_use]
    pub const fn chunk_bytes(&self) -> usize {
        self.chunk_bytes as usize
    }

    /// Takes the next part. A digest that is known already saves computing it, and is believed: with a
    /// wrong one nobody can read the checkpoint.
    ///
    /// # Errors
    /// When the part is empty or larger than [`PartWriter::chunk_bytes`].
    pub fn part(&mut self, bytes: Bytes, digest: Option<Digest>) -> Result<(), SnapshotError> {
        let chunk_bytes = self.chunk_bytes;
        let length = match u32::try_from(bytes.len()) {
            Ok(length) if length > 0 && length <= chunk_bytes => length,
            _ => {
                let bytes = bytes.len();
                return Err(SnapshotError::PartSize { bytes, chunk_bytes });
            }
        };
        let part = PartRef {
            digest: digest.unwrap_or_else(|| Digest::of(&bytes)),
            bytes: length,
        };
        match &mut self.parts {
            Parts::Dropped => {}
            Parts::Kept(kept) => kept.push(bytes),
            // Who takes the parts knows what they are.
            Parts::HandedOver(take) => return take(part, bytes),
        }
        self.refs.push(part);
        Ok(())
    }

    /// Cuts what is written to it into parts as large as they may be. To be ended by
    /// [`PartStream::finish`].
    pub fn stream(&mut self) -> PartStream<'_> {
        PartStream {
            out: self,
            current: Vec::new(),
        }
    }

    pub(crate) fn finish(self) -> (Vec<PartRef>, Vec<Bytes>) {
        let kept = match self.parts {
            Parts::Kept(kept) => kept,
            Parts::Dropped | Parts::HandedOver(_) => Vec::new(),
        };
        (self.refs, kept)
    }
}

/// A stream that becomes parts.
#[derive(Debug)]
pub struct PartStream<'a> {
    out: &'a mut PartWriter,
    current: Vec<u8>,
}

impl PartStream<'_> {
    /// Hands over the last part.
    ///
    /// # Errors
    /// As [`PartWriter::part`].
    pub fn finish(mut self) -> Result<(), SnapshotError> {
        self.current.shrink_to_fit();
        self.seal()
    }

    fn seal(&mut self) -> Result<(), SnapshotError> {
        if self.current.is_empty() {
            return Ok(());
        }
        if !matches!(self.out.parts, Parts::Dropped) {
            let next = Vec::with_capacity(self.out.chunk_bytes());
            let full = std::mem::replace(&mut self.current, next);
            return self.out.part(full.into(), None);
        }
        let digest = Digest::of(&self.current);
        let bytes = u32::try_from(self.current.len()).unwrap_or(u32::MAX);
        self.out.refs.push(PartRef { digest, bytes });
        self.current.clear();
        Ok(())
    }
}

impl Write for PartStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.out.chunk_bytes().saturating_sub(self.current.len());
        let taken = bytes.len().min(room);
        self.current.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.seal().map_err(io::Error::other)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a source has no such bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PartUnavailable(pub String);

/// A page or part that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PartError {
    /// The source does not have it.
    #[error("part {digest}: {cause}")]
    Unavailable {
        /// Which.
        digest: Digest,
        /// What the source says.
        cause: PartUnavailable,
    },
    /// The descriptor or a page is not what it should be.
    #[error(transparent)]
    Page(#[from] PartsError),
    /// The bytes are not those that are meant.
    #[error("part {digest} has other bytes than its digest says")]
    Digest {
        /// Which.
        digest: Digest,
    },
    /// The part is larger than allowed.
    #[error("part {digest} has {bytes} bytes, at most {chunk_bytes} allowed")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Its size.
        bytes: u32,
        /// The largest that is allowed.
        chunk_bytes: usize,
    },
    /// The parts end before the state does.
    #[error("the parts end too early")]
    Ended,
}

/// Gives the parts of a state, in order and checked.
pub trait PartReader {
    /// The next part; `None` behind the last. It has memory of its own: whoever keeps it keeps nothing
    /// else.
    ///
    /// # Errors
    /// When it cannot be had.
    fn next_part(&mut self) -> Result<Option<Blob>, PartError>;

    /// The bytes of all parts that are still to come.
    fn bytes_left(&self) -> u64;
}

/// Parts as one stream of bytes.
pub(crate) struct PartBytes<'a> {
    parts: &'a mut dyn PartReader,
    current: Bytes,
    failure: Option<PartError>,
}

impl<'a> PartBytes<'a> {
    pub(crate) fn new(parts: &'a mut dyn PartReader) -> Self {
        Self {
            parts,
            current: Bytes::new(),
            failure: None,
        }
    }

    /// What went wrong with the parts; what a decoder makes of it says less.
    pub(crate) fn end(&mut self) -> Result<(), PartError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// How much of the last part was not read.
    pub(crate) fn rest(&self) -> usize {
        self.current.len()
    }
}

impl Read for PartBytes<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.parts.next_part() {
                Ok(Some(part)) => self.current = part.into_bytes(),
                Ok(None) => return Ok(0),
                Err(error) => {
                    self.failure = Some(error.clone());
                    return Err(io::Error::other(error));
                }
            }
        }
        let taken = into.len().min(self.current.len());
        into[..taken].copy_from_slice(&self.current.split_to(taken));
        Ok(taken)
    }
}
