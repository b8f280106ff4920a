//! `atlas-sim`: replays one seed, or runs a campaign of many.

use anyhow::{Context, bail};
use atlas_sim::{Choices, Plan, Report, Summary, campaign, scenarios};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write as _;
use std::ops::Range;
use std::process::ExitCode;

/// Runs whole Atlas clusters in one thread from a seed, with faults, and checks what must hold.
#[derive(Debug, Parser)]
#[command(name = "atlas-sim", version)]
struct Arguments {
    /// The ordering protocol.
    #[arg(long, default_value = "pbft")]
    protocol: String,
    /// Replay this seed and print what happened.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds: A..B, the end excluded.
    #[arg(long, value_parser = range, required_unless_present_any = ["seed", "list"])]
    seeds: Option<Range<u64>>,
    /// A scenario instead of a random plan; --list names them.
    #[arg(long, conflicts_with = "replicas")]
    scenario: Option<String>,
    /// The number of replicas, instead of a random one.
    #[arg(long)]
    replicas: Option<usize>,
    /// Switch on a deliberate defect (needs the feature seeded-bugs); --list names them.
    #[arg(long)]
    bug: Option<String>,
    /// Threads for a campaign, instead of one per core.
    #[arg(long)]
    threads: Option<usize>,
    /// With --seed: print the verdict and the figures only.
    #[arg(long)]
    quiet: bool,
    /// List scenarios, adversaries and defects.
    #[arg(long)]
    list: bool,
}

fn range(text: &str) -> anyhow::Result<Range<u64>> {
    let (start, end) = text.split_once("..").context("expected A..B")?;
    let range = start.trim().parse()?..end.trim().parse()?;
    if range.is_empty() {
        bail!("the range is empty");
    }
    Ok(range)
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.protocol.as_str() {
        "pbft" => run::<atlas_pbft::Pbft>(&arguments),
        "raft" => run::<atlas_raft::Raft>(&arguments),
        "rabia" => run::<atlas_rabia::Rabia>(&arguments),
        other => bail!("protocol `{other}` is not known here: expected pbft, raft or rabia"),
    }
}

fn run<P: atlas_sim::SimProtocol>(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.list {
        list::<P>();
        return Ok(ExitCode::SUCCESS);
    }
    let plans = Plans::new::<P>(arguments)?;
    if let Some(seed) = arguments.seed {
        let report = plans.run::<P>(seed, !arguments.quiet);
        // Whoever reads may have seen enough before the end.
        let mut out = std::io::stdout().lock();
        write!(out, "{}", report.transcript).ok();
        writeln!(out, "{}", one_line(&report)).ok();
        return Ok(exit_code(report.verdict.is_pass()));
    }
    let seeds = arguments
        .seeds
        .clone()
        .context("--seed or --seeds is needed")?;
    let summary = run_campaign::<P>(arguments, &plans, seeds);
    println!("{summary}");
    for (seed, (verdict, plan)) in &summary.failures {
        println!(
            "seed {seed}: {verdict}\n  {plan}\n  replay: {}",
            replay(arguments, *seed)
        );
    }
    Ok(exit_code(summary.failures.is_empty()))
}

fn run_campaign<P: atlas_sim::SimProtocol>(
    arguments: &Arguments,
    plans: &Plans,
    seeds: Range<u64>,
) -> Summary {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bar = ProgressBar::new(seeds.end - seeds.start);
    let template = "{bar:40} {pos}/{len} seeds, {per_sec}, {msg}, {eta} to go";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let progress = |done, failed| {
        bar.set_position(done);
        bar.set_message(format!("{failed} failed"));
    };
    let one = |seed| plans.run::<P>(seed, false);
    let summary = campaign::run(seeds, arguments.threads.unwrap_or(cores), one, progress);
    bar.finish_and_clear();
    summary
}

/// Where plans come from.
struct Plans {
    scenario: Option<&'static scenarios::Scenario>,
    adversaries: Vec<&'static str>,
    replicas: Option<usize>,
    bug: Option<&'static str>,
}

impl Plans {
    fn new<P: atlas_sim::SimProtocol>(arguments: &Arguments) -> anyhow::Result<Self> {
        let find = |name: &String| {
            scenarios::by_name(name).with_context(|| format!("no scenario is called `{name}`"))
        };
        let bug = |name: &String| {
            let bug = P::bugs().iter().find(|bug| *bug == name).copied();
            bug.with_context(|| format!("no defect `{name}` here (feature seeded-bugs?)"))
        };
        Ok(Self {
            scenario: arguments.scenario.as_ref().map(find).transpose()?,
            adversaries: atlas_sim::adversary::all::<P>(),
            replicas: arguments.replicas,
            bug: arguments.bug.as_ref().map(bug).transpose()?,
        })
    }

    fn run<P: atlas_sim::SimProtocol>(&self, seed: u64, transcript: bool) -> Report {
        if let Some(scenario) = self.scenario {
            return scenario.run_with::<P>(seed, self.bug, transcript);
        }
        let choices = Choices {
            model: P::FAULT_MODEL,
            adversaries: &self.adversaries,
            replicas: self.replicas,
            bug: self.bug,
        };
        atlas_sim::run::<P>(&Plan::draw(seed, &choices), transcript)
    }
}

fn one_line(report: &Report) -> String {
    let faults: Vec<String> = report
        .faults
        .happened()
        .into_iter()
        .map(|(kind, times)| format!("{times} {kind}"))
        .collect();
    let counters: Vec<String> = report
        .counters
        .iter()
        .map(|(name, times)| format!("{times} {name}"))
        .collect();
    format!(
        "seed {}: {}\n{}\n{} operations, {} view changes ({} with slots in flight), {} events in \
         {:.3} s of virtual time\nfaults: {}\ncounted: {}\ntrace {:016x}",
        report.seed,
        report.verdict,
        report.plan,
        report.operations,
        report.view_changes,
        report.view_changes_in_flight,
        report.events,
        report.elapsed.as_secs_f64(),
        faults.join(", "),
        counters.join(", "),
        report.trace_hash
    )
}

fn replay(arguments: &Arguments, seed: u64) -> String {
    use std::fmt::Write as _;
    let mut command = format!(
        "cargo run --release -p atlas-sim -- --protocol {} --seed {seed}",
        arguments.protocol
    );
    if let Some(scenario) = &arguments.scenario {
        write!(command, " --scenario {scenario}").ok();
    }
    if let Some(replicas) = arguments.replicas {
        write!(command, " --replicas {replicas}").ok();
    }
    if let Some(bug) = &arguments.bug {
        write!(command, " --bug {bug}").ok();
    }
    command
}

fn list<P: atlas_sim::SimProtocol>() {
    println!("scenarios:");
    for scenario in scenarios::all(P::FAULT_MODEL) {
        println!("  {:<34} {}", scenario.name, scenario.about);
    }
    println!(
        "adversaries: {}",
        atlas_sim::adversary::all::<P>().join(", ")
    );
    println!("defects: {}", P::bugs().join(", "));
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
