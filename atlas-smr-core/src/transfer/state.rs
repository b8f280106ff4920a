//! State transfer: fetching a certified state in checked chunks.
//!
//! The fetcher asks all peers for their newest checkpoint, takes the first whose certificate and
//! manifest hold, and fetches its chunks from every peer that offers the same, a few at a time from
//! each. A chunk is checked against the certified manifest before it is kept; a peer whose chunk is
//! wrong is not asked again for a while, one that is too slow after three times. When the peers have
//! moved on to a newer checkpoint, what the two have in common is not fetched again.
//!
//! It keeps the state it fetches in memory, and nothing that is not certified: in a Byzantine cluster
//! no peer can make it keep more than the true state. In a crash cluster certificates carry no votes,
//! and peers are believed.

mod fetch;
mod serve;
#[cfg(test)]
mod tests;

use crate::manifest::Manifest;
use atlas_common::{NodeId, SeqNo, Time};
use atlas_core::{CheckpointCertificate, Limits, Membership};
use bytes::Bytes;
use fetch::Fetch;
use serde::{Deserialize, Serialize};
use serve::Serving;
use std::collections::VecDeque;
use std::sync::Arc;

/// What replicas say about states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateTransferMessage {
    /// Which checkpoint have you got above this one?
    RequestLatestState {
        /// The asker has everything up to here.
        above: SeqNo,
    },
    /// This one.
    Offer {
        /// What certifies it.
        certificate: CheckpointCertificate,
        /// The protocol's bytes that travel with it; not certified.
        frontier: Bytes,
        /// Its chunks.
        manifest: Manifest,
    },
    /// Send me a chunk.
    RequestChunk {
        /// Of this checkpoint.
        seq: SeqNo,
        /// Which one.
        index: u32,
    },
    /// The chunk.
    Chunk {
        /// Of this checkpoint.
        seq: SeqNo,
        /// Which one.
        index: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The checkpoint that was asked for is not here (any more), or none above `seq` is.
    Gone {
        /// Which one.
        seq: SeqNo,
    },
}

/// A state that was fetched whole; every chunk fits the certified manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedState {
    /// What certifies it.
    pub certificate: CheckpointCertificate,
    /// The protocol's bytes that travel with it; not certified.
    pub frontier: Bytes,
    /// How the state is cut.
    pub manifest: Manifest,
    /// The chunks, in order.
    pub chunks: Vec<Bytes>,
}

/// What a state transfer asks of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateTransferEffect {
    /// Send this.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: StateTransferMessage,
    },
    /// A state is here, checked: install it. The transfer is over.
    Fetched(FetchedState),
    /// Send `to` an [`StateTransferMessage::Offer`] of the newest certified checkpoint above `above`,
    /// or [`StateTransferMessage::Gone`]; then call [`MonolithicStateTransfer::served`].
    ServeOffer {
        /// Who asks.
        to: NodeId,
        /// It has everything up to here.
        above: SeqNo,
    },
    /// Send `to` this [`StateTransferMessage::Chunk`], or [`StateTransferMessage::Gone`]; then call
    /// [`MonolithicStateTransfer::served`].
    ReadChunk {
        /// Who asks.
        to: NodeId,
        /// Of this checkpoint.
        seq: SeqNo,
        /// Which one.
        index: u32,
    },
}

/// What a state transfer has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateTransferCounters {
    /// Chunks fetched and kept.
    pub chunks_fetched: u64,
    /// Chunks of an earlier attempt that did not have to be fetched again.
    pub chunks_reused: u64,
    /// Chunks that did not fit the manifest.
    pub chunks_rejected: u64,
    /// Offers whose certificate or manifest did not hold.
    pub offers_rejected: u64,
    /// Times that a peer was left alone because it lied or was too slow.
    pub peers_blamed: u64,
    /// Times that a transfer went on with a newer checkpoint.
    pub restarts: u64,
    /// Requests of peers that asked for more than their share.
    pub requests_dropped: u64,
}

/// A way to fetch a state from peers, and to serve it to them, as a state machine without I/O.
pub trait StateTransferProtocol {
    /// What replicas say to each other about states.
    type Message;
    /// What is asked of the driver.
    type Effect;

    /// Starts to fetch the newest state above decision `above`. While one is being fetched, only
    /// raises what is wanted.
    fn request_latest_state(&mut self, now: Time, above: SeqNo);

    /// Takes a peer's message: an answer to what was asked, or a request to be served.
    fn process_message(&mut self, now: Time, from: NodeId, message: Self::Message);

    /// The time-out of [`Self::deadline`] has come.
    fn handle_timeout(&mut self, now: Time);

    /// When [`Self::handle_timeout`] is to be called; it may be called at any time.
    fn deadline(&self) -> Option<Time>;

    /// The next thing to be done; `None` when there is nothing at present.
    fn poll(&mut self) -> Option<Self::Effect>;

    /// Whether a state is being fetched.
    fn is_active(&self) -> bool;
}

/// The transfer of a state that is one snapshot.
#[derive(Debug)]
pub struct MonolithicStateTransfer {
    fetch: Fetch,
    serving: Serving,
    counters: StateTransferCounters,
    effects: VecDeque<StateTransferEffect>,
}

impl MonolithicStateTransfer {
    /// A transfer among these peers, at rest.
    #[must_use]
    pub fn new(membership: Arc<Membership>, peers: Vec<NodeId>, limits: &Limits) -> Self {
        Self {
            fetch: Fetch::new(membership, peers, limits),
            serving: Serving::default(),
            counters: StateTransferCounters::default(),
            effects: VecDeque::new(),
        }
    }

    /// The driver has answered a [`StateTransferEffect::ServeOffer`] or
    /// [`StateTransferEffect::ReadChunk`] for this peer.
    pub fn served(&mut self, to: NodeId) {
        self.serving.served(to);
    }

    /// The replica has come to decision `decided` without a state: a transfer of an older one ends.
    pub fn on_progress(&mut self, decided: SeqNo) {
        self.fetch.on_progress(decided);
    }

    /// Ends the transfer and forgets what was fetched.
    pub fn cancel(&mut self) {
        self.fetch.cancel();
    }

    /// The state that is being fetched.
    #[must_use]
    pub fn fetching(&self) -> Option<&CheckpointCertificate> {
        self.fetch.certificate()
    }

    /// How many chunks are here, and how many there are.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        self.fetch.progress()
    }

    /// What has been counted.
    #[must_use]
    pub const fn counters(&self) -> &StateTransferCounters {
        &self.counters
    }
}

impl StateTransferProtocol for MonolithicStateTransfer {
    type Message = StateTransferMessage;
    type Effect = StateTransferEffect;

    fn request_latest_state(&mut self, now: Time, above: SeqNo) {
        let (counters, effects) = (&mut self.counters, &mut self.effects);
        self.fetch
            .start(now, above, &mut fetch::Out { counters, effects });
    }

    fn process_message(&mut self, now: Time, from: NodeId, message: StateTransferMessage) {
        let (counters, effects) = (&mut self.counters, &mut self.effects);
        let out = &mut fetch::Out { counters, effects };
        match message {
            StateTransferMessage::RequestLatestState { above } => {
                let effect = StateTransferEffect::ServeOffer { to: from, above };
                self.serving.admit(now, from, effect, out);
            }
            StateTransferMessage::RequestChunk { seq, index } => {
                let effect = StateTransferEffect::ReadChunk {
                    to: from,
                    seq,
                    index,
                };
                self.serving.admit(now, from, effect, out);
            }
            StateTransferMessage::Offer {
                certificate,
                frontier,
                manifest,
            } => {
                self.fetch
                    .on_offer(now, from, certificate, frontier, manifest, out);
            }
            StateTransferMessage::Chunk { seq, index, bytes } => {
                self.fetch.on_chunk(now, from, seq, index, bytes, out);
            }
            StateTransferMessage::Gone { seq } => self.fetch.on_gone(now, from, seq, out),
        }
    }

    fn handle_timeout(&mut self, now: Time) {
        let (counters, effects) = (&mut self.counters, &mut self.effects);
        self.fetch
            .on_deadline(now, &mut fetch::Out { counters, effects });
    }

    fn deadline(&self) -> Option<Time> {
        self.fetch.deadline()
    }

    fn poll(&mut self) -> Option<StateTransferEffect> {
        self.effects.pop_front()
    }

    fn is_active(&self) -> bool {
        self.fetch.is_active()
    }
}
