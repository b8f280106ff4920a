//! What a driver feeds a protocol.

use crate::batch::Batch;
use crate::certificate::CheckpointCertificate;
use crate::protocol::OrderingProtocol;
use crate::verified::Verified;
use atlas_common::{Digest, Lsn, NodeId, SeqNo, Time};
use bytes::Bytes;
use std::sync::Arc;

/// One input of [`OrderingProtocol::step`].
#[derive(Debug)]
pub enum Input<P: OrderingProtocol> {
    /// The first input after [`OrderingProtocol::recover`], once.
    Start,
    /// A peer's message.
    Message {
        /// The peer, by the key of its connection.
        from: NodeId,
        /// What it says.
        message: Verified<P::Message>,
    },
    /// Which waiting request is the oldest has changed. `None`: nothing waits. Its timer is this
    /// request's own: the progress of others does not reset it, or a leader could starve one client
    /// for ever.
    Waiting(Option<Waiting>),
    /// The answer to [`Effect::WantBatch`](crate::Effect::WantBatch): never null.
    Propose(Batch),
    /// The answer to [`Effect::Fetch`](crate::Effect::Fetch). Its digest was recomputed, its
    /// requests are checked.
    Body(Batch),
    /// A timer that was set and not cancelled has run out.
    Timeout(P::Timer),
    /// All records up to here are durable.
    Durable(Lsn),
    /// Something outside the protocol distrusts the leader (an operator, a throughput monitor).
    Suspect,
    /// A client asks for a linearizable read; answered by
    /// [`Effect::ReadAt`](crate::Effect::ReadAt) or
    /// [`Effect::ReadRefused`](crate::Effect::ReadRefused).
    Read(ReadId),
    /// An operator's wish.
    Admin(Admin),
    /// A decision learnt from peers, its proof checked by
    /// [`OrderingProtocol::verify_decision`].
    Decided {
        /// Its slot; decisions come in order, and one already known is ignored.
        seq: SeqNo,
        /// What was decided.
        batch: Batch,
        /// The evidence.
        proof: P::Proof,
    },
    /// A checkpoint is certified and durable here: older slots are history.
    Checkpointed(Arc<CheckpointCertificate>),
    /// A checkpoint fetched from peers has replaced this replica's state. The next decision to come
    /// is the one after it.
    StateInstalled(Installed),
}

/// A checkpoint that this replica's state came from.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The certificate.
    pub certificate: Arc<CheckpointCertificate>,
    /// The protocol's own bytes that travel with the checkpoint, from
    /// [`OrderingProtocol::frontier`] of the replica that took it. Not certified: in a Byzantine
    /// cluster not to be believed.
    pub frontier: Bytes,
}

impl Installed {
    /// The last decision that the state holds.
    #[must_use]
    pub fn seq(&self) -> SeqNo {
        self.certificate.id.seq
    }
}

/// The request that has waited longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Names the request.
    pub oldest: Digest,
    /// When it arrived.
    pub since: Time,
}

/// Names a read while it waits for its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// What an operator may ask of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Hand leadership to this replica, as far as the protocol can.
    TransferLeadership {
        /// The wished-for leader.
        to: NodeId,
    },
}

/// How a replica came to be what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It starts for the first time: its birth record is there, and nothing else.
    Genesis,
    /// It has its log.
    Restart,
    /// It lost its log (no birth record): it may have voted for things it does not remember, so it
    /// has no vote until the protocol's recovery rule is fulfilled.
    Amnesiac,
}

/// Everything a protocol is rebuilt from.
#[derive(Debug)]
pub struct Recovery<P: OrderingProtocol> {
    /// Which member this replica is.
    pub me: NodeId,
    /// How it came to be.
    pub origin: Origin,
    /// The checkpoint that the executor starts from, if any: decisions up to it are not decided
    /// again.
    pub installed: Option<Installed>,
    /// The durable records, in order, from the last compaction on.
    pub records: Vec<(Lsn, P::Record)>,
}
