//! The same seed, the same run.

use super::{draw, find, random};
use atlas_pbft::Pbft;
use atlas_sim::Report;

fn outcome(report: &Report) -> (u64, u64, u64, String) {
    let verdict = report.verdict.to_string();
    (report.trace_hash, report.events, report.operations, verdict)
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut hashes = Vec::new();
    for seed in [3, 14, 15, 92, 65] {
        let (first, again) = (random(seed), random(seed));
        assert_eq!(outcome(&first), outcome(&again), "seed {seed}");
        hashes.push(first.trace_hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 5);
}

/// Whoever reads along changes nothing, and neither does it matter on which thread a seed runs.
#[test]
fn a_transcript_and_another_thread_change_nothing() {
    let plain = random(7);
    let told = atlas_sim::run::<Pbft>(&draw(7), true);
    assert_eq!(outcome(&plain), outcome(&told));
    assert!(told.transcript.contains("pre-prepare v0 #1"));
    let elsewhere = std::thread::spawn(|| random(7)).join().unwrap();
    assert_eq!(outcome(&plain), outcome(&elsewhere));
}

/// Real signatures and the codec change nothing of what is decided, only what it costs.
#[test]
fn real_signatures_and_the_codec_pass_as_well() {
    let mut plan = find("leader-crashes").plan(1);
    plan.real_signatures = true;
    plan.through_codec = true;
    let report = atlas_sim::run::<Pbft>(&plan, false);
    assert!(report.verdict.is_pass(), "{}", report.verdict);
}
