//! Unordered reads.
//!
//! *Stale* reads run at once. *Linearizable* ones: under a crash protocol the protocol says after
//! which decision they may run (ReadIndex). Under a Byzantine protocol no single replica can know;
//! where the cluster allows unordered reads each replica answers from all that it has decided, and the
//! client accepts a quorum of equal answers, which meets the quorum of every acknowledged write in a
//! correct replica; a restart does not take from that one what it had acknowledged
//! (`PbftConfig::with_durable_decisions`).
//! Otherwise the client has them ordered.

use super::Driver;
use atlas_common::{ClientId, SeqNo};
use atlas_core::{OrderingProtocol, ReadId, Reject};
use atlas_smr_core::client_message::{Consistency, ReadRequest, Reply};
use atlas_smr_core::core::CoreInput;
use atlas_smr_execution::DecisionExecutorHandle;
use std::collections::BTreeMap;

/// Reads that may wait for the protocol's word.
const READS_MAX: usize = 16_384;
/// Bytes of their requests.
pub(crate) const READS_BYTES_MAX: usize = 64 << 20;

/// Reads that wait for the protocol's word.
#[derive(Debug, Default)]
pub(super) struct PendingReads {
    next: u64,
    /// The last decision that was handed to the executor. After a restart that may be far ahead of what it
    /// has executed, and has been acknowledged in an earlier life.
    pub(super) handed_over: SeqNo,
    waiting: BTreeMap<ReadId, (ClientId, ReadRequest)>,
    bytes: usize,
}

impl PendingReads {
    /// Keeps a read under a name of its own; gives it back when there is no room.
    fn keep(&mut self, client: ClientId, read: ReadRequest) -> Result<ReadId, ReadRequest> {
        let bytes = self.bytes.saturating_add(read.operation.len());
        if self.waiting.len() >= READS_MAX || bytes > READS_BYTES_MAX {
            return Err(read);
        }
        let id = ReadId(self.next);
        self.next += 1;
        self.bytes = bytes;
        self.waiting.insert(id, (client, read));
        Ok(id)
    }

    fn take(&mut self, id: ReadId) -> Option<(ClientId, ReadRequest)> {
        let (client, read) = self.waiting.remove(&id)?;
        self.bytes -= read.operation.len();
        Some((client, read))
    }
}

impl<P: OrderingProtocol> Driver<P> {
    pub(super) fn on_read(&mut self, client: ClientId, read: ReadRequest) {
        let admitted = self.checking.admits(&client) || self.is_local(&client);
        if !admitted || read.operation.len() > self.shared.limits.operation_bytes_max {
            self.core.count_rejected(Reject::BadRequest);
            return;
        }
        // A client in this process hears one replica only, which is no quorum.
        let quorum_reads =
            self.shared.signed && self.shared.unordered_reads && !self.is_local(&client);
        match read.consistency {
            Consistency::Stale => self.execute_read(client, read, SeqNo::ZERO),
            Consistency::Linearizable if quorum_reads => {
                self.execute_read(client, read, self.state.reads.handed_over);
            }
            Consistency::Linearizable if self.shared.signed => {
                self.shared.reply(&client, Reply::ReadRefused(read.id));
            }
            Consistency::Linearizable => self.ask_protocol(client, read),
        }
    }

    fn ask_protocol(&mut self, client: ClientId, read: ReadRequest) {
        match self.state.reads.keep(client, read) {
            Ok(id) => self.step(CoreInput::Read(id)),
            Err(read) => self.shared.reply(&client, Reply::ReadRefused(read.id)),
        }
    }

    pub(super) fn run_read(&mut self, id: ReadId, seq: SeqNo) {
        if let Some((client, read)) = self.state.reads.take(id) {
            self.execute_read(client, read, seq);
        }
    }

    pub(super) fn refuse_read(&mut self, id: ReadId) {
        if let Some((client, read)) = self.state.reads.take(id) {
            self.shared.reply(&client, Reply::ReadRefused(read.id));
        }
    }

    fn execute_read(&self, client: ClientId, read: ReadRequest, after: SeqNo) {
        self.executor.queue_update_unordered(client, read, after);
    }
}
