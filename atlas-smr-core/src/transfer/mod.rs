//! Catching up: decisions ([`log`]) and states ([`state`]) from peers.
//!
//! Both are state machines without I/O that ask several peers, check or expect checked what they are
//! given, leave alone for a while who stalls or lies, and bound what they keep.

pub mod log;
mod patience;
pub mod state;

pub use log::{LogTransfer, LogTransferEffect, LogTransferMessage};
pub use state::{
    FetchedState, LookedUp, Lookup, StateTransfer, StateTransferCounters, StateTransferEffect,
    StateTransferMessage, StateTransferProtocol,
};
