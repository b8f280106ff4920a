//! The application of a run: a key-value store and a bank in one, with operations that carry a label.
//!
//! The bank's accounts are entries of the same store, so that everything that befalls the one befalls
//! the other. Transfers move money between them and never make any; requests that fail take it away
//! first, so that it is missing unless they are undone.

use crate::checkers::execution::{Label, Ran};
use crate::checkers::history::{ACCOUNTS, Answer, Balances, Call, INITIAL_BALANCE};
use atlas_common::wire;
use atlas_kv::{Kv, KvReply, KvRequest, KvState};
use atlas_smr_execution::{Application, ApplicationData, ExecutionContext, ReadWriteSet};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, Serializer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The application, reporting what really runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimApp {
    kv: Kv,
    /// What has run since it was last taken, each with its number in the decision. Nothing that a request
    /// does depends on it.
    pub(crate) ran: Arc<Mutex<Vec<(u64, Ran)>>>,
    /// The next operation is to write what nobody asked for.
    pub(crate) corrupt: Arc<AtomicBool>,
}

/// A labelled operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Labelled {
    client: u64,
    operation: u64,
    request: Request,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Request {
    Kv(KvRequest),
    Transfer(Transfer),
    /// What all accounts hold.
    Audit,
    /// Takes the money from the one account, and then fails.
    Fail {
        transfer: Transfer,
        panics: bool,
    },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Transfer {
    from: u64,
    to: u64,
    amount: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Kv(KvReply),
    /// Whether there was enough.
    Transferred(bool),
    Balances(Balances),
    /// A reply that has no encoding.
    Unsayable(#[serde(serialize_with = "refuse", skip_deserializing)] ()),
}

fn refuse<S: Serializer>(_nothing: &(), _serializer: S) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom("this cannot be said"))
}

impl ApplicationData for SimApp {
    type Request = Labelled;
    type Reply = Reply;
}

impl Application for SimApp {
    type State = KvState;

    const CONCURRENT_READS: bool = true;

    fn initial_state(&self) -> KvState {
        self.kv.initial_state()
    }

    fn update(&self, state: &mut KvState, labelled: Labelled, cx: &mut ExecutionContext) -> Reply {
        if self.corrupt.swap(false, Ordering::Relaxed) {
            self.put(state, "a key that no client reads", Bytes::new(), cx);
        }
        let Labelled {
            client,
            operation,
            request,
        } = labelled;
        let panics = matches!(request, Request::Fail { panics: true, .. });
        let reply = self.carry_out(state, request, cx);
        let label = Label { client, operation };
        let result = hash(&reply);
        self.ran.lock().push((cx.index(), Ran { label, result }));
        assert!(!panics, "this request fails");
        reply
    }

    fn keys(&self, labelled: &Labelled) -> ReadWriteSet {
        let nothing = ReadWriteSet::nothing();
        match &labelled.request {
            Request::Kv(request) => self.kv.keys(request),
            Request::Transfer(transfer) | Request::Fail { transfer, .. } => nothing
                .write(account(transfer.from).as_bytes())
                .write(account(transfer.to).as_bytes()),
            Request::Audit => {
                let accounts = 0..ACCOUNTS as u64;
                accounts.fold(nothing, |set, number| set.read(account(number).as_bytes()))
            }
        }
    }

    fn read(&self, state: &KvState, labelled: Labelled) -> Reply {
        match labelled.request {
            Request::Audit => Reply::Balances(balances(state)),
            Request::Kv(request) => Reply::Kv(self.kv.read(state, request)),
            Request::Transfer(_) | Request::Fail { .. } => Reply::Transferred(false),
        }
    }
}

impl SimApp {
    fn carry_out(&self, state: &mut KvState, request: Request, cx: &mut ExecutionContext) -> Reply {
        match request {
            Request::Kv(request) => Reply::Kv(self.kv.update(state, request, cx)),
            Request::Audit => Reply::Balances(balances(state)),
            Request::Transfer(transfer) => {
                let moved = self.take(state, transfer, cx);
                if moved {
                    let more = balance(state, transfer.to).saturating_add(transfer.amount);
                    self.put(state, &account(transfer.to), value(more), cx);
                }
                Reply::Transferred(moved)
            }
            Request::Fail { transfer, .. } => {
                self.take(state, transfer, cx);
                Reply::Unsayable(())
            }
        }
    }

    /// Takes the amount from the payer, if that has so much.
    fn take(&self, state: &mut KvState, transfer: Transfer, cx: &mut ExecutionContext) -> bool {
        let left = balance(state, transfer.from).checked_sub(transfer.amount);
        if let Some(left) = left {
            self.put(state, &account(transfer.from), value(left), cx);
        }
        left.is_some()
    }

    fn put(&self, state: &mut KvState, key: &str, value: Bytes, cx: &mut ExecutionContext) {
        let key = key.to_owned();
        self.kv.update(state, KvRequest::Put { key, value }, cx);
    }
}

fn account(number: u64) -> String {
    format!("account {number}")
}

fn balance(state: &KvState, number: u64) -> u64 {
    let held = state.get(&account(number)).and_then(number_in);
    held.unwrap_or(INITIAL_BALANCE)
}

/// What the accounts hold.
pub(crate) fn balances(state: &KvState) -> Balances {
    Balances(std::array::from_fn(|number| balance(state, number as u64)))
}

/// Tells replies apart that a correct history could confuse.
fn hash(reply: &Reply) -> u64 {
    let number = |value: &Option<Bytes>| {
        let number = value.as_deref().and_then(number_in);
        number.unwrap_or(u64::MAX)
    };
    match reply {
        Reply::Kv(KvReply::Value(value)) => number(value).rotate_left(8),
        Reply::Kv(KvReply::Put { previous }) => 2 + u64::from(*previous),
        Reply::Kv(KvReply::Deleted { existed }) => 4 + u64::from(*existed),
        Reply::Kv(KvReply::Cas { swapped, current }) => {
            number(current).rotate_left(16) ^ u64::from(*swapped)
        }
        Reply::Kv(_) => 7,
        Reply::Transferred(moved) => 8 + u64::from(*moved),
        Reply::Balances(Balances(all)) => {
            let mix = |hash: u64, held: &u64| hash.rotate_left(13) ^ held;
            all.iter().fold(11, mix)
        }
        Reply::Unsayable(()) => 12,
    }
}

fn key_name(key: u64) -> String {
    format!("k{key}")
}

fn value(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn number_in(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.try_into().ok()?))
}

/// An operation as a client sends it.
pub(crate) fn encode(label: Label, key: u64, call: Call) -> Bytes {
    let key = key_name(key);
    let request = match call {
        Call::Get => Request::Kv(KvRequest::Get { key }),
        Call::Put(new) => Request::Kv(KvRequest::Put {
            key,
            value: value(new),
        }),
        Call::Cas { expected, new } => Request::Kv(KvRequest::Cas {
            key,
            expect: expected.map(value),
            new: Some(value(new)),
        }),
        Call::Delete => Request::Kv(KvRequest::Delete { key }),
        Call::Transfer { from, to, amount } => Request::Transfer(Transfer { from, to, amount }),
        Call::Audit => Request::Audit,
        Call::Fail { from, amount } => Request::Fail {
            transfer: Transfer {
                from,
                to: from,
                amount,
            },
            panics: label.operation.is_multiple_of(2),
        },
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
    let reply = match wire::decode(bytes, 1024).ok()? {
        Reply::Kv(reply) => reply,
        Reply::Transferred(moved) => {
            return matches!(call, Call::Transfer { .. }).then_some(Answer::Transferred(moved));
        }
        Reply::Balances(balances) => {
            return (call == Call::Audit).then_some(Answer::Balances(balances));
        }
        Reply::Unsayable(()) => return None,
    };
    // A value that is no number of ours is one that nobody wrote.
    let known = |value: Option<Bytes>| match value {
        Some(value) => number_in(&value).map(Some),
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
