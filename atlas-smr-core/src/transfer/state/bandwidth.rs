//! A token bucket: so many bytes per second, and no more.

use atlas_common::Time;
use std::time::Duration;

const NANOS: i128 = 1_000_000_000;

/// What may go through now. It may be overdrawn by one large thing, and then nothing goes until that is
/// made good: so that a blob larger than a moment's share passes too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bandwidth {
    /// Bytes per second; 0 is no limit.
    rate: u64,
    /// Bytes that may go now; below 1, none.
    level: i128,
    at: Time,
}

impl Bandwidth {
    /// A bucket for so many bytes per second, 0 for as many as come. After a rest, an eighth of a
    /// second's worth goes at once.
    pub(super) const fn new(rate: u64) -> Self {
        let level = Self::burst(rate);
        let at = Time::ZERO;
        Self { rate, level, at }
    }

    const fn burst(rate: u64) -> i128 {
        let burst = (rate / 8) as i128;
        if burst > 0 { burst } else { 1 }
    }

    fn refill(&mut self, now: Time) {
        let gained = now.since(self.at).as_nanos() as i128 * i128::from(self.rate) / NANOS;
        if gained > 0 {
            self.level = (self.level + gained).min(Self::burst(self.rate));
            self.at = now;
        }
    }

    /// Whether something may go now.
    pub(super) fn is_open(&mut self, now: Time) -> bool {
        self.refill(now);
        self.rate == 0 || self.level > 0
    }

    /// So much goes.
    pub(super) fn take(&mut self, bytes: u64) {
        if self.rate > 0 {
            self.level -= i128::from(bytes);
        }
    }

    /// Less went than was taken.
    pub(super) fn give_back(&mut self, bytes: u64) {
        if self.rate > 0 {
            self.level = (self.level + i128::from(bytes)).min(Self::burst(self.rate));
        }
    }

    /// When something may go, if nothing may now.
    pub(super) fn opens_at(&self) -> Option<Time> {
        if self.rate == 0 || self.level > 0 {
            return None;
        }
        let wait = (1 - self.level) * NANOS / i128::from(self.rate) + 1;
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        Some(self.at.after(Duration::from_nanos(wait)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_goes_than_the_rate_allows() {
        let rate = 1 << 20;
        let mut bucket = Bandwidth::new(rate);
        let mut now = Time::from_millis(5);
        let mut sent = 0;
        while now < Time::from_millis(10_005) {
            if bucket.is_open(now) {
                bucket.take(300_000);
                sent += 300_000;
            } else {
                let at = bucket.opens_at().unwrap();
                assert!(at > now);
                now = at;
                assert!(bucket.is_open(now), "it says when it opens");
            }
        }
        // Ten seconds' worth, the burst, and the debt of the last.
        assert!(
            (10 * rate..=10 * rate + rate / 8 + 300_000).contains(&sent),
            "{sent}"
        );
    }

    #[test]
    fn what_was_taken_and_not_used_may_go_and_no_rate_is_no_limit() {
        let mut bucket = Bandwidth::new(1000);
        assert!(bucket.is_open(Time::ZERO));
        bucket.take(10_000);
        assert!(!bucket.is_open(Time::from_millis(1)));
        bucket.give_back(9_990);
        assert!(bucket.is_open(Time::from_millis(1)));
        let mut free = Bandwidth::new(0);
        free.take(u64::MAX);
        assert!(free.is_open(Time::ZERO) && free.opens_at().is_none());
    }
}
