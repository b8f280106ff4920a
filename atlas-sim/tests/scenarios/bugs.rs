//! Checkers earn trust by catching bugs: deliberate one-line defects, each of which a campaign must
//! catch within two minutes of processor time.

use super::find;
use atlas_pbft::Pbft;
use atlas_rabia::Rabia;
use atlas_raft::Raft;
use atlas_sim::{Choices, Plan, SimProtocol, Verdict, adversary};
use std::time::{Duration, Instant};

/// How long a campaign may search.
const SEARCH: Duration = Duration::from_secs(120);

/// The bugs that only a scenario of its own finds soon, by protocol, and that scenario.
const HARD: [(&str, &str, &str); 13] = [
    ("pbft", "vote-before-durable", "votes-and-power-cuts"),
    (
        "pbft",
        "oldest-certificate-wins",
        "certificates-of-two-views",
    ),
    ("pbft", "few-replies", "srds21-quorum-reads"),
    (
        "pbft",
        "forgotten-decisions",
        "srds21-reads-after-power-cuts",
    ),
    ("pbft", "stale-view", "srds21-quorum-reads"),
    ("pbft", "ignored-conflicts", "parallel-execution"),
    ("raft", "stale-view", "reads-beside-writes"),
    (
        "raft",
        "ignored-conflicts",
        "parallel-execution-and-crashes",
    ),
    ("rabia", "stale-view", "reads-beside-writes"),
    ("raft", "vote-not-persisted", "row-26-lost-votes-of-voters"),
    ("raft", "ack-before-durable", "crash-votes-and-power-cuts"),
    ("raft", "commit-old-term", "crash-short-terms"),
    ("raft", "forgetful-voter", "row-45-forgotten-decisions"),
];

fn caught<P: SimProtocol>(bug: &'static str) -> (u64, Verdict) {
    let adversaries = adversary::all::<P>();
    let scenario = HARD
        .iter()
        .find(|(protocol, hard, _)| (*protocol, *hard) == (P::NAME, bug))
        .map(|(_, _, name)| find(name));
    let started = Instant::now();
    for seed in 0.. {
        assert!(
            started.elapsed() < SEARCH,
            "{bug} not caught by {seed} seeds"
        );
        let report = match scenario {
            Some(scenario) => scenario.run_with::<P>(seed, Some(bug), false),
            None => {
                let choices = Choices {
                    model: P::FAULT_MODEL,
                    adversaries: &adversaries,
                    replicas: None,
                    bug: Some(bug),
                };
                atlas_sim::run::<P>(&Plan::draw(seed, &choices), false)
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
    must_be_caught_in::<Pbft>(bug);
}

fn must_be_caught_in<P: SimProtocol>(bug: &'static str) {
    assert!(P::bugs().contains(&bug));
    let (seed, verdict) = caught::<P>(bug);
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

/// Berger et al., SRDS'21: a write that counts with f + 1 answers is missed by a read.
#[test]
fn ordered_calls_that_take_few_replies_beside_unordered_reads_are_caught() {
    must_be_caught("few-replies");
}

#[test]
fn acknowledged_decisions_that_a_power_cut_takes_away_are_caught_by_unordered_reads() {
    must_be_caught("forgotten-decisions");
}

#[test]
fn reads_from_a_state_that_is_older_than_they_are_caught() {
    must_be_caught("stale-view");
    must_be_caught_in::<Raft>("stale-view");
    must_be_caught_in::<Rabia>("stale-view");
}

#[test]
fn conflicting_operations_in_parallel_are_caught() {
    must_be_caught("ignored-conflicts");
    must_be_caught_in::<Raft>("ignored-conflicts");
}

#[test]
fn a_new_view_from_the_oldest_certificates_is_caught() {
    must_be_caught("oldest-certificate-wins");
}

#[test]
fn a_raft_vote_without_a_record_is_caught() {
    must_be_caught_in::<Raft>("vote-not-persisted");
}

#[test]
fn a_raft_acknowledgement_before_the_disk_is_caught() {
    must_be_caught_in::<Raft>("ack-before-durable");
}

#[test]
fn a_raft_commit_of_an_old_term_is_caught() {
    must_be_caught_in::<Raft>("commit-old-term");
}

#[test]
fn a_raft_majority_that_is_one_short_is_caught() {
    must_be_caught_in::<Raft>("quorum-one-short");
}

#[test]
fn a_raft_append_that_erases_is_caught() {
    must_be_caught_in::<Raft>("stale-append-erases");
}

#[test]
fn a_raft_read_before_an_own_commit_is_caught() {
    must_be_caught_in::<Raft>("read-before-own-commit");
}

#[test]
fn a_raft_read_that_asks_nobody_is_caught() {
    must_be_caught_in::<Raft>("read-without-round");
}

#[test]
fn a_raft_voter_without_memory_is_caught() {
    must_be_caught_in::<Raft>("forgetful-voter");
}

#[test]
fn a_raft_vote_for_an_old_log_is_caught() {
    must_be_caught_in::<Raft>("vote-for-old-logs");
}
