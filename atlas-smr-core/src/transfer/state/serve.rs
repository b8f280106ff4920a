//! Serving states to peers.

use super::bandwidth::Bandwidth;
use super::{Out, StateTransferEffect, StateTransferMessage};
use atlas_common::{Digest, NodeId, SeqNo, Time};
use atlas_core::Limits;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// Blobs in one request.
pub const ANSWER_DIGESTS_MAX: usize = 256;
/// Bytes in one answer, where a part is not larger and a frame not smaller.
const ANSWER_BYTES: usize = 1 << 20;

/// Requests of one peer that wait or are being answered at most.
pub(super) const OUTSTANDING_MAX: usize = 16;
/// A request that the driver has not answered by then counts no more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// The most bytes of blobs in one answer: 1 MiB; more where a single part is larger, less where a frame
/// would not hold it.
#[must_use]
pub fn answer_bytes_max(limits: &Limits) -> usize {
    // What the lengths of the blobs take, and the message around them.
    let overhead = Limits::ENVELOPE_BYTES + 16 * ANSWER_DIGESTS_MAX;
    let frame = limits.frame_bytes_max.saturating_sub(overhead);
    ANSWER_BYTES.min(frame).max(limits.chunk_bytes)
}

/// Answers a peer's request with what `read` gives: as many blobs as go into one message, and which
/// are not here. Reads no more than it sends, and one blob.
pub fn answer(
    digests: &[Digest],
    bytes_max: usize,
    mut read: impl FnMut(&Digest) -> Option<Bytes>,
) -> Vec<StateTransferMessage> {
    let (mut blobs, mut gone, mut bytes) = (Vec::new(), Vec::new(), 0);
    for digest in digests.iter().take(ANSWER_DIGESTS_MAX) {
        match read(digest) {
            Some(blob) if bytes + blob.len() > bytes_max => break,
            Some(blob) => {
                bytes += blob.len();
                blobs.push(blob);
            }
            None => gone.push(*digest),
        }
    }
    let blobs = (!blobs.is_empty()).then_some(StateTransferMessage::Parts { blobs });
    let gone = (!gone.is_empty()).then_some(StateTransferMessage::Gone { digests: gone });
    blobs.into_iter().chain(gone).collect()
}

/// What a peer wants.
#[derive(Debug)]
pub(super) enum Wish {
    /// The newest checkpoint above this one.
    Offer(SeqNo),
    /// These blobs.
    Parts(Vec<Digest>),
}

#[derive(Debug, Default)]
struct Asker {
    waiting: VecDeque<Wish>,
    /// What is being answered: since when, and what it was taken to cost.
    answering: VecDeque<(Time, u64)>,
}

/// What each peer wants and is being sent. Memory: 16 requests of 8 KiB for each member.
#[derive(Debug)]
pub(super) struct Serving {
    answer_bytes_max: u64,
    bandwidth: Bandwidth,
    peers: BTreeMap<NodeId, Asker>,
    /// Whose request went last.
    last: NodeId,
}

impl Serving {
    pub(super) const fn new(answer_bytes_max: u64, bytes_per_second: u64) -> Self {
        Self {
            answer_bytes_max,
            bandwidth: Bandwidth::new(bytes_per_second),
            peers: BTreeMap::new(),
            last: NodeId(0),
        }
    }

    pub(super) fn admit(&mut self, now: Time, from: NodeId, wish: Wish, out: &mut Out) {
        let peer = self.peers.entry(from).or_default();
        let forgotten = |(since, _): &(Time, u64)| since.after(FORGOTTEN_AFTER) <= now;
        while peer.answering.front().is_some_and(forgotten) {
            peer.answering.pop_front();
        }
        let malformed = match &wish {
            Wish::Offer(_) => false,
            Wish::Parts(digests) => digests.is_empty() || digests.len() > ANSWER_DIGESTS_MAX,
        };
        if malformed || peer.waiting.len() + peer.answering.len() >= OUTSTANDING_MAX {
            out.counters.requests_dropped += 1;
            return;
        }
        peer.waiting.push_back(wish);
        self.release(now, out);
    }

    /// Lets requests go, those of each peer in turn, as the bandwidth allows.
    pub(super) fn release(&mut self, now: Time, out: &mut Out) {
        while let Some(id) = self.next() {
            if !self.bandwidth.is_open(now) {
                return;
            }
            let Some(peer) = self.peers.get_mut(&id) else {
                return;
            };
            let Some(wish) = peer.waiting.pop_front() else {
                return;
            };
            self.last = id;
            self.bandwidth.take(self.answer_bytes_max);
            peer.answering.push_back((now, self.answer_bytes_max));
            out.effects.push_back(match wish {
                Wish::Offer(above) => StateTransferEffect::ServeOffer { to: id, above },
                Wish::Parts(digests) => StateTransferEffect::ServeParts { to: id, digests },
            });
        }
    }

    /// The next peer behind the last one that has something waiting.
    fn next(&self) -> Option<NodeId> {
        let waits = |(id, peer): (&NodeId, &Asker)| (!peer.waiting.is_empty()).then_some(*id);
        let behind = (Bound::Excluded(self.last), Bound::Unbounded);
        let behind = self.peers.range(behind).find_map(waits);
        behind.or_else(|| self.peers.iter().find_map(waits))
    }

    pub(super) fn served(&mut self, now: Time, to: NodeId, bytes: u64, out: &mut Out) {
        out.counters.bytes_served += bytes;
        if let Some(peer) = self.peers.get_mut(&to)
            && let Some((_, taken)) = peer.answering.pop_front()
        {
            self.bandwidth.give_back(taken.saturating_sub(bytes));
            self.bandwidth.take(bytes.saturating_sub(taken));
        }
        self.release(now, out);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.next()?;
        self.bandwidth.opens_at()
    }
}
