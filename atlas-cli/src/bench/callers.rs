//! Callers in a closed or an open loop, and what they saw.

use super::Arguments;
use super::pace::{Arrivals, Schedule};
use super::workload::Workload;
use anyhow::Result;
use atlas_common::rng::SeededRng;
use atlas_smr::Client;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A call that begins later than this after its time found no caller free, or the benchmark itself
/// was too slow.
const LATE: Duration = Duration::from_millis(10);

/// A call that was answered rightly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When it was to begin, in microseconds since the callers' start.
    pub(super) appointed: u64,
    /// From then until its answer, in microseconds.
    pub(super) latency: u64,
}

impl Sample {
    /// When it was answered.
    pub(super) const fn answered(&self) -> u64 {
        self.appointed.saturating_add(self.latency)
    }
}

/// What all callers saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) samples: Vec<Sample>,
    pub(super) errors: u64,
    /// Calls that began too late.
    pub(super) late: u64,
}

/// When a client's calls begin.
#[derive(Clone)]
enum Pace {
    Closed,
    Open(Arc<Mutex<Schedule>>),
}

/// Callers at work.
pub(super) struct Callers {
    pub(super) start: Instant,
    stop: watch::Sender<bool>,
    callers: Vec<JoinHandle<Seen>>,
}

impl Callers {
    /// Starts callers for each client: `--open-max` that make `rate` calls per second altogether, or
    /// `--outstanding` that call as fast as they are answered.
    pub(super) fn start(
        arguments: &Arguments,
        clients: &[Client],
        rate: Option<f64>,
        rng: &mut SeededRng,
    ) -> Self {
        let (start, (stop, stopped)) = (Instant::now(), watch::channel(false));
        let count = callers_of_each(arguments, rate);
        let arrivals: Arrivals = arguments.options.arrivals;
        let mut callers = Vec::new();
        for (index, client) in clients.iter().enumerate() {
            let pace = rate.map_or(Pace::Closed, |rate| {
                let schedule = Schedule::new(rate, clients.len(), arrivals, rng.fork());
                Pace::Open(Arc::new(Mutex::new(schedule)))
            });
            for caller in 0..count {
                let caller = Caller {
                    client: client.clone(),
                    workload: Workload::new(arguments, index, caller, rng.fork()),
                    pace: pace.clone(),
                    start,
                    stopped: stopped.clone(),
                    seen: Seen::default(),
                };
                callers.push(tokio::spawn(caller.call()));
            }
        }
        Self {
            start,
            stop,
            callers,
        }
    }

    /// Begins no more calls, and waits for the answers to those that run.
    pub(super) async fn stop(self) -> Result<Seen> {
        self.stop.send_replace(true);
        let mut all = Seen::default();
        for caller in self.callers {
            let seen = caller.await?;
            all.samples.extend(seen.samples);
            all.errors += seen.errors;
            all.late += seen.late;
        }
        Ok(all)
    }
}

/// How many callers a client has: one makes one call at a time.
pub(super) fn callers_of_each(arguments: &Arguments, rate: Option<f64>) -> usize {
    match rate {
        Some(_) => arguments.options.open_max,
        None => arguments.outstanding,
    }
}

struct Caller {
    client: Client,
    workload: Workload,
    pace: Pace,
    start: Instant,
    stopped: watch::Receiver<bool>,
    seen: Seen,
}

impl Caller {
    async fn call(mut self) -> Seen {
        while let Some(appointed) = self.appointed().await {
            if self.start.elapsed() > appointed + LATE {
                self.seen.late += 1;
            }
            let (operation, expected) = self.workload.next();
            match self.client.call(operation).await {
                Ok(reply) if reply == expected => {
                    let latency = self.start.elapsed().saturating_sub(appointed);
                    self.seen.samples.push(Sample {
                        appointed: micros(appointed),
                        latency: micros(latency),
                    });
                }
                Ok(_) | Err(_) => self.seen.errors += 1,
            }
        }
        self.seen
    }

    /// Waits until the next call is to begin, and says when that is; `None`: never.
    async fn appointed(&mut self) -> Option<Duration> {
        if *self.stopped.borrow() {
            return None;
        }
        let at = match &self.pace {
            Pace::Closed => return Some(self.start.elapsed()),
            Pace::Open(schedule) => schedule
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next(),
        };
        if self.start.elapsed() >= at {
            return Some(at);
        }
        tokio::select! {
            () = tokio::time::sleep_until((self.start + at).into()) => Some(at),
            _ = self.stopped.changed() => None,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
