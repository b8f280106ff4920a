//! Many seeds on all cores.

use crate::faults::FaultCounts;
use crate::verdict::{Report, Verdict};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a campaign came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// Those that count: enough operations, and a fault really happened.
    pub counting: u64,
    /// Those of them with two view changes or more that had slots in flight.
    pub with_view_changes: u64,
    /// Those of the seeds that count with two view changes or more under load.
    pub with_view_changes_under_load: u64,
    /// Those of the seeds that count in which a slot stayed empty and one took a second phase.
    pub with_second_phases: u64,
    /// Calls answered.
    pub operations: u64,
    /// View changes.
    pub view_changes: u64,
    /// View changes with slots in flight.
    pub view_changes_in_flight: u64,
    /// Events.
    pub events: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// Real time.
    pub real_time: Duration,
    /// The faults that happened.
    pub faults: FaultCounts,
    /// What correct replicas counted.
    pub counters: BTreeMap<&'static str, u64>,
    /// The seeds that failed, with their verdicts.
    pub failures: BTreeMap<u64, (Verdict, String)>,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        if report.counts() {
            self.counting += 1;
            self.with_view_changes += u64::from(report.view_changes_in_flight >= 2);
            self.with_view_changes_under_load += u64::from(report.view_changes_under_load >= 2);
            let randomised = ["null slots", "second phases"];
            let all = randomised.iter().all(|name| report.counter(name) > 0);
            self.with_second_phases += u64::from(all);
        }
        self.operations += report.operations;
        self.view_changes += report.view_changes;
        self.view_changes_in_flight += report.view_changes_in_flight;
        self.events += report.events;
        self.virtual_time += report.elapsed;
        self.faults.merge(&report.faults);
        for (name, times) in &report.counters {
            *self.counters.entry(name).or_default() += times;
        }
        if !report.verdict.is_pass() {
            let failure = (report.verdict.clone(), report.plan.clone());
            self.failures.insert(report.seed, failure);
        }
    }

    /// Seeds per second of real time.
    #[must_use]
    pub fn seeds_per_second(&self) -> f64 {
        self.seeds as f64 / self.real_time.as_secs_f64().max(1e-9)
    }

    /// Simulated hours per minute of real time.
    #[must_use]
    pub fn hours_per_minute(&self) -> f64 {
        self.virtual_time.as_secs_f64() / 60.0 / self.real_time.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, of: u64| 100.0 * part as f64 / of.max(1) as f64;
        writeln!(
            f,
            "{} seeds in {:.1} s: {:.1} seeds/s, {:.2} simulated hours per minute",
            self.seeds,
            self.real_time.as_secs_f64(),
            self.seeds_per_second(),
            self.hours_per_minute()
        )?;
        writeln!(
            f,
            "{} count (at least 200 operations, a fault fired); {} of them ({:.0} %) with two or \
             more view changes with slots in flight, {} ({:.0} %) with two or more while calls were \
             outstanding",
            self.counting,
            self.with_view_changes,
            share(self.with_view_changes, self.counting),
            self.with_view_changes_under_load,
            share(self.with_view_changes_under_load, self.counting)
        )?;
        if self.counters.contains_key("second phases") {
            let (with, share) = (
                self.with_second_phases,
                share(self.with_second_phases, self.counting),
            );
            writeln!(
                f,
                "{with} of them ({share:.0} %) with null slots and second phases"
            )?;
        }
        writeln!(
            f,
            "{} operations, {} view changes ({} with slots in flight), {} events",
            self.operations, self.view_changes, self.view_changes_in_flight, self.events
        )?;
        writeln!(f, "faults that happened:")?;
        for (kind, times) in self.faults.happened() {
            writeln!(f, "  {times:>12}  {kind}")?;
        }
        writeln!(f, "counted by correct replicas:")?;
        for (name, times) in &self.counters {
            writeln!(f, "  {times:>12}  {name}")?;
        }
        write!(f, "{} failed", self.failures.len())
    }
}

/// Runs `run` for every seed on `threads` threads; `progress` hears how many are done and how many
/// failed.
pub fn run(
    seeds: Range<u64>,
    threads: usize,
    run: impl Fn(u64) -> Report + Sync,
    progress: impl Fn(u64, usize) + Sync,
) -> Summary {
    let started = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let report = run(seed);
            // A poisoned lock would mean that adding numbers panicked.
            let mut summary = summary
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            summary.add(&report);
            progress(summary.seeds, summary.failures.len());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut summary = summary
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    summary.real_time = started.elapsed();
    summary
}
