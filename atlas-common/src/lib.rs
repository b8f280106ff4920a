//! The vocabulary of Atlas: what every other crate means by a replica, a digest, a signature, a
//! quorum, an encoded message and a moment in time.
//!
//! This crate knows no socket, file, thread or clock. Randomness enters only where a key is made
//! ([`crypto::KeyPair::generate`]); everything else that needs random numbers takes a
//! [`rng::SeededRng`].
//!
//! ```
//! use atlas_common::quorum::{FaultModel, Quorums};
//!
//! // Four replicas, one of which may lie.
//! let quorums = Quorums::new(FaultModel::Byzantine, 4).unwrap();
//! assert_eq!(quorums.faults(), 1);
//! assert_eq!(quorums.quorum(), 3);
//! assert_eq!(quorums.matching_replies(), 2);
//! ```

mod bytes_serde;
pub mod crypto;
pub mod digest;
pub mod digest_map;
pub mod ids;
pub mod parts;
pub mod quorum;
mod replica_set;
pub mod rng;
pub mod time;
pub mod wire;

pub use digest::Digest;
pub use ids::{ClientId, Epoch, Lsn, NodeId, OpNumber, SeqNo, SessionId, View};
pub use parts::{PartRef, StateDescriptor};
pub use replica_set::ReplicaSet;
pub use time::{AgreedTime, Time};
