//! What a benchmark says.

use super::{Arguments, Seen};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// The set-up and the figures of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    protocol: String,
    replicas: usize,
    clients: usize,
    outstanding: usize,
    payload_bytes: usize,
    reply_bytes: usize,
    durability: String,
    tls: bool,
    in_process: bool,
    cores: usize,
    seconds: f64,
    pub(super) operations: u64,
    ops_per_second: f64,
    latency_us: Latency,
    pub(super) errors: u64,
    /// Microseconds of processor time per operation.
    processor_us: Processor,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Debug, Serialize)]
struct Processor {
    /// All replicas together; absent when they share the clients' process.
    replicas: Option<f64>,
    /// The process of the clients.
    clients: f64,
}

impl Report {
    pub(super) fn new(
        arguments: &Arguments,
        replicas: usize,
        seen: &Seen,
        elapsed: Duration,
        of_replicas: Option<f64>,
        of_clients: f64,
    ) -> Self {
        let seconds = elapsed.as_secs_f64();
        let per_operation = |spent: f64| spent * 1e6 / (seen.operations.max(1) as f64);
        let at = |quantile| seen.latencies.value_at_quantile(quantile);
        Self {
            protocol: arguments.protocol.clone(),
            replicas,
            clients: arguments.clients,
            outstanding: arguments.outstanding,
            payload_bytes: arguments.payload_bytes,
            reply_bytes: arguments.reply_bytes,
            durability: arguments.durability.to_string(),
            tls: true,
            in_process: arguments.in_process,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            seconds,
            operations: seen.operations,
            ops_per_second: seen.operations as f64 / seconds,
            latency_us: Latency {
                p50: at(0.5),
                p99: at(0.99),
                p999: at(0.999),
                max: seen.latencies.max(),
            },
            errors: seen.errors,
            processor_us: Processor {
                replicas: of_replicas.map(per_operation),
                clients: per_operation(of_clients),
            },
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.in_process {
            "threads"
        } else {
            "processes"
        };
        writeln!(
            f,
            "{}, {} replicas as {place}, TLS, durability {}, {} cores",
            self.protocol, self.replicas, self.durability, self.cores
        )?;
        writeln!(
            f,
            "{} clients x {} outstanding, {} B payload, {} B reply, every reply checked",
            self.clients, self.outstanding, self.payload_bytes, self.reply_bytes
        )?;
        writeln!(
            f,
            "{:.0} operations/s over {:.1} s, {} errors",
            self.ops_per_second, self.seconds, self.errors
        )?;
        let ms = |micros: u64| micros as f64 / 1000.0;
        let Latency {
            p50,
            p99,
            p999,
            max,
        } = self.latency_us;
        writeln!(
            f,
            "latency p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
            ms(p50),
            ms(p99),
            ms(p999),
            ms(max)
        )?;
        let clients = self.processor_us.clients;
        match self.processor_us.replicas {
            Some(replicas) => writeln!(
                f,
                "processor time per operation: replicas {replicas:.2} us, clients {clients:.2} us"
            ),
            None => writeln!(f, "processor time per operation: {clients:.2} us for both"),
        }
    }
}
