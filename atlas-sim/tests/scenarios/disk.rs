//! Every crash point and every byte of one replica's disk, in its cluster.
//!
//! More places: `ATLAS_PLACES=20000 cargo test --release -p atlas-sim --test scenarios disk::`.

use atlas_common::{NodeId, Time};
use atlas_core::OrderingProtocol as _;
use atlas_pbft::Pbft;
use atlas_rabia::Rabia;
use atlas_raft::Raft;
use atlas_sim::faults::FaultKind;
use atlas_sim::plan::{Action, CrashKind, DiskFault, Flip, Target};
use atlas_sim::{Plan, Report, SimProtocol};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A short run with checkpoints, and the replica that it is about.
fn plan<P: SimProtocol>(seed: u64) -> (Plan, NodeId) {
    let replicas = if P::NAME == Pbft::NAME { 4 } else { 3 };
    let mut plan = Plan::calm("disk", replicas, seed);
    plan.limits = Plan::small_limits(8);
    plan.clients.truncate(2);
    for client in &mut plan.clients {
        (client.operations, client.burst) = (40, 1);
        client.pause = Duration::from_millis(15);
    }
    (plan, NodeId((seed % replicas as u64) as u32))
}

/// Runs all cases on all cores; each gives whether its fault struck. How many did.
fn each(cases: u64, run: impl Fn(u64) -> bool + Sync) -> u64 {
    let (next, struck) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= cases {
                        return;
                    }
                    struck.fetch_add(u64::from(run(case)), Ordering::Relaxed);
                }
            });
        }
    });
    struck.into_inner()
}

fn must_pass(report: &Report, context: &str) {
    assert!(report.verdict.is_pass(), "{context}: {}", report.verdict);
    assert_eq!(report.operations, 80, "{context}");
}

/// The power of one replica fails in its nth operation on the disk.
fn power_cut<P: SimProtocol>(nth: u64, seed: u64) -> bool {
    let (mut plan, victim) = plan::<P>(seed);
    let cut = Action::DiskFault(Target::Replica(victim), DiskFault::PowerCut { nth });
    plan.schedule.push((Time::ZERO, cut));
    for millis in [250, 500, 750, 1000] {
        plan = plan.at(millis, Action::RestartAll);
    }
    let report = atlas_sim::run::<P>(&plan.heal_at(1000), false);
    must_pass(
        &report,
        &format!("{} power cut at {nth} seed {seed}", P::NAME),
    );
    report.faults.get(FaultKind::TornWrite) > 0
}

/// Unsynced writes are lost, torn, and kept in any order, as the seed says. The simulator's checkers
/// look for what was acknowledged and is missing, and for votes that contradict each other.
fn every_crash_point<P: SimProtocol>() {
    const SEEDS: u64 = 2;
    let mut operations = 0;
    while power_cut::<P>(operations + 10, 0) {
        operations += 10;
    }
    let struck = each(operations * SEEDS, |case| {
        power_cut::<P>(case / SEEDS + 1, case % SEEDS)
    });
    println!(
        "{}: {} crashes at {operations} storage operations, {struck} struck in the run",
        P::NAME,
        operations * SEEDS
    );
    assert!(operations >= 150, "{operations} storage operations");
    assert!(struck * 10 >= operations * SEEDS * 9, "{struck}");
}

#[test]
fn every_crash_point_of_a_replica_of_pbft() {
    every_crash_point::<Pbft>();
}

#[test]
fn every_crash_point_of_a_replica_of_raft() {
    every_crash_point::<Raft>();
}

#[test]
fn every_crash_point_of_a_replica_of_rabia() {
    every_crash_point::<Rabia>();
}

/// One replica is stopped, one bit of what it stored flips, it is started again. Whether it said so.
fn flipped<P: SimProtocol>(share: u32, seed: u64) -> bool {
    let (plan, victim) = plan::<P>(seed);
    let damage = CrashKind::Damage(Flip::At(share));
    let plan = plan
        .at(350, Action::Crash(Target::Replica(victim), damage))
        .at(400, Action::RestartAll)
        .heal_at(600);
    let report = atlas_sim::run::<P>(&plan, false);
    must_pass(
        &report,
        &format!("{} bit flipped at {share} seed {seed}", P::NAME),
    );
    report.faults.get(FaultKind::Damage) > 0
}

/// Detected and repaired or harmless, wherever it is: the states of all are equal in the end, and
/// nothing that was acknowledged is missing.
fn every_byte<P: SimProtocol>() {
    let wanted = std::env::var("ATLAS_PLACES").ok();
    let places = wanted.and_then(|text| text.parse().ok()).unwrap_or(700u64);
    let detected = each(places, |case| {
        let share = (case << 32) / places;
        flipped::<P>(u32::try_from(share).unwrap_or(u32::MAX), case % 5)
    });
    println!(
        "{}: {places} flipped bits, {detected} found at the start, none made a difference",
        P::NAME
    );
    assert!(detected > places / 10, "{detected} of {places}");
}

#[test]
fn every_byte_of_a_stopped_replica_of_pbft() {
    every_byte::<Pbft>();
}

#[test]
fn every_byte_of_a_stopped_replica_of_raft() {
    every_byte::<Raft>();
}

#[test]
fn every_byte_of_a_stopped_replica_of_rabia() {
    every_byte::<Rabia>();
}
