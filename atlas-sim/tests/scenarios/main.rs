//! Whole clusters of PBFT under every fault of the catalogue that the simulator can show.
//!
//! Each test is one row (or one more scenario), run for a few seeds. A test that fails says how to
//! replay its seed.

use atlas_common::quorum::FaultModel;
use atlas_pbft::Pbft;
use atlas_sim::scenarios::{self, Scenario};
use atlas_sim::{Choices, Plan, Report, SimProtocol, adversary};

#[cfg(feature = "seeded-bugs")]
mod bugs;
mod conformance;
mod determinism;
mod disk;
mod rabia;
mod raft;

/// Seeds for each scenario.
const SEEDS: u64 = 5;

fn run(name: &str) {
    let scenario = find(name);
    for seed in 0..SEEDS {
        let report = scenario.run::<Pbft>(seed, false);
        assert!(
            report.verdict.is_pass(),
            "{}\ncargo run --release -p atlas-sim -- --scenario {name} --seed {seed}",
            report.verdict
        );
        assert!(report.faults.total() > 0, "no fault fired");
    }
}

fn find(name: &str) -> &'static Scenario {
    scenarios::by_name(name).expect("a scenario of this name")
}

fn draw(seed: u64) -> Plan {
    let adversaries = adversary::all::<Pbft>();
    let choices = Choices {
        model: <Pbft as atlas_core::OrderingProtocol>::FAULT_MODEL,
        adversaries: &adversaries,
        replicas: None,
        bug: None,
    };
    Plan::draw(seed, &choices)
}

fn random(seed: u64) -> Report {
    atlas_sim::run::<Pbft>(&draw(seed), false)
}

macro_rules! rows {
    ($($test:ident = $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                run($name);
            }
        )*

        #[test]
        fn every_scenario_has_a_test() {
            let tested = [$($name,)*];
            for scenario in scenarios::all(FaultModel::Byzantine) {
                assert!(tested.contains(&scenario.name), "{} has no test", scenario.name);
            }
        }
    };
}

rows! {
    row_01_equivocating_leader = "row-01-equivocating-leader",
    row_02_censoring_leader = "row-02-censoring-leader",
    row_04_invalid_proposals = "row-04-invalid-proposals",
    row_05_oversized_proposals = "row-05-oversized-proposals",
    row_06_partial_proposals = "row-06-partial-proposals",
    row_07_votes_before_the_proposal = "row-07-votes-before-the-proposal",
    row_08_forged_votes = "row-08-forged-votes",
    row_09_replays_across_domains = "row-09-replays-across-domains",
    row_10_far_future = "row-10-far-future",
    row_11_mixed_certificates = "row-11-mixed-certificates",
    row_12_fabricated_certificates = "row-12-fabricated-certificates",
    row_13_bad_new_view = "row-13-bad-new-view",
    row_14_earlier_proposals = "row-14-earlier-proposals",
    row_15_two_paths = "row-15-two-paths",
    row_16_decision_races_view_change = "row-16-decision-races-view-change",
    row_17_view_change_storm = "row-17-view-change-storm",
    row_18_all_apart = "row-18-all-apart",
    row_20_wrong_state = "row-20-wrong-state",
    row_21_lies_in_transfers = "row-21-lies-in-transfers",
    row_22_parts_that_were_not_asked_for = "row-22-parts-that-were-not-asked-for",
    row_23_undecodable_bytes = "row-23-undecodable-bytes",
    row_24_split_first_slot = "row-24-split-first-slot",
    row_26_lost_votes = "row-26-lost-votes",
    row_29_client_equivocates = "row-29-client-equivocates",
    row_30_disorderly_client = "row-30-disorderly-client",
    row_31_client_garbage = "row-31-client-garbage",
    row_33_forged_replies = "row-33-forged-replies",
    wrong_checkpoints = "wrong-checkpoints",
    leader_crashes = "leader-crashes",
    all_lose_power = "all-lose-power",
    votes_and_power_cuts = "votes-and-power-cuts",
    flapping_links = "flapping-links",
    certificates_of_two_views = "certificates-of-two-views",
    row_34_failing_requests = "row-34-failing-requests",
    srds21_quorum_reads = "srds21-quorum-reads",
    srds21_reads_after_power_cuts = "srds21-reads-after-power-cuts",
    parallel_execution = "parallel-execution",
    row_41_damaged_parts_among_liars = "row-41-damaged-parts-among-liars",
    row_41_damaged_logs_among_liars = "row-41-damaged-logs-among-liars",
    row_41_damaged_checkpoints_among_liars = "row-41-damaged-checkpoints-among-liars",
    row_45_wiped_disk = "row-45-wiped-disk",
    left_behind = "left-behind",
    left_behind_among_liars = "left-behind-among-liars",
    loss_with_4_replicas = "loss-4",
    loss_with_5_replicas = "loss-5",
    loss_with_6_replicas = "loss-6",
    loss_with_7_replicas = "loss-7",
    loss_with_10_replicas = "loss-10",
}

/// A short campaign: random plans, and what a campaign is asked to show.
#[test]
fn random_plans() {
    let mut with_view_changes = 0;
    for seed in 1_000_000..1_000_040 {
        let report = random(seed);
        assert!(
            report.verdict.is_pass(),
            "{}\n{}\ncargo run --release -p atlas-sim -- --protocol {} --seed {seed}",
            report.verdict,
            report.plan,
            <Pbft as atlas_core::OrderingProtocol>::NAME
        );
        with_view_changes += u64::from(report.view_changes_in_flight >= 2);
    }
    assert!(
        with_view_changes >= 4,
        "{with_view_changes} of 40 with two view changes"
    );
    assert!(!<Pbft as SimProtocol>::adversaries().is_empty());
}
