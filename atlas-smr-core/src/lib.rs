//! State machine replication on top of an ordering protocol.
//!
//! A [`RequestBundle`](bundle::RequestBundle) is what a client signs: consecutive operations of one
//! session. The [`ReplicaCore`](core::ReplicaCore) takes checked bundles and peers' checked messages,
//! has an [`OrderingProtocol`](atlas_core::OrderingProtocol) order them, and says what to log, send
//! and execute. The [`SessionTable`](session::SessionTable) makes execution exactly-once.
//!
//! All of it is pure but for [`request_pre_processing`], whose worker threads check signatures.
//!
//! ```
//! use atlas_common::crypto::{Ed25519, KeyPair, Signer, Verifier};
//! use atlas_common::{ClientId, Digest, OpNumber, ReplicaSet, SessionId};
//! use atlas_core::Limits;
//! use atlas_smr_core::bundle::{RequestBundle, UnsignedBundle};
//!
//! let key = KeyPair::from_seed(&[7; 32]);
//! let client = ClientId { key: key.public_key(), instance: 1 };
//! let genesis = Digest::of(b"my cluster");
//! let operations = ["debit 5".into(), "credit 5".into()];
//! let says = UnsignedBundle {
//!     client,
//!     session: SessionId(1),
//!     first: OpNumber(1),
//!     acknowledged: OpNumber(0),
//!     repliers: ReplicaSet::default(),
//!     operations: &operations,
//! };
//! let bundle = RequestBundle::new(&says, &genesis, &key);
//!
//! // What a replica does with the bytes that arrive:
//! let received = RequestBundle::decode(bundle.raw().clone(), &genesis, &Limits::default()).unwrap();
//! assert!(Ed25519.verify(&received.signed()));
//! assert_eq!(received.last(), OpNumber(2));
//! ```

pub mod bundle;
pub mod checkpoint;
pub mod client_message;
pub mod core;
pub mod decisions;
pub mod message;
pub mod pool;
pub mod request_pre_processing;
pub mod session;
pub mod transfer;
