//! The trait that an ordering protocol implements.

use crate::batch::Batch;
use crate::context::Context;
use crate::input::{Input, Recovery};
use crate::limits::Limits;
use crate::membership::Membership;
use crate::verified::Reject;
use atlas_common::crypto::Signed;
use atlas_common::quorum::FaultModel;
use atlas_common::{Digest, NodeId, SeqNo, View};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use thiserror::Error;

/// A protocol that orders batches among the members of one epoch.
///
/// Implementations are deterministic: the same records and inputs give the same effects.
pub trait OrderingProtocol: Sized + Send + Debug + 'static {
    /// Its name in configuration files.
    const NAME: &'static str;
    /// What faults it survives.
    const FAULT_MODEL: FaultModel;

    /// Its settings, checked when they were made, with the key to sign with where it signs.
    type Config: Clone + Debug + Send + Sync + 'static;
    /// What replicas say to each other.
    type Message: Wire;
    /// What must survive a crash.
    type Record: Wire;
    /// Transferable evidence of a decision; `()` for crash-fault protocols.
    type Proof: Wire;
    /// A timer's name, not its deadline.
    type Timer: Copy + Ord + Debug + Send + 'static;

    /// Rebuilds the protocol from what survived.
    ///
    /// # Errors
    /// When the records contradict each other or the membership: the log is not this replica's, or
    /// damage has passed the checksums.
    fn recover(
        config: Self::Config,
        membership: Arc<Membership>,
        recovery: Recovery<Self>,
    ) -> Result<Self, RecoverError>;

    /// The limits that a cluster of so many voters begins with. A protocol whose messages grow with
    /// the cluster lowers what it must.
    #[must_use]
    fn limits_for(_voters: usize) -> Limits {
        Limits::default()
    }

    /// Checks a message by every rule that depends on no state. Runs outside the core, many at a
    /// time. Requests inside batches are checked by the caller.
    ///
    /// # Errors
    /// The rule that it breaks.
    fn verify(
        config: &Self::Config,
        membership: &Membership,
        from: NodeId,
        message: &Self::Message,
    ) -> Result<(), Reject>;

    /// Signatures that [`Self::verify`] will check in this message: a driver with many messages in hand
    /// has them checked together beforehand. Leaving some out, or all, changes no verdict.
    #[must_use]
    fn signatures(
        _config: &Self::Config,
        _membership: &Membership,
        _from: NodeId,
        _message: &Self::Message,
    ) -> Vec<Signed> {
        Vec::new()
    }

    /// The batches inside a message, whose requests the driver is to check.
    fn batches(message: &Self::Message) -> Vec<&Batch>;

    /// Checks the evidence that `batch` (by its digest) was decided in slot `seq`.
    ///
    /// # Errors
    /// What is wrong with it.
    fn verify_decision(
        config: &Self::Config,
        membership: &Membership,
        seq: SeqNo,
        batch: &Digest,
        proof: &Self::Proof,
    ) -> Result<(), Reject>;

    /// What a record says about decisions, to whoever reads a log from outside.
    #[must_use]
    fn recorded(_record: &Self::Record) -> Recorded<'_, Self> {
        Recorded::Other
    }

    /// Whether no correct replica sends both of these messages, each of which has been verified as the
    /// same replica's own: what [`Effect::Evidence`](crate::Effect::Evidence) holds.
    #[must_use]
    fn contradict(_first: &Self::Message, _second: &Self::Message) -> bool {
        false
    }

    /// Takes one input.
    fn step(&mut self, input: Input<Self>, cx: &mut Context<'_, Self>);

    /// The batch with this digest, when the protocol holds it in a slot that is not history: a peer
    /// has asked for it.
    fn body(&self, digest: &Digest) -> Option<Batch>;

    /// The protocol's own bytes that travel with a checkpoint at `seq` (Raft: its last term). Asked
    /// after `seq` was decided and before it is compacted.
    fn frontier(&self, seq: SeqNo) -> Bytes;

    /// Where the protocol stands.
    fn status(&self) -> ProtocolStatus;

    /// [`ProtocolStatus::decided`] alone, which is asked for all the time.
    fn decided(&self) -> SeqNo {
        self.status().decided
    }
}

/// A value that travels between replicas or to the log.
pub trait Wire: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static> Wire for T {}

/// What a record of the log says about decisions.
#[derive(Clone, Debug)]
pub enum Recorded<'a, P: OrderingProtocol> {
    /// It holds a batch, which another record may name by its digest.
    Batch(&'a Batch),
    /// The slot is decided.
    Decision {
        /// The slot.
        seq: SeqNo,
        /// The digest of the batch.
        batch: Digest,
        /// The evidence, where the protocol has one.
        proof: Option<&'a P::Proof>,
    },
    /// Nothing, or nothing final.
    Other,
}

/// Where a protocol stands, for operators and checkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct ProtocolStatus {
    /// The view (term) it is in.
    pub view: View,
    /// Whether it is between views.
    pub changing_view: bool,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// The last slot decided.
    pub decided: SeqNo,
    /// The low watermark: the last certified checkpoint.
    pub low: SeqNo,
    /// The high watermark: no slot above it is taken part in.
    pub high: SeqNo,
    /// Slots in flight: proposed and not decided.
    pub in_flight: usize,
    /// How many view changes it has completed since it started.
    pub view_changes: u64,
    /// Whether it has lost its log or a part of it, and therefore has no vote until what it may have
    /// promised no longer matters. Until then it counts as a faulty one: as many fewer may fail.
    pub forgot_votes: bool,
}

/// A protocol could not be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    /// A setting that does not fit the membership.
    #[error("configuration: {0}")]
    Config(String),
    /// This replica is not a member.
    #[error("replica {0} is not a member of the cluster")]
    NotAMember(NodeId),
    /// The records contradict each other.
    #[error("the log does not make sense at {at}: {what}")]
    Records {
        /// Where.
        at: String,
        /// What is wrong.
        what: String,
    },
}
