//! The command `atlas` as its users run it: real processes, sockets, files, and `kill -9`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "cluster/backups.rs"]
mod backups;
#[path = "cluster/benches.rs"]
mod benches;
#[path = "cluster/bounds.rs"]
mod bounds;
#[path = "cluster/crashes.rs"]
mod crashes;
#[path = "cluster/damage.rs"]
mod damage;
#[path = "cluster/errors.rs"]
mod errors;
#[path = "cluster/kills.rs"]
mod kills;
#[path = "cluster/liar.rs"]
mod liar;
#[path = "cluster/offline.rs"]
mod offline;
#[path = "cluster/processes.rs"]
mod processes;
#[path = "cluster/rejoins.rs"]
mod rejoins;
#[path = "cluster/starts.rs"]
mod starts;
#[path = "cluster/workers.rs"]
mod workers;
