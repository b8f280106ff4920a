//! Rabia as a state machine without I/O.

mod agreement;
pub mod bugs;
pub mod coin;
mod config;
mod decisions;
pub mod message;
mod questions;
mod queue;
mod rabia;
pub mod record;
mod recovery;
mod resend;
mod slot;
#[cfg(test)]
mod tests;
mod verify;

pub use config::{ConfigError, RabiaConfig};
pub use rabia::{Counters, Flip, Rabia, Timer};
