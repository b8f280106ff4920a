//! The oracles: what must hold in every run, whatever goes wrong in it.
//!
//! They know nothing of protocols or faults, and are fed by the simulation after every event. Each
//! has caught the bugs that are seeded on purpose (`tests/seeded_bugs.rs`): a checker that never
//! caught one has not been tested.

pub mod agreement;
pub mod execution;
pub mod facts;
pub mod history;
pub mod limits;
pub mod linearizability;
pub mod validity;
pub mod votes;

use atlas_common::{Digest, NodeId, OpNumber, SeqNo};
use thiserror::Error;

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// Two correct replicas decided differently.
    #[error("slot {seq}: replica {first} decided {one}, replica {second} decided {other}")]
    Agreement {
        /// The slot.
        seq: SeqNo,
        /// Who decided first.
        first: NodeId,
        /// What it decided.
        one: Digest,
        /// Who decided differently.
        second: NodeId,
        /// What that one decided.
        other: Digest,
    },
    /// A replica's decisions did not come in order, without gaps, each once.
    #[error("replica {replica} was handed decision {found} where {expected} comes next")]
    DecisionOrder {
        /// The replica.
        replica: NodeId,
        /// What comes next.
        expected: SeqNo,
        /// What came.
        found: SeqNo,
    },
    /// Two correct replicas were in different states after the same decisions.
    #[error("after decision {seq}: replica {first} is in state {one}, replica {second} in {other}")]
    State {
        /// The decision.
        seq: SeqNo,
        /// One replica.
        first: NodeId,
        /// Its state.
        one: Digest,
        /// Another.
        second: NodeId,
        /// Its state.
        other: Digest,
    },
    /// Two correct replicas executed a decision differently.
    #[error("decision {seq}: replicas {first} and {second} executed it differently: {what}")]
    Execution {
        /// The decision.
        seq: SeqNo,
        /// One replica.
        first: NodeId,
        /// Another.
        second: NodeId,
        /// The difference.
        what: String,
    },
    /// What was decided was never sent by a client.
    #[error("slot {seq} holds a request that no client has sent: {bundle}")]
    Validity {
        /// The slot.
        seq: SeqNo,
        /// The request's digest.
        bundle: Digest,
    },
    /// An operation was executed a second time.
    #[error("client {client}: operation {operation} was executed in slots {first} and {second}")]
    ExecutedTwice {
        /// Whose it is.
        client: u64,
        /// Which.
        operation: u64,
        /// Where first.
        first: SeqNo,
        /// Where again.
        second: SeqNo,
    },
    /// A client's operations were not executed in their order.
    #[error("client {client}: operation {found} was executed in slot {seq} after {last}")]
    SessionOrder {
        /// Whose it is.
        client: u64,
        /// The slot.
        seq: SeqNo,
        /// What had been executed last.
        last: u64,
        /// What was executed now.
        found: u64,
    },
    /// A client was given an answer that no correct replica computed.
    #[error("client {client} was given a wrong answer to operation {operation}")]
    WrongReply {
        /// Which client.
        client: u64,
        /// Which operation.
        operation: OpNumber,
    },
    /// There is no order of the operations that explains the answers.
    #[error("the history of key `{key}` is not linearizable: {operations} operations")]
    NotLinearizable {
        /// The key.
        key: String,
        /// How many operations there are.
        operations: usize,
    },
    /// The search for an order took too long.
    #[error("whether the history of key `{key}` is linearizable could not be decided")]
    Undecided {
        /// The key.
        key: String,
    },
    /// A correct replica gave up.
    #[error("replica {replica} stopped: {reason}")]
    Halted {
        /// Which.
        replica: NodeId,
        /// Why.
        reason: String,
    },
    /// A replica could not be rebuilt from its disk.
    #[error("replica {replica} did not come back: {reason}")]
    Unrecoverable {
        /// Which.
        replica: NodeId,
        /// Why.
        reason: String,
    },
    /// Something grew beyond its limit.
    #[error("replica {replica}: {what} is {found}, the limit is {limit}")]
    Unbounded {
        /// Where.
        replica: NodeId,
        /// What.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// Two correct replicas, or one at two times, hold different things for true.
    #[error("{what}: replica {first} holds {one}, replica {second} {other}")]
    Fact {
        /// What about.
        what: String,
        /// One replica.
        first: NodeId,
        /// What it holds.
        one: u64,
        /// Another.
        second: NodeId,
        /// What that one holds.
        other: u64,
    },
    /// Money was made or lost.
    #[error("after decision {seq} the accounts of replica {replica} hold {found}, not {expected}")]
    Money {
        /// Whose state it is.
        replica: NodeId,
        /// After which decision.
        seq: SeqNo,
        /// What they hold together.
        found: u64,
        /// What was paid in.
        expected: u64,
    },
    /// A correct replica voted twice, for different things.
    #[error("replica {replica} voted twice ({place}): for {one:x} and for {other:x}")]
    VotedTwice {
        /// Who.
        replica: NodeId,
        /// Where.
        place: String,
        /// The first vote.
        one: u64,
        /// The other one.
        other: u64,
    },
    /// The plan cannot be run.
    #[error("the plan cannot be run: {0}")]
    Unplayable(String),
    /// A part of the system panicked.
    #[error("panic: {0}")]
    Panic(String),
}
