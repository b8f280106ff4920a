//! Checked messages: what a protocol steps has passed its checks, and its type shows it.

use crate::batch::Batch;
use crate::membership::Membership;
use crate::protocol::OrderingProtocol;
use atlas_common::NodeId;
use std::ops::Deref;
use thiserror::Error;

/// A message that has passed every check that does not depend on state: its sender may send it, its
/// signatures are valid, and every request in it was signed by its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<M>(M);

impl<M> Verified<M> {
    /// Checks a message from `from`: by the protocol's own rules, then each batch inside it by
    /// `check_batch`, which checks the clients' signatures and depends on no state (in a crash
    /// cluster it may accept all).
    ///
    /// # Errors
    /// The first rule that the message breaks.
    pub fn check<P: OrderingProtocol<Message = M>>(
        config: &P::Config,
        membership: &Membership,
        from: NodeId,
        message: M,
        check_batch: &mut dyn FnMut(&Batch) -> Result<(), Reject>,
    ) -> Result<Self, Reject> {
        if membership.member(from).is_none() {
            return Err(Reject::NotAMember);
        }
        P::verify(config, membership, from, &message)?;
        for batch in P::batches(&message) {
            check_batch(batch)?;
        }
        Ok(Self(message))
    }

    /// The message itself.
    pub fn into_inner(self) -> M {
        self.0
    }
}

impl<M> Deref for Verified<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

/// Why a message was dropped. Each is counted; none is an error of the replica that says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Reject {
    /// The bytes are not a message.
    #[error("not a valid message")]
    Malformed,
    /// The sender, or a signer inside the message, is not a voter of this epoch.
    #[error("sender or signer is not a member with a vote")]
    NotAMember,
    /// The message is signed in another's name, or sent by one who may not send it.
    #[error("sent or signed by the wrong replica")]
    WrongSender,
    /// A signature is not valid.
    #[error("invalid signature")]
    BadSignature,
    /// The message names another epoch or cluster.
    #[error("of another epoch or cluster")]
    WrongEpoch,
    /// A certificate has too few votes, votes of different content, or one signer twice.
    #[error("certificate without a valid quorum")]
    BadCertificate,
    /// The message is larger, or holds more, than its limit.
    #[error("over its size limit")]
    TooLarge,
    /// A request inside is malformed or not signed by its client.
    #[error("holds an invalid request")]
    BadRequest,
    /// A sequence number or view beyond the window.
    #[error("beyond the window")]
    OutOfWindow,
    /// Of a view, slot or round that is over.
    #[error("stale")]
    Stale,
    /// The same vote again.
    #[error("duplicate")]
    Duplicate,
    /// Contradicts what the same replica signed before.
    #[error("equivocation")]
    Equivocation,
    /// A new view that does not follow from its view-change messages.
    #[error("new view does not follow from its certificates")]
    BadNewView,
    /// A proposal whose time is too far ahead of this replica's clock.
    #[error("proposed time too far ahead")]
    FutureTime,
}

impl Reject {
    /// The reason's name in metrics: lower case with underscores.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotAMember => "not_a_member",
            Self::WrongSender => "wrong_sender",
            Self::BadSignature => "bad_signature",
            Self::WrongEpoch => "wrong_epoch",
            Self::BadCertificate => "bad_certificate",
            Self::TooLarge => "too_large",
            Self::BadRequest => "bad_request",
            Self::OutOfWindow => "out_of_window",
            Self::Stale => "stale",
            Self::Duplicate => "duplicate",
            Self::Equivocation => "equivocation",
            Self::BadNewView => "bad_new_view",
            Self::FutureTime => "future_time",
        }
    }
}
