//! What a user writes: the data of an application, its state, and how requests change it.

use crate::access::ReadWriteSet;
use crate::context::ExecutionContext;
use crate::state::DivisibleState;
use atlas_common::wire::{self, DecodeError, EncodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What an application and its clients say to each other, and how it is encoded.
///
/// The provided encoding is serde with the project's codec; overriding the four functions replaces
/// it. They must give the same result everywhere: replies of different replicas are compared as
/// bytes.
///
/// Requests come from clients that may be hostile. Types of the standard library and `bytes` decode
/// within bounds; those of `imbl` (and others that reserve what a length field says) do not, and
/// belong in the state only.
pub trait ApplicationData: Send + Sync + 'static {
    /// What a client asks.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// What it is answered.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// Encodes a request behind what `bytes` already holds.
    ///
    /// # Errors
    /// When serde refuses the value.
    fn encode_request(request: &Self::Request, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        wire::encode_into(request, bytes)
    }

    /// Decodes a request of at most `limit_bytes`.
    ///
    /// # Errors
    /// When the bytes are no request.
    fn decode_request(bytes: &[u8], limit_bytes: usize) -> Result<Self::Request, DecodeError> {
        wire::decode(bytes, limit_bytes)
    }

    /// Encodes a reply behind what `bytes` already holds.
    ///
    /// # Errors
    /// When serde refuses the value.
    fn encode_reply(reply: &Self::Reply, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        wire::encode_into(reply, bytes)
    }

    /// Decodes a reply of at most `limit_bytes`.
    ///
    /// # Errors
    /// When the bytes are no reply.
    fn decode_reply(bytes: &[u8], limit_bytes: usize) -> Result<Self::Reply, DecodeError> {
        wire::decode(bytes, limit_bytes)
    }
}

/// A deterministic application: every replica runs the same requests in the same order on its own
/// copy of the state, and must come to the same state and replies.
///
/// So nothing but the arguments may decide what [`Application::update`] does: no clock (see
/// [`ExecutionContext::time`]), no random numbers but [`ExecutionContext::random`], no order of a
/// `HashMap`, no file or socket, no state kept in `self`.
///
/// A request that panics, or whose reply has no encoding, is answered as "application failed", and what
/// it had written is gone, on every replica alike. A state that can fork ([`DivisibleState::fork`], as
/// [`DivisibleMap`](crate::DivisibleMap) can) drops the fork that the request ran on. Any other is
/// made again from a clone, by running the requests since then once more: it is cloned at every
/// checkpoint and after every failure besides, and requests since the last checkpoint stay in memory.
/// A reply that is larger than the cluster allows is no failure: the request was carried out.
///
/// Running out of memory or stack is none that could be caught: it ends the process, on every replica
/// that executes the request, and again after a restart. Bound what a request may allocate, and how
/// deep it may recurse.
pub trait Application: ApplicationData {
    /// What is replicated: any type with serde's traits ([`MonolithicState`]), or one that knows its
    /// parts.
    ///
    /// [`MonolithicState`]: crate::MonolithicState
    type State: DivisibleState;

    /// Whether reads are answered on threads of their own, from a clone of the state: then they neither
    /// wait for writes nor hold them up. For states that clone in constant time, such as
    /// [`DivisibleMap`](crate::DivisibleMap) and [`map::OrdMap`](crate::map::OrdMap); a clone is made
    /// for the first read after a write.
    const CONCURRENT_READS: bool = false;

    /// The state before the first request; the same on every replica.
    fn initial_state(&self) -> Self::State;

    /// Carries out a request in its place in the total order.
    fn update(
        &self,
        state: &mut Self::State,
        request: Self::Request,
        cx: &mut ExecutionContext,
    ) -> Self::Reply;

    /// What a request reads and writes, so that requests of one decision that do not concern each other
    /// can run in parallel, with the same replies and state as one after the other. Only states that
    /// can fork make use of it, and only where requests take long enough.
    ///
    /// Follows from the request alone, and must name every key that [`Application::update`] may look
    /// at or change, of whatever the request's way is: else replicas come to different states. What
    /// depends on more than some keys (how many entries there are, a range of them) is
    /// [`ReadWriteSet::Unknown`].
    fn keys(&self, _request: &Self::Request) -> ReadWriteSet {
        ReadWriteSet::Unknown
    }

    /// Answers a request that was not ordered, from the state as it is. A request that would change
    /// the state must be answered by a reply that says so.
    fn read(&self, state: &Self::State, request: Self::Request) -> Self::Reply;
}
