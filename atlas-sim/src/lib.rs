//! Deterministic simulator.
pub mod adversary;
mod app;
pub mod campaign;
pub mod checkers;
pub mod clients;
pub mod crypto;
pub mod events;
pub mod faults;
mod machine;
pub mod network;
mod node;
mod panics;
pub mod plan;
pub mod protocol;
pub mod scenarios;
mod shared;
pub mod trace;
pub mod verdict;
mod world;

pub use campaign::Summary;
pub use plan::{Choices, Plan};
pub use protocol::{Setup, SimProtocol};
pub use verdict::{Report, Verdict};
pub use world::run;
