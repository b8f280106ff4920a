//! The application of a run: the key-value store, with operations that carry a label.

use crate::checkers::execution::{Label, Ran};
use crate::checkers::history::{Answer, Call};
use atlas_common::wire;
use atlas_kv::{Kv, KvReply, KvRequest, KvState};
use atlas_smr_execution::{Application, ApplicationData, ExecutionContext, ReadWriteSet};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The key-value store, reporting what really runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimApp {
    kv: Kv,
    /// What has run since it was last taken. Nothing that a request does depends on it.
    pub(crate) ran: Arc<Mutex<Vec<Ran>>>,
    /// The next operation is to write what nobody asked for.
    pub(crate) corrupt: Arc<AtomicBool>,
}

/// A labelled operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Labelled {
    client: u64,
    operation: u64,
    request: KvRequest,
}

impl ApplicationData for SimApp {
    type Request = Labelled;
    type Reply = KvReply;
}

impl Application for SimApp {
    type State = KvState;

    fn initial_state(&self) -> KvState {
        self.kv.initial_state()
    }

    fn update(
        &self,
        state: &mut KvState,
        labelled: Labelled,
        cx: &mut ExecutionContext,
    ) -> KvReply {
        let Labelled {
            client,
            operation,
            request,
        } = labelled;
        if self.corrupt.swap(false, Ordering::Relaxed) {
            let (key, value) = ("a key that no client reads".to_owned(), Bytes::new());
            self.kv.update(state, KvRequest::Put { key, value }, cx);
        }
        let reply = self.kv.update(state, request, cx);
        let label = Label { client, operation };
        let result = hash(&reply);
        self.ran.lock().push(Ran { label, result });
        reply
    }

    fn keys(&self, labelled: &Labelled) -> ReadWriteSet {
        self.kv.keys(&labelled.request)
    }

    fn read(&self, state: &KvState, labelled: Labelled) -> KvReply {
        self.kv.read(state, labelled.request)
    }
}

/// Tells replies apart that a correct history could confuse.
fn hash(reply: &KvReply) -> u64 {
    let number = |value: &Option<Bytes>| value.as_ref().and_then(number).unwrap_or(u64::MAX);
    match reply {
        KvReply::Value(value) => number(value).rotate_left(8),
        KvReply::Put { previous } => 2 + u64::from(*previous),
        KvReply::Deleted { existed } => 4 + u64::from(*existed),
        KvReply::Cas { swapped, current } => number(current).rotate_left(16) ^ u64::from(*swapped),
        _ => 7,
    }
}

fn key_name(key: u64) -> String {
    format!("k{key}")
}

fn value(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn number(value: &Bytes) -> Option<u64> {
    Some(u64::from_le_bytes(value[..].try_into().ok()?))
}

/// An operation as a client sends it.
pub(crate) fn encode(label: Label, key: u64, call: Call) -> Bytes {
    let key = key_name(key);
    let request = match call {
        Call::Get => KvRequest::Get { key },
        Call::Put(new) => KvRequest::Put {
            key,
            value: value(new),
        },
        Call::Cas { expected, new } => KvRequest::Cas {
            key,
            expect: expected.map(value),
            new: Some(value(new)),
        },
        Call::Delete => KvRequest::Delete { key },
    };
    let labelled = Labelled {
        client: label.client,
        operation: label.operation,
        request,
    };
    // Numbers and strings always encode.
    wire::encode(&labelled).unwrap_or_default().into()
}

/// The answer to a call; `None` when the bytes are none.
pub(crate) fn decode_answer(call: Call, bytes: &[u8]) -> Option<Answer> {
    let reply: KvReply = wire::decode(bytes, 1024).ok()?;
    // A value that is no number of ours is one that nobody wrote.
    let known = |value: Option<Bytes>| match value {
        Some(value) => number(&value).map(Some),
        None => Some(None),
    };
    Some(match (call, reply) {
        (Call::Get, KvReply::Value(value)) => Answer::Value(known(value)?),
        (Call::Put(_), KvReply::Put { previous }) => Answer::Put { previous },
        (Call::Delete, KvReply::Deleted { existed }) => Answer::Deleted { existed },
        (Call::Cas { .. }, KvReply::Cas { swapped: true, .. }) => Answer::Swapped,
        (Call::Cas { .. }, KvReply::Cas { current, .. }) => Answer::Kept(known(current)?),
        _ => return None,
    })
}
