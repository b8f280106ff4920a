//! A replica that comes back: after a while away, and with an empty disk.

use super::callers::Callers;
use super::timed::{Load, Target};
use super::watch::Standing;
use super::{Arguments, Replicas, probes};
use anyhow::{Context, Result, bail};
use atlas_smr::config::NodeConfig;
use atlas_smr::{Client, ProtocolRegistry, config::Initialised};
use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant};

/// How often replicas are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is told how far a replica has come.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long a replica may take to come back.
const BACK_WITHIN: Duration = Duration::from_secs(600);
/// How long the cluster may take until a first checkpoint holds the whole table.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(600);
/// What rejoining from nothing must reach of the lesser probe.
const SHARE: f64 = 0.4;

/// One return.
#[derive(Debug, Serialize)]
pub(super) struct Return {
    /// From the start of the process until it serves, with nothing left to fetch.
    seconds: f64,
    /// Bytes of parts and pages that it fetched.
    fetched_bytes: u64,
    /// Decisions that it fetched.
    decisions_fetched: u64,
    /// States that it took over from peers.
    states_installed: u64,
    /// Fetched bytes in percent of the state.
    fetched_percent: f64,
    /// Bytes of state fetched per second, from the start until it served.
    bytes_per_second: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct RejoinReport {
    protocol: String,
    replicas: usize,
    durability: String,
    cores: usize,
    seed: u64,
    state: String,
    entries: u64,
    touched_entries: u64,
    state_bytes: u64,
    rate: Option<f64>,
    peak_ops_per_second: Option<f64>,
    pub(super) operations: usize,
    pub(super) errors: u64,
    away_seconds: u64,
    after_away: Return,
    from_nothing: Return,
    tls_bytes_per_second: f64,
    disk_bytes_per_second: f64,
    /// The rate of `from_nothing` by the lesser of the two above.
    share: f64,
}

pub(super) async fn run(
    arguments: &Arguments,
    files: &Initialised,
    replicas: &mut Replicas,
    clients: &[Client],
    seed: u64,
) -> Result<RejoinReport> {
    let directory = files.replicas.last().context("no replica")?.clone();
    let known = ProtocolRegistry::default().known();
    let data_dir = NodeConfig::load(&directory, &known)?.data_dir;
    let replica = replicas.len().saturating_sub(1);
    let parent = directory
        .parent()
        .context("a replica without a directory")?;
    // Before, when nothing else runs.
    let disk = probes::disk(parent)?;
    let tls = tokio::task::spawn_blocking(probes::tls).await??;
    eprintln!(
        "the disk takes {:.0} MiB/s durably, TLS {:.0} MiB/s",
        mib(disk),
        mib(tls)
    );
    let mut load = Load::prepare(arguments, files, replicas, clients, seed).await?;
    let target = load.target().await?;
    let callers = load.start(target.rate);
    let pages = load.pages.clone();
    drop(load);
    let back = Back { pages, replica };
    let state_bytes = back.whole_checkpoint(arguments).await?;

    replicas.processes()?.kill(replica)?;
    tokio::time::sleep(Duration::from_secs(arguments.options.away_seconds)).await;
    let after_away = back.rejoin(replicas, state_bytes).await?;
    eprintln!(
        "after {} s away: {after_away}",
        arguments.options.away_seconds
    );

    replicas.processes()?.kill(replica)?;
    std::fs::remove_dir_all(&data_dir)
        .with_context(|| format!("cannot remove {}", data_dir.display()))?;
    let from_nothing = back.rejoin(replicas, state_bytes).await?;
    eprintln!("from nothing: {from_nothing}");
    report(
        arguments,
        replicas.len(),
        seed,
        target,
        callers,
        (state_bytes, after_away, from_nothing),
        (tls, disk),
    )
    .await
}

async fn report(
    arguments: &Arguments,
    replicas: usize,
    seed: u64,
    target: Target,
    callers: Callers,
    (state_bytes, after_away, from_nothing): (u64, Return, Return),
    (tls, disk): (f64, f64),
) -> Result<RejoinReport> {
    let seen = callers.stop().await?;
    let options = &arguments.options;
    let state = options.state.map(|kind| kind.to_string());
    Ok(RejoinReport {
        protocol: arguments.protocol.clone(),
        replicas,
        durability: arguments.durability.to_string(),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        seed,
        state: state.unwrap_or_default(),
        entries: options.state_entries,
        touched_entries: options.touched_entries(),
        state_bytes,
        rate: target.rate,
        peak_ops_per_second: target.peak,
        operations: seen.samples.len(),
        errors: seen.errors,
        away_seconds: options.away_seconds,
        share: from_nothing.bytes_per_second / tls.min(disk),
        after_away,
        from_nothing,
        tls_bytes_per_second: tls,
        disk_bytes_per_second: disk,
    })
}

/// The replica that goes and comes.
struct Back {
    pages: super::watch::Pages,
    replica: usize,
}

impl Back {
    /// Waits until every replica has a certified checkpoint of the whole table; its bytes.
    async fn whole_checkpoint(&self, arguments: &Arguments) -> Result<u64> {
        let options = &arguments.options;
        let least = options.state_entries * u64::from(options.value_bytes);
        let has =
            |s: &Option<Standing>| s.is_some_and(|s| s.state_bytes >= least && s.is_certified());
        let began = Instant::now();
        while began.elapsed() < CHECKPOINT_WITHIN {
            let all = self.pages.look().await;
            if all.iter().all(has) {
                let bytes = all.iter().flatten().map(|s| s.state_bytes).max();
                return bytes.context("no replica");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!(
            "no certified checkpoint of the whole table within {} s: choose a smaller \
             --checkpoint-interval",
            CHECKPOINT_WITHIN.as_secs()
        )
    }

    /// Starts the replica, and waits until it has all that the others had when it came.
    async fn rejoin(&self, replicas: &mut Replicas, state_bytes: u64) -> Result<Return> {
        let (began, mut told) = (Instant::now(), Instant::now());
        replicas.processes()?.restart(self.replica)?;
        loop {
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                self.tell(began, state_bytes).await;
            }
            if let Some(there) = self.caught_up().await {
                let seconds = began.elapsed().as_secs_f64();
                let fetched = there.fetched_bytes as f64;
                return Ok(Return {
                    seconds,
                    fetched_bytes: there.fetched_bytes,
                    decisions_fetched: there.decisions_fetched,
                    states_installed: there.states_installed,
                    fetched_percent: fetched * 100.0 / state_bytes.max(1) as f64,
                    bytes_per_second: fetched / seconds,
                });
            }
            if began.elapsed() > BACK_WITHIN {
                bail!("the replica is not back after {} s", BACK_WITHIN.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn tell(&self, began: Instant, state_bytes: u64) {
        let seconds = began.elapsed().as_secs_f64();
        match self.pages.look_at(self.replica).await {
            Some(there) => eprintln!(
                "{seconds:.1} s: {:.0} of {:.0} MiB are there, {:.0} MiB fetched; {} states taken over, \
                 decision {} executed",
                mib(there.here_bytes as f64),
                mib(state_bytes as f64),
                mib(there.fetched_bytes as f64),
                there.states_installed,
                there.executed
            ),
            None => eprintln!("{seconds:.1} s: the replica starts"),
        }
    }

    /// The replica, when it fetches nothing and has executed what the others had just before.
    async fn caught_up(&self) -> Option<Standing> {
        let others = self.pages.look().await;
        let others = others
            .iter()
            .enumerate()
            .filter(|(id, _)| *id != self.replica);
        let furthest = others
            .filter_map(|(_, s)| Some(s.as_ref()?.executed))
            .max()?;
        let there = self.pages.look_at(self.replica).await?;
        (!there.catching_up && there.executed >= furthest).then_some(there)
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "back in {:.1} s, {:.1} MiB of state fetched ({:.2} %), {} decisions fetched, {} states \
             taken over, {:.0} MiB/s",
            self.seconds,
            mib(self.fetched_bytes as f64),
            self.fetched_percent,
            self.decisions_fetched,
            self.states_installed,
            mib(self.bytes_per_second)
        )
    }
}

impl fmt::Display for RejoinReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} replicas as processes, TLS, durability {}, {} cores, seed {}",
            self.protocol, self.replicas, self.durability, self.cores, self.seed
        )?;
        writeln!(
            f,
            "a {} state of {} entries, {:.0} MiB, of which {} are overwritten meanwhile",
            self.state,
            self.entries,
            mib(self.state_bytes as f64),
            self.touched_entries
        )?;
        writeln!(f, "after {} s away: {}", self.away_seconds, self.after_away)?;
        writeln!(f, "with an empty disk: {}", self.from_nothing)?;
        writeln!(
            f,
            "that is {:.0} % (wanted: {:.0} %) of the lesser of TLS ({:.0} MiB/s) and disk ({:.0} MiB/s)",
            self.share * 100.0,
            SHARE * 100.0,
            mib(self.tls_bytes_per_second),
            mib(self.disk_bytes_per_second)
        )?;
        writeln!(f, "{} operations, {} errors", self.operations, self.errors)
    }
}
