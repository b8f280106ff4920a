//! The application of a run: the key-value store, with operations that carry a label.

use crate::checkers::execution::{Label, Ran};
use crate::checkers::history::{Answer, Call};
use atlas_smr_execution::map::OrdMap;
use atlas_common::wire;
use atlas_smr_execution::{Application, ApplicationData, ExecutionContext};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The key-value store, reporting what really runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimApp {
    /// What has run since it was last taken.
    pub(crate) ran: Arc<Mutex<Vec<Ran>>>,
}

/// A labelled operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    client: u64,
    operation: u64,
    key: u64,
    call: WireCall,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum WireCall {
    Get,
    Put(u64),
    Cas(Option<u64>, u64),
    Delete,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Value(Option<u64>),
    Changed(bool),
    Done,
}

impl ApplicationData for SimApp {
    type Request = Request;
    type Reply = Reply;
}

impl Application for SimApp {
    type State = OrdMap<u64, u64>;

    fn initial_state(&self) -> Self::State {
        OrdMap::new()
    }

    fn update(
        &self,
        state: &mut Self::State,
        request: Request,
        _cx: &mut ExecutionContext,
    ) -> Reply {
        let key = request.key;
        let before = state.get(&key).copied();
        let reply = match request.call {
            WireCall::Get => Reply::Value(before),
            WireCall::Put(value) => {
                state.insert(key, value);
                Reply::Done
            }
            WireCall::Cas(expected, new) => {
                if before == expected {
                    state.insert(key, new);
                }
                Reply::Changed(before == expected)
            }
            WireCall::Delete => Reply::Changed(state.remove(&key).is_some()),
        };
        let result = match reply {
            Reply::Value(value) => value.map_or(1, |value| value.wrapping_mul(4)),
            Reply::Changed(changed) => 2 + u64::from(changed) * 4,
            Reply::Done => 3,
        };
        self.ran.lock().push(Ran {
            label: Label {
                client: request.client,
                operation: request.operation,
            },
            result,
        });
        reply
    }

    fn read(&self, state: &Self::State, request: Request) -> Reply {
        Reply::Value(state.get(&request.key).copied())
    }
}

/// An operation as a client sends it.
pub(crate) fn encode(label: Label, key: u64, call: Call) -> Bytes {
    let call = match call {
        Call::Get => WireCall::Get,
        Call::Put(value) => WireCall::Put(value),
        Call::Cas { expected, new } => WireCall::Cas(expected, new),
        Call::Delete => WireCall::Delete,
    };
    let request = Request {
        client: label.client,
        operation: label.operation,
        key,
        call,
    };
    // Numbers always encode.
    wire::encode(&request).unwrap_or_default().into()
}

/// The answer to a call; `None` when the bytes are none.
pub(crate) fn decode_answer(call: Call, bytes: &[u8]) -> Option<Answer> {
    let reply: Reply = wire::decode(bytes, 1024).ok()?;
    match (call, reply) {
        (Call::Get, Reply::Value(value)) => Some(Answer::Value(value)),
        (Call::Put(_), Reply::Done) => Some(Answer::Done),
        (Call::Cas { .. } | Call::Delete, Reply::Changed(changed)) => {
            Some(Answer::Changed(changed))
        }
        _ => None,
    }
}
