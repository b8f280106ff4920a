//! The contract between an ordering protocol and everything around it.
//!
//! An [`OrderingProtocol`] is a state machine without I/O: a driver feeds it [`Input`]s and carries
//! out the [`Effect`]s it asks for. This crate, and every protocol written against it, knows no
//! socket, file, thread, clock or global randomness: the simulator and production run the same code,
//! and a run is repeated exactly by repeating its inputs.
//!
//! # The driver's duties
//!
//! In the order in which they come up; `atlas-smr-core` carries them out for production and the
//! simulator alike.
//!
//! 1. Before the first step: hand [`OrderingProtocol::recover`] the records that are durable, the
//!    newest certified checkpoint and how the replica came to be ([`Origin`]); then step
//!    [`Input::Start`].
//! 2. Never step a message that was not checked: [`Verified`] exists only by way of
//!    [`Verified::check`].
//! 3. After each step carry out the effects in their order. [`Effect::Persist`] appends to the log;
//!    [`Effect::Send`] and [`Effect::Decide`] wait in an [`Outbox`] until the record they name is
//!    durable.
//! 4. Report durable records by [`Input::Durable`], in order.
//! 5. Answer [`Effect::WantBatch`] by [`Input::Propose`] as soon as a request waits, once for each
//!    time it was asked; say which request waits longest, and since when, by [`Input::Waiting`]
//!    whenever that changes.
//! 6. Execute decisions in order; report certified checkpoints by [`Input::Checkpointed`].
//! 7. Bring what [`Effect::FetchState`] says is missing: decisions one by one
//!    ([`Input::Decided`]), or a state ([`Input::StateInstalled`]).
//!
//! # Example
//!
//! A cluster of one needs no votes: whatever is proposed is decided once it is durable. The whole
//! protocol (`examples/single.rs` of this crate has it with comments):
//!
//! ```
#![doc = include_str!("../examples/single.rs")]
//! ```

pub mod batch;
pub mod certificate;
pub mod context;
pub mod effect;
pub mod input;
pub mod limits;
pub mod membership;
pub mod outbox;
pub mod protocol;
pub mod timers;
pub mod verified;

pub use batch::Batch;
pub use certificate::{CheckpointCertificate, CheckpointId};
pub use context::Context;
pub use effect::{Effect, Recipients};
pub use input::{Admin, Input, Installed, Origin, ReadId, Recovery, Waiting};
pub use limits::Limits;
pub use membership::{Member, Membership, Role};
pub use outbox::Outbox;
pub use protocol::{OrderingProtocol, ProtocolStatus, RecoverError};
pub use timers::Timers;
pub use verified::{Reject, Verified};
