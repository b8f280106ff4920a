//! Reads that are not ordered: the protocol says after which decision they may run.

use super::Node;
use super::execution::Job;
use crate::faults::FaultKind;
use crate::machine::View;
use crate::network::exponential;
use crate::protocol::SimProtocol;
use crate::shared::{Event, Shared};
use atlas_common::quorum::FaultModel;
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
    /// Reads with the state that they are answered from.
    held: BTreeMap<u64, (ClientId, ReadRequest, View)>,
}

impl<P: SimProtocol> Node<P> {
    pub(super) fn on_read(&mut self, client: ClientId, read: ReadRequest, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        if shared.plan.quorum_reads && P::FAULT_MODEL == FaultModel::Byzantine {
            // As the driver does: the client compares a quorum of answers.
            let after = SeqNo::ZERO;
            return self.enqueue(
                Job::Read {
                    client,
                    read,
                    after,
                },
                shared,
            );
        }
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

    /// Gives the reads whose decision has been executed the state as it is now. They are answered from it
    /// later, as by a thread of their own.
    pub(super) fn run_reads(&mut self, shared: &mut Shared<P>) {
        let late = self.adversary.as_ref().is_some_and(|a| a.reads_late());
        let Some(running) = &mut self.running else {
            return;
        };
        let at = running.machine.executed();
        let allowed = &mut running.reads.allowed;
        let ready: Vec<_> = allowed.extract_if(.., |(after, ..)| *after <= at).collect();
        for (_, client, read) in ready {
            let Some(running) = &mut self.running else {
                return;
            };
            let Some(view) = running.machine.view(late) else {
                return;
            };
            if late && view.at < at {
                shared.counts.count(FaultKind::StaleRead);
            }
            let number = running.reads.next;
            running.reads.next += 1;
            running.reads.held.insert(number, (client, read, view));
            if shared.plan.reading.is_zero() {
                self.answer_read(number, shared);
            } else {
                let delay = exponential(shared.plan.reading, &mut self.rng);
                let (node, life) = (self.id, self.life);
                let event = Event::Answer { node, life, number };
                shared.queue.after(delay, event);
            }
        }
    }

    /// Answers a read from the state that it was given.
    pub(super) fn answer_read(&mut self, number: u64, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let executed = running.machine.executed();
        let Some((client, read, view)) = running.reads.held.remove(&number) else {
            return;
        };
        let (id, at, result) = (read.id, view.at, view.read(&read.operation));
        shared.count("reads not ordered", 1);
        shared.count(
            "reads answered from an older state",
            u64::from(at < executed),
        );
        self.reply(client, Reply::Read { id, result, at }, shared);
    }
}
