//! A replica's settings.

use atlas_common::crypto::Signer;
use atlas_common::quorum::{FaultModel, Quorums};
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
    pub(crate) durable_decisions: bool,
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
    pub expected: String,
}

/// Bytes of a vote in a certificate: the voter's number and its signature.
const VOTE_BYTES: u64 = 5 + 65;
/// Bytes of a certificate besides its votes, and of a view change besides its certificates.
const HEAD_BYTES: u64 = 128;

/// The largest window with which a new view fits a frame: it holds a quorum of view changes, each
/// with a quorum's certificate for every slot of the window.
#[must_use]
pub(crate) fn window_max(quorums: &Quorums, limits: &Limits) -> u64 {
    let quorum = quorums.quorum() as u64;
    let certificate = HEAD_BYTES + quorum * VOTE_BYTES;
    let room = limits
        .frame_bytes_max
        .saturating_sub(Limits::ENVELOPE_BYTES) as u64;
    let change = (room / quorum).saturating_sub(HEAD_BYTES + certificate);
    change / certificate
}

/// The defaults, with a window (and an interval of checkpoints) that suits so many voters: at most
/// what [`window_max`] allows.
#[must_use]
pub(crate) fn limits_for(voters: usize) -> Limits {
    let limits = Limits::default();
    let Ok(quorums) = Quorums::new(FaultModel::Byzantine, voters) else {
        return limits;
    };
    let window = limits.window.min(window_max(&quorums, &limits));
    Limits {
        window,
        checkpoint_interval: limits.checkpoint_interval.min(window / 4).max(1),
        ..limits
    }
}

impl PbftConfig {
    /// Settings of one of `voters` replicas from the cluster's limits and time-outs: a request may wait for `timeout` before the
    /// leader is replaced, which doubles with each view change that brings no progress, up to
    /// `timeout_max`. A replica that waits for nothing says where it stands every `status_interval`,
    /// one that waits ten times as often.
    ///
    /// # Errors
    /// When a time-out is zero, the cap is below the time-out, the limits contradict each other, or a
    /// new view of so many replicas would not fit a frame.
    pub fn new(
        signer: Arc<dyn Signer>,
        voters: usize,
        limits: &Limits,
        timeout: Duration,
        timeout_max: Duration,
        status_interval: Duration,
    ) -> Result<Self, ConfigError> {
        let wrong = |key, found: &dyn std::fmt::Debug, expected: &str| ConfigError {
            key,
            found: format!("{found:?}"),
            expected: expected.to_owned(),
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
            .map_err(|error| wrong(error.key, &error.found, &error.expected))?;
        let quorums = Quorums::new(FaultModel::Byzantine, voters).map_err(|error| ConfigError {
            key: "members",
            found: error.found.to_string(),
            expected: error.to_string(),
        })?;
        let max = window_max(&quorums, limits);
        if limits.window > max {
            let expected = format!(
                "expected at most {max}, or a new view of {voters} replicas would not fit \
                 limits.frame_bytes_max (lower limits.checkpoint_interval with it)"
            );
            return Err(wrong("limits.window", &limits.window, &expected));
        }
        Ok(Self {
            signer,
            window: limits.window,
            in_flight_max: limits.in_flight_max as u64,
            batch_bytes_max: limits.batch_bytes_max,
            clock_skew: Duration::from_millis(limits.clock_skew_ms_max),
            timeout,
            timeout_max,
            status_interval,
            durable_decisions: false,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        })
    }

    /// Whether a decision is handed over (and so acknowledged to a client) only when this replica's own
    /// disk knows of it. Where reads are not ordered they are answered from what replicas have executed:
    /// one that restarts must find again what it had acknowledged, before it answers any. Costs the time
    /// of a sync for each decision. Off unless said.
    #[must_use]
    pub fn with_durable_decisions(mut self, durable: bool) -> Self {
        self.durable_decisions = durable;
        self
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

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::crypto::KeyPair;

    fn config(voters: usize, limits: &Limits) -> Result<PbftConfig, ConfigError> {
        let second = Duration::from_secs(1);
        let signer = Arc::new(KeyPair::from_seed(&[1; 32]));
        PbftConfig::new(signer, voters, limits, second, second, second)
    }

    #[test]
    fn limits_whose_new_view_does_not_fit_a_frame_are_refused() {
        assert!(config(4, &Limits::default()).is_ok());
        let error = config(31, &Limits::default()).unwrap_err();
        assert_eq!(error.key, "limits.window");
        assert!(error.to_string().contains("31 replicas"), "{error}");
        for voters in 4..=Quorums::REPLICAS_MAX {
            let limits = limits_for(voters);
            assert_eq!(limits.validate(), Ok(()), "{voters} voters");
            assert!(config(voters, &limits).is_ok(), "{voters} voters");
        }
        assert_eq!(limits_for(7), Limits::default());
    }
}
