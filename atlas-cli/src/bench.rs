//! `atlas bench`: throughput and latency on a cluster of its own.

mod callers;
mod echo;
mod options;
mod pace;
mod probes;
mod processes;
mod rejoin;
mod report;
mod spans;
mod table;
mod timed;
mod watch;
mod workload;

pub(crate) use echo::Echo;
pub(crate) use table::{DivisibleTable, MonolithicTable, StateKind};

use crate::cluster::{self, OwnCluster};
use anyhow::{Context, Result, bail};
use atlas_common::crypto;
use atlas_smr::config::{ClientConfig, Initialised, NodeConfig};
use atlas_smr::{Client, Durability, ProtocolRegistry, Replica, ReplicaHandle, connect};
use bytes::Bytes;
use hdrhistogram::Histogram;
use options::Options;
use processes::{Processes, processor_seconds};
use rejoin::RejoinReport;
use report::Report;
use serde::Serialize;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};
use timed::TimedReport;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// The ordering protocol: pbft, raft or rabia
    #[arg(long, default_value = "pbft")]
    protocol: String,
    /// How many replicas; by default as many as survive the fault of one
    #[arg(long)]
    replicas: Option<usize>,
    /// How many clients, each with connections of its own
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// How many calls each client has outstanding in a closed loop
    #[arg(long, default_value_t = 250)]
    outstanding: usize,
    /// The size of an operation
    #[arg(long, default_value_t = 16)]
    payload_bytes: usize,
    /// The size of a reply
    #[arg(long, default_value_t = 16)]
    reply_bytes: usize,
    /// When a write counts as kept: sync, async or memory
    #[arg(long, default_value_t = Durability::Sync)]
    durability: Durability,
    /// How long to measure
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How long to warm up before
    #[arg(long, default_value_t = 2)]
    warm_up_seconds: u64,
    /// Slots that a leader keeps in flight at most; the default is the cluster file's
    #[arg(long)]
    in_flight: Option<usize>,
    /// Run the replicas on threads of this process
    #[arg(long)]
    in_process: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

/// What the callers are to do.
const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

/// How long a client may take to open its session.
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    if arguments.clients == 0 || arguments.outstanding == 0 || arguments.seconds == 0 {
        bail!("--clients, --outstanding and --seconds must be at least 1");
    }
    arguments.options.check(&arguments)?;
    let protocol = cluster::protocol(&arguments.protocol)?;
    let dir = tempfile::Builder::new().prefix("atlas-bench-").tempdir()?;
    let files = OwnCluster {
        dir: &dir.path().join("cluster"),
        protocol,
        replicas: arguments.replicas,
        clients: arguments.clients,
        durability: arguments.durability,
        in_flight: arguments.in_flight,
        checkpoint_interval: arguments.options.checkpoint_interval,
        admin: arguments.options.timed(),
        // What the machine carries is to be measured, not the limit.
        unlimited_transfers: arguments.options.rejoin,
    }
    .create()?;
    let mut replicas = if arguments.in_process {
        Replicas::Threads(start_threads(&files, &arguments)?)
    } else {
        Replicas::Processes(Processes::start(&files, application(&arguments))?)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if arguments.options.rejoin {
        let report = runtime.block_on(measure_rejoin(&arguments, &files, &mut replicas))?;
        return tell(
            &arguments,
            &report,
            report.errors == 0 && report.operations > 0,
        );
    }
    if arguments.options.timed() {
        let report = runtime.block_on(measure_timed(&arguments, &files, &replicas))?;
        return tell(
            &arguments,
            &report,
            report.errors == 0 && report.operations > 0,
        );
    }
    let report = runtime.block_on(measure(&arguments, &files, &replicas))?;
    tell(
        &arguments,
        &report,
        report.errors == 0 && report.operations > 0,
    )
}

fn tell(
    arguments: &Arguments,
    report: &(impl Serialize + Display),
    good: bool,
) -> Result<ExitCode> {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{report}");
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How `atlas start` is told to run the application that is measured.
fn application(arguments: &Arguments) -> Vec<String> {
    match arguments.options.state {
        Some(kind) => vec!["--table".to_owned(), kind.to_string()],
        None => vec![
            "--echo-reply-bytes".to_owned(),
            arguments.reply_bytes.to_string(),
        ],
    }
}

enum Replicas {
    Threads(Vec<ReplicaHandle>),
    Processes(Processes),
}

impl Replicas {
    fn len(&self) -> usize {
        match self {
            Self::Threads(replicas) => replicas.len(),
            Self::Processes(processes) => processes.len(),
        }
    }

    fn processes(&mut self) -> Result<&mut Processes> {
        match self {
            Self::Threads(_) => bail!("threads cannot be killed"),
            Self::Processes(processes) => Ok(processes),
        }
    }

    /// The memory of each replica; none when they share this process.
    fn resident_bytes(&self) -> Vec<u64> {
        match self {
            Self::Threads(_) => Vec::new(),
            Self::Processes(processes) => processes.resident_bytes(),
        }
    }

    /// Processor time of all replicas so far; `None` when they share this process.
    fn processor_seconds(&self) -> Result<Option<f64>> {
        match self {
            Self::Threads(replicas) => {
                debug_assert!(!replicas.is_empty());
                Ok(None)
            }
            Self::Processes(processes) => processes.processor_seconds().map(Some),
        }
    }
}

fn start_threads(files: &Initialised, arguments: &Arguments) -> Result<Vec<ReplicaHandle>> {
    let known = ProtocolRegistry::default().known();
    let start = |file| {
        let node = NodeConfig::load(file, &known)?;
        anyhow::Ok(match arguments.options.state {
            Some(StateKind::Divisible) => {
                let table = DivisibleTable::default();
                Replica::builder(table).config(node).start()?
            }
            Some(StateKind::Monolithic) => {
                let table = MonolithicTable::default();
                Replica::builder(table).config(node).start()?
            }
            None => {
                let reply_bytes = arguments.reply_bytes;
                Replica::builder(Echo { reply_bytes })
                    .config(node)
                    .start()?
            }
        })
    };
    files
        .replicas
        .iter()
        .map(|file| start(file.as_path()))
        .collect()
}

/// What one caller has seen.
struct Seen {
    latencies: Histogram<u64>,
    operations: u64,
    errors: u64,
}

async fn ready_clients(files: &Initialised) -> Result<Vec<Client>> {
    let known = ProtocolRegistry::default().known();
    let mut clients = Vec::new();
    for file in &files.clients {
        clients.push(connect(&ClientConfig::load(file, &known)?)?);
    }
    for client in &clients {
        client
            .ready(READY_WITHIN)
            .await
            .context("the cluster does not serve")?;
    }
    Ok(clients)
}

async fn measure_timed(
    arguments: &Arguments,
    files: &Initialised,
    replicas: &Replicas,
) -> Result<TimedReport> {
    let seed = seed(arguments);
    let clients = ready_clients(files).await?;
    let report = timed::run(arguments, files, replicas, &clients, seed).await?;
    for client in &clients {
        client.close().await;
    }
    Ok(report)
}

async fn measure_rejoin(
    arguments: &Arguments,
    files: &Initialised,
    replicas: &mut Replicas,
) -> Result<RejoinReport> {
    let seed = seed(arguments);
    let clients = ready_clients(files).await?;
    let report = rejoin::run(arguments, files, replicas, &clients, seed).await?;
    for client in &clients {
        client.close().await;
    }
    Ok(report)
}

/// The seed that was given, or another one each time; it is printed.
fn seed(arguments: &Arguments) -> u64 {
    let seed = arguments.options.seed;
    let seed = seed.unwrap_or_else(crypto::random_number);
    eprintln!("seed {seed}");
    seed
}

async fn measure(
    arguments: &Arguments,
    files: &Initialised,
    replicas: &Replicas,
) -> Result<Report> {
    let clients = ready_clients(files).await?;
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let mut callers = Vec::new();
    for (index, client) in clients.iter().enumerate() {
        for caller in 0..arguments.outstanding {
            let payload = payload(arguments.payload_bytes, index, caller);
            let (client, phase) = (client.clone(), Arc::clone(&phase));
            callers.push(tokio::spawn(call(
                client,
                payload,
                arguments.reply_bytes,
                phase,
            )));
        }
    }
    tokio::time::sleep(Duration::from_secs(arguments.warm_up_seconds)).await;
    let (replicas_before, own_before) = (replicas.processor_seconds()?, processor_seconds("self")?);
    let began = Instant::now();
    phase.store(MEASURE, Relaxed);
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    phase.store(STOP, Relaxed);
    let elapsed = began.elapsed();
    let (replicas_after, own_after) = (replicas.processor_seconds()?, processor_seconds("self")?);
    let mut all = Seen {
        latencies: histogram()?,
        operations: 0,
        errors: 0,
    };
    for caller in callers {
        let seen = caller.await??;
        all.latencies.add(seen.latencies)?;
        all.operations += seen.operations;
        all.errors += seen.errors;
    }
    for client in &clients {
        client.close().await;
    }
    let of_replicas = replicas_before
        .zip(replicas_after)
        .map(|(before, after)| after - before);
    Ok(Report::new(
        arguments,
        files.replicas.len(),
        &all,
        elapsed,
        of_replicas,
        own_after - own_before,
    ))
}

/// Up to ten minutes, in microseconds.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(600_000_000, 3)?)
}

/// Different for each caller, so that a reply of another's is noticed.
fn payload(bytes: usize, client: usize, caller: usize) -> Bytes {
    let mark = ((client as u64) << 32 | caller as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mark.to_le_bytes()
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect()
}

/// Calls again and again. Counts a call when it was answered while measuring; a wrong or missing
/// answer is an error whenever it comes.
async fn call(
    client: Client,
    payload: Bytes,
    reply_bytes: usize,
    phase: Arc<AtomicU8>,
) -> Result<Seen> {
    let expected = Echo { reply_bytes }.answer(&payload);
    let mut seen = Seen {
        latencies: histogram()?,
        operations: 0,
        errors: 0,
    };
    while phase.load(Relaxed) != STOP {
        let began = Instant::now();
        let reply = client.call(payload.clone()).await;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match reply {
            Ok(reply) if reply == expected => {
                if phase.load(Relaxed) == MEASURE {
                    seen.operations += 1;
                    seen.latencies.saturating_record(micros);
                }
            }
            Ok(_) | Err(_) => seen.errors += 1,
        }
    }
    Ok(seen)
}
