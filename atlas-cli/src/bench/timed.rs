//! Runs with a large state or an open loop: what a checkpoint costs those who call meanwhile.

mod report;

use super::callers::{Callers, Seen};
use super::pace::Rate;
use super::processes::processor_seconds;
use super::spans::{self, Look};
use super::watch::Pages;
use super::workload::fill;
use super::{Arguments, Replicas};
use anyhow::{Context, Result, bail};
use atlas_common::rng::SeededRng;
use atlas_smr::Client;
use atlas_smr::config::Initialised;
pub(super) use report::{Run, TimedReport};
use std::time::{Duration, Instant};

/// How often the replicas are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many looks at the replicas' stand come to one at their memory.
const LOOKS_PER_MEMORY: usize = 20;
/// How long a closed loop runs to find the peak.
const PEAK: Duration = Duration::from_secs(8);
/// When a measurement that still waits for a checkpoint is given up.
const GIVE_UP: Duration = Duration::from_secs(1200);

/// A cluster that is loaded, and how.
pub(super) struct Load<'a> {
    pub(super) arguments: &'a Arguments,
    pub(super) clients: &'a [Client],
    pub(super) replicas: &'a Replicas,
    pub(super) pages: Pages,
    pub(super) interval: u64,
    pub(super) rng: SeededRng,
}

/// Calls per second, and what they came from.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// Of the open loop.
    pub(super) rate: Option<f64>,
    /// Of a closed loop before, where it was measured.
    pub(super) peak: Option<f64>,
}

pub(super) async fn run(
    arguments: &Arguments,
    files: &Initialised,
    replicas: &Replicas,
    clients: &[Client],
    seed: u64,
) -> Result<TimedReport> {
    let mut load = Load::prepare(arguments, files, replicas, clients, seed).await?;
    let target = load.target().await?;
    let run = load.measure(target).await?;
    TimedReport::new(arguments, replicas, seed, target, &run)
}

impl<'a> Load<'a> {
    /// Fills the table, where there is one.
    pub(super) async fn prepare(
        arguments: &'a Arguments,
        files: &Initialised,
        replicas: &'a Replicas,
        clients: &'a [Client],
        seed: u64,
    ) -> Result<Self> {
        let options = &arguments.options;
        if options.state.is_some() {
            let client = clients.first().context("no client")?;
            fill(client, options.state_entries, options.value_bytes).await?;
        }
        Ok(Self {
            arguments,
            clients,
            replicas,
            pages: Pages::of(files)?,
            interval: files.cluster.limits().checkpoint_interval,
            rng: SeededRng::new(seed),
        })
    }

    pub(super) fn start(&mut self, rate: Option<f64>) -> Callers {
        Callers::start(self.arguments, self.clients, rate, &mut self.rng)
    }

    /// The rate that was asked for, for which the peak may have to be measured.
    pub(super) async fn target(&mut self) -> Result<Target> {
        let wanted = self.arguments.options.rate;
        if wanted != Some(Rate::Half) {
            let rate = wanted.map(|rate| match rate {
                Rate::PerSecond(rate) => rate,
                Rate::Half => f64::NAN,
            });
            return Ok(Target { rate, peak: None });
        }
        let callers = self.start(None);
        tokio::time::sleep(self.warm_up() + PEAK).await;
        let end = callers.start.elapsed();
        let seen = callers.stop().await?;
        let (from, to) = (micros(self.warm_up()), micros(end));
        let answered = |at: u64| (from..to).contains(&at);
        let count = seen
            .samples
            .iter()
            .filter(|s| answered(s.answered()))
            .count();
        let peak = count as f64 / (to - from) as f64 * 1e6;
        if seen.errors > 0 || count == 0 {
            bail!("{} of the calls that measure the peak failed", seen.errors);
        }
        eprintln!("a closed loop reaches {peak:.0} operations/s");
        Ok(Target {
            rate: Some(peak / 2.0),
            peak: Some(peak),
        })
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs(self.arguments.warm_up_seconds)
    }

    async fn measure(&mut self, target: Target) -> Result<Run> {
        let callers = self.start(target.rate);
        tokio::time::sleep(self.warm_up()).await;
        self.settled(callers.start).await?;
        let (from, memory) = (Instant::now(), self.replicas.resident_bytes());
        let before = (
            self.replicas.processor_seconds()?,
            processor_seconds("self")?,
        );
        let mut resident_most = memory.clone();
        let mut looks = Vec::new();
        while !self.is_enough(&looks, from.elapsed()) {
            if from.elapsed() > GIVE_UP {
                bail!(
                    "no whole checkpoint in {} s: choose a smaller --checkpoint-interval than {}, or \
                     a lower --rate if replicas fall behind",
                    GIVE_UP.as_secs(),
                    self.interval
                );
            }
            looks.push(self.look(callers.start).await);
            if looks.len() % LOOKS_PER_MEMORY == 0 {
                let now = self.replicas.resident_bytes();
                for (most, now) in resident_most.iter_mut().zip(now) {
                    *most = now.max(*most);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let start = callers.start;
        let span = (micros(from.duration_since(start)), micros(start.elapsed()));
        let after = (
            self.replicas.processor_seconds()?,
            processor_seconds("self")?,
        );
        let seen: Seen = callers.stop().await?;
        let checkpoints = spans::checkpoints(&looks, self.interval);
        Ok(Run {
            seen,
            span,
            checkpoints,
            busy: spans::busy(&looks, self.interval),
            collecting: spans::collecting(&looks),
            resident_before: memory,
            resident_most,
            of_replicas: before.0.zip(after.0).map(|(before, after)| after - before),
            of_clients: after.1 - before.1,
        })
    }

    /// At the end no checkpoint is to be under way, unless they take so long that always one is.
    fn is_enough(&self, looks: &[Look], elapsed: Duration) -> bool {
        let checkpoints = spans::checkpoints(looks, self.interval);
        let in_time = checkpoints.iter().all(|checkpoint| checkpoint.in_time);
        elapsed >= Duration::from_secs(self.arguments.seconds)
            && checkpoints.len() >= self.arguments.options.checkpoints
            && (!in_time || spans::unfinished(looks, self.interval).is_none())
    }

    pub(super) async fn look(&self, start: Instant) -> Look {
        let replicas = self.pages.look().await;
        let at = micros(start.elapsed());
        Look { at, replicas }
    }

    /// Waits until no checkpoint is being taken, unless they take so long that always one is.
    pub(super) async fn settled(&self, start: Instant) -> Result<()> {
        let began = Instant::now();
        let mut first = None;
        loop {
            let look = self.look(start).await;
            let executed = spans::executed(&look);
            let passed = executed.saturating_sub(*first.get_or_insert(executed));
            if spans::unfinished(&[look], self.interval).is_none() || passed > 2 * self.interval {
                return Ok(());
            }
            if began.elapsed() > GIVE_UP {
                bail!("a checkpoint was not certified in {} s", GIVE_UP.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
