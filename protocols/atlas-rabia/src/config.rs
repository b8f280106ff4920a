//! A replica's settings.

use atlas_core::Limits;
use std::time::Duration;
use thiserror::Error;

/// Settings of one replica; only made through [`RabiaConfig::new`].
#[derive(Clone, Debug)]
pub struct RabiaConfig {
    pub(crate) window: u64,
    pub(crate) in_flight_max: u64,
    pub(crate) batch_bytes_max: usize,
    pub(crate) queue_bytes_max: usize,
    pub(crate) patience: Duration,
    pub(crate) resend: Duration,
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

impl RabiaConfig {
    /// Settings from the cluster's limits and three times:
    ///
    /// - `patience`: how long a replica waits, where that may spare a null slot, for the proposal of a
    ///   peer that is alive, or for a batch that a peer has proposed and that is not here yet. Zero:
    ///   not at all.
    /// - `resend`: after how long without progress a replica sends again what it last said, and asks
    ///   for what it lacks.
    /// - `status_interval`: how often an idle replica says where it stands, so that one that missed
    ///   the last decisions learns of them.
    ///
    /// # Errors
    /// When `resend` is zero, `patience` is longer than `resend`, `status_interval` is shorter than
    /// it, or the limits contradict each other.
    pub fn new(
        limits: &Limits,
        patience: Duration,
        resend: Duration,
        status_interval: Duration,
    ) -> Result<Self, ConfigError> {
        let wrong = |key, found: &dyn std::fmt::Debug, expected| ConfigError {
            key,
            found: format!("{found:?}"),
            expected,
        };
        if resend.is_zero() {
            return Err(wrong("resend_ms", &resend, "expected more than zero"));
        }
        if patience > resend {
            let expected = "expected at most resend_ms";
            return Err(wrong("patience_ms", &patience, expected));
        }
        if status_interval < resend {
            let expected = "expected at least resend_ms";
            return Err(wrong("status_ms", &status_interval, expected));
        }
        limits
            .validate()
            .map_err(|error| wrong(error.key, &error.found, "expected limits that fit together"))?;
        Ok(Self {
            window: limits.window,
            in_flight_max: limits.in_flight_max as u64,
            batch_bytes_max: limits.batch_bytes_max,
            queue_bytes_max: limits.pool_bytes_max,
            patience,
            resend,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_must_fit_together() {
        let ms = Duration::from_millis;
        let key =
            |p, r, s| RabiaConfig::new(&Limits::default(), ms(p), ms(r), ms(s)).map_err(|e| e.key);
        assert!(key(0, 20, 20).is_ok());
        assert_eq!(key(0, 0, 20).unwrap_err(), "resend_ms");
        assert_eq!(key(30, 20, 100).unwrap_err(), "patience_ms");
        assert_eq!(key(2, 20, 10).unwrap_err(), "status_ms");
        let limits = Limits {
            in_flight_max: 0,
            ..Limits::default()
        };
        let error = RabiaConfig::new(&limits, ms(2), ms(20), ms(100)).unwrap_err();
        assert_eq!(error.key, "in_flight_max");
    }
}
