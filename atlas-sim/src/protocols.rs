//! The protocols that the simulator knows besides PBFT, which comes with its adversaries.

mod rabia;
mod raft;
