//! State transfer: fetching a certified state by its parts, and only those that are not here.
//!
//! A state is a tree of blobs under their digests ([`StateDescriptor`]). The fetcher asks all peers for
//! their newest checkpoint, takes the first whose certificate and descriptor hold, and goes through
//! its pages: what the own store holds is read from there, the rest is fetched from every peer that
//! offers the same state, several requests at a time from each. A blob is checked by its digest, and
//! a page by its cut, before anything is done with it; then it goes to the store at once. So nothing
//! that was fetched is ever fetched again, whether the transfer goes on after a crash or with a newer
//! checkpoint; and of the state only digests are in memory: the descriptor (36 bytes a page), and at
//! most 49,152 references to parts (about 100 bytes each), whatever the size of the state. Blobs on
//! their way to the store and from peers are bounded by 32 MiB.
//!
//! A peer that sends what was not asked for, or says nothing, is left alone for a while. In a crash
//! cluster certificates carry no votes, and peers are believed.
//!
//! [`StateTransfer::request_parts`] fetches single blobs of a state that is here, to repair a damaged
//! disk. It waits while a state is being fetched.

mod bandwidth;
mod download;
mod fetch;
mod plan;
mod repair;
mod serve;
#[cfg(test)]
mod tests;

use atlas_common::digest_map::MapKey;
use atlas_common::parts::{Blob, PartRef, StateDescriptor};
use atlas_common::{Digest, NodeId, SeqNo, Time};
use atlas_core::{CheckpointCertificate, Limits, Membership};
use bytes::Bytes;
use download::Download;
pub use download::IN_FLIGHT_MAX;
use fetch::Fetch;
use serde::{Deserialize, Serialize};
pub use serve::{ANSWER_DIGESTS_MAX, answer, answer_bytes_max};
use serve::{Serving, Wish};
use std::collections::VecDeque;
use std::sync::Arc;

/// What replicas say about states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateTransferMessage {
    /// Which checkpoint have you got above this one? Without one there is no answer.
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
        /// Its pages. Its root is what is certified.
        descriptor: StateDescriptor,
    },
    /// Send me these blobs: pages or parts, at most [`ANSWER_DIGESTS_MAX`].
    RequestParts {
        /// Which.
        digests: Vec<Digest>,
    },
    /// Blobs that were asked for, together at most [`answer_bytes_max`] bytes.
    Parts {
        /// Their bytes, each in memory of its own: it becomes a part of the state.
        #[serde(deserialize_with = "atlas_common::wire::all_copied")]
        blobs: Vec<Bytes>,
    },
    /// These blobs are not here, or no more.
    Gone {
        /// Which.
        digests: Vec<Digest>,
    },
}

impl StateTransferMessage {
    /// What it weighs on the network, in bytes, about: that of the blobs in it, or of the references.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        const REFERENCE_BYTES: usize = 36;
        let blobs = |blobs: &[Bytes]| blobs.iter().map(Bytes::len).sum();
        let bytes: usize = match self {
            Self::Parts { blobs: parts } => blobs(parts),
            Self::Offer { descriptor, .. } => REFERENCE_BYTES * descriptor.pages.len(),
            Self::RequestParts { digests } | Self::Gone { digests } => 32 * digests.len(),
            Self::RequestLatestState { .. } => 0,
        };
        bytes as u64
    }

    /// How many blobs are in it.
    #[must_use]
    pub const fn blobs(&self) -> usize {
        match self {
            Self::Parts { blobs } => blobs.len(),
            _ => 0,
        }
    }
}

/// A certified state all of whose blobs are in the own store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedState {
    /// What certifies it.
    pub certificate: CheckpointCertificate,
    /// The protocol's bytes that travel with it; not certified.
    pub frontier: Bytes,
    /// Its pages.
    pub descriptor: StateDescriptor,
}

/// A question to the own checkpoint store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Tells questions apart.
    pub ticket: u64,
    /// Blobs to be read.
    pub pages: Vec<Digest>,
    /// Blobs of which only is asked whether they are there.
    pub parts: Vec<Digest>,
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookedUp {
    /// That of the question.
    pub ticket: u64,
    /// The blobs of [`Lookup::pages`], in order, as far as they are there and whole.
    pub pages: Vec<Option<Bytes>>,
    /// Those of [`Lookup::parts`] that are not there, in order.
    pub missing: Vec<Digest>,
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
    /// Fetching a state begins, in the place of another one that was being fetched: what belongs to it
    /// is to be kept from now on.
    Begin(StateDescriptor),
    /// The state that was being fetched is wanted no more.
    End,
    /// Look into the own store, behind all that was to be kept before; then call
    /// [`StateTransfer::looked_up`].
    Lookup(Lookup),
    /// Keep these checked blobs in the own store, then call [`StateTransfer::kept`].
    Keep {
        /// The blobs.
        blobs: Vec<Blob>,
    },
    /// All of a state is in the own store: install it. The transfer is over.
    Fetched(FetchedState),
    /// Put these checked blobs, of [`StateTransfer::request_parts`], in the place of damaged ones, then
    /// call [`StateTransfer::kept`].
    Repair {
        /// The blobs.
        blobs: Vec<Blob>,
    },
    /// No peer has these blobs, of [`StateTransfer::request_parts`]. They are asked for no more.
    Unrepairable {
        /// Which.
        digests: Vec<Digest>,
    },
    /// Send `to` an [`StateTransferMessage::Offer`] of the newest certified checkpoint above `above`,
    /// if there is one; then call [`StateTransfer::served`].
    ServeOffer {
        /// Who asks.
        to: NodeId,
        /// It has everything up to here.
        above: SeqNo,
    },
    /// Send `to` what [`answer`] makes of these, then call [`StateTransfer::served`].
    ServeParts {
        /// Who asks.
        to: NodeId,
        /// For which blobs.
        digests: Vec<Digest>,
    },
}

/// What a state transfer has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateTransferCounters {
    /// Pages and parts fetched.
    pub parts_fetched: u64,
    /// Their bytes.
    pub bytes_fetched: u64,
    /// Parts of fetched states that were here already.
    pub parts_reused: u64,
    /// Their bytes.
    pub bytes_reused: u64,
    /// Blobs that were not asked for, or were altered.
    pub parts_rejected: u64,
    /// Damaged blobs replaced by peers' ones.
    pub parts_repaired: u64,
    /// Offers whose certificate or descriptor did not hold.
    pub offers_rejected: u64,
    /// Times that a peer was left alone because it lied or was too slow.
    pub peers_blamed: u64,
    /// Times that a transfer went on with a newer checkpoint.
    pub restarts: u64,
    /// Requests of peers that asked for more than their share.
    pub requests_dropped: u64,
    /// Bytes sent to peers that asked.
    pub bytes_served: u64,
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

/// Where counts and effects go.
#[derive(Debug, Default)]
struct Out {
    counters: StateTransferCounters,
    effects: VecDeque<StateTransferEffect>,
}

impl Out {
    fn send(&mut self, to: NodeId, message: StateTransferMessage) {
        self.effects
            .push_back(StateTransferEffect::Send { to, message });
    }
}

/// Fetches states, repairs them, and serves them to peers.
#[derive(Debug)]
pub struct StateTransfer {
    fetch: Fetch,
    serving: Serving,
    out: Out,
}

impl StateTransfer {
    /// A transfer among these peers, at rest. It asks for, and serves, at most `bytes_per_second`
    /// each; 0 is no limit. What it does is the same whatever the key, which only protects its speed.
    #[must_use]
    pub fn new(
        membership: Arc<Membership>,
        peers: Vec<NodeId>,
        limits: &Limits,
        bytes_per_second: u64,
        key: MapKey,
    ) -> Self {
        let answer_bytes = answer_bytes_max(limits);
        let download = Download::new(peers, answer_bytes, bytes_per_second, key);
        Self {
            fetch: Fetch::new(membership, download, limits, key),
            serving: Serving::new(answer_bytes as u64, bytes_per_second),
            out: Out::default(),
        }
    }

    /// Fetches single blobs of a state that is here, to repair it. At most 4,096 at a time; the rest
    /// is left for another time.
    pub fn request_parts(&mut self, now: Time, parts: &[PartRef]) {
        self.fetch.request_parts(now, parts, &mut self.out);
    }

    /// Takes the blobs of a [`StateTransferMessage::Parts`] that were digested elsewhere.
    pub fn take_parts(&mut self, now: Time, from: NodeId, blobs: Vec<Blob>) {
        self.fetch.on_parts(now, from, blobs, &mut self.out);
    }

    /// The answer to [`StateTransferEffect::Lookup`].
    pub fn looked_up(&mut self, now: Time, found: LookedUp) {
        self.fetch.on_looked_up(now, found, &mut self.out);
    }

    /// The driver has kept so many bytes of [`StateTransferEffect::Keep`] or
    /// [`StateTransferEffect::Repair`].
    pub fn kept(&mut self, now: Time, bytes: u64) {
        self.fetch.on_kept(now, bytes, &mut self.out);
    }

    /// The driver has sent this peer so many bytes as the answer to a
    /// [`StateTransferEffect::ServeOffer`] or [`StateTransferEffect::ServeParts`].
    pub fn served(&mut self, now: Time, to: NodeId, bytes: u64) {
        self.serving.served(now, to, bytes, &mut self.out);
    }

    /// The replica has come to decision `decided` without a state: a transfer of an older one ends.
    pub fn on_progress(&mut self, decided: SeqNo) {
        self.fetch.on_progress(decided, &mut self.out);
    }

    /// The state that is being fetched.
    #[must_use]
    pub fn fetching(&self) -> Option<&CheckpointCertificate> {
        self.fetch.certificate()
    }

    /// How many bytes of the state that is being fetched are here, and how many it has.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        self.fetch.progress()
    }

    /// Whether damaged parts are being fetched.
    #[must_use]
    pub fn is_repairing(&self) -> bool {
        self.fetch.is_repairing()
    }

    /// What has been counted.
    #[must_use]
    pub const fn counters(&self) -> &StateTransferCounters {
        &self.out.counters
    }
}

impl StateTransferProtocol for StateTransfer {
    type Message = StateTransferMessage;
    type Effect = StateTransferEffect;

    fn request_latest_state(&mut self, now: Time, above: SeqNo) {
        self.fetch.start(now, above, &mut self.out);
    }

    fn process_message(&mut self, now: Time, from: NodeId, message: StateTransferMessage) {
        let out = &mut self.out;
        match message {
            StateTransferMessage::RequestLatestState { above } => {
                self.serving.admit(now, from, Wish::Offer(above), out);
            }
            StateTransferMessage::RequestParts { digests } => {
                self.serving.admit(now, from, Wish::Parts(digests), out);
            }
            StateTransferMessage::Offer {
                certificate,
                frontier,
                descriptor,
            } => {
                let state = FetchedState {
                    certificate,
                    frontier,
                    descriptor,
                };
                self.fetch.on_offer(now, from, state, out);
            }
            StateTransferMessage::Parts { blobs } => {
                self.take_parts(now, from, Blob::of_all(blobs));
            }
            StateTransferMessage::Gone { digests } => self.fetch.on_gone(now, from, &digests, out),
        }
    }

    fn handle_timeout(&mut self, now: Time) {
        self.serving.release(now, &mut self.out);
        self.fetch.on_deadline(now, &mut self.out);
    }

    fn deadline(&self) -> Option<Time> {
        let deadlines = [self.fetch.deadline(), self.serving.deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn poll(&mut self) -> Option<StateTransferEffect> {
        self.out.effects.pop_front()
    }

    fn is_active(&self) -> bool {
        self.fetch.is_active()
    }
}
