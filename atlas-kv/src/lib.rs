//! A replicated key-value store: the application of the `atlas` command, of the benchmarks and of
//! many tests, and a worked example of an [`Application`].
//!
//! Keys are text, values bytes. Besides single keys there are compare and swap ([`KvRequest::Cas`]),
//! ordered pages of entries ([`KvRequest::List`]) and transactions ([`KvRequest::Txn`]).
//!
//! - A request that is refused changed nothing; a transaction is carried out whole or not at all.
//! - No answer is larger than one entry or one page, whatever the store holds and a client asks for.
//! - Under [`Application::read`] nothing changes: a request that could change the store is refused.
//!
//! ```
//! use atlas_kv::{Compare, Kv, KvOperation, KvReply, KvRequest};
//! use atlas_smr_execution::{Application, ExecutionContext};
//!
//! // What a replica does with each request, in the order that the cluster agreed on:
//! let kv = Kv::default();
//! let mut state = kv.initial_state();
//! let mut cx = ExecutionContext::standalone(Default::default(), Default::default());
//! let put = KvRequest::Put { key: "apples".into(), value: "3".into() };
//! assert_eq!(kv.update(&mut state, put, &mut cx), KvReply::Put { previous: false });
//!
//! // Sell an apple, if there are still three:
//! let sell = KvRequest::Txn {
//!     compares: vec![Compare { key: "apples".into(), expect: Some("3".into()) }],
//!     then: vec![
//!         KvOperation::Put { key: "apples".into(), value: "2".into() },
//!         KvOperation::Put { key: "sold".into(), value: "1".into() },
//!     ],
//!     otherwise: vec![KvOperation::Get { key: "apples".into() }],
//! };
//! let reply = kv.update(&mut state, sell, &mut cx);
//! assert!(matches!(reply, KvReply::Txn { succeeded: true, .. }));
//!
//! let get = KvRequest::Get { key: "apples".into() };
//! assert_eq!(kv.read(&state, get), KvReply::Value(Some("2".into())));
//! ```

mod request;
mod state;

#[cfg(test)]
mod tests;

pub use request::{Compare, KvError, KvOperation, KvOutcome, KvReply, KvRequest};
pub use state::{KEY_BYTES_MAX, KvState, PAGE_BYTES, TXN_OPERATIONS_MAX, VALUE_BYTES_MAX};

use atlas_smr_execution::{Application, ApplicationData, ExecutionContext, ReadWriteSet};

/// The key-value store as an application.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Kv {}

impl ApplicationData for Kv {
    type Request = KvRequest;
    type Reply = KvReply;
}

impl Application for Kv {
    type State = KvState;

    fn initial_state(&self) -> KvState {
        KvState::default()
    }

    fn update(
        &self,
        state: &mut KvState,
        request: KvRequest,
        _cx: &mut ExecutionContext,
    ) -> KvReply {
        carry_out(state, request).unwrap_or_else(KvReply::Refused)
    }

    fn keys(&self, request: &KvRequest) -> ReadWriteSet {
        request.keys()
    }

    fn read(&self, state: &KvState, request: KvRequest) -> KvReply {
        if !request.is_read_only() {
            return KvReply::Refused(KvError::ReadOnly);
        }
        match request {
            KvRequest::Get { key } => KvReply::Value(state.value(&key)),
            // A clone costs next to nothing, and what a read-only request does to it is nothing.
            request => carry_out(&mut state.clone(), request).unwrap_or_else(KvReply::Refused),
        }
    }
}

fn carry_out(state: &mut KvState, request: KvRequest) -> Result<KvReply, KvError> {
    match request {
        KvRequest::Get { key } => Ok(KvReply::Value(state.value(&key))),
        KvRequest::Put { key, value } => {
            let previous = state.put(&key, &value)?;
            Ok(KvReply::Put { previous })
        }
        KvRequest::Delete { key } => {
            let existed = state.delete(&key);
            Ok(KvReply::Deleted { existed })
        }
        KvRequest::Cas { key, expect, new } => state.cas(&key, expect.as_deref(), new.as_deref()),
        KvRequest::List {
            prefix,
            after,
            limit,
        } => Ok(state.list(&prefix, after.as_deref(), limit)),
        KvRequest::Txn {
            compares,
            then,
            otherwise,
        } => state.txn(&compares, then, otherwise),
    }
}
