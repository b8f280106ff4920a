//! Reads that are not ordered: the protocol says after which decision they may run.

use super::Node;
use super::execution::Job;
use crate::protocol::SimProtocol;
use crate::shared::Shared;
use atlas_common::{ClientId, SeqNo};
use atlas_core::ReadId;
use atlas_smr_core::client_message::{ReadRequest, Reply};
use atlas_smr_core::core::CoreInput;
use std::collections::BTreeMap;

/// Reads that wait for the protocol's word, or for a decision to be executed.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: u64,
    asked: BTreeMap<ReadId, (ClientId, ReadRequest)>,
    allowed: Vec<(SeqNo, ClientId, ReadRequest)>,
}

impl<P: SimProtocol> Node<P> {
    pub(super) fn on_read(&mut self, client: ClientId, read: ReadRequest, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let reads = &mut running.reads;
        let id = ReadId(reads.next);
        reads.next += 1;
        reads.asked.insert(id, (client, read));
        self.input(CoreInput::Read(id), shared);
    }

    pub(super) fn refuse_read(&mut self, id: ReadId, shared: &mut Shared<P>) {
        let asked = |running: &mut super::Running<P>| running.reads.asked.remove(&id);
        if let Some((client, read)) = self.running.as_mut().and_then(asked) {
            shared.count("reads refused", 1);
            self.reply(client, Reply::ReadRefused(read.id), shared);
        }
    }

    pub(super) fn allow_read(&mut self, id: ReadId, after: SeqNo, shared: &mut Shared<P>) {
        let asked = |running: &mut super::Running<P>| running.reads.asked.remove(&id);
        if let Some((client, read)) = self.running.as_mut().and_then(asked) {
            let job = Job::Read {
                client,
                read,
                after,
            };
            self.enqueue(job, shared);
        }
    }

    /// The executor comes to a read.
    pub(super) fn execute_read(
        &mut self,
        client: ClientId,
        read: ReadRequest,
        after: SeqNo,
        shared: &mut Shared<P>,
    ) {
        if let Some(running) = &mut self.running {
            running.reads.allowed.push((after, client, read));
            self.run_reads(shared);
        }
    }

    /// Runs the reads whose decision has been executed.
    pub(super) fn run_reads(&mut self, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let at = running.machine.executed();
        let allowed = &mut running.reads.allowed;
        let ready: Vec<_> = allowed.extract_if(.., |(after, ..)| *after <= at).collect();
        for (_, client, read) in ready {
            let Some(running) = &self.running else { return };
            let result = running.machine.read(&read.operation);
            let id = read.id;
            shared.count("reads not ordered", 1);
            self.reply(client, Reply::Read { id, result, at }, shared);
        }
    }
}
