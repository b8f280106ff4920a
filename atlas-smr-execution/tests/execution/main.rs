//! Execution: exactly once, the same everywhere, and from a checkpoint as from the beginning.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail with the test"
)]

mod checkpoints;
mod common;
mod divisible;
mod operations;
mod sessions;
mod thread;
