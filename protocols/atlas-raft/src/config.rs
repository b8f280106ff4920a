//! A replica's settings.

use atlas_core::Limits;
use std::time::Duration;
use thiserror::Error;

/// What can be set, as it stands in a configuration file; [`RaftConfig::new`] checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftSettings {
    /// The shortest election time-out (thesis, section 3.4). A replica that heard its leader within
    /// this time helps nobody to replace it (section 4.2.3).
    pub election_min: Duration,
    /// The longest election time-out. Each is drawn anew between the two.
    pub election_max: Duration,
    /// How often a leader sends something to each follower.
    pub heartbeat: Duration,
    /// Entries sent to one follower and not acknowledged, at most.
    pub entries_in_flight_max: u64,
    /// Bytes sent to one follower and not acknowledged, at most; one entry may exceed it.
    pub bytes_in_flight_max: u64,
    /// Bytes of entries in one message, at most; one entry may exceed it.
    pub append_bytes_max: usize,
    /// Whether a leader that has not heard a majority for `election_max` steps down (section 6.2).
    /// Without it, one that can only be heard holds up a connected majority.
    pub check_quorum: bool,
    /// How long after the start of a confirmed round of heartbeats a leader answers reads without
    /// asking (section 6.4.1), by its own clock; `None`: it always asks. At most `election_min`
    /// less what the clocks of two replicas may drift apart in that time: 90 % of it is right for
    /// clocks whose speeds differ by a tenth at most.
    pub lease: Option<Duration>,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            heartbeat: Duration::from_millis(50),
            entries_in_flight_max: 256,
            bytes_in_flight_max: 16 << 20,
            append_bytes_max: 1 << 20,
            check_quorum: true,
            lease: None,
        }
    }
}

/// Settings of one replica; only made through [`RaftConfig::new`].
#[derive(Clone, Debug)]
pub struct RaftConfig {
    pub(crate) settings: RaftSettings,
    pub(crate) window: u64,
    pub(crate) in_flight_max: u64,
    pub(crate) batch_bytes_max: usize,
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

impl RaftConfig {
    /// Settings within the cluster's limits.
    ///
    /// # Errors
    /// When a time or a bound is zero, the election time-outs leave no room for a few heartbeats,
    /// a lease is as long as an election time-out or stands without check-quorum, or the limits
    /// contradict each other.
    pub fn new(limits: &Limits, settings: RaftSettings) -> Result<Self, ConfigError> {
        check_times(&settings)?;
        check_bounds(&settings)?;
        check_lease(&settings)?;
        limits.validate().map_err(|error| ConfigError {
            key: error.key,
            found: error.found.to_string(),
            expected: "expected limits that fit together",
        })?;
        Ok(Self {
            settings,
            window: limits.window,
            in_flight_max: limits.in_flight_max as u64,
            batch_bytes_max: limits.batch_bytes_max,
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

    /// How long a waiting request may see no decision at all before a follower distrusts a leader
    /// that it hears.
    pub(crate) fn stall(&self) -> Duration {
        self.settings.election_max.saturating_mul(8)
    }
}

fn wrong(
    key: &'static str,
    found: &dyn std::fmt::Debug,
    expected: &'static str,
) -> Result<(), ConfigError> {
    Err(ConfigError {
        key,
        found: format!("{found:?}"),
        expected,
    })
}

fn check_times(settings: &RaftSettings) -> Result<(), ConfigError> {
    let (min, max) = (settings.election_min, settings.election_max);
    if settings.heartbeat.is_zero() {
        return wrong("heartbeat_ms", &settings.heartbeat, "expected more than 0");
    }
    if min < settings.heartbeat.saturating_mul(2) {
        let expected = "expected at least twice heartbeat_ms";
        return wrong("election_ms_min", &min, expected);
    }
    if max <= min {
        let expected = "expected more than election_ms_min, for time-outs to differ";
        return wrong("election_ms_max", &max, expected);
    }
    Ok(())
}

fn check_bounds(settings: &RaftSettings) -> Result<(), ConfigError> {
    let bounds = [
        ("entries_in_flight_max", settings.entries_in_flight_max),
        ("bytes_in_flight_max", settings.bytes_in_flight_max),
        ("append_bytes_max", settings.append_bytes_max as u64),
    ];
    match bounds.into_iter().find(|(_, bound)| *bound == 0) {
        Some((key, found)) => wrong(key, &found, "expected at least 1"),
        None => Ok(()),
    }
}

fn check_lease(settings: &RaftSettings) -> Result<(), ConfigError> {
    let Some(lease) = settings.lease else {
        return Ok(());
    };
    if !settings.check_quorum {
        // A leader that never steps down would go on answering when another has been elected.
        return wrong("lease_ms", &lease, "expected none without check_quorum");
    }
    if lease >= settings.election_min {
        let expected = "expected less than election_ms_min, by what clocks may drift apart";
        return wrong("lease_ms", &lease, expected);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(settings: RaftSettings) -> &'static str {
        RaftConfig::new(&Limits::default(), settings).map_or_else(|error| error.key, |_| "fine")
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_by_name() {
        let good = RaftSettings::default;
        assert_eq!(key(good()), "fine");
        let election_max = good().election_min;
        let narrow = RaftSettings {
            election_max,
            ..good()
        };
        assert_eq!(key(narrow), "election_ms_max");
        let heartbeat = good().election_min;
        let rare = RaftSettings {
            heartbeat,
            ..good()
        };
        assert_eq!(key(rare), "election_ms_min");
        let entries_in_flight_max = 0;
        let none = RaftSettings {
            entries_in_flight_max,
            ..good()
        };
        assert_eq!(key(none), "entries_in_flight_max");
    }

    #[test]
    fn section_6_4_1_leases_cannot_be_switched_on_without_check_quorum() {
        let lease = Some(Duration::from_millis(200));
        let good = RaftSettings {
            lease,
            ..RaftSettings::default()
        };
        assert_eq!(key(good.clone()), "fine");
        let check_quorum = false;
        let bold = RaftSettings {
            check_quorum,
            ..good.clone()
        };
        assert_eq!(key(bold), "lease_ms");
        let lease = Some(good.election_min);
        assert_eq!(key(RaftSettings { lease, ..good }), "lease_ms");
    }
}
