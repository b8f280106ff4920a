//! Practical Byzantine Fault Tolerance as a state machine without I/O.
mod amnesia;
pub mod bugs;
mod config;
pub mod message;
mod new_view;
mod normal;
mod pbft;
pub mod record;
mod recovery;
pub mod sealed;
mod slot;
mod status;
#[cfg(test)]
mod tests;
mod verify;
mod view_change;

pub use config::{ConfigError, PbftConfig};
pub use pbft::{Pbft, Timer};
