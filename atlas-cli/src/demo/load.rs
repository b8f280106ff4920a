//! Writers and readers that check every answer.

use anyhow::{Result, bail};
use atlas_kv::{Kv, KvReply, KvRequest};
use atlas_smr::{ApplicationClient, Consistency};
use hdrhistogram::Histogram;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Callers at once.
pub(super) const CALLERS: usize = 64;
/// Of so many calls, one is a read.
pub(super) const READ_EVERY: u64 = 4;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    operations: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
    latencies: Mutex<Vec<u64>>,
    pauses: Mutex<Pauses>,
}

/// The longest time without an answer since the mark.
#[derive(Default)]
struct Pauses {
    last: Option<Instant>,
    longest: Duration,
}

/// What the load came to.
pub(super) struct Totals {
    pub(super) operations: u64,
    pub(super) errors: u64,
    pub(super) wrong: u64,
}

/// What was seen in one span of time.
pub(super) struct Seen {
    pub(super) ops_per_second: f64,
    /// In microseconds.
    pub(super) latencies: Histogram<u64>,
}

impl Seen {
    /// The latency that this part of the calls did not exceed, in milliseconds; 0 without calls.
    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        milliseconds(&self.latencies, quantile)
    }
}

pub(super) struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(client: &ApplicationClient<Kv>) -> Self {
        let shared = Arc::new(Shared::default());
        let caller = |caller| {
            tokio::spawn(call_until_stopped(
                client.clone(),
                Arc::clone(&shared),
                caller,
            ))
        };
        let callers = (0..CALLERS).map(caller).collect();
        Self { shared, callers }
    }

    /// Prints a line of figures each half second, for `span`; gives those of the whole span.
    pub(super) async fn watch(&self, what: &str, span: Duration) -> Result<Seen> {
        let live = std::io::stdout().is_terminal();
        let step = Duration::from_millis(500);
        let steps = span.as_millis().div_ceil(step.as_millis());
        let (first, began) = (self.operations(), Instant::now());
        let mut all = histogram()?;
        for _ in 0..steps {
            let (before, at) = (self.operations(), Instant::now());
            tokio::time::sleep(step).await;
            let rate = rate(self.operations() - before, at);
            let latencies = self.take_latencies()?;
            let line = format!("{what:<16} {rate:>9.0} ops/s   {}", percentiles(&latencies));
            all.add(latencies)?;
            if live {
                print!("\r{line:<78}");
                // A terminal that has gone away is noticed by the next print.
                drop(std::io::stdout().flush());
            } else {
                println!("{line}");
            }
        }
        if live {
            println!();
        }
        Ok(Seen {
            ops_per_second: rate(self.operations() - first, began),
            latencies: all,
        })
    }

    /// Operations answered so far.
    pub(super) fn operations(&self) -> u64 {
        self.shared.operations.load(Relaxed)
    }

    /// Of the calls answered since the last time.
    fn take_latencies(&self) -> Result<Histogram<u64>> {
        let mut histogram = histogram()?;
        for latency in std::mem::take(&mut *lock(&self.shared.latencies)) {
            histogram.saturating_record(latency);
        }
        Ok(histogram)
    }

    /// From here on pauses are measured.
    pub(super) fn mark(&self) {
        *lock(&self.shared.pauses) = Pauses {
            last: Some(Instant::now()),
            longest: Duration::ZERO,
        };
    }

    /// The longest time without an answer since the mark, up to now.
    pub(super) fn longest_pause(&self) -> Duration {
        let pauses = lock(&self.shared.pauses);
        pauses
            .longest
            .max(pauses.last.map_or(Duration::ZERO, |last| last.elapsed()))
    }

    /// Waits for one more answer, so that a pause that still lasts is measured whole.
    pub(super) async fn answered(&self, within: Duration) -> Result<()> {
        let (before, began) = (self.operations(), Instant::now());
        while self.operations() == before {
            if began.elapsed() > within {
                bail!("no answer for {} s", within.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub(super) async fn stop(self) -> Result<Totals> {
        self.shared.stop.store(true, Relaxed);
        for caller in self.callers {
            caller.await?;
        }
        Ok(Totals {
            operations: self.shared.operations.load(Relaxed),
            errors: self.shared.errors.load(Relaxed),
            wrong: self.shared.wrong.load(Relaxed),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rate(operations: u64, since: Instant) -> f64 {
    operations as f64 / since.elapsed().as_secs_f64()
}

/// Up to ten minutes, in microseconds.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(600_000_000, 3)?)
}

fn milliseconds(micros: &Histogram<u64>, quantile: f64) -> f64 {
    micros.value_at_quantile(quantile) as f64 / 1000.0
}

fn percentiles(micros: &Histogram<u64>) -> String {
    if micros.is_empty() {
        return "no answers".to_owned();
    }
    let at = |quantile| milliseconds(micros, quantile);
    format!("p50 {:>7.1} ms   p99 {:>7.1} ms", at(0.5), at(0.99))
}

/// Each caller has a key of its own, so that it knows what every read must give.
async fn call_until_stopped(client: ApplicationClient<Kv>, shared: Arc<Shared>, caller: usize) {
    let key = format!("demo/{caller:03}");
    let mut holds = None;
    for round in 0.. {
        if shared.stop.load(Relaxed) {
            return;
        }
        let began = Instant::now();
        let right = if round % READ_EVERY == READ_EVERY - 1 {
            let get = KvRequest::Get { key: key.clone() };
            let reply = client.read(&get, Consistency::Linearizable).await;
            reply.map(|reply| reply == KvReply::Value(holds.clone()))
        } else {
            let value: bytes::Bytes = format!("round {round}").into();
            let previous = holds.is_some();
            let put = KvRequest::Put {
                key: key.clone(),
                value: value.clone(),
            };
            let reply = client.call(&put).await;
            holds = Some(value);
            reply.map(|reply| reply == KvReply::Put { previous })
        };
        count(&shared, began, right.ok());
    }
}

fn count(shared: &Shared, began: Instant, right: Option<bool>) {
    match right {
        Some(right) => {
            shared.operations.fetch_add(1, Relaxed);
            shared.wrong.fetch_add(u64::from(!right), Relaxed);
        }
        None => {
            shared.errors.fetch_add(1, Relaxed);
            return;
        }
    }
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    lock(&shared.latencies).push(micros);
    let mut pauses = lock(&shared.pauses);
    if let Some(last) = pauses.last {
        let now = Instant::now();
        pauses.longest = pauses.longest.max(now - last);
        pauses.last = Some(now);
    }
}
