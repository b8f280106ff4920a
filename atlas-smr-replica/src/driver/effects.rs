//! Carrying out what the core asks.

use super::Driver;
use crate::node::log_failure;
use crate::store::StoreJob;
use atlas_common::{Digest, Lsn, NodeId, wire};
use atlas_communication::Lane;
use atlas_core::{OrderingProtocol, Recipients};
use atlas_persistent_log::{LogError, OperationMode};
use atlas_smr_core::client_message::{LeaderHint, Reply};
use atlas_smr_core::core::{CoreEffect, Decision};
use atlas_smr_core::message::{MessageLane, SystemMessage};
use atlas_smr_execution::DecisionExecutorHandle;
use bytes::Bytes;
use serde::Serialize;

/// What the length before a blob takes at most.
const LENGTH_BYTES: u64 = 9;

impl<P: OrderingProtocol> Driver<P> {
    pub(super) fn carry_out(&mut self, effect: CoreEffect<P>) {
        match effect {
            CoreEffect::Append { lsn, record } => self.gather_record(lsn, &record),
            CoreEffect::CompactLog { below } => self.compact(below),
            CoreEffect::Send { to, message } => self.send(to, &message),
            CoreEffect::Execute(decisions) => self.execute(decisions),
            CoreEffect::Retransmit {
                client,
                session,
                first,
                last,
            } => {
                self.executor.retransmit(client, session, first, last);
            }
            CoreEffect::Expired { client, session } => {
                self.shared.reply(&client, Reply::SessionExpired(session));
            }
            CoreEffect::Leader { view, leader } => {
                self.shared.set_hint(LeaderHint { view, leader });
                tracing::info!(replica = self.me().0, %view, ?leader, "the view changed");
            }
            CoreEffect::SetTimer { timer, at } => self.state.timers.set(timer, at),
            CoreEffect::CancelTimer(timer) => self.state.timers.cancel(timer),
            CoreEffect::SaveCertificate {
                certificate,
                frontier,
            } => {
                self.store.queue(StoreJob::Certify {
                    certificate,
                    frontier,
                });
            }
            CoreEffect::ServeOffer { to, above } => {
                self.store.offer(StoreJob::Offer { to, above });
            }
            CoreEffect::ServeParts { to, digests } => {
                self.store.offer(StoreJob::Parts { to, digests });
            }
            CoreEffect::TransferTarget(target) => self.store.queue(StoreJob::Target(target)),
            CoreEffect::LookUpParts(question) => self.store.queue(StoreJob::LookUp(question)),
            CoreEffect::KeepParts(blobs) => self.store.queue(StoreJob::Keep(blobs)),
            CoreEffect::RepairParts(blobs) => self.store.queue(StoreJob::Repair(blobs)),
            CoreEffect::Scrub { bytes } => self.store.queue(StoreJob::Scrub(bytes)),
            CoreEffect::Unrepairable(digests) => self.give_up_repair(&digests),
            CoreEffect::InstallState(state) => self.store.queue(StoreJob::Install(*state)),
            CoreEffect::ReadAt { id, seq } => self.run_read(id, seq),
            CoreEffect::ReadRefused(id) => self.refuse_read(id),
            CoreEffect::Evidence { culprit, messages } => self.keep_evidence(culprit, &messages),
            CoreEffect::Halt(reason) => self.stop(reason.to_string()),
        }
    }

    /// What cannot be kept is said all the same: the replica goes on without it. When enough is kept, more
    /// is only counted: a liar must not fill the log of the process.
    fn keep_evidence(&mut self, culprit: NodeId, messages: &(P::Message, P::Message)) {
        if self.evidence.is_enough() {
            return;
        }
        let (first, second) = messages;
        let kept = self.evidence.keep(culprit, encode(first), encode(second));
        let kept = match kept {
            Ok(Some(file)) if self.evidence.is_enough() => {
                format!("kept in {file}, for `atlas verify`; that is enough, more is only counted")
            }
            Ok(Some(file)) => format!("kept in {file}, for `atlas verify`"),
            Ok(None) => "not kept, as there is enough".to_owned(),
            Err(error) => format!("not kept: {error}"),
        };
        tracing::warn!(
            replica = self.me().0,
            %culprit,
            "a replica signed two messages that contradict each other ({kept}): {first:?} and \
             {second:?}"
        );
    }

    fn give_up_repair(&self, digests: &[Digest]) {
        tracing::error!(
            replica = self.me().0,
            "no peer has {} damaged parts of this replica's checkpoints any more, {} among them: a \
             checkpoint that needs them is passed over at the next start",
            digests.len(),
            digests.first().copied().unwrap_or_default()
        );
    }

    fn gather_record(&mut self, lsn: Lsn, record: &P::Record) {
        let record = encode(record);
        let (first, records) = &mut self.state.records;
        if records.is_empty() {
            *first = lsn;
        }
        records.push(record);
    }

    /// Hands the records of this round to the log in one piece. When its queue is full the disk is
    /// slower than the network; then this round waits for the disk, which is what holds the peers
    /// back.
    pub(super) fn append_records(&mut self) {
        let (first, records) = std::mem::take(&mut self.state.records);
        if records.is_empty() {
            return;
        }
        let last = Lsn(first.0 + records.len() as u64 - 1);
        let appended = match self
            .log
            .append_group(first, records.clone(), OperationMode::Notify)
        {
            Err(LogError::QueueFull { .. }) => {
                let result = self
                    .log
                    .append_group(first, records, OperationMode::Blocking);
                result.map(|()| self.events.durable(last))
            }
            result => result,
        };
        if let Err(error) = appended {
            self.stop(log_failure(&error));
        }
    }

    fn compact(&mut self, below: Lsn) {
        self.append_records();
        match self.log.compact(below, OperationMode::Notify) {
            // The next checkpoint asks again.
            Ok(()) | Err(LogError::QueueFull { .. }) => {}
            Err(error) => self.stop(log_failure(&error)),
        }
    }

    /// One encoding for all recipients.
    fn send(&self, to: Recipients, message: &SystemMessage<P>) {
        let lane = match message.lane() {
            MessageLane::Ordering => Lane::Ordering,
            MessageLane::Application => Lane::Application,
            MessageLane::Transfer => Lane::Transfer,
        };
        let frame = encode_with_room(message, room_of(message));
        match to {
            Recipients::One(peer) => self.network.send(peer, lane, frame),
            Recipients::Others => self.network.broadcast(lane, frame),
        }
    }

    fn execute(&mut self, mut decisions: Vec<Decision>) {
        if let Some(last) = decisions.last() {
            self.state.reads.handed_over = last.seq;
        }
        if decisions.len() == 1
            && let Some(decision) = decisions.pop()
        {
            self.executor.queue_update(decision);
        } else {
            self.executor.catch_up_to_quorum(decisions);
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    encode_with_room(value, 0)
}

/// Room for a message's encoding, where that is known to be large.
fn room_of<P: OrderingProtocol>(message: &SystemMessage<P>) -> usize {
    match message {
        SystemMessage::StateTransfer(message) => {
            let bytes = message.bytes() + LENGTH_BYTES * message.blobs() as u64;
            usize::try_from(bytes).unwrap_or(0)
        }
        _ => 0,
    }
}

#[expect(
    clippy::expect_used,
    reason = "every message and record of ours encodes"
)]
fn encode_with_room<T: Serialize>(value: &T, room_bytes: usize) -> Bytes {
    wire::encode_with_room(value, room_bytes)
        .expect("derived encodings do not fail")
        .into()
}
