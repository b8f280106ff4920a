//! Executes what a cluster decides on a user's application: exactly once, in order, the same on every
//! replica.
//!
//! A user writes [`ApplicationData`] (what clients ask and are answered) and [`Application`] (the state
//! and how requests change it). An [`Executor`] applies decisions to it and is pure: the simulator and
//! a replica run the same one. An [`ExecutorThread`] runs it apart from the thread that orders, and is
//! the only part that knows threads.
//!
//! # Invariants
//!
//! - Replies, sessions and state follow from the decisions alone: no clock, no chance, no order of a
//!   map. Two executors with the same decisions have the same [`Execute::state_digest`].
//! - An operation runs at most once, however often it is decided; the session table that sees to it is
//!   part of every checkpoint.
//! - Whatever an application does with an operation, even a panic, becomes a result like any other, and
//!   an operation that failed has changed nothing.
//! - Operations that run in parallel give the replies and the state that they give one after the other.
//! - A checkpoint stops execution only for as long as it takes to clone the state and the session
//!   table; what has to be encoded for it is encoded once, part by part.
//! - A state is installed only if every byte of it is covered by the certified digest.
//!
//! # Example
//!
//! ```
//! use atlas_common::crypto::{KeyPair, Signer};
//! use atlas_common::{AgreedTime, ClientId, Digest, Epoch, NodeId, OpNumber, ReplicaSet, SeqNo, SessionId};
//! use atlas_core::{Batch, Limits};
//! use atlas_smr_core::bundle::{RequestBundle, UnsignedBundle};
//! use atlas_smr_core::client_message::{OperationResult, Reply};
//! use atlas_smr_execution::{
//!     Application, ApplicationData, Decision, Execute, ExecutionContext, Executor, ExecutorConfig,
//! };
//!
//! /// What a user writes: a counter.
//! struct Counter;
//!
//! impl ApplicationData for Counter {
//!     type Request = u64;
//!     type Reply = u64;
//! }
//!
//! impl Application for Counter {
//!     type State = u64;
//!
//!     fn initial_state(&self) -> u64 {
//!         0
//!     }
//!
//!     fn update(&self, count: &mut u64, step: u64, _cx: &mut ExecutionContext) -> u64 {
//!         *count += step;
//!         *count
//!     }
//!
//!     fn read(&self, count: &u64, _step: u64) -> u64 {
//!         *count
//!     }
//! }
//!
//! // What a client signs: a request for a session, then an operation in it.
//! let key = KeyPair::from_seed(&[1; 32]);
//! let client = ClientId { key: key.public_key(), instance: 1 };
//! let genesis = Digest::of(b"my cluster");
//! let mut five = Vec::new();
//! Counter::encode_request(&5, &mut five)?;
//! let open = RequestBundle::open(client, &genesis, &key);
//! let add = UnsignedBundle {
//!     client,
//!     session: SessionId(1),
//!     first: OpNumber(1),
//!     acknowledged: OpNumber(0),
//!     repliers: ReplicaSet::default(),
//!     operations: &[five.into()],
//! };
//! let add = RequestBundle::new(&add, &genesis, &key);
//!
//! // What the cluster decides; the second bundle even twice.
//! let bundles = [&open, &add, &add].map(|bundle| bundle.raw().clone());
//! let batch = Batch::new(AgreedTime::default(), &bundles);
//! let decision = Decision { seq: SeqNo(1), batch, bundles: None };
//!
//! // What each replica does with it.
//! let replica = NodeId(0);
//! let config = ExecutorConfig { replica, genesis, epoch: Epoch(0), limits: Limits::default() };
//! let mut executor = Executor::new(Counter, config);
//! let replies = executor.apply(&decision).replies;
//! assert_eq!(*executor.state(), 5);
//! assert_eq!(replies[0], (client, Reply::Opened(SessionId(1))));
//! assert_eq!(replies[1], replies[2]);
//! let Reply::Results { results, .. } = &replies[1].1 else { unreachable!() };
//! let OperationResult::Ok(reply) = &results[0] else { unreachable!() };
//! assert_eq!(Counter::decode_reply(reply, 100)?, 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
pub mod application;
pub mod context;
pub mod execute;
pub mod executor;
pub mod executor_thread;
pub mod pool;
pub mod snapshot;
pub mod state;

/// Maps and sets whose clones share what does not change: what a state is best made of.
pub mod map {
    pub use imbl::{OrdMap, OrdSet, Vector};
}

pub use access::ReadWriteSet;
pub use application::{Application, ApplicationData};
pub use atlas_smr_core::core::Decision;
pub use context::ExecutionContext;
pub use execute::{Applied, Execute, ExecutionCounters, InstallError, Progress, ReadView};
pub use executor::{Executor, ExecutorConfig};
pub use executor_thread::{
    DecisionExecutorHandle, ExecutionFailure, ExecutionSink, ExecutionStats, ExecutorHandle,
    ExecutorOptions, ExecutorThread,
};
pub use pool::ExecutionPool;
pub use snapshot::{CheckpointImage, Snapshot, SnapshotWriter};
pub use state::{
    DivisibleMap, DivisibleState, FrozenState, MonolithicState, PartError, PartReader, PartSource,
    PartUnavailable, PartWriter, SnapshotError, ThawError,
};
