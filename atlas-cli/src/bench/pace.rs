//! When calls begin: as soon as the one before is answered, or at times of their own.

use anyhow::{Result, bail};
use atlas_common::rng::SeededRng;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How many calls are to be made per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    /// Half of what a closed loop reaches.
    Half,
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            _ if text == "half" => Ok(Self::Half),
            Ok(rate) if (0.1..=1e7).contains(&rate) => Ok(Self::PerSecond(rate)),
            _ => bail!("expected `half`, or calls per second from 0.1 to 10000000"),
        }
    }
}

/// How calls of an open loop are spaced.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrivals {
    /// Each at random, independent of the others, as those of many users are
    Poisson,
    /// At equal distances
    Even,
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poisson => "poisson",
            Self::Even => "even",
        })
    }
}

/// The times at which calls are to begin, since the start.
#[derive(Debug)]
pub(super) struct Schedule {
    arrivals: Arrivals,
    rng: SeededRng,
    /// Nanoseconds between two calls, on average.
    gap: f64,
    /// Nanoseconds. A double counts them exactly for a hundred days.
    next: f64,
}

impl Schedule {
    /// The share of one of `clients` in calls at `rate` per second together.
    pub(super) fn new(rate: f64, clients: usize, arrivals: Arrivals, mut rng: SeededRng) -> Self {
        let gap = 1e9 * clients.max(1) as f64 / rate;
        // So that clients do not call all at once.
        let next = gap * unit(&mut rng);
        Self {
            arrivals,
            rng,
            gap,
            next,
        }
    }

    /// When the next call begins.
    pub(super) fn next(&mut self) -> Duration {
        let at = self.next;
        self.next += match self.arrivals {
            Arrivals::Even => self.gap,
            Arrivals::Poisson => -self.gap * (1.0 - unit(&mut self.rng)).ln(),
        };
        Duration::from_nanos(at as u64)
    }
}

/// From 0 up to, but not, 1.
fn unit(rng: &mut SeededRng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: Arrivals, seed: u64, count: usize) -> Vec<Duration> {
        let mut schedule = Schedule::new(1000.0, 4, arrivals, SeededRng::new(seed));
        (0..count).map(|_| schedule.next()).collect()
    }

    #[test]
    fn a_client_gets_its_share_of_the_rate_and_times_never_go_back() {
        for arrivals in [Arrivals::Even, Arrivals::Poisson] {
            let times = times(arrivals, 7, 10_000);
            assert!(times.is_sorted(), "{arrivals}");
            // A quarter of a thousand per second; the deviation of Poisson's sum is a hundredth of it.
            let seconds = times[9999].as_secs_f64();
            assert!((38.0..42.0).contains(&seconds), "{arrivals}: {seconds}");
        }
    }

    #[test]
    fn even_calls_keep_their_distance_and_random_ones_do_not() {
        let gaps = |arrivals| -> Vec<Duration> {
            let times = times(arrivals, 3, 1000);
            times.windows(2).map(|pair| pair[1] - pair[0]).collect()
        };
        let within = |gap: &Duration| gap.abs_diff(Duration::from_millis(4)).as_nanos() <= 1;
        assert!(gaps(Arrivals::Even).iter().all(within));
        // Of an exponential distribution 1 - 1/e lie below the mean.
        let random = gaps(Arrivals::Poisson);
        let short = random.iter().filter(|gap| gap.as_millis() < 4).count();
        assert!((570..690).contains(&short), "{short}");
    }

    #[test]
    fn a_seed_gives_the_same_times_again_and_another_gives_others() {
        assert_eq!(
            times(Arrivals::Poisson, 1, 50),
            times(Arrivals::Poisson, 1, 50)
        );
        assert_ne!(
            times(Arrivals::Poisson, 1, 50),
            times(Arrivals::Poisson, 2, 50)
        );
    }

    #[test]
    fn a_rate_is_a_number_or_half_and_nothing_else() {
        assert_eq!("half".parse::<Rate>().unwrap(), Rate::Half);
        assert_eq!("2500".parse::<Rate>().unwrap(), Rate::PerSecond(2500.0));
        for wrong in ["", "0", "-1", "nan", "inf", "third", "1e9"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
