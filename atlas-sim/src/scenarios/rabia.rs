//! What Rabia is asked besides: many null slots, second phases and coins, proposals that never reach a
//! majority, a replica that lags by slots, clocks far apart.

use super::{Scenario, counted, nothing};
use crate::faults::FaultKind;
use crate::network::Quality;
use crate::plan::{Action, Clock, CrashKind, Plan, Target};
use atlas_common::NodeId;
use atlas_common::rng::SeededRng;
use std::time::Duration;

fn calm(replicas: usize, seed: u64, must_happen: &[FaultKind]) -> Plan {
    Plan {
        must_happen: must_happen.to_vec(),
        ..Plan::calm("", replicas, seed)
    }
}

/// All clients call at once, and what their replicas spread arrives late or not at all: heads differ.
fn storm(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let mut plan = calm(5, seed, &[FaultKind::Partition]);
    plan.quality.delay_mean = Duration::from_millis(3);
    for client in &mut plan.clients {
        client.pause = Duration::from_millis(10);
    }
    for i in 0..40 {
        let mut cuts = Vec::new();
        for from in 0..5 {
            let others = (0..5).filter(|to| *to != from && rng.chance(0.4));
            cuts.extend(others.map(|to| (from, to)));
        }
        let at = 50 + i * 60;
        plan = plan.at(at, Action::Mend).at(at, Action::Cut(cuts));
    }
    plan.heal_at(2500)
}

/// Messages overtake each other, so that replicas hear different majorities.
fn coins(seed: u64) -> Plan {
    let quality = Quality {
        delay_mean: Duration::from_millis(4),
        loss: 0.1,
        reorder: 0.5,
        ..Quality::good()
    };
    Plan {
        quality,
        ..calm(5, seed, &[FaultKind::Reorder, FaultKind::Loss])
    }
    .heal_at(3000)
}

/// One replica after the other is heard by nobody, though it hears all.
fn unheard(seed: u64) -> Plan {
    let mut plan = calm(3, seed, &[FaultKind::Partition]);
    for i in 0..6 {
        let isolate = Action::Isolate {
            target: Target::Replica(NodeId((i % 3) as u32)),
            still_hears: true,
        };
        plan = plan
            .at(100 + i * 400, isolate)
            .at(400 + i * 400, Action::Mend);
    }
    plan.heal_at(2500)
}

/// A replica is away for some slots, a few times over.
fn lagging(seed: u64) -> Plan {
    let mut plan = Plan {
        limits: Plan::small_limits(64),
        ..calm(3, seed, &[FaultKind::Crash, FaultKind::Restart])
    };
    for i in 0..4 {
        let away = Action::Crash(Target::Replica(NodeId(2)), CrashKind::PowerCut);
        plan = plan
            .at(100 + i * 400, away)
            .at(250 + i * 400, Action::RestartAll);
    }
    plan.heal_at(1800)
}

/// Wall clocks are up to an hour apart, and replicas crash: nobody starves.
fn clocks_apart(seed: u64) -> Plan {
    let mut plan = calm(3, seed, &[FaultKind::Skew, FaultKind::Crash]);
    for (clock, ahead_ms) in plan.clocks.iter_mut().zip([0, 40_000, 3_600_000]) {
        *clock = Clock {
            wall_ahead_ms: Clock::TRUE.wall_ahead_ms + ahead_ms,
            ..*clock
        };
    }
    for i in 0..3 {
        let crash = Action::Crash(Target::Replica(NodeId(i)), CrashKind::PowerCut);
        let at = 200 + u64::from(i) * 400;
        plan = plan.at(at, crash).at(at + 200, Action::RestartAll);
    }
    plan.heal_at(1500)
}

/// A disk that loses its memory, just when others are cut off: what it said must not be said again.
fn forgetful(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let mut plan = calm(3, seed, &[FaultKind::Wipe, FaultKind::Partition]);
    plan.quality.delay_mean = Duration::from_millis(2);
    let victim = rng.below(3) as usize;
    let lone = (victim + 1 + rng.below(2) as usize) % 3;
    // Decided by the other two, while this one hears nothing.
    let cut: Vec<(usize, usize)> = (0..3)
        .filter(|other| *other != lone)
        .flat_map(|other| [(lone, other), (other, lone)])
        .collect();
    let at = 300 + rng.below(200);
    let wipe = Action::Crash(Target::Replica(NodeId(victim as u32)), CrashKind::Wipe);
    let third = 3 - victim - lone;
    let apart: Vec<(usize, usize)> = (0..3)
        .filter(|other| *other != third)
        .flat_map(|other| [(third, other), (other, third)])
        .collect();
    plan = plan
        .at(at, Action::Cut(cut))
        .at(at + 150, wipe)
        .at(at + 151, Action::Mend)
        .at(at + 151, Action::Cut(apart))
        .at(at + 152, Action::RestartAll);
    plan.heal_at(at + 900)
}

/// One replica's disk is fast, the others' are slow; again and again all lose their power, and the
/// fast one is the last to come back. What it has decided must be on the disks of the others.
fn power_cuts(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let mut plan = calm(3, seed, &[FaultKind::Crash, FaultKind::SlowDisk]);
    plan.sync = (Duration::from_micros(50), Duration::from_micros(100));
    let fast = rng.below(3) as u32;
    let slow = || (0..3).filter(|replica| *replica != fast).map(NodeId);
    for replica in slow() {
        plan = plan.at(0, Action::SlowDisk(replica, 200));
    }
    for i in 0..8 {
        let at = 100 + i * 400 + rng.below(150);
        let alone = Action::Crash(Target::Replica(NodeId(fast)), CrashKind::Kill);
        plan = plan
            .at(at, alone)
            .at(at, Action::CrashAll(CrashKind::LosingAll));
        for replica in slow() {
            plan = plan.at(at + 20, Action::Restart(replica));
        }
        plan = plan.at(at + 220, Action::RestartAll);
    }
    plan.heal_at(3600)
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "rabia-storm-of-null-slots",
        about: "proposals differ for seconds: slots stay empty, memory stays bounded",
        plan: storm,
        shows: |report| counted(report, &["null slots"]),
    },
    Scenario {
        name: "rabia-second-phases",
        about: "replicas hear different majorities: coins are flipped, and are common",
        plan: coins,
        shows: |report| counted(report, &["second phases", "coins flipped"]),
    },
    Scenario {
        name: "rabia-unheard-proposals",
        about: "proposals that never reach a majority: the others go on, the batches wait",
        plan: unheard,
        shows: nothing,
    },
    Scenario {
        name: "rabia-lagging-replica",
        about: "a replica that missed slots is told what they came to, and fetches the batches",
        plan: lagging,
        shows: |report| counted(report, &["bodies_fetched"]),
    },
    Scenario {
        name: "rabia-words-and-power-cuts",
        about: "power fails while slow disks write what was said: nothing decided is forgotten",
        plan: power_cuts,
        shows: nothing,
    },
    Scenario {
        name: "rabia-clocks-apart",
        about: "wall clocks an hour apart, and crashes: nobody starves",
        plan: clocks_apart,
        shows: nothing,
    },
    Scenario {
        name: "rabia-forgetful-disk",
        about: "a disk is lost after decisions that one replica missed: nothing is decided twice",
        plan: forgetful,
        shows: nothing,
    },
];
