//! A state's log by itself: for who keeps checkpoints without a replica around them.
//!
//! Both traits are kept by [`PartStore`], on whatever [`Storage`](crate::Storage) it lies: real files, the
//! simulated disk, or memory ([`SimStorage`](crate::SimStorage)). A replica uses the store directly, which
//! writes part by part and never holds a state twice.

use crate::part_store::{CheckpointMeta, PartStore, StoreError};
use atlas_common::parts::{Blob, PartRef, StateDescriptor};
use bytes::{Bytes, BytesMut};

/// Bytes of the parts that a state given in one piece is cut into: 1 MiB.
const PART_BYTES: usize = 1 << 20;

/// A checkpoint in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// What is known of it.
    pub meta: CheckpointMeta,
    /// The state.
    pub state: Bytes,
}

/// Where checkpoints of a monolithic state are kept.
pub trait MonolithicStateLog: Send {
    /// The newest checkpoint that can be read; `None` when there is none.
    ///
    /// # Errors
    /// When the storage fails, or there are checkpoints and all are damaged.
    fn read_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError>;

    /// Writes a checkpoint: durable on return.
    ///
    /// # Errors
    /// When there is one of this number already, or the storage fails or is full.
    fn write_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError>;
}

/// Where the parts of a divisible state are kept.
pub trait DivisibleStateLog: Send {
    /// The descriptor of the newest checkpoint; `None` when there is none.
    ///
    /// # Errors
    /// When the storage fails, or the newest is damaged.
    fn read_local_descriptor(&self) -> Result<Option<StateDescriptor>, StoreError>;

    /// Keeps parts, or pages, ahead of the descriptor that will list them. Those that are here are not
    /// written again.
    ///
    /// # Errors
    /// When one is empty or too long, or the storage fails or is full.
    fn write_parts(&self, parts: Vec<Bytes>) -> Result<(), StoreError>;

    /// Keeps parts and pages, and makes a checkpoint of everything that the descriptor lists: durable on
    /// return.
    ///
    /// # Errors
    /// When something that it lists is not here, there is a checkpoint of this number already, or the
    /// storage fails or is full.
    fn write_parts_and_descriptor(
        &self,
        meta: CheckpointMeta,
        descriptor: StateDescriptor,
        parts: Vec<Bytes>,
    ) -> Result<(), StoreError>;
}

impl MonolithicStateLog for PartStore {
    fn read_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let mut damaged = None;
        for seq in self.list()?.into_iter().rev() {
            let read = self.parts(seq).and_then(|parts| {
                let mut state = BytesMut::new();
                for part in parts {
                    state.extend_from_slice(&part?);
                }
                let meta = self.stored(seq)?.meta.clone();
                let state = state.freeze();
                Ok(Checkpoint { meta, state })
            });
            match read {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error @ (StoreError::Storage(_) | StoreError::Failed { .. })) => {
                    return Err(error);
                }
                Err(error) => damaged = damaged.or(Some(error)),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    fn write_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let Checkpoint { meta, state } = checkpoint;
        let mut parts = state.chunks(PART_BYTES).map(|part| {
            let bytes = state.slice_ref(part);
            (PartRef::of(part), bytes)
        });
        self.write(meta, &mut parts).map(drop)
    }
}

impl DivisibleStateLog for PartStore {
    fn read_local_descriptor(&self) -> Result<Option<StateDescriptor>, StoreError> {
        let Some(newest) = self.list()?.last().copied() else {
            return Ok(None);
        };
        Ok(Some(self.stored(newest)?.descriptor.clone()))
    }

    fn write_parts(&self, parts: Vec<Bytes>) -> Result<(), StoreError> {
        self.keep(parts.into_iter().map(Blob::of).collect())
    }

    fn write_parts_and_descriptor(
        &self,
        meta: CheckpointMeta,
        descriptor: StateDescriptor,
        parts: Vec<Bytes>,
    ) -> Result<(), StoreError> {
        // So that what is kept is not taken for garbage before the descriptor is durable.
        self.begin_transfer(&descriptor)?;
        self.write_parts(parts)?;
        self.commit(meta, descriptor).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part_store::StoreOptions;
    use crate::storage::SimStorage;
    use atlas_common::{Digest, SeqNo};
    use std::sync::Arc;

    fn open(disk: &SimStorage) -> PartStore {
        let options = StoreOptions::new(Digest::of(b"genesis"));
        PartStore::open(Arc::new(disk.clone()), options).unwrap()
    }

    fn meta(seq: u64) -> CheckpointMeta {
        CheckpointMeta {
            seq: SeqNo(seq),
            ..CheckpointMeta::default()
        }
    }

    #[test]
    fn a_state_in_one_piece_is_read_back_as_it_was_written() {
        let mut disk = SimStorage::new();
        assert_eq!(open(&disk).read_checkpoint().unwrap(), None);
        for (seq, bytes) in [(3, 0), (7, 3 * PART_BYTES + 5)] {
            let state: Vec<u8> = (0..bytes).map(|i| (i / 1000) as u8).collect();
            let checkpoint = Checkpoint {
                meta: meta(seq),
                state: state.into(),
            };
            open(&disk).write_checkpoint(checkpoint.clone()).unwrap();
            disk = disk.crash_losing_all();
            assert_eq!(open(&disk).read_checkpoint().unwrap(), Some(checkpoint));
        }
    }

    #[test]
    fn parts_written_ahead_are_found_by_the_descriptor_that_comes_later() {
        let disk = SimStorage::new();
        let log = open(&disk);
        let parts: Vec<Bytes> = (0..200u32)
            .map(|i| i.to_le_bytes().to_vec().into())
            .collect();
        let refs: Vec<PartRef> = parts.iter().map(|part| PartRef::of(part)).collect();
        let (descriptor, pages) = StateDescriptor::cut(&refs).unwrap();
        log.write_parts(parts[..150].to_vec()).unwrap();
        let early = log.write_parts_and_descriptor(meta(5), descriptor.clone(), pages.clone());
        assert!(
            matches!(early, Err(StoreError::Incomplete { .. })),
            "{early:?}"
        );
        let rest = parts[150..].to_vec();
        log.write_parts_and_descriptor(meta(5), descriptor.clone(), rest)
            .unwrap();
        let log = open(&disk.crash_losing_all());
        assert_eq!(log.read_local_descriptor().unwrap(), Some(descriptor));
        let read: Result<Vec<Bytes>, _> = log.parts(SeqNo(5)).unwrap().collect();
        assert_eq!(read.unwrap(), parts);
    }
}
