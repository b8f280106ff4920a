//! Clusters of Rabia.

use atlas_core::OrderingProtocol as _;
use atlas_rabia::Rabia;
use atlas_sim::{Choices, Plan, Report, scenarios};

fn random(seed: u64, bug: Option<&'static str>) -> Report {
    let choices = Choices {
        model: Rabia::FAULT_MODEL,
        adversaries: &[],
        replicas: None,
        bug,
    };
    atlas_sim::run::<Rabia>(&Plan::draw(seed, &choices), false)
}

/// Rows 39 to 50, as far as the simulator shows them, and what Rabia alone is asked.
#[test]
fn every_scenario_of_crashes_passes() {
    let crashes = scenarios::all(Rabia::FAULT_MODEL);
    for scenario in crashes.into_iter().chain(scenarios::of_rabia()) {
        for seed in 0..super::SEEDS {
            let report = scenario.run::<Rabia>(seed, false);
            assert!(
                report.verdict.is_pass(),
                "{}\ncargo run --release -p atlas-sim -- --protocol rabia --scenario {} --seed {seed}",
                report.verdict,
                scenario.name
            );
        }
    }
}

/// Clients that lost everybody at once ask several replicas, which make the same batches: with places
/// of their own in each queue, heads never met, and slot after slot stayed empty.
#[test]
fn row_41_batches_made_by_several_replicas_are_decided() {
    let all = scenarios::all(Rabia::FAULT_MODEL);
    let torn = all
        .iter()
        .find(|scenario| scenario.name == "row-41-torn-writes");
    for seed in [29, 79, 239] {
        let mut plan = torn.expect("a scenario").plan(seed);
        plan.banking.0 = 0.0; // as it was when these seeds were found
        let report = atlas_sim::run::<Rabia>(&plan, false);
        assert!(report.verdict.is_pass(), "seed {seed}: {}", report.verdict);
    }
}

/// A short campaign: random plans, and what a campaign is asked to show.
#[test]
fn random_plans() {
    let mut randomised = 0;
    for seed in 2_000_000..2_000_040 {
        let report = random(seed, None);
        assert!(
            report.verdict.is_pass(),
            "{}\n{}\ncargo run --release -p atlas-sim -- --protocol rabia --seed {seed}",
            report.verdict,
            report.plan
        );
        let both = ["null slots", "second phases"];
        randomised += u64::from(both.iter().all(|name| report.counter(name) > 0));
    }
    assert!(
        randomised >= 10,
        "{randomised} of 40 with null slots and second phases"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 23] {
        let (first, again) = (random(seed, None), random(seed, None));
        assert_eq!(first.trace_hash, again.trace_hash);
        assert_eq!(first.counters, again.counters);
    }
}

/// What only a scenario of its own finds soon: random runs hardly ever cut the power of all between a
/// word and its write, or lose a disk while the only witness is cut off.
#[cfg(feature = "seeded-bugs")]
const HARD: [(&str, &str); 4] = [
    ("vote-before-durable", "row-26-lost-votes-of-voters"),
    ("forget-amnesia", "rabia-forgetful-disk"),
    ("stale-view", "reads-beside-writes"),
    ("ignored-conflicts", "parallel-execution-and-crashes"),
];

/// Each defect is caught within two minutes of processor time.
#[cfg(feature = "seeded-bugs")]
#[test]
fn every_seeded_bug_is_caught() {
    use atlas_sim::{SimProtocol as _, Verdict};
    use std::time::{Duration, Instant};
    for bug in Rabia::bugs() {
        let started = Instant::now();
        let hard = HARD.iter().find(|(hard, _)| hard == bug);
        let scenario = hard.map(|(_, name)| super::find(name));
        let caught = |seed: &u64| {
            let report = match scenario {
                Some(scenario) => scenario.run_with::<Rabia>(*seed, Some(bug), false),
                None => random(*seed, Some(bug)),
            };
            let verdict = report.verdict;
            matches!(verdict, Verdict::Diverged(_) | Verdict::NoProgress { .. })
        };
        let mut seeds = (0..).take_while(|_| started.elapsed() < Duration::from_secs(120));
        let found = seeds.find(caught);
        let seed = found.unwrap_or_else(|| panic!("{bug} was not caught"));
        println!("{bug}: seed {seed} after {:.1?}", started.elapsed());
    }
}
