//! What an operator can see of a replica: `/metrics` for Prometheus and `/status` as JSON, over plain
//! HTTP on the node file's `admin_listen`.
//!
//! The endpoint can neither fail nor slow a replica. It has a thread of its own, which asks for a
//! [`Snapshot`] only when somebody fetches a page; requests, connections and the time for each are
//! bounded; whatever goes wrong after the start is counted and nothing else
//! (`docs/adr/0003-admin-endpoint.md`). It only reads, and it asks nobody who they are: bind it where
//! only operators reach it.
//!
//! `docs/metrics.md` says what each metric means and what to do about it.

mod metrics;
mod request;
mod server;

#[cfg(test)]
mod tests;

pub use metrics::{Identity, Metrics, Snapshot};
pub use server::{AdminCounters, AdminServer, Pages};
