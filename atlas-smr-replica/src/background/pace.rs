//! How fast work in the background should be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The part of the schedule in which the work is done where processors have the time: whatever runs beside
/// it disturbs the others, and it does so less, the less there is of it at a time.
const SHARE_WANTED: f64 = 0.65;
/// The part of the schedule in which the work is done, even if others have to wait for it.
const SHARE_MAX: f64 = 0.85;
/// The part of the work that may be missing before it is late: it takes some steps until anything is done.
const SLACK: f64 = 0.01;
/// How long it rests in one go.
const REST: Duration = Duration::from_millis(2);

/// By when work should be done: while so many decisions are executed.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// The last decision that was.
    pub(crate) executed: Arc<AtomicU64>,
    /// The one behind which it begins.
    pub(crate) from: u64,
    /// How many there are before more such work is due, at least 1.
    pub(crate) decisions: u64,
    /// How long it may take even if nothing is executed meanwhile.
    pub(crate) time: Duration,
}

impl Schedule {
    fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    /// The part of it that has passed.
    fn passed(&self) -> f64 {
        self.executed().saturating_sub(self.from) as f64 / self.decisions as f64
    }
}

/// A schedule, and how far the work has come.
#[derive(Debug)]
pub(super) struct Pace {
    schedule: Schedule,
    began: Instant,
    /// Pieces of work, behind the first step.
    total: usize,
    left: AtomicUsize,
    /// The last decision before the last rest.
    rested: AtomicU64,
}

impl Pace {
    pub(super) fn new(schedule: Schedule, total: usize) -> Self {
        Self {
            schedule,
            began: Instant::now(),
            total,
            left: AtomicUsize::new(total),
            rested: AtomicU64::new(0),
        }
    }

    pub(super) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    pub(super) fn note_left(&self, left: usize) {
        self.left.store(left, Ordering::Relaxed);
    }

    fn done(&self) -> f64 {
        1.0 - self.left() as f64 / self.total.max(1) as f64
    }

    /// Whether others have to wait now.
    pub(super) fn is_late(&self) -> bool {
        let time = self.began.elapsed().as_secs_f64() / self.schedule.time.as_secs_f64();
        self.done() + SLACK < time.max(self.schedule.passed() / SHARE_MAX)
    }

    /// Whether there is time enough.
    fn is_early(&self) -> bool {
        self.done() > self.schedule.passed() / SHARE_WANTED
    }

    /// Rests where there is time enough. While nothing is executed nobody is disturbed.
    pub(super) fn rest(&self) {
        if self.is_early() && self.is_disturbing() {
            thread::sleep(REST);
        }
    }

    /// Whether anything was executed since it was asked last.
    fn is_disturbing(&self) -> bool {
        let executed = self.schedule.executed();
        self.rested.swap(executed, Ordering::Relaxed) != executed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(passed: u64, left: usize) -> Pace {
        let schedule = Schedule {
            executed: Arc::new(AtomicU64::new(5000 + passed)),
            from: 5000,
            decisions: 1000,
            time: Duration::from_secs(3600),
        };
        let pace = Pace::new(schedule, 100);
        pace.note_left(left);
        pace
    }

    fn standing(passed: u64, left: usize) -> (bool, bool) {
        let pace = pace(passed, left);
        (pace.is_early(), pace.is_late())
    }

    #[test]
    fn work_is_early_on_time_or_late_by_what_was_executed_meanwhile() {
        assert_eq!(standing(0, 90), (true, false));
        assert_eq!(standing(65, 89), (true, false));
        assert_eq!(standing(65, 91), (false, false));
        assert_eq!(standing(95, 91), (false, true));
        assert_eq!(standing(640, 1), (true, false));
        assert_eq!(standing(860, 1), (false, true));
        assert_eq!(standing(5000, 1), (false, true));
    }

    /// What has executed less than where the work began has begun anew.
    #[test]
    fn a_schedule_that_goes_back_has_not_passed() {
        let pace = pace(0, 99);
        pace.schedule.executed.store(3, Ordering::Relaxed);
        assert_eq!((pace.is_early(), pace.is_late()), (true, false));
    }

    #[test]
    fn work_is_late_after_its_time_even_if_nothing_is_executed() {
        let mut pace = pace(0, 50);
        assert!(!pace.is_late());
        pace.schedule.time = Duration::from_nanos(1);
        assert!(pace.is_late());
    }

    #[test]
    fn it_rests_only_when_something_was_executed_since_the_last_rest() {
        let pace = pace(7, 50);
        let disturbing = [pace.is_disturbing(), pace.is_disturbing()];
        pace.schedule.executed.fetch_add(1, Ordering::Relaxed);
        assert_eq!((disturbing, pace.is_disturbing()), ([true, false], true));
    }
}
