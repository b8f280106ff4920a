//! Checkers earn trust by catching bugs: deliberate one-line defects, each of which a campaign must
//! catch within two minutes of processor time.

use super::find;
use atlas_pbft::Pbft;
use atlas_sim::{Choices, Plan, SimProtocol, Verdict, adversary};
use std::time::{Duration, Instant};

/// How long a campaign may search.
const SEARCH: Duration = Duration::from_secs(120);

/// The bug that only a scenario of its own finds soon, and that scenario.
const HARD: [(&str, &str); 2] = [
    ("vote-before-durable", "votes-and-power-cuts"),
    ("oldest-certificate-wins", "flapping-links"),
];

fn caught(bug: &'static str) -> (u64, Verdict) {
    let adversaries = adversary::all::<Pbft>();
    let scenario = HARD
        .iter()
        .find(|(hard, _)| *hard == bug)
        .map(|(_, name)| find(name));
    let started = Instant::now();
    for seed in 0.. {
        assert!(
            started.elapsed() < SEARCH,
            "{bug} not caught by {seed} seeds"
        );
        let report = match scenario {
            Some(scenario) => scenario.run_with::<Pbft>(seed, Some(bug), false),
            None => {
                let choices = Choices {
                    model: <Pbft as atlas_core::OrderingProtocol>::FAULT_MODEL,
                    adversaries: &adversaries,
                    replicas: None,
                    bug: Some(bug),
                };
                atlas_sim::run::<Pbft>(&Plan::draw(seed, &choices), false)
            }
        };
        if matches!(
            report.verdict,
            Verdict::Diverged(_) | Verdict::NoProgress { .. }
        ) {
            return (seed, report.verdict);
        }
    }
    unreachable!("seeds do not end")
}

fn must_be_caught(bug: &'static str) {
    assert!(Pbft::bugs().contains(&bug));
    let (seed, verdict) = caught(bug);
    println!("{bug}: seed {seed}: {verdict}");
}

#[test]
fn a_vote_sent_before_it_is_durable_is_caught() {
    must_be_caught("vote-before-durable");
}

#[test]
fn a_quorum_that_is_one_vote_short_is_caught() {
    must_be_caught("quorum-one-short");
}

#[test]
fn a_view_change_that_drops_prepared_slots_is_caught() {
    must_be_caught("drop-prepared-slots");
}

#[test]
fn execution_without_the_body_is_caught() {
    must_be_caught("execute-without-body");
}

#[test]
fn a_checkpoint_without_its_session_table_is_caught() {
    must_be_caught("lost-sessions");
}

/// The rarest of them. Without optimisation the search takes longer than it may.
#[test]
#[cfg_attr(debug_assertions, ignore = "needs --release")]
fn a_new_view_from_the_oldest_certificates_is_caught() {
    must_be_caught("oldest-certificate-wins");
}
