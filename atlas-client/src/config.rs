//! How a client behaves: time-outs and bounds, checked against each other.

use atlas_common::Digest;
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_core::{Limits, limits::LimitsError};
use std::time::Duration;
use thiserror::Error;

/// What the core of a client must know. The first group comes from the cluster file and must be the
/// cluster's; the second is the client's own.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The digest that names the cluster.
    pub genesis: Digest,
    /// How many replicas vote, and what the faulty ones may do.
    pub quorums: Quorums,
    /// The cluster's limits.
    pub limits: Limits,
    /// Whether the cluster answers linearizable reads without ordering them. In a Byzantine cluster
    /// that does, ordered calls wait for a quorum of matching replies.
    pub unordered_reads: bool,

    /// Tells apart the programs that run under one key: a random number, never used before.
    pub instance: u64,
    /// How long a call may take, unless it says otherwise.
    pub call_timeout: Duration,
    /// When a request is first sent again, until round trips have been measured.
    pub retransmit_initial: Duration,
    /// The shortest time after which a request is sent again.
    pub retransmit_min: Duration,
    /// The longest: where the exponential back-off ends.
    pub retransmit_max: Duration,
    /// The most bundles sent and not answered.
    pub bundles_in_flight_max: usize,
    /// The most calls that wait to be sent; beyond it they are refused as busy.
    pub calls_waiting_max: usize,
    /// The most bytes of operations that wait to be sent; beyond it calls are refused as busy.
    pub bytes_waiting_max: usize,
    /// The most unordered reads sent and not answered.
    pub reads_in_flight_max: usize,
    /// The defect: f + 1 replies do for an ordered call, although reads are not ordered.
    #[cfg(feature = "seeded-bugs")]
    pub few_replies: bool,
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// One of the client's own.
    #[error("{key} is {found}: expected {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// One of the cluster's limits.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

impl CoreConfig {
    /// Settings that serve a cluster with default limits in one data centre: calls take 10 s at most,
    /// and requests are sent again after 500 ms at first, then after 200 ms to 5 s by what is
    /// measured.
    #[must_use]
    pub fn new(genesis: Digest, quorums: Quorums, instance: u64) -> Self {
        Self {
            genesis,
            quorums,
            limits: Limits::default(),
            unordered_reads: false,
            instance,
            call_timeout: Duration::from_secs(10),
            retransmit_initial: Duration::from_millis(500),
            retransmit_min: Duration::from_millis(200),
            retransmit_max: Duration::from_secs(5),
            bundles_in_flight_max: 4,
            calls_waiting_max: 1 << 16,
            bytes_waiting_max: 64 << 20,
            reads_in_flight_max: 4096,
            #[cfg(feature = "seeded-bugs")]
            few_replies: false,
        }
    }

    /// Checks every setting by itself and against the others.
    ///
    /// # Errors
    /// The first that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.limits.validate()?;
        let counts = [
            ("bundles_in_flight_max", self.bundles_in_flight_max),
            ("calls_waiting_max", self.calls_waiting_max),
            ("reads_in_flight_max", self.reads_in_flight_max),
        ];
        for (key, count) in counts {
            refuse_unless(count > 0, key, &count, "at least 1")?;
        }
        let bytes = self.bytes_waiting_max;
        let operation = self.limits.operation_bytes_max;
        let expected = format!("at least limits.operation_bytes_max, {operation}");
        refuse_unless(bytes >= operation, "bytes_waiting_max", &bytes, &expected)?;
        let (min, max) = (self.retransmit_min, self.retransmit_max);
        let positive = min > Duration::ZERO;
        refuse_unless(positive, "retransmit_min", &millis(min), "more than 0 ms")?;
        let expected = format!("at least retransmit_min, {}", millis(min));
        refuse_unless(max >= min, "retransmit_max", &millis(max), &expected)?;
        let initial = self.retransmit_initial;
        let expected = format!("from retransmit_min to retransmit_max, {}", millis(max));
        let within = (min..=max).contains(&initial);
        refuse_unless(within, "retransmit_initial", &millis(initial), &expected)
    }

    /// How many replicas must give the same result before an ordered call believes it.
    ///
    /// Where linearizable reads are not ordered, a write that only f+1 replicas have answered could
    /// meet a read quorum in nothing but a liar; so there a write waits for a quorum too (Berger et
    /// al., SRDS'21).
    #[must_use]
    pub fn matching_ordered(&self) -> usize {
        #[cfg(feature = "seeded-bugs")]
        if self.few_replies {
            return self.quorums.matching_replies();
        }
        match self.quorums.model() {
            FaultModel::Byzantine if self.unordered_reads => self.quorums.quorum(),
            _ => self.quorums.matching_replies(),
        }
    }
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

fn refuse_unless(
    good: bool,
    key: &'static str,
    found: &dyn ToString,
    expected: &str,
) -> Result<(), ConfigError> {
    if good {
        return Ok(());
    }
    Err(ConfigError::Setting {
        key,
        found: found.to_string(),
        expected: expected.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(model: FaultModel) -> CoreConfig {
        CoreConfig::new(Digest::of(b"cluster"), Quorums::new(model, 4).unwrap(), 1)
    }

    #[test]
    fn the_defaults_work_and_contradictions_are_named() {
        let good = config(FaultModel::Byzantine);
        assert_eq!(good.validate(), Ok(()));
        let bad = CoreConfig {
            retransmit_max: Duration::from_millis(1),
            ..good.clone()
        };
        let text = bad.validate().unwrap_err().to_string();
        assert_eq!(
            text,
            "retransmit_max is 1 ms: expected at least retransmit_min, 200 ms"
        );
        let bad = CoreConfig {
            bundles_in_flight_max: 0,
            ..good
        };
        let text = bad.validate().unwrap_err().to_string();
        assert_eq!(text, "bundles_in_flight_max is 0: expected at least 1");
    }

    #[test]
    fn srds21_unordered_reads_raise_what_an_ordered_call_waits_for() {
        let mut byzantine = config(FaultModel::Byzantine);
        assert_eq!(byzantine.matching_ordered(), 2);
        byzantine.unordered_reads = true;
        assert_eq!(byzantine.matching_ordered(), 3);
        let mut crash = config(FaultModel::Crash);
        crash.unordered_reads = true;
        assert_eq!(crash.matching_ordered(), 1);
    }
}
