//! Answering peers that miss decisions.

use super::{LogTransferMessage, RANGE_SLOTS};
use crate::decisions::DecisionStore;
use atlas_common::{SeqNo, Time, wire};
use atlas_core::{Batch, CheckpointCertificate, Limits};
use serde::Serialize;

/// Bytes that a peer may be sent at once after a rest, and per second.
const BURST_BYTES: u64 = 64 << 20;
const BYTES_PER_SECOND: u64 = 128 << 20;
/// What any answer counts, so that empty ones are not free.
const ANSWER_BYTES: u64 = 4096;

/// What a peer may still be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    bytes: u64,
    at: Time,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes: BURST_BYTES,
            at: Time::ZERO,
        }
    }
}

impl Budget {
    fn refill(&mut self, now: Time) {
        let gained = now.since(self.at).as_nanos() * u128::from(BYTES_PER_SECOND) / 1_000_000_000;
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        if gained > 0 {
            self.bytes = self.bytes.saturating_add(gained).min(BURST_BYTES);
            self.at = now;
        }
    }

    fn take(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The most bytes of decisions in one answer: half a frame, and at least one of the largest batches
/// (which fits a frame, as the limits are checked for).
pub(super) const fn response_bytes_max(limits: &Limits) -> usize {
    let half = limits.frame_bytes_max / 2;
    if half < limits.batch_bytes_max {
        limits.batch_bytes_max
    } else {
        half
    }
}

/// What a decision costs in a buffer.
pub(super) fn size<Proof: Serialize>(decision: &(Batch, Proof)) -> usize {
    let (batch, proof) = decision;
    batch.raw().len()
        + 32 * batch.bundles().len()
        + wire::encode(proof).map_or(0, |encoded| encoded.len())
        + 256
}

pub(super) fn answer<Proof: Clone + Serialize>(
    budget: &mut Budget,
    now: Time,
    (from, to): (SeqNo, SeqNo),
    store: &DecisionStore<Proof>,
    bytes_max: usize,
    decided: SeqNo,
    checkpoint: Option<&CheckpointCertificate>,
) -> Option<LogTransferMessage<Proof>> {
    budget.refill(now);
    if budget.bytes < ANSWER_BYTES || from == SeqNo::ZERO || to < from {
        return None;
    }
    let to = to.min(from.plus(RANGE_SLOTS - 1));
    let decisions = store.range(from, to, bytes_max);
    let sent: usize = decisions.iter().map(|(batch, _)| batch.raw().len()).sum();
    budget.take(ANSWER_BYTES + sent as u64);
    Some(if decisions.is_empty() {
        let (oldest, checkpoint) = (store.oldest(), checkpoint.cloned());
        LogTransferMessage::Unavailable {
            oldest,
            decided,
            checkpoint,
        }
    } else {
        LogTransferMessage::Decisions {
            first: from,
            decisions,
            decided,
        }
    })
}
