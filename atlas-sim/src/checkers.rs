//! Checkers.
pub mod linearizability;
