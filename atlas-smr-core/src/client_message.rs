//! What clients and replicas say to each other.
//!
//! Replies carry no signature: they travel on a connection whose key is the replica's identity, and
//! nobody else needs convincing.

use atlas_common::{Digest, NodeId, OpNumber, SeqNo, SessionId, View};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// From a client to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientMessage {
    /// An encoded [`RequestBundle`](crate::bundle::RequestBundle) to be ordered.
    Bundle(#[serde(deserialize_with = "atlas_common::wire::copied")] Bytes),
    /// A read that is not ordered.
    Read(ReadRequest),
    /// How is the replica? For operators; the number comes back with the answer.
    Status(u64),
}

/// An unordered read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// Names the read among this client's.
    pub id: u64,
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// The request, encoded as the application has it.
    pub operation: Bytes,
}

/// How fresh the answer of a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// It reflects every operation that was answered before the read began.
    Linearizable,
    /// It reflects some state that the cluster agreed on, possibly an old one.
    Stale,
}

/// From a replica to a client. Everything about one bundle comes in one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyMessage {
    /// The replica's view and whom it takes for the leader: where to send the next request. A hint,
    /// not part of what has to match.
    pub hint: LeaderHint,
    /// The answer.
    pub reply: Reply,
}

/// Who leads, as far as a replica knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    /// The view.
    pub view: View,
    /// Its leader; `None` when there is none just now, or the protocol has none.
    pub leader: Option<NodeId>,
}

/// An answer. Correct replicas give equal ones for the same question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The client's session is this.
    Opened(SessionId),
    /// The session was closed to make room, or never was; its operations are not executed again.
    SessionExpired(SessionId),
    /// The results of consecutive operations.
    Results {
        /// The session.
        session: SessionId,
        /// The number of the first operation.
        first: OpNumber,
        /// The results, in order.
        results: Vec<OperationResult>,
    },
    /// The result of an unordered read.
    Read {
        /// The read.
        id: u64,
        /// Its result.
        result: OperationResult,
        /// The last decision that the state held.
        at: SeqNo,
    },
    /// This replica cannot serve the unordered read: ask another, or have it ordered.
    ReadRefused(u64),
    /// How the replica is.
    Status {
        /// The number of the question.
        id: u64,
        /// The answer.
        report: StatusReport,
    },
}

/// What a replica says of itself, unproven: a lying replica lies here too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Which replica.
    pub replica: NodeId,
    /// Its view (term).
    pub view: View,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// The last slot it knows decided.
    pub decided: SeqNo,
    /// The last decision whose effects are in `state`.
    pub executed: SeqNo,
    /// Its newest certified checkpoint.
    pub checkpoint: SeqNo,
    /// The digest of its state after `executed`.
    pub state: Digest,
    /// How many view changes it has completed since it started.
    pub view_changes: u64,
    /// Whether it has no vote for now, because it lost its log or a part of it.
    pub forgot_votes: bool,
    /// Whether it is fetching what it missed.
    pub catching_up: bool,
    /// Of the state that it is fetching: how many bytes are here, and how many it has.
    pub fetching: Option<(u64, u64)>,
    /// The replicas it is connected to.
    pub connected: Vec<NodeId>,
}

/// What came of one operation: the same on every correct replica.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OperationResult {
    /// The application's reply, encoded as the application has it.
    Ok(Bytes),
    /// The request does not decode as one of this application.
    InvalidRequest,
    /// The application failed (panicked) on it.
    ApplicationFailed,
    /// The reply is larger than the cluster allows.
    ReplyTooLarge,
    /// It was executed, and what came of it is no longer kept: the replies of all sessions outgrew
    /// `limits.replies_bytes_max`, or the client said that it has it. It is not executed again.
    ///
    /// Unlike the others it depends on when a replica is asked.
    Forgotten,
}

impl fmt::Debug for OperationResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(bytes) => write!(f, "Ok({} bytes)", bytes.len()),
            Self::InvalidRequest => f.write_str("InvalidRequest"),
            Self::ApplicationFailed => f.write_str("ApplicationFailed"),
            Self::ReplyTooLarge => f.write_str("ReplyTooLarge"),
            Self::Forgotten => f.write_str("Forgotten"),
        }
    }
}
