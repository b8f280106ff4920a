//! When to send again: a time-out that follows the measured round trips.

use crate::config::CoreConfig;
use std::time::Duration;

/// The estimator of RFC 6298, with its back-off: an expiry doubles the time-out for everything sent
/// from then on, until a round trip is measured on something that was sent once only (Karn's rule).
/// Without that memory a client whose round trips outgrow the time-out would send everything twice
/// for ever, and never measure.
#[derive(Clone, Debug)]
pub(crate) struct RetransmitTimer {
    smoothed: Option<Duration>,
    variation: Duration,
    timeout: Duration,
    min: Duration,
    max: Duration,
}

impl RetransmitTimer {
    pub(crate) fn new(config: &CoreConfig) -> Self {
        Self {
            smoothed: None,
            variation: Duration::ZERO,
            timeout: config.retransmit_initial,
            min: config.retransmit_min,
            max: config.retransmit_max,
        }
    }

    /// How long to wait for an answer to what is sent now.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The answer to something sent once took this long.
    pub(crate) fn measured(&mut self, round_trip: Duration) {
        let smoothed = match self.smoothed {
            None => {
                self.variation = round_trip / 2;
                round_trip
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(round_trip)) / 4;
                (smoothed * 7 + round_trip) / 8
            }
        };
        self.smoothed = Some(smoothed);
        // Twice the round trip at least: its variation all but vanishes under a steady load.
        let timeout = (smoothed + self.variation * 4).max(smoothed * 2);
        self.timeout = timeout.clamp(self.min, self.max);
    }

    /// Nothing came in time.
    pub(crate) fn expired(&mut self) {
        self.timeout = (self.timeout * 2).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::Digest;
    use atlas_common::quorum::{FaultModel, Quorums};

    fn timer() -> RetransmitTimer {
        let quorums = Quorums::new(FaultModel::Crash, 3).unwrap();
        RetransmitTimer::new(&CoreConfig::new(Digest::of(b""), quorums, 1))
    }

    #[test]
    fn rfc6298_follows_round_trips_within_bounds() {
        let mut timer = timer();
        assert_eq!(timer.timeout(), Duration::from_millis(500));
        for _ in 0..50 {
            timer.measured(Duration::from_millis(1));
        }
        assert_eq!(timer.timeout(), Duration::from_millis(200));
        for _ in 0..50 {
            timer.measured(Duration::from_millis(700));
        }
        assert!(
            timer.timeout() >= Duration::from_millis(1390),
            "{:?}",
            timer.timeout()
        );
    }

    #[test]
    fn backs_off_to_a_cap_and_recovers_when_measured() {
        let mut timer = timer();
        for _ in 0..100 {
            timer.expired();
        }
        assert_eq!(timer.timeout(), Duration::from_secs(5));
        timer.measured(Duration::from_millis(2));
        assert_eq!(timer.timeout(), Duration::from_millis(200));
    }
}
