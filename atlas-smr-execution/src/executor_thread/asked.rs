//! Reads that wait, and the room they take.

use atlas_common::ClientId;
use atlas_smr_core::client_message::ReadRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a read takes besides the bytes of its request.
const OVERHEAD_BYTES: usize = 256;

/// The room for reads that wait, wherever they do.
#[derive(Clone, Debug)]
pub(super) struct ReadRoom {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// A read that found room, which it gives back when it is dropped.
pub(super) struct Asked {
    pub(super) client: ClientId,
    pub(super) read: ReadRequest,
    charge: usize,
    room: ReadRoom,
}

impl ReadRoom {
    pub(super) fn new(bytes_max: usize) -> Self {
        let bytes = Arc::default();
        Self { bytes, bytes_max }
    }

    /// Takes a read in, if there is room.
    pub(super) fn take(&self, client: ClientId, read: ReadRequest) -> Option<Asked> {
        let charge = read.operation.len() + OVERHEAD_BYTES;
        let before = self.bytes.fetch_add(charge, Ordering::Relaxed);
        // Dropped, it gives back what was added.
        let asked = Asked {
            client,
            read,
            charge,
            room: self.clone(),
        };
        (before + charge <= self.bytes_max).then_some(asked)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.room.bytes.fetch_sub(self.charge, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::crypto::PublicKey;
    use atlas_smr_core::client_message::Consistency;
    use bytes::Bytes;

    #[test]
    fn reads_take_room_until_they_are_answered() {
        let room = ReadRoom::new(3 * OVERHEAD_BYTES);
        let take = |bytes: usize| {
            let read = ReadRequest {
                id: 1,
                consistency: Consistency::Stale,
                operation: Bytes::from(vec![1; bytes]),
            };
            let client = ClientId {
                key: PublicKey([1; 32]),
                instance: 1,
            };
            room.take(client, read)
        };
        let first = take(OVERHEAD_BYTES);
        assert!(first.is_some());
        assert!(take(1).is_none());
        let second = take(0);
        assert!(second.is_some() && take(0).is_none());
        drop(first);
        assert!(take(OVERHEAD_BYTES).is_some());
    }
}
