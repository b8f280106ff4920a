//! The table of limits: every queue, window and message is bounded by a number here.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Limits that all replicas of a cluster share, from the cluster file. Units are in the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest operation of an application, in bytes.
    pub operation_bytes_max: usize,
    /// The most operations in one bundle.
    pub bundle_operations_max: usize,
    /// The largest bundle, in bytes.
    pub bundle_bytes_max: usize,
    /// The largest batch, in bytes.
    pub batch_bytes_max: usize,
    /// The largest frame on the network, in bytes.
    pub frame_bytes_max: usize,
    /// Decisions between two checkpoints.
    pub checkpoint_interval: u64,
    /// Slots above the last certified checkpoint that replicas take part in; at least twice the
    /// interval, so that ordering goes on while a checkpoint is being certified.
    pub window: u64,
    /// Slots that a leader keeps in flight at most. Few: what waits meanwhile shares the next batch,
    /// and with it the signatures of a slot. More only help where the network's delay is long.
    pub in_flight_max: usize,
    /// The most open client sessions; the one longest unused is closed for a new one.
    pub sessions_max: usize,
    /// The newest operations of a session whose replies are kept.
    pub session_replies_max: usize,
    /// Bytes of replies kept for all sessions together, each counted with 64 more. Beyond it the sessions
    /// that keep the most give up their oldest.
    pub replies_bytes_max: usize,
    /// Bytes of requests that wait in a replica's pool; beyond it, new ones are dropped.
    pub pool_bytes_max: usize,
    /// Bytes of one chunk of a state transfer.
    pub chunk_bytes: usize,
    /// How far a proposal's time may be ahead of a replica's clock, in milliseconds.
    pub clock_skew_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operation_bytes_max: 1 << 20,
            bundle_operations_max: 1024,
            bundle_bytes_max: 2 << 20,
            batch_bytes_max: 4 << 20,
            frame_bytes_max: 16 << 20,
            checkpoint_interval: 512,
            window: 2048,
            in_flight_max: 4,
            sessions_max: 4096,
            session_replies_max: 2048,
            replies_bytes_max: 256 << 20,
            pool_bytes_max: 64 << 20,
            chunk_bytes: 1 << 20,
            clock_skew_ms_max: 60_000,
        }
    }
}

/// A limit that cannot work, or two that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("limits.{key} is {found}: {expected}")]
pub struct LimitsError {
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub found: u64,
    /// What it should be.
    pub expected: String,
}

impl Limits {
    /// Checks every limit by itself and against the others.
    ///
    /// # Errors
    /// The first that cannot work.
    pub fn validate(&self) -> Result<(), LimitsError> {
        let at_least = |key, found: u64, min: u64| {
            let expected = format!("expected at least {min}");
            if found >= min {
                Ok(())
            } else {
                Err(LimitsError {
                    key,
                    found,
                    expected,
                })
            }
        };
        at_least("operation_bytes_max", self.operation_bytes_max as u64, 1)?;
        at_least(
            "bundle_operations_max",
            self.bundle_operations_max as u64,
            1,
        )?;
        at_least("in_flight_max", self.in_flight_max as u64, 1)?;
        at_least("sessions_max", self.sessions_max as u64, 1)?;
        at_least("checkpoint_interval", self.checkpoint_interval, 1)?;
        at_least("chunk_bytes", self.chunk_bytes as u64, 1024)?;
        let above = |key, found: u64, other, min: u64| {
            let expected = format!("expected at least {min}, which follows from limits.{other}");
            if found >= min {
                Ok(())
            } else {
                Err(LimitsError {
                    key,
                    found,
                    expected,
                })
            }
        };
        let overhead = Self::ENVELOPE_BYTES as u64;
        let bundle = self.operation_bytes_max as u64 + overhead;
        above(
            "bundle_bytes_max",
            self.bundle_bytes_max as u64,
            "operation_bytes_max",
            bundle,
        )?;
        let batch = self.bundle_bytes_max as u64 + overhead;
        above(
            "batch_bytes_max",
            self.batch_bytes_max as u64,
            "bundle_bytes_max",
            batch,
        )?;
        let frame = self.batch_bytes_max.max(self.chunk_bytes) as u64 + 64 * overhead;
        above(
            "frame_bytes_max",
            self.frame_bytes_max as u64,
            "batch_bytes_max",
            frame,
        )?;
        above(
            "pool_bytes_max",
            self.pool_bytes_max as u64,
            "batch_bytes_max",
            batch,
        )?;
        let window = self.checkpoint_interval.saturating_mul(2);
        above("window", self.window, "checkpoint_interval", window)?;
        let replies = self.bundle_operations_max as u64;
        let kept = self.session_replies_max as u64;
        above(
            "session_replies_max",
            kept,
            "bundle_operations_max",
            replies,
        )?;
        // What is left when an eighth was freed still has to hold the largest reply.
        above(
            "replies_bytes_max",
            self.replies_bytes_max as u64,
            "operation_bytes_max",
            bundle.saturating_mul(2),
        )?;
        let frame_max = atlas_common::wire::ENCODED_BYTES_MAX;
        if self.frame_bytes_max > frame_max {
            let expected = format!("expected at most {frame_max}");
            let found = self.frame_bytes_max as u64;
            return Err(LimitsError {
                key: "frame_bytes_max",
                found,
                expected,
            });
        }
        Ok(())
    }

    /// What a message adds to the largest thing inside it, generously.
    pub const ENVELOPE_BYTES: usize = 1024;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together_and_contradictions_are_named() {
        assert_eq!(Limits::default().validate(), Ok(()));
        let narrow = Limits {
            window: 300,
            ..Limits::default()
        };
        let error = narrow.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "limits.window is 300: expected at least 1024, which follows from \
             limits.checkpoint_interval"
        );
        let bundle = Limits {
            bundle_bytes_max: 5,
            ..Limits::default()
        };
        assert_eq!(bundle.validate().unwrap_err().key, "bundle_bytes_max");
        let replies = Limits {
            replies_bytes_max: 1 << 20,
            ..Limits::default()
        };
        assert_eq!(replies.validate().unwrap_err().key, "replies_bytes_max");
    }
}
