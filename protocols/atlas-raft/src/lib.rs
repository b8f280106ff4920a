//! Raft as a state machine without I/O.

mod amnesia;
pub mod bugs;
mod config;
mod election;
mod follower;
mod leader;
mod log;
pub mod message;
mod peer;
mod raft;
mod reads;
pub mod record;
mod recovery;
#[cfg(test)]
mod tests;
mod transfer;
mod verify;

pub use config::{ConfigError, RaftConfig, RaftSettings};
pub use raft::{Raft, Timer};
