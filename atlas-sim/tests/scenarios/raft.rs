//! Clusters of Raft.

use atlas_core::OrderingProtocol as _;
use atlas_raft::Raft;
use atlas_sim::{Choices, Plan, Report, scenarios};

pub(super) fn random(seed: u64, bug: Option<&'static str>) -> Report {
    let choices = Choices {
        model: Raft::FAULT_MODEL,
        adversaries: &[],
        replicas: None,
        bug,
    };
    atlas_sim::run::<Raft>(&Plan::draw(seed, &choices), false)
}

#[test]
fn every_crash_scenario() {
    for scenario in scenarios::all(Raft::FAULT_MODEL) {
        for seed in 0..super::SEEDS {
            let report = scenario.run::<Raft>(seed, false);
            assert!(
                report.verdict.is_pass(),
                "{}\ncargo run --release -p atlas-sim -- --protocol raft --scenario {} --seed {seed}",
                report.verdict,
                scenario.name
            );
            assert!(report.faults.total() > 0, "no fault fired");
        }
    }
}

/// A short campaign: random plans, and what a campaign is asked to show.
#[test]
fn random_plans() {
    let (mut changes, mut reads) = (0, 0);
    for seed in 3_000_000..3_000_040 {
        let report = random(seed, None);
        assert!(
            report.verdict.is_pass(),
            "{}\n{}\ncargo run --release -p atlas-sim -- --protocol raft --seed {seed}",
            report.verdict,
            report.plan
        );
        changes += u64::from(report.view_changes_under_load >= 2);
        reads += report.counter("reads not ordered");
    }
    assert!(
        changes >= 10,
        "{changes} of 40 with two changes of leader under load"
    );
    assert!(reads >= 400, "{reads} reads not ordered");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 23] {
        let (first, again) = (random(seed, None), random(seed, None));
        assert_eq!(first.trace_hash, again.trace_hash);
        assert_eq!(first.counters, again.counters);
    }
}
