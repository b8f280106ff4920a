//! The client library of Atlas: calls operations on a replicated application, and believes a reply
//! only when enough replicas give it.
//!
//! [`Client`] is what programs use: asynchronous, cheap to clone, made for hundreds of concurrent
//! callers. Inside it, [`ClientCore`] is the same client as a state machine without I/O, clock or
//! randomness, which the simulator drives too.
//!
//! # What it promises
//!
//! - **Exactly once.** Every operation has a number in a session that the replicas keep. What was
//!   sent is sent again, the very same bytes, until it is answered; it is never sent under another
//!   number. An operation whose outcome cannot be learnt ends as [`CallError::UnknownOutcome`] with
//!   its name, never in a silent second try. [`CallError::is_retry_safe`] says what may be tried
//!   again.
//! - **f liars are not believed.** A result is accepted when f+1 replicas give it (a quorum, where
//!   reads are not ordered; one replica, in a cluster without Byzantine faults), each replica having
//!   one vote; the same holds for the session, its end, and who leads. Lies cost bounded memory and
//!   at most some time-outs.
//! - **Few signatures.** Calls that wait at the same time travel in one bundle under one signature. A
//!   lone call goes out at once.
//! - **No end of trying before the deadline.** What is lost is sent again to all replicas, after a
//!   time that follows the measured round trips and backs off to a cap. When nobody waits for
//!   anything, the client is silent.
//!
//! # Example
//!
//! Here the "cluster" is one replica in the same process that answers every operation with itself;
//! [`Client::connect`] reaches a real one over TLS.
//!
//! ```
//! use atlas_client::{Client, CoreConfig};
//! use atlas_common::crypto::{KeyPair, Signer};
//! use atlas_common::quorum::{FaultModel, Quorums};
//! use atlas_common::{ClientId, Digest, NodeId, SessionId, wire};
//! use atlas_communication::{MemoryHub, ReplicaNetwork};
//! use atlas_core::Limits;
//! use atlas_smr_core::bundle::RequestBundle;
//! use atlas_smr_core::client_message::{
//!     ClientMessage, LeaderHint, OperationResult, Reply, ReplyMessage,
//! };
//! use bytes::Bytes;
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let genesis = Digest::of(b"example");
//! let hub = MemoryHub::new(1);
//!
//! let (replica, mut inbox) = hub.replica(NodeId(0)).unwrap();
//! tokio::spawn(async move {
//!     while let Some(read) = inbox.clients.recv().await {
//!         for frame in &read.frames {
//!             let ClientMessage::Bundle(raw) = wire::decode(frame, 1 << 20).unwrap() else {
//!                 continue;
//!             };
//!             let bundle = RequestBundle::decode(raw, &genesis, &Limits::default()).unwrap();
//!             let reply = if bundle.opens_session() {
//!                 Reply::Opened(SessionId(1))
//!             } else {
//!                 let echo = bundle.operations().iter().cloned().map(OperationResult::Ok);
//!                 let (session, first) = (bundle.session(), bundle.first());
//!                 Reply::Results { session, first, results: echo.collect() }
//!             };
//!             let message = ReplyMessage { hint: LeaderHint::default(), reply };
//!             replica.reply(&read.from, wire::encode(&message).unwrap().into());
//!         }
//!     }
//! });
//!
//! let key = KeyPair::generate().unwrap();
//! let instance = atlas_client::random_instance().unwrap();
//! let (network, inbox) = hub.client(ClientId { key: key.public_key(), instance }).unwrap();
//! let config = CoreConfig::new(genesis, Quorums::new(FaultModel::Crash, 1).unwrap(), instance);
//! let client = Client::over(network, inbox, config, Arc::new(key)).unwrap();
//!
//! let reply = client.call(Bytes::from_static(b"hello")).await;
//! assert_eq!(reply, Ok(Bytes::from_static(b"hello")));
//! client.close().await;
//! # }
//! ```

mod bundles;
mod client;
mod config;
mod core;
mod decode;
mod driver;
mod error;
mod handover;
mod leader;
mod reads;
mod repliers;
mod retransmit;
mod session;
mod status;
mod votes;
mod waiting;

pub use crate::client::{Client, ClientConfig, ConnectError, random_instance};
pub use crate::config::{ConfigError, CoreConfig};
pub use crate::core::{CallId, ClientCore, Output};
pub use crate::error::{ApplicationError, CallError, Doubt, NotReady, RequestId};
pub use atlas_communication::{ConnectionLimits, Member};
pub use atlas_smr_core::client_message::{Consistency, StatusReport};
