//! Execution: exactly once, the same everywhere, and from a checkpoint as from the beginning.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail with the test"
)]

mod cells;
mod checkpoints;
mod common;
mod divisible;
mod failures;
mod operations;
mod parallel;
mod reads;
mod sessions;
mod thread;
