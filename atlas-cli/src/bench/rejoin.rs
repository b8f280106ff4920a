//! A replica that comes back: after a while away, and with an empty disk, under load and without.

mod report;

use super::timed::Load;
use super::watch::{Pages, Standing};
use super::{Arguments, Replicas, probes};
use anyhow::{Context, Result, bail};
use atlas_smr::config::NodeConfig;
use atlas_smr::{Client, ProtocolRegistry, config::Initialised};
pub(super) use report::RejoinReport;
use report::{Probes, Return, Returns, Transfer};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often replicas are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is told how far a replica has come.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long a replica may take to come back.
const BACK_WITHIN: Duration = Duration::from_secs(600);
/// How long the cluster may take until a first checkpoint holds the whole table.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(600);
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
    let parent = parent.to_owned();
    let probe = move || probes::machine(&parent);
    let machine = tokio::task::spawn_blocking(probe).await??;
    eprintln!(
        "the disk takes {} durably, TLS {}",
        machine.disk, machine.tls
    );
    let mut load = Load::prepare(arguments, files, replicas, clients, seed).await?;
    let target = load.target().await?;
    let callers = load.start(target.rate);
    let back = Back {
        pages: load.pages.clone(),
        interval: load.interval,
        replica,
    };
    drop(load);
    let state_bytes = back.whole_checkpoint(arguments).await?;

    back.quiet().await?;
    replicas.processes()?.kill(replica)?;
    tokio::time::sleep(Duration::from_secs(arguments.options.away_seconds)).await;
    let after_away = back.rejoin(replicas, state_bytes).await?;
    eprintln!(
        "after {} s away: {after_away}",
        arguments.options.away_seconds
    );
    let under_load = back.emptied(replicas, &data_dir, state_bytes).await?;
    eprintln!("from nothing, under the load: {under_load}");
    let seen = callers.stop().await?;
    let from_nothing = back.emptied(replicas, &data_dir, state_bytes).await?;
    eprintln!("from nothing, without load: {from_nothing}");
    let returns = Returns {
        after_away,
        under_load,
        from_nothing,
    };
    let probes = Probes {
        tls: machine.tls.median(),
        disk: machine.disk.median(),
    };
    let size = (replicas.len(), state_bytes);
    Ok(RejoinReport::new(
        arguments, size, seed, target, &seen, returns, probes,
    ))
}

/// The replica that goes and comes.
struct Back {
    pages: Pages,
    interval: u64,
    replica: usize,
}

impl Back {
    /// Waits until every replica has a certified checkpoint of the whole table; its bytes.
    async fn whole_checkpoint(&self, arguments: &Arguments) -> Result<u64> {
        let options = &arguments.options;
        let least = options.state_entries * u64::from(options.value_bytes);
        let has =
            |s: &Option<Standing>| s.is_some_and(|s| s.state_bytes >= least && s.is_certified());
        let all = self.wait_until(has).await?;
        let bytes = all.iter().map(|s| s.state_bytes).max();
        bytes.context("no replica")
    }

    /// Waits until no replica writes a checkpoint.
    async fn quiet(&self) -> Result<()> {
        let quiet = |s: &Option<Standing>| s.is_some_and(|s| s.is_quiet(self.interval));
        self.wait_until(quiet).await.map(drop)
    }

    async fn wait_until(&self, is_so: impl Fn(&Option<Standing>) -> bool) -> Result<Vec<Standing>> {
        let began = Instant::now();
        while began.elapsed() < CHECKPOINT_WITHIN {
            let all = self.pages.look().await;
            if all.iter().all(&is_so) {
                return Ok(all.into_iter().flatten().collect());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!(
            "no certified checkpoint of the whole table within {} s, or the next is due before one is \
             there: choose another --checkpoint-interval",
            CHECKPOINT_WITHIN.as_secs()
        )
    }

    /// Kills the replica while no checkpoint is written, empties its disk, and lets it rejoin. Before the
    /// second checkpoint the others have all decisions still, and it would need no state.
    async fn emptied(
        &self,
        replicas: &mut Replicas,
        data_dir: &Path,
        state_bytes: u64,
    ) -> Result<Return> {
        let cut = |s: &Option<Standing>| s.is_some_and(|s| s.checkpoint >= 2 * self.interval);
        self.wait_until(cut).await?;
        self.quiet().await?;
        replicas.processes()?.kill(self.replica)?;
        std::fs::remove_dir_all(data_dir)
            .with_context(|| format!("cannot remove {}", data_dir.display()))?;
        self.rejoin(replicas, state_bytes).await
    }

    /// Starts the replica, and waits until it has all that the others had when it came.
    async fn rejoin(&self, replicas: &mut Replicas, state_bytes: u64) -> Result<Return> {
        let (began, mut told) = (Instant::now(), Instant::now());
        let mut transfer = Transfer::default();
        replicas.processes()?.restart(self.replica)?;
        loop {
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                self.tell(began, state_bytes).await;
            }
            let looked = began.elapsed();
            let there = self.pages.look_at(self.replica).await;
            transfer.look(looked, began.elapsed(), there.as_ref());
            if let Some(there) = self.caught_up().await {
                return Ok(Return::new(began.elapsed(), &there, &transfer, state_bytes));
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
