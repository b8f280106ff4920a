//! What replicas say to each other, and the checks each message passes before the core sees it.

use crate::bundle::RequestBundle;
use crate::request_pre_processing::BundleChecker;
use crate::transfer::{LogTransferMessage, StateTransferMessage};
use atlas_common::crypto::Signature;
use atlas_common::parts::Blob;
use atlas_common::{Digest, NodeId};
use atlas_core::{
    Batch, CheckpointCertificate, CheckpointId, Membership, OrderingProtocol, Reject, Verified,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The queues of the network between replicas: each has its own budget, so that a state transfer or
/// a flood of requests never delays votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageLane {
    /// The ordering protocol, checkpoint votes and missing bodies.
    Ordering,
    /// Requests on their way to the leader.
    Application,
    /// Log and state transfer.
    Transfer,
}

/// A message between replicas.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum SystemMessage<P: OrderingProtocol> {
    /// The ordering protocol's own.
    Protocol(P::Message),
    /// Bundles that clients sent to a replica that does not lead.
    ForwardedRequests(Vec<Bytes>),
    /// Send me the batch with this digest.
    FetchBody(Digest),
    /// The batch that was asked for.
    Body(Batch),
    /// The sender's state after a decision.
    CheckpointVote {
        /// Which state.
        id: CheckpointId,
        /// The sender's signature over it.
        signature: Signature,
    },
    /// A certified checkpoint, for a replica that still collects votes for it.
    CheckpointCertificate(CheckpointCertificate),
    /// Decisions that a replica missed.
    LogTransfer(LogTransferMessage<P::Proof>),
    /// A state that a replica is too far behind to rebuild.
    StateTransfer(StateTransferMessage),
}

impl<P: OrderingProtocol> Clone for SystemMessage<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Protocol(message) => Self::Protocol(message.clone()),
            Self::ForwardedRequests(bundles) => Self::ForwardedRequests(bundles.clone()),
            Self::FetchBody(digest) => Self::FetchBody(*digest),
            Self::Body(batch) => Self::Body(batch.clone()),
            Self::CheckpointVote { id, signature } => Self::CheckpointVote {
                id: *id,
                signature: *signature,
            },
            Self::CheckpointCertificate(certificate) => {
                Self::CheckpointCertificate(certificate.clone())
            }
            Self::LogTransfer(message) => Self::LogTransfer(message.clone()),
            Self::StateTransfer(message) => Self::StateTransfer(message.clone()),
        }
    }
}

impl<P: OrderingProtocol> SystemMessage<P> {
    /// The lane it travels on.
    #[must_use]
    pub const fn lane(&self) -> MessageLane {
        match self {
            Self::ForwardedRequests(_) => MessageLane::Application,
            Self::LogTransfer(_) | Self::StateTransfer(_) => MessageLane::Transfer,
            _ => MessageLane::Ordering,
        }
    }

    /// A short name, for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Protocol(_) => "protocol",
            Self::ForwardedRequests(_) => "forwarded_requests",
            Self::FetchBody(_) => "fetch_body",
            Self::Body(_) => "body",
            Self::CheckpointVote { .. } => "checkpoint_vote",
            Self::CheckpointCertificate(_) => "checkpoint_certificate",
            Self::LogTransfer(_) => "log_transfer",
            Self::StateTransfer(_) => "state_transfer",
        }
    }
}

/// A message that passed every check that depends on no state: the only kind the core takes.
#[derive(Debug)]
pub enum CheckedMessage<P: OrderingProtocol> {
    /// The ordering protocol's own.
    Protocol(Verified<P::Message>),
    /// Bundles with valid signatures of admitted clients.
    ForwardedRequests(Vec<RequestBundle>),
    /// A wish for a batch.
    FetchBody(Digest),
    /// A batch whose bundles are valid; whether it was asked for is not checked.
    Body(Batch),
    /// A vote with a valid signature of the sender.
    CheckpointVote {
        /// Which state.
        id: CheckpointId,
        /// The signature.
        signature: Signature,
    },
    /// A valid certificate.
    CheckpointCertificate(CheckpointCertificate),
    /// Part of a log transfer; every decision in it has a valid proof.
    LogTransfer(LogTransferMessage<P::Proof>),
    /// Part of a state transfer; its receiver checks it against certificates.
    StateTransfer(StateTransferMessage),
    /// Blobs of a state, digested; whether they were asked for is not checked.
    Parts(Vec<Blob>),
}

/// Checks messages between replicas. Holds no state of the core, so that any thread may use it.
#[derive(Debug)]
pub struct MessageChecker<P: OrderingProtocol> {
    config: P::Config,
    membership: Arc<Membership>,
    bundles: Arc<BundleChecker>,
}

impl<P: OrderingProtocol> Clone for MessageChecker<P> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            membership: Arc::clone(&self.membership),
            bundles: Arc::clone(&self.bundles),
        }
    }
}

impl<P: OrderingProtocol> MessageChecker<P> {
    /// A checker for one epoch.
    #[must_use]
    pub fn new(
        config: P::Config,
        membership: Arc<Membership>,
        bundles: Arc<BundleChecker>,
    ) -> Self {
        Self {
            config,
            membership,
            bundles,
        }
    }

    /// What checks clients' bundles.
    #[must_use]
    pub fn bundles(&self) -> &Arc<BundleChecker> {
        &self.bundles
    }

    /// Has the signatures in these messages checked together, as far as they are told beforehand. A
    /// message alone gains nothing by it.
    pub fn prepare(&self, messages: &[(NodeId, SystemMessage<P>)]) {
        if messages.len() < 2 {
            return;
        }
        let mut signed = Vec::new();
        for (from, message) in messages {
            if let SystemMessage::Protocol(message) = message {
                let (config, membership) = (&self.config, &self.membership);
                signed.extend(P::signatures(config, membership, *from, message));
                if self.membership.quorums().signed() {
                    for batch in P::batches(message) {
                        signed.extend(self.bundles.unchecked(batch));
                    }
                }
            }
        }
        self.membership.verifier().prepare(&signed);
    }

    /// Checks a message from a peer.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(
        &self,
        from: NodeId,
        message: SystemMessage<P>,
    ) -> Result<CheckedMessage<P>, Reject> {
        if self.membership.member(from).is_none() {
            return Err(Reject::NotAMember);
        }
        Ok(match message {
            SystemMessage::Protocol(message) => {
                let mut check = |batch: &Batch| self.check_batch(batch);
                CheckedMessage::Protocol(Verified::check::<P>(
                    &self.config,
                    &self.membership,
                    from,
                    message,
                    &mut check,
                )?)
            }
            SystemMessage::ForwardedRequests(bundles) => {
                CheckedMessage::ForwardedRequests(self.bundles.check_forwarded(bundles)?)
            }
            SystemMessage::FetchBody(digest) => CheckedMessage::FetchBody(digest),
            SystemMessage::Body(batch) => {
                self.check_batch(&batch)?;
                CheckedMessage::Body(batch)
            }
            SystemMessage::CheckpointVote { id, signature } => {
                self.check_vote(from, &id, signature)?;
                CheckedMessage::CheckpointVote { id, signature }
            }
            SystemMessage::CheckpointCertificate(certificate) => {
                certificate.verify(&self.membership)?;
                CheckedMessage::CheckpointCertificate(certificate)
            }
            SystemMessage::LogTransfer(message) => {
                self.check_decisions(&message)?;
                CheckedMessage::LogTransfer(message)
            }
            SystemMessage::StateTransfer(StateTransferMessage::Parts { blobs }) => {
                CheckedMessage::Parts(Blob::of_all(blobs))
            }
            SystemMessage::StateTransfer(message) => CheckedMessage::StateTransfer(message),
        })
    }

    /// In a crash cluster the replica that received a bundle has checked it, and replicas do not lie.
    fn check_batch(&self, batch: &Batch) -> Result<(), Reject> {
        if self.membership.quorums().signed() {
            self.bundles.check_batch(batch)
        } else {
            Ok(())
        }
    }

    fn check_vote(
        &self,
        from: NodeId,
        id: &CheckpointId,
        signature: Signature,
    ) -> Result<(), Reject> {
        if id.epoch != self.membership.epoch() {
            return Err(Reject::WrongEpoch);
        }
        let digest = id.signing_digest(self.membership.genesis());
        let signed = self.membership.signed_by_voter(from, digest, signature);
        let signed = signed.ok_or(Reject::NotAMember)?;
        if self.membership.verifier().verify(&signed) {
            Ok(())
        } else {
            Err(Reject::BadSignature)
        }
    }

    fn check_decisions(&self, message: &LogTransferMessage<P::Proof>) -> Result<(), Reject> {
        match message {
            LogTransferMessage::Decisions {
                first, decisions, ..
            } => {
                for (seq, (batch, proof)) in (0..).map(|i| first.plus(i)).zip(decisions) {
                    let (config, membership) = (&self.config, &self.membership);
                    P::verify_decision(config, membership, seq, &batch.digest(), proof)?;
                }
            }
            LogTransferMessage::Unavailable {
                checkpoint: Some(certificate),
                ..
            } => {
                certificate.verify(&self.membership)?;
            }
            _ => {}
        }
        Ok(())
    }
}
