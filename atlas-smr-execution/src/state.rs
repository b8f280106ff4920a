//! What a replicated state must be able to do: be held still, be cut into parts, be put together from
//! them, and, if it can, keep an operation's writes apart until it is known whether they count.

mod checked;
pub mod map;
mod monolithic;
mod parts;

pub(crate) use checked::CheckedParts;
pub use checked::PartSource;
pub use map::{DivisibleMap, FrozenMap, MapError};
pub use monolithic::{FrozenMonolith, MonolithicState};
pub(crate) use parts::PartBytes;
pub use parts::{PartError, PartReader, PartStream, PartUnavailable, PartWriter};

use crate::pool::ExecutionPool;
use atlas_common::Digest;
use atlas_common::parts::{PartsError, StateDescriptor};
use atlas_common::wire::{DecodeError, EncodeError};
use std::collections::BTreeMap;
use thiserror::Error;

/// A state that can be checkpointed and transferred in parts.
///
/// Every [`MonolithicState`] is one: its parts are cut from its encoding. A state that knows which of
/// its parts have changed implements this trait itself, and must not implement serde's `Serialize`
/// then: a checkpoint stores, and a transfer fetches, only parts that are new.
///
/// Parts must follow from what was done to the state, and from nothing else: replicas that executed
/// the same operations compare digests of their parts, whatever they cloned, froze, forked or
/// thawed in between.
pub trait DivisibleState: Clone + Send + Sync + Sized + 'static {
    /// The state held still, for another thread to cut.
    type Frozen: FrozenState;

    /// Holds the state still. Called at every checkpoint on the thread that executes, so it should
    /// take no longer than a clone that shares what does not change.
    fn freeze(&self) -> Self::Frozen;

    /// Puts a state together from its parts. Their bytes are the certified ones; that they are a
    /// state's is not known yet.
    ///
    /// # Errors
    /// When they are not a state's. Never panics, and allocates no more than the parts are large.
    fn thaw(parts: &mut dyn PartReader) -> Result<Self, ThawError>;

    /// A copy, made in constant time, whose writes are kept apart from this state's; `None` when this
    /// kind of state has none. What the copy reads is this state as it was, with the copy's writes.
    /// A fork can be forked in turn, and has only its own writes to merge.
    fn fork(&self) -> Option<Self> {
        None
    }

    /// Takes over the writes of a fork of this state, as if they were done here. Other forks may have
    /// been merged since this one was made, which wrote nothing that it read or wrote.
    fn merge(&mut self, fork: Self) {
        *self = fork;
    }

    /// Lets go of what this fork was made from: it will only be merged any more, and what nobody else
    /// holds can be changed where it is.
    fn detach(&mut self) {}
}

/// A state held still: no longer changed by what is executed.
pub trait FrozenState: Send + 'static {
    /// Hands over the parts, in order. Takes as long as the state is large, on a thread of its own.
    ///
    /// # Errors
    /// When the state has no encoding, or the writer refuses a part.
    fn write_parts(&self, out: &mut PartWriter) -> Result<(), SnapshotError>;

    /// Hands over some of the parts, in order, where the call before stopped; how many are left. All calls
    /// together, up to the one behind which none is left, hand over what [`FrozenState::write_parts`] does.
    ///
    /// A large state should do a few tenths of a millisecond of work in each: between two of them the
    /// thread may change or rest, so that a checkpoint takes the time that processors have left, and is
    /// never starved. It may let go of each part as soon as it is handed over, so that what is executed
    /// meanwhile finds room where the replaced parts lay. Unless implemented, the first call does
    /// everything, on a thread that is a little nicer than others.
    ///
    /// # Errors
    /// As [`FrozenState::write_parts`]. There is no going on after that.
    fn write_some(&mut self, out: &mut PartWriter) -> Result<usize, SnapshotError> {
        self.write_parts(out)?;
        Ok(0)
    }
}

/// A state that cannot become a checkpoint: the application's fault, on every replica alike.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Serde refuses the state.
    #[error("the state of the application {0}")]
    Encode(#[from] EncodeError),
    /// The state has more parts than a checkpoint can list.
    #[error(transparent)]
    TooLarge(#[from] PartsError),
    /// The state handed over a part that is empty, or larger than allowed.
    #[error("a part of {bytes} bytes: a part has 1 to {chunk_bytes} bytes (limits.chunk_bytes)")]
    PartSize {
        /// Its size.
        bytes: usize,
        /// The largest that is allowed.
        chunk_bytes: u32,
    },
    /// The application panicked while its state was encoded.
    #[error("the application panicked while its state was encoded")]
    Panicked,
    /// Whoever takes the parts cannot.
    #[error("the checkpoint cannot be stored: {0}")]
    Store(String),
}

/// Parts that are not a state's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ThawError {
    /// A part could not be had.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The bytes are no encoding of the state.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A part is not what such a state's part looks like.
    #[error("part {part} of the state {fault}")]
    Malformed {
        /// Which, from 0.
        part: u64,
        /// What is wrong with it.
        fault: String,
    },
    /// There are more parts than the state has use for.
    #[error("{bytes} bytes of parts left over behind the state")]
    LeftOver {
        /// How many bytes.
        bytes: u64,
    },
}

/// Takes a state through a checkpoint with parts of at most `chunk_bytes`: its root, and what is thawed
/// from it. For tests of states of one's own.
///
/// # Errors
/// When the state cannot be cut or put together again.
pub fn through_checkpoint<S: DivisibleState>(
    state: &S,
    chunk_bytes: usize,
) -> Result<(Digest, S), Box<dyn std::error::Error>> {
    let mut writer = PartWriter::keeping(chunk_bytes);
    state.freeze().write_parts(&mut writer)?;
    let (refs, parts) = writer.finish();
    let (descriptor, pages) = StateDescriptor::cut(&refs)?;
    let blobs = pages.into_iter().chain(parts);
    let source: BTreeMap<_, _> = blobs.map(|blob| (Digest::of(&blob), blob)).collect();
    let pool = ExecutionPool::sequential();
    let mut reader = CheckedParts::new(&descriptor, &source, chunk_bytes, &pool)?;
    let thawed = S::thaw(&mut reader)?;
    match reader.bytes_left() {
        0 => Ok((descriptor.root(), thawed)),
        bytes => Err(ThawError::LeftOver { bytes }.into()),
    }
}
