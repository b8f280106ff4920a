//! Decoding replies without copying them.
//!
//! A reply holds hundreds of results, comes from every replica, and most of its copies are only
//! compared. So results are slices of the frame they came in.

use atlas_common::wire::{self, DecodeError};
use atlas_common::{OpNumber, SeqNo, SessionId};
use atlas_smr_core::client_message::{
    LeaderHint, OperationResult, Reply, ReplyMessage, StatusReport,
};
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// The most results in one reply: a decoded result takes more memory than an encoded one, and this
/// bounds how much more.
const RESULTS_MAX: usize = 1 << 16;

// The same as the types of `client_message` of these names, but borrowed; a test compares them.
#[derive(serde::Deserialize)]
struct BorrowedMessage<'a> {
    hint: LeaderHint,
    #[serde(borrow)]
    reply: BorrowedReply<'a>,
}

#[derive(serde::Deserialize)]
enum BorrowedReply<'a> {
    Opened(SessionId),
    SessionExpired(SessionId),
    Results {
        session: SessionId,
        first: OpNumber,
        #[serde(borrow)]
        results: BorrowedResults<'a>,
    },
    Read {
        id: u64,
        #[serde(borrow)]
        result: BorrowedResult<'a>,
        at: SeqNo,
    },
    ReadRefused(u64),
    Status {
        id: u64,
        report: StatusReport,
    },
}

#[derive(serde::Deserialize)]
enum BorrowedResult<'a> {
    Ok(#[serde(borrow)] &'a [u8]),
    InvalidRequest,
    ApplicationFailed,
    ReplyTooLarge,
    Forgotten,
}

struct BorrowedResults<'a>(Vec<BorrowedResult<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for BorrowedResults<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Results;

        impl<'de> Visitor<'de> for Results {
            type Value = BorrowedResults<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {RESULTS_MAX} results")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut results = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(1024));
                while let Some(result) = seq.next_element()? {
                    if results.len() == RESULTS_MAX {
                        return Err(A::Error::custom("too many results"));
                    }
                    results.push(result);
                }
                Ok(BorrowedResults(results))
            }
        }

        deserializer.deserialize_seq(Results)
    }
}

/// Decodes a reply of at most `limit_bytes`. Its results share the frame's memory.
pub(crate) fn reply(frame: &Bytes, limit_bytes: usize) -> Result<ReplyMessage, DecodeError> {
    let BorrowedMessage { hint, reply } = wire::decode_borrowed(frame, limit_bytes)?;
    let own = |result: BorrowedResult<'_>| match result {
        BorrowedResult::Ok(bytes) => OperationResult::Ok(frame.slice_ref(bytes)),
        BorrowedResult::InvalidRequest => OperationResult::InvalidRequest,
        BorrowedResult::ApplicationFailed => OperationResult::ApplicationFailed,
        BorrowedResult::ReplyTooLarge => OperationResult::ReplyTooLarge,
        BorrowedResult::Forgotten => OperationResult::Forgotten,
    };
    let reply = match reply {
        BorrowedReply::Opened(session) => Reply::Opened(session),
        BorrowedReply::SessionExpired(session) => Reply::SessionExpired(session),
        BorrowedReply::Results {
            session,
            first,
            results,
        } => {
            let results = results.0.into_iter().map(own).collect();
            Reply::Results {
                session,
                first,
                results,
            }
        }
        BorrowedReply::Read { id, result, at } => Reply::Read {
            id,
            result: own(result),
            at,
        },
        BorrowedReply::ReadRefused(id) => Reply::ReadRefused(id),
        BorrowedReply::Status { id, report } => Reply::Status { id, report },
    };
    Ok(ReplyMessage { hint, reply })
}

/// Replies shorter than this get memory of their own before they leave the library: else a caller
/// who keeps a few bytes would keep the whole buffer that they arrived in.
const SHARED_BYTES_MIN: usize = 4096;

/// The reply as callers get it.
pub(crate) fn detached(reply: Bytes) -> Bytes {
    if reply.len() < SHARED_BYTES_MIN {
        Bytes::copy_from_slice(&reply)
    } else {
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::{Digest, NodeId, View};
    use proptest::prelude::*;

    fn message(reply: Reply) -> ReplyMessage {
        let hint = LeaderHint {
            view: View(7),
            leader: Some(NodeId(2)),
        };
        ReplyMessage { hint, reply }
    }

    #[test]
    fn decodes_what_the_shared_types_encode() {
        let results = vec![
            OperationResult::Ok(Bytes::from_static(b"reply")),
            OperationResult::InvalidRequest,
            OperationResult::Ok(Bytes::new()),
            OperationResult::ApplicationFailed,
            OperationResult::ReplyTooLarge,
            OperationResult::Forgotten,
        ];
        let result = results[0].clone();
        let report = StatusReport {
            replica: NodeId(1),
            view: View(2),
            leader: None,
            decided: SeqNo(3),
            executed: SeqNo(4),
            checkpoint: SeqNo(5),
            state: Digest::of(b"state"),
            view_changes: 6,
            forgot_votes: true,
            catching_up: true,
            fetching: Some((3, 5)),
            connected: vec![NodeId(0), NodeId(2)],
        };
        let replies = [
            Reply::Opened(SessionId(1)),
            Reply::SessionExpired(SessionId(300)),
            Reply::Results {
                session: SessionId(9),
                first: OpNumber(70_000),
                results,
            },
            Reply::Read {
                id: 5,
                result,
                at: SeqNo(8),
            },
            Reply::ReadRefused(6),
            Reply::Status { id: 7, report },
        ];
        for expected in replies.map(message) {
            let frame = Bytes::from(wire::encode(&expected).unwrap());
            assert_eq!(reply(&frame, 1 << 20), Ok(expected));
        }
    }

    #[test]
    fn a_flood_of_tiny_results_is_refused() {
        let results = vec![OperationResult::InvalidRequest; RESULTS_MAX + 1];
        let flood = Reply::Results {
            session: SessionId(1),
            first: OpNumber(1),
            results,
        };
        let frame = Bytes::from(wire::encode(&message(flood)).unwrap());
        assert!(matches!(
            reply(&frame, 1 << 20),
            Err(DecodeError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // The verdict does not matter here, only that there is one.
            drop(reply(&Bytes::from(bytes), 4096));
        }
    }
}
