//! How fast work in the background should be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The part of the schedule in which the work is done where processors have the time: whatever runs beside
/// it disturbs the others, and it does so less, the less there is of it at a time.
const SHARE_WANTED: f64 = 0.65;
/// The part of the schedule in which the work is done, even if others have to wait for it.
const SHARE_MAX: f64 = 0.85;
/// The part of the work that may be missing before it is late: it takes some steps until anything is done.
const SLACK: f64 = 0.01;
/// How long it rests before it looks again, and how often: so that it is evenly spread where there is much
/// time, and yet soon hears that it is wanted.
const REST: Duration = Duration::from_millis(5);
const RESTS_MAX: usize = 10;

/// How long work may take where nothing is decided, and others use the processors.
const WITHIN: Duration = Duration::from_secs(120);

/// What a replica has executed, by which it is known when work is due.
#[derive(Clone, Debug)]
pub(crate) struct Executed {
    last: Arc<AtomicU64>,
    /// Decisions between two checkpoints.
    interval: u64,
}

impl Executed {
    pub(crate) fn new(checkpoint_interval: u64) -> Self {
        Self {
            last: Arc::default(),
            interval: checkpoint_interval.max(1),
        }
    }

    pub(crate) fn note(&self, last: u64) {
        self.last.store(last, Ordering::Relaxed);
    }

    /// For what began behind this decision and should be done well before a checkpoint later.
    pub(crate) fn within_an_interval(&self, from: u64) -> Schedule {
        self.schedule(from, self.interval, Arc::default())
    }

    /// For what begins now and should be done well before the next checkpoint is taken, or sooner when
    /// that is urgent.
    pub(crate) fn before_the_next(&self, urgent: Arc<AtomicBool>) -> Schedule {
        let from = self.last.load(Ordering::Relaxed);
        self.schedule(from, self.interval - from % self.interval, urgent)
    }

    fn schedule(&self, from: u64, decisions: u64, urgent: Arc<AtomicBool>) -> Schedule {
        Schedule {
            executed: Arc::clone(&self.last),
            from,
            decisions,
            time: WITHIN,
            urgent,
        }
    }
}

/// By when work should be done: while so many decisions are executed.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// The last decision that was.
    pub(super) executed: Arc<AtomicU64>,
    /// The one behind which it begins.
    pub(super) from: u64,
    /// How many there are before it must be done, at least 1.
    pub(super) decisions: u64,
    /// How long it may take even if nothing is executed meanwhile.
    pub(super) time: Duration,
    /// Somebody waits for it.
    pub(super) urgent: Arc<AtomicBool>,
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
        let due = time.max(self.schedule.passed() / SHARE_MAX);
        self.is_urgent() || self.done() + SLACK < due
    }

    fn is_urgent(&self) -> bool {
        self.schedule.urgent.load(Ordering::Relaxed)
    }

    /// Whether there is time enough.
    fn is_early(&self) -> bool {
        self.done() > self.schedule.passed() / SHARE_WANTED
    }

    /// Rests while there is time enough. While nothing is executed nobody is disturbed.
    pub(super) fn rest(&self) {
        self.rest_by(|| thread::sleep(REST));
    }

    fn rest_by(&self, mut sleep: impl FnMut()) {
        for _ in 0..RESTS_MAX {
            if self.is_urgent() || !self.is_early() || !self.is_disturbing() {
                return;
            }
            sleep();
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
            urgent: Arc::default(),
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

    #[test]
    fn work_that_somebody_waits_for_is_late() {
        let pace = pace(0, 90);
        pace.schedule.urgent.store(true, Ordering::Relaxed);
        assert!(pace.is_late());
    }

    #[test]
    fn what_must_be_done_before_the_next_checkpoint_has_the_decisions_up_to_it() {
        let executed = Executed::new(1000);
        for (last, decisions) in [(0, 1000), (2300, 700), (2999, 1), (3000, 1000)] {
            executed.note(last);
            let schedule = executed.before_the_next(Arc::default());
            assert_eq!((schedule.from, schedule.decisions), (last, decisions));
        }
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
    fn it_rests_until_it_is_no_longer_early_or_wanted_and_for_so_long_at_most() {
        // Half is done, which is early until 325 of 1000 have passed.
        let rests = |executed_meanwhile: u64, urgent_after: usize| {
            let (pace, mut rests) = (pace(0, 50), 0);
            pace.rest_by(|| {
                rests += 1;
                let schedule = &pace.schedule;
                schedule
                    .executed
                    .fetch_add(executed_meanwhile, Ordering::Relaxed);
                schedule
                    .urgent
                    .store(rests == urgent_after, Ordering::Relaxed);
            });
            rests
        };
        assert_eq!(rests(50, usize::MAX), 7);
        assert_eq!(rests(1, usize::MAX), RESTS_MAX);
        assert_eq!(rests(1, 3), 3);
        // Nobody is disturbed any more.
        assert_eq!(rests(0, usize::MAX), 1);
    }

    #[test]
    fn it_rests_only_when_something_was_executed_since_the_last_rest() {
        let pace = pace(7, 50);
        let disturbing = [pace.is_disturbing(), pace.is_disturbing()];
        pace.schedule.executed.fetch_add(1, Ordering::Relaxed);
        assert_eq!((disturbing, pace.is_disturbing()), ([true, false], true));
    }
}
