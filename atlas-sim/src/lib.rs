//! The deterministic simulator: whole Atlas clusters and their clients in one thread, from one seed.
//!
//! A node here is what a node is in production: messages pass the `MessageChecker`, the
//! `ReplicaCore` steps them, records go through the segmented log to a disk, decisions to the
//! `Executor`, states to the checkpoint store, and clients run the real `ClientCore`. What is
//! simulated is what lies around them: time, the network, the disks, crashes, and whoever lies.
//!
//! ```
//! use atlas_pbft::Pbft;
//! use atlas_sim::plan::{Action, CrashKind, Target};
//! use atlas_sim::{Plan, Verdict};
//!
//! // Four replicas and four clients; after 300 ms the leader loses its power for a second.
//! let plan = Plan::calm("the leader crashes", 4, 1)
//!     .at(300, Action::Crash(Target::Leader, CrashKind::PowerCut))
//!     .heal_at(1300);
//! let report = atlas_sim::run::<Pbft>(&plan, true);
//! assert_eq!(report.verdict, Verdict::Pass, "{}", report.transcript);
//! assert_eq!(report.operations, 200);
//! assert!(report.view_changes > 0);
//!
//! // The same plan, the same run.
//! assert_eq!(report.trace_hash, atlas_sim::run::<Pbft>(&plan, false).trace_hash);
//! ```
//!
//! # What is what
//!
//! - A [`Plan`] says what is run and what goes wrong when. [`Plan::draw`] makes one from a seed;
//!   [`scenarios`] has one for each row of the fault catalogue; [`Plan::calm`] is where to start with
//!   one's own.
//! - [`run`] plays a plan to its end and gives a [`Report`] with its [`Verdict`]. Nothing in it
//!   depends on anything but the plan: no clock, no thread, no order of a hash map.
//! - The [`checkers`] look at every event: agreement, validity, execution alike everywhere and each
//!   operation once and in its session's order, bounded queues; and at the end linearizability, equal
//!   states, and progress once the faults have healed.
//! - An [`adversary`] has one replica, its key and the network in its hands.
//! - A [`campaign`] runs many seeds on all cores.
//! - [`conformance`] is what every protocol must keep, one's own too, in one call.
//! - [`SimProtocol`] is what a protocol needs to be run here: a configuration. One's own can be run
//!   too.
//!
//! # Invariants
//!
//! - One seeded generator, forked for each part: what one part draws does not shift another's.
//! - A crash takes everything but what the disk has synced; what the disk does with the rest is drawn.
//! - An adversary cannot sign for others: keys are stand-ins that cost a hash ([`crypto`]), and real
//!   ed25519 in a share of the seeds.
//! - A fault that never happened is a failed run of a scenario: [`faults`] counts what really did.
//!
//! # The command
//!
//! ```text
//! cargo run --release -p atlas-sim -- --seed 42                  replays one seed, with a transcript
//! cargo run --release -p atlas-sim -- --seeds 0..20000           a campaign on all cores
//! cargo run --release -p atlas-sim -- --scenario row-13-bad-new-view --seed 3
//! cargo run --release -p atlas-sim --features seeded-bugs -- --bug drop-prepared-slots --seeds 0..500
//! cargo run --release -p atlas-sim -- --list
//! ```

pub mod adversary;
mod app;
pub mod campaign;
pub mod checkers;
pub mod clients;
pub mod conformance;
pub mod crypto;
pub mod events;
pub mod faults;
mod machine;
pub mod network;
mod node;
mod panics;
pub mod plan;
pub mod protocol;
mod protocols;
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
