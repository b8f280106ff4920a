//! A replica's settings.

use atlas_common::crypto::Signer;
use atlas_core::Limits;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Settings of one replica; only made through [`PbftConfig::new`].
#[derive(Clone, Debug)]
pub struct PbftConfig {
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) window: u64,
    pub(crate) in_flight_max: u64,
    pub(crate) batch_bytes_max: usize,
    pub(crate) clock_skew: Duration,
    pub(crate) timeout: Duration,
    pub(crate) timeout_max: Duration,
    pub(crate) status_interval: Duration,
    #[cfg(feature = "seeded-bugs")]
    pub(crate) bug: Option<crate::bugs::SeededBug>,
}

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key} is {found}: {expected}")]
pub struct ConfigError {
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub found: String,
    /// What it should be.
    pub expected: &'static str,
}

impl PbftConfig {
    /// Settings from the cluster's limits and time-outs: a request may wait for `timeout` before the
    /// leader is replaced, which doubles with each view change that brings no progress, up to
    /// `timeout_max`. A replica that waits for nothing says where it stands every `status_interval`,
    /// one that waits ten times as often.
    ///
    /// # Errors
    /// When a time-out is zero, the cap is below the time-out, or the limits contradict each other.
    pub fn new(
        signer: Arc<dyn Signer>,
        limits: &Limits,
        timeout: Duration,
        timeout_max: Duration,
        status_interval: Duration,
    ) -> Result<Self, ConfigError> {
        let wrong = |key, found: &dyn std::fmt::Debug, expected| ConfigError {
            key,
            found: format!("{found:?}"),
            expected,
        };
        if timeout.is_zero() {
            return Err(wrong("view_change_ms", &timeout, "expected more than zero"));
        }
        if timeout_max < timeout {
            let expected = "expected at least view_change_ms";
            return Err(wrong("view_change_ms_max", &timeout_max, expected));
        }
        if status_interval.is_zero() {
            return Err(wrong(
                "status_ms",
                &status_interval,
                "expected more than zero",
            ));
        }
        limits
            .validate()
            .map_err(|error| wrong(error.key, &error.found, "expected limits that fit together"))?;
        Ok(Self {
            signer,
            window: limits.window,
            in_flight_max: limits.in_flight_max as u64,
            batch_bytes_max: limits.batch_bytes_max,
            clock_skew: Duration::from_millis(limits.clock_skew_ms_max),
            timeout,
            timeout_max,
            status_interval,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        })
    }

    /// With a deliberate defect.
    #[cfg(feature = "seeded-bugs")]
    #[must_use]
    pub fn with_bug(mut self, bug: crate::bugs::SeededBug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// The time-out after this many fruitless view changes in a row.
    pub(crate) fn timeout_after(&self, fruitless: u32) -> Duration {
        self.timeout
            .saturating_mul(1 << fruitless.min(16))
            .min(self.timeout_max)
    }
}
