//! The time-outs that all nodes of a cluster share.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Time-outs, in milliseconds, from the cluster file's `[timeouts]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// How long a request may wait before replicas ask for another leader.
    pub view_change_ms: u64,
    /// The most that `view_change_ms` grows to while one change of leader follows another; it doubles
    /// each time.
    pub view_change_ms_max: u64,
    /// How long a Raft replica hears nothing of a leader before it asks for votes; up to twice that,
    /// drawn anew each time.
    pub election_ms: u64,
    /// How often a Raft leader lets its followers hear of it.
    pub heartbeat_ms: u64,
    /// How long a Rabia replica makes no progress before it says again what it said last.
    pub resend_ms: u64,
    /// How often a replica tells the others how far it is, so that one that lags finds out.
    pub status_ms: u64,
    /// How long a client waits for replies before it sends its request again, to all replicas.
    pub retransmit_ms: u64,
    /// How long a client's call may take before it fails with an unknown outcome.
    pub call_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            view_change_ms: 1_000,
            view_change_ms_max: 60_000,
            election_ms: 300,
            heartbeat_ms: 50,
            resend_ms: 50,
            status_ms: 1_000,
            retransmit_ms: 1_000,
            call_ms: 30_000,
        }
    }
}

/// The longest time-out that makes sense: a day.
const MS_MAX: u64 = 86_400_000;

impl Timeouts {
    /// The first value that cannot work: its name, itself, and what it should be.
    pub(super) fn wrong(&self) -> Option<(&'static str, u64, String)> {
        let within = |key, found: u64, low: u64, high: u64, why: &str| {
            let fits = (low..=high).contains(&found);
            let range = format!("a number of milliseconds from {low} to {high}{why}");
            (!fits).then_some((key, found, range))
        };
        let from_first = ", from `timeouts.view_change_ms` to a day";
        let to_call = ", the upper end being `timeouts.call_ms`";
        within("view_change_ms", self.view_change_ms, 10, MS_MAX, "")
            .or_else(|| {
                let (first, cap) = (self.view_change_ms, self.view_change_ms_max);
                within("view_change_ms_max", cap, first, MS_MAX, from_first)
            })
            .or_else(|| within("status_ms", self.status_ms, 10, MS_MAX, ""))
            .or_else(|| within("election_ms", self.election_ms, 10, MS_MAX, ""))
            .or_else(|| {
                let (most, why) = (self.election_ms / 2, ", half of `timeouts.election_ms`");
                within("heartbeat_ms", self.heartbeat_ms, 1, most, why)
            })
            .or_else(|| {
                let (most, why) = (self.status_ms, ", the upper end being `timeouts.status_ms`");
                within("resend_ms", self.resend_ms, 1, most, why)
            })
            .or_else(|| within("call_ms", self.call_ms, 10, MS_MAX, ""))
            .or_else(|| {
                within(
                    "retransmit_ms",
                    self.retransmit_ms,
                    10,
                    self.call_ms,
                    to_call,
                )
            })
    }

    /// `view_change_ms`.
    #[must_use]
    pub const fn view_change(&self) -> Duration {
        Duration::from_millis(self.view_change_ms)
    }

    /// `view_change_ms_max`.
    #[must_use]
    pub const fn view_change_max(&self) -> Duration {
        Duration::from_millis(self.view_change_ms_max)
    }

    /// `election_ms`.
    #[must_use]
    pub const fn election(&self) -> Duration {
        Duration::from_millis(self.election_ms)
    }

    /// `heartbeat_ms`.
    #[must_use]
    pub const fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// `resend_ms`.
    #[must_use]
    pub const fn resend(&self) -> Duration {
        Duration::from_millis(self.resend_ms)
    }

    /// `status_ms`.
    #[must_use]
    pub const fn status(&self) -> Duration {
        Duration::from_millis(self.status_ms)
    }

    /// `retransmit_ms`.
    #[must_use]
    pub const fn retransmit(&self) -> Duration {
        Duration::from_millis(self.retransmit_ms)
    }

    /// `call_ms`.
    #[must_use]
    pub const fn call(&self) -> Duration {
        Duration::from_millis(self.call_ms)
    }
}
