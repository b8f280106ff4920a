//! Deterministic simulator.
pub mod crypto;
pub mod events;
pub mod faults;
pub mod network;
pub mod trace;
pub mod checkers;
