//! The network: delays, and everything that may go wrong between two ends.
//!
//! The ends are numbered: replicas first, clients behind them. A link leads from one end to another,
//! so faults may be one-sided.

use crate::faults::{FaultCounts, FaultKind};
use atlas_common::Time;
use atlas_common::rng::SeededRng;
use std::time::Duration;

/// How a link treats messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// The shortest time a message takes.
    pub delay_min: Duration,
    /// What is added to it at random, on average (exponentially distributed).
    pub delay_mean: Duration,
    /// The share of messages that are lost.
    pub loss: f64,
    /// The share that arrives twice.
    pub duplicate: f64,
    /// The share that is overtaken by later ones.
    pub reorder: f64,
}

impl Quality {
    /// A local network without faults: 100 µs and a bit.
    #[must_use]
    pub const fn good() -> Self {
        Self {
            delay_min: Duration::from_micros(100),
            delay_mean: Duration::from_micros(200),
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
        }
    }

    /// The same without loss, duplicates and reordering.
    #[must_use]
    pub const fn healed(self) -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            ..self
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Link {
    quality: Quality,
    cut: bool,
    /// When the last message in order arrives.
    last_arrival: Time,
    /// When a message that is to be overtaken arrives.
    held_until: Time,
}

/// All links between the ends.
#[derive(Debug)]
pub struct Network {
    ends: usize,
    links: Vec<Link>,
    rng: SeededRng,
}

/// When a message arrives: not at all, once or twice.
pub type Arrivals = [Option<Time>; 2];

impl Network {
    /// A network of `ends` ends, all links alike.
    #[must_use]
    pub fn new(ends: usize, quality: Quality, rng: SeededRng) -> Self {
        let link = Link {
            quality,
            cut: false,
            last_arrival: Time::ZERO,
            held_until: Time::ZERO,
        };
        Self {
            ends,
            links: vec![link; ends * ends],
            rng,
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.ends + to]
    }

    /// Gives all links this quality.
    pub fn set_quality(&mut self, quality: Quality) {
        self.links
            .iter_mut()
            .for_each(|link| link.quality = quality);
    }

    /// Gives one link this quality.
    pub fn set_link_quality(&mut self, from: usize, to: usize, quality: Quality) {
        self.link(from, to).quality = quality;
    }

    /// Cuts (or mends) one direction of a link.
    pub fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        self.link(from, to).cut = cut;
    }

    /// Lets only ends of the same group talk to each other; ends in no group talk to all.
    pub fn partition(&mut self, groups: &[Vec<usize>]) {
        self.mend();
        for (i, group) in groups.iter().enumerate() {
            for other in &groups[i + 1..] {
                for &a in group {
                    for &b in other {
                        self.set_cut(a, b, true);
                        self.set_cut(b, a, true);
                    }
                }
            }
        }
    }

    /// Mends all links. Their quality stays.
    pub fn mend(&mut self) {
        self.links.iter_mut().for_each(|link| link.cut = false);
    }

    /// Sends a message: gives the moments at which it arrives.
    pub fn send(
        &mut self,
        from: usize,
        to: usize,
        now: Time,
        counts: &mut FaultCounts,
    ) -> Arrivals {
        let Self { links, rng, .. } = self;
        let link = &mut links[from * self.ends + to];
        if link.cut {
            counts.count(FaultKind::Partition);
            return [None, None];
        }
        let quality = link.quality;
        if quality.loss > 0.0 && rng.chance(quality.loss) {
            counts.count(FaultKind::Loss);
            return [None, None];
        }
        let arrival = now
            .after(quality.delay_min)
            .after(exponential(quality.delay_mean, rng));
        let first = if quality.reorder > 0.0 && rng.chance(quality.reorder) {
            let held = arrival.after(exponential(quality.delay_mean * 8, rng));
            link.held_until = link.held_until.max(held);
            held
        } else {
            let in_order = arrival.max(link.last_arrival);
            link.last_arrival = in_order;
            if in_order < link.held_until {
                counts.count(FaultKind::Reorder);
                link.held_until = Time::ZERO;
            }
            in_order
        };
        let twice = quality.duplicate > 0.0 && rng.chance(quality.duplicate);
        let second = twice.then(|| {
            counts.count(FaultKind::Duplicate);
            first.after(exponential(quality.delay_mean * 4, rng))
        });
        [Some(first), second]
    }
}

/// An exponentially distributed time, cut off at twelve times its mean.
pub fn exponential(mean: Duration, rng: &mut SeededRng) -> Duration {
    // 2⁻⁵³ at least, so that the logarithm stays finite.
    let uniform = ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let factor = (-uniform.ln()).min(12.0);
    Duration::from_nanos((mean.as_nanos() as f64 * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(quality: Quality) -> Network {
        Network::new(3, quality, SeededRng::new(1))
    }

    #[test]
    fn a_good_link_keeps_order_and_loses_nothing() {
        let mut network = network(Quality::good());
        let mut counts = FaultCounts::default();
        let mut last = Time::ZERO;
        for i in 0..500 {
            let [first, second] = network.send(0, 1, Time::from_nanos(i * 1000), &mut counts);
            let arrival = first.unwrap();
            assert!(arrival >= last && second.is_none());
            last = arrival;
        }
        assert_eq!(counts.total(), 0);
    }

    #[test]
    fn faults_happen_at_their_rates_and_are_counted() {
        let quality = Quality {
            loss: 0.2,
            duplicate: 0.1,
            reorder: 0.1,
            ..Quality::good()
        };
        let mut network = network(quality);
        let mut counts = FaultCounts::default();
        let (mut lost, mut twice) = (0, 0);
        for i in 0..10_000 {
            let [first, second] = network.send(0, 1, Time::from_nanos(i * 10_000), &mut counts);
            lost += u64::from(first.is_none());
            twice += u64::from(second.is_some());
        }
        assert!((1800..2200).contains(&lost), "{lost}");
        assert_eq!(counts.get(FaultKind::Loss), lost);
        assert_eq!(counts.get(FaultKind::Duplicate), twice);
        assert!(counts.get(FaultKind::Reorder) > 500);
    }

    #[test]
    fn partitions_cut_between_groups_only() {
        let mut network = network(Quality::good());
        let mut counts = FaultCounts::default();
        network.partition(&[vec![0], vec![1]]);
        assert_eq!(network.send(0, 1, Time::ZERO, &mut counts), [None, None]);
        assert!(network.send(0, 2, Time::ZERO, &mut counts)[0].is_some());
        network.mend();
        network.set_cut(1, 0, true);
        assert!(network.send(0, 1, Time::ZERO, &mut counts)[0].is_some());
        assert_eq!(network.send(1, 0, Time::ZERO, &mut counts), [None, None]);
        assert_eq!(counts.get(FaultKind::Partition), 2);
    }
}
