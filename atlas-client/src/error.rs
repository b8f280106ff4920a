//! What can come of a call besides a reply, and whether trying again is safe.

use atlas_common::wire::{DecodeError, EncodeError};
use atlas_common::{ClientId, NodeId, OpNumber, SessionId};
use atlas_smr_core::client_message::OperationResult;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Names one operation that was sent, for ever: no other operation has or gets this name. An
/// application that keeps it beside its effect can tell later whether the operation took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The client that sent it.
    pub client: ClientId,
    /// The client's session; [`SessionId::ZERO`] in the one case that the program tore the client's
    /// task down with a panic, and nothing is known.
    pub session: SessionId,
    /// The operation within the session.
    pub operation: OpNumber,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, session, operation) = (self.client, self.session, self.operation);
        write!(
            f,
            "operation {operation} of session {session} of client {client:?}"
        )
    }
}

/// Why the outcome of an operation that was sent is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// Its deadline passed. It may have been executed, or may still be.
    Deadline,
    /// The cluster closed the session. It was executed before that, or never will be.
    SessionExpired,
    /// It was executed, but the replicas no longer keep its reply: those of all clients together
    /// outgrew the cluster's `replies_bytes_max`. Reads are called again instead.
    Forgotten,
    /// The client was closed. It may have been executed, or may still be.
    Closed,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "no reply within the time allowed",
            Self::SessionExpired => "the cluster closed the session before the reply came",
            Self::Forgotten => "it was executed, but its reply is no longer kept",
            Self::Closed => "the client was closed before the reply came",
        })
    }
}

/// What the replicas agree that an operation came to, instead of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ApplicationError {
    /// The request does not decode as one of the application's. It had no effect.
    #[error("the application does not know the request")]
    InvalidRequest,
    /// The application failed (panicked) on it. Whether it had an effect, the application knows.
    #[error("the application failed on the request")]
    Failed,
    /// It was executed, but its reply is larger than the cluster allows.
    #[error("the reply is larger than the cluster allows")]
    ReplyTooLarge,
}

/// Why a call gave no reply.
///
/// The question that matters afterwards is answered by [`CallError::is_retry_safe`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// The deadline passed before the operation was sent, or it was a read. It had no effect.
    #[error("the call got no reply within the time allowed, and had no effect")]
    TimedOut,
    /// The operation was sent, and nobody told what became of it. It takes effect once or not at all.
    #[error("{doubt}; the outcome of {request} is unknown")]
    UnknownOutcome {
        /// The operation.
        request: RequestId,
        /// Why its outcome is unknown.
        doubt: Doubt,
    },
    /// The replicas agree on an error.
    #[error(transparent)]
    Application(#[from] ApplicationError),
    /// The operation is larger than the cluster allows. It was not sent.
    #[error("an operation of {found_bytes} bytes; the cluster allows {limit_bytes}")]
    TooLarge {
        /// Its size.
        found_bytes: usize,
        /// The cluster's `operation_bytes_max`.
        limit_bytes: usize,
    },
    /// As many calls as this client may hold back wait already. It was not sent.
    #[error("{waiting} calls wait already")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The client was closed before the operation was sent, or it was a read. It had no effect.
    #[error("the client is closed")]
    Closed,
    /// A typed request that cannot be encoded. It was not sent.
    #[error("the request {0}")]
    Encode(EncodeError),
    /// The operation was executed, but its reply is not of the type expected.
    #[error("the reply is not of the type expected: {0}")]
    Decode(DecodeError),
}

impl CallError {
    /// Whether to send the same operation again, as a new call, cannot make it take effect twice:
    /// true when it is certain that this call had no effect and will have none.
    ///
    /// False for [`Self::UnknownOutcome`], and for errors that came out of executing the operation
    /// ([`ApplicationError::Failed`], [`ApplicationError::ReplyTooLarge`], [`Self::Decode`]). A read
    /// has no effect, so that trying one again is always safe, whatever this says. Safe is not
    /// useful: an invalid request stays invalid.
    #[must_use]
    pub const fn is_retry_safe(&self) -> bool {
        match self {
            Self::TimedOut
            | Self::TooLarge { .. }
            | Self::Busy { .. }
            | Self::Closed
            | Self::Encode(_)
            | Self::Application(ApplicationError::InvalidRequest) => true,
            Self::UnknownOutcome { .. } | Self::Application(_) | Self::Decode(_) => false,
        }
    }
}

/// The reply, or the error that the replicas agree on; `None` when there is no telling any more.
pub(crate) fn outcome(result: OperationResult) -> Option<Result<bytes::Bytes, CallError>> {
    let error = match result {
        OperationResult::Ok(reply) => return Some(Ok(reply)),
        OperationResult::InvalidRequest => ApplicationError::InvalidRequest,
        OperationResult::ApplicationFailed => ApplicationError::Failed,
        OperationResult::ReplyTooLarge => ApplicationError::ReplyTooLarge,
        OperationResult::Forgotten => return None,
    };
    Some(Err(CallError::Application(error)))
}

/// No session could be opened in time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotReady {
    /// The cluster did not open a session within the time allowed.
    #[error("no session within {waited:?}; {}", describe(.reachable, .unreachable))]
    TimedOut {
        /// How long it was waited.
        waited: Duration,
        /// The replicas to which a connection stands.
        reachable: Vec<NodeId>,
        /// The others.
        unreachable: Vec<NodeId>,
    },
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

fn describe(reachable: &[NodeId], unreachable: &[NodeId]) -> String {
    let list = |ids: &[NodeId]| {
        let names: Vec<String> = ids.iter().map(NodeId::to_string).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    format!(
        "replicas reachable: {}; unreachable: {}",
        list(reachable),
        list(unreachable)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::crypto::PublicKey;

    #[test]
    fn only_what_certainly_had_no_effect_may_be_sent_again() {
        let client = ClientId {
            key: PublicKey([7; 32]),
            instance: 1,
        };
        let request = RequestId {
            client,
            session: SessionId(2),
            operation: OpNumber(3),
        };
        let unknown = CallError::UnknownOutcome {
            request,
            doubt: Doubt::Deadline,
        };
        assert!(!unknown.is_retry_safe());
        assert!(!CallError::from(ApplicationError::Failed).is_retry_safe());
        assert!(!CallError::from(ApplicationError::ReplyTooLarge).is_retry_safe());
        assert!(CallError::from(ApplicationError::InvalidRequest).is_retry_safe());
        assert!(CallError::TimedOut.is_retry_safe());
        assert!(CallError::Busy { waiting: 1 }.is_retry_safe());
        let text = unknown.to_string();
        assert!(text.contains("operation 3 of session 2"), "{text}");
    }

    #[test]
    fn not_ready_names_the_replicas() {
        let error = NotReady::TimedOut {
            waited: Duration::from_secs(2),
            reachable: vec![],
            unreachable: vec![NodeId(0), NodeId(3)],
        };
        assert_eq!(
            error.to_string(),
            "no session within 2s; replicas reachable: none; unreachable: 0, 3"
        );
    }
}
