//! What such a run says.

use super::super::callers::{Sample, Seen, callers_of_each};
use super::super::spans::{Checkpoint, length_without, meets};
use super::super::{Arguments, Replicas, histogram};
use super::Target;
use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt;

/// What was measured.
pub(in crate::bench) struct Run {
    pub(super) seen: Seen,
    /// From when to when, in microseconds since the callers' start.
    pub(super) span: (u64, u64),
    pub(super) checkpoints: Vec<Checkpoint>,
    /// When checkpoints were being taken.
    pub(super) busy: Vec<(u64, u64)>,
    /// When garbage of checkpoints was being collected.
    pub(super) collecting: Vec<(u64, u64)>,
    /// Of each replica.
    pub(super) resident_before: Vec<u64>,
    pub(super) resident_most: Vec<u64>,
    pub(super) of_replicas: Option<f64>,
    pub(super) of_clients: f64,
}

/// The set-up and the figures of one run.
#[derive(Debug, Serialize)]
pub(in crate::bench) struct TimedReport {
    protocol: String,
    replicas: usize,
    clients: usize,
    /// Calls of each client: at a time, or in an open loop at most.
    outstanding: usize,
    durability: String,
    tls: bool,
    in_process: bool,
    cores: usize,
    seed: u64,
    /// Absent for the echo.
    state: Option<State>,
    /// Calls per second of the open loop; absent in a closed one.
    rate: Option<f64>,
    arrivals: Option<String>,
    /// What a closed loop reached before.
    peak_ops_per_second: Option<f64>,
    pub(in crate::bench) operations: u64,
    pub(in crate::bench) errors: u64,
    /// Calls that began more than 10 ms after their time.
    late: u64,
    /// All of the measurement.
    whole: Figures,
    /// Calls that met neither a checkpoint nor the collection of what an earlier one had left.
    without_checkpoint: Figures,
    /// Calls that met one.
    with_checkpoint: Figures,
    /// Calls that met no checkpoint, but such a collection.
    collecting_garbage: Figures,
    /// p99 with a checkpoint by p99 without.
    p99_ratio: Option<f64>,
    /// p99 while garbage was collected by p99 without a checkpoint.
    p99_ratio_collecting: Option<f64>,
    checkpoints: Vec<Checkpoint>,
    /// Second by second, where that was asked for.
    timeline: Vec<Second>,
    /// Of the replica with the most; absent when they share the clients' process.
    resident_bytes: Option<Resident>,
    processor_us: Processor,
}

#[derive(Debug, Serialize)]
struct State {
    kind: String,
    entries: u64,
    value_bytes: u32,
    touched_entries: u64,
}

/// Calls in some part of the time.
#[derive(Debug, Serialize)]
pub(in crate::bench) struct Figures {
    seconds: f64,
    operations: u64,
    ops_per_second: f64,
    latency_us: Latency,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(in crate::bench) struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// The calls that were answered in one second.
#[derive(Debug, Serialize)]
struct Second {
    /// Since the begin of the measurement.
    at: u64,
    /// Whether a checkpoint was under way in it.
    checkpoint: bool,
    /// Whether garbage was collected in it.
    collecting: bool,
    operations: u64,
    latency_us: Latency,
}

#[derive(Debug, Serialize)]
struct Resident {
    before: u64,
    most: u64,
}

/// Microseconds of processor time per operation.
#[derive(Debug, Serialize)]
struct Processor {
    replicas: Option<f64>,
    clients: f64,
}

impl Figures {
    /// Of these samples, answered in a time of so many microseconds.
    pub(in crate::bench) fn of<'a>(
        samples: impl Iterator<Item = &'a Sample>,
        micros: u64,
    ) -> Result<Self> {
        let mut latencies = histogram()?;
        for sample in samples {
            latencies.saturating_record(sample.latency);
        }
        let (operations, seconds) = (latencies.len(), micros as f64 / 1e6);
        Ok(Self {
            seconds,
            operations,
            ops_per_second: if micros > 0 {
                operations as f64 / seconds
            } else {
                0.0
            },
            latency_us: Latency::of(&latencies),
        })
    }
}

impl Latency {
    fn of(latencies: &Histogram<u64>) -> Self {
        let at = |quantile| latencies.value_at_quantile(quantile);
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: latencies.max(),
        }
    }
}

impl TimedReport {
    pub(super) fn new(
        arguments: &Arguments,
        replicas: &Replicas,
        seed: u64,
        target: Target,
        run: &Run,
    ) -> Result<Self> {
        let options = &arguments.options;
        let (from, to) = run.span;
        let met = |sample: &Sample| run.busy.iter().any(|span| meets(sample, *span));
        let met_garbage = |s: &Sample| run.collecting.iter().any(|span| meets(s, *span));
        let busy = length_without(&run.busy, &[]);
        let collecting = length_without(&run.collecting, &run.busy);
        let free = (to - from).saturating_sub(busy + collecting);
        // A call counts where it was answered in the time that is measured, so that throughput is that
        // of this time.
        let answered = |sample: &&Sample| (from..=to).contains(&sample.answered());
        let all = || run.seen.samples.iter().filter(answered);
        let whole = Figures::of(all(), to - from)?;
        let without = Figures::of(all().filter(|s| !met(s) && !met_garbage(s)), free)?;
        let with = Figures::of(all().filter(|s| met(s)), busy)?;
        let garbage = Figures::of(all().filter(|s| !met(s) && met_garbage(s)), collecting)?;
        let ratio = |some: &Figures| {
            let both = without.operations > 0 && some.operations > 0;
            both.then(|| some.latency_us.p99 as f64 / without.latency_us.p99.max(1) as f64)
        };
        let (ratio, ratio_collecting) = (ratio(&with), ratio(&garbage));
        let operations = whole.operations.max(1) as f64;
        let per_operation = |spent: f64| spent * 1e6 / operations;
        let most = |bytes: &[u64]| bytes.iter().copied().max();
        let resident = most(&run.resident_before).zip(most(&run.resident_most));
        Ok(Self {
            protocol: arguments.protocol.clone(),
            replicas: replicas.len(),
            clients: arguments.clients,
            outstanding: callers_of_each(arguments, target.rate),
            durability: arguments.durability.to_string(),
            tls: true,
            in_process: arguments.in_process,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            seed,
            state: options.state.map(|kind| State {
                kind: kind.to_string(),
                entries: options.state_entries,
                value_bytes: options.value_bytes,
                touched_entries: options.touched_entries(),
            }),
            rate: target.rate,
            arrivals: target.rate.map(|_| options.arrivals.to_string()),
            peak_ops_per_second: target.peak,
            operations: whole.operations,
            errors: run.seen.errors,
            late: run.seen.late,
            whole,
            without_checkpoint: without,
            with_checkpoint: with,
            collecting_garbage: garbage,
            p99_ratio: ratio,
            p99_ratio_collecting: ratio_collecting,
            checkpoints: run.checkpoints.clone(),
            timeline: if options.timeline {
                timeline(run)?
            } else {
                Vec::new()
            },
            resident_bytes: resident.map(|(before, most)| Resident { before, most }),
            processor_us: Processor {
                replicas: run.of_replicas.map(per_operation),
                clients: per_operation(run.of_clients),
            },
        })
    }
}

/// Every whole second of a run.
fn timeline(run: &Run) -> Result<Vec<Second>> {
    const SECOND: u64 = 1_000_000;
    let (from, to) = run.span;
    let mut seconds = vec![Vec::new(); ((to - from) / SECOND) as usize];
    for sample in &run.seen.samples {
        let since = sample.answered().checked_sub(from);
        let second = since.and_then(|since| seconds.get_mut((since / SECOND) as usize));
        if let Some(latencies) = second {
            latencies.push(sample.latency);
        }
    }
    let mut histogram = histogram()?;
    let second = |(at, latencies): (usize, Vec<u64>)| {
        histogram.reset();
        for latency in latencies {
            histogram.saturating_record(latency);
        }
        let begin = from + at as u64 * SECOND;
        let met = |span: &(u64, u64)| span.0 < begin + SECOND && span.1 > begin;
        Second {
            at: at as u64,
            checkpoint: run.busy.iter().any(met),
            collecting: run.collecting.iter().any(met),
            operations: histogram.len(),
            latency_us: Latency::of(&histogram),
        }
    };
    Ok(seconds.into_iter().enumerate().map(second).collect())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999, max] =
            [self.p50, self.p99, self.p999, self.max].map(|micros| micros as f64 / 1000.0);
        write!(
            f,
            "p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms"
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>8.0} operations/s over {:>6.2} s, {}",
            self.ops_per_second, self.seconds, self.latency_us
        )
    }
}

impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.checkpoint, self.collecting) {
            (true, _) => "checkpoint",
            (false, true) => "garbage",
            (false, false) => "",
        };
        write!(
            f,
            "{:>5} s {what:<10} {:>8} operations, {}",
            self.at, self.operations, self.latency_us
        )
    }
}

impl fmt::Display for TimedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.in_process {
            "threads"
        } else {
            "processes"
        };
        writeln!(
            f,
            "{}, {} replicas as {place}, TLS, durability {}, {} cores, seed {}",
            self.protocol, self.replicas, self.durability, self.cores, self.seed
        )?;
        if let Some(state) = &self.state {
            writeln!(
                f,
                "a {} state of {} entries with values of {} B, of which {} are overwritten, every reply checked",
                state.kind, state.entries, state.value_bytes, state.touched_entries
            )?;
        }
        match (self.rate, &self.arrivals) {
            (Some(rate), Some(arrivals)) => writeln!(
                f,
                "open loop ({arrivals}) of {rate:.0} operations/s, {} clients, at most {} outstanding each",
                self.clients, self.outstanding
            )?,
            _ => writeln!(
                f,
                "closed loop, {} clients x {} outstanding",
                self.clients, self.outstanding
            )?,
        }
        if let Some(peak) = self.peak_ops_per_second {
            writeln!(f, "a closed loop reached {peak:.0} operations/s before")?;
        }
        for second in &self.timeline {
            writeln!(f, "{second}")?;
        }
        writeln!(f, "whole:              {}", self.whole)?;
        writeln!(f, "without checkpoint: {}", self.without_checkpoint)?;
        writeln!(f, "with checkpoint:    {}", self.with_checkpoint)?;
        if self.collecting_garbage.operations > 0 {
            writeln!(f, "garbage collected:  {}", self.collecting_garbage)?;
        }
        if let Some(ratio) = self.p99_ratio {
            write!(f, "p99 with a checkpoint is {ratio:.2} times that without")?;
            match self.p99_ratio_collecting {
                Some(ratio) => writeln!(f, ", while garbage is collected {ratio:.2} times")?,
                None => writeln!(f)?,
            }
        }
        for checkpoint in &self.checkpoints {
            let Checkpoint {
                seq,
                bytes_written,
                state_bytes,
                ..
            } = *checkpoint;
            writeln!(
                f,
                "checkpoint {seq}: {:.2} s until all had it certified{}, {:.1} MiB written of {:.1} MiB ({:.1} %)",
                (checkpoint.to_us - checkpoint.from_us) as f64 / 1e6,
                if checkpoint.in_time {
                    ""
                } else {
                    " (too late: the next was due)"
                },
                mib(bytes_written),
                mib(state_bytes),
                bytes_written as f64 * 100.0 / state_bytes.max(1) as f64
            )?;
        }
        if let Some(resident) = &self.resident_bytes {
            writeln!(
                f,
                "resident memory of a replica: {:.0} MiB before, {:.0} MiB at most",
                mib(resident.before),
                mib(resident.most)
            )?;
        }
        let clients = self.processor_us.clients;
        if let Some(replicas) = self.processor_us.replicas {
            writeln!(
                f,
                "processor time per operation: replicas {replicas:.2} us, clients {clients:.2} us"
            )?;
        }
        writeln!(f, "{} errors, {} calls began late", self.errors, self.late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_counts_in_the_second_of_its_answer_and_a_checkpoint_in_all_that_it_touches() {
        let call = |appointed, latency| Sample { appointed, latency };
        let samples = vec![
            call(400_000, 50_000), // before
            call(400_000, 100_000),
            call(1_400_000, 100_000),
            call(1_500_000, 300_000),
            call(3_499_999, 1), // in what is no whole second
        ];
        let run = Run {
            seen: Seen {
                samples,
                ..Seen::default()
            },
            span: (500_000, 3_900_000),
            checkpoints: Vec::new(),
            busy: vec![(2_400_000, 2_600_000)],
            collecting: vec![(600_000, 700_000), (2_400_000, 2_900_000)],
            resident_before: Vec::new(),
            resident_most: Vec::new(),
            of_replicas: None,
            of_clients: 0.0,
        };
        let seconds = timeline(&run).unwrap();
        let seconds = seconds.iter();
        let told = seconds.map(|s| {
            let what = (s.checkpoint, s.collecting);
            (s.at, what, s.operations, s.latency_us.max / 1000)
        });
        let expected = [
            (0, (false, true), 1, 100),
            (1, (true, true), 2, 300),
            (2, (true, true), 0, 0),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
