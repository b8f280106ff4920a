//! For protocols whose replicas crash and do not lie: rows 39 to 50, and what is hard for protocols
//! with a leader.

use super::{Scenario, changed_views, counted, nothing};
use crate::faults::FaultKind;
use crate::network::Quality;
use crate::plan::{Action, Clock, CrashKind, DiskFault, Flip, Plan, Target};
use crate::verdict::Report;
use atlas_common::rng::SeededRng;
use atlas_common::{NodeId, Time};
use std::time::Duration;

fn calm(replicas: usize, seed: u64, must_happen: &[FaultKind]) -> Plan {
    Plan {
        must_happen: must_happen.to_vec(),
        ..Plan::calm("", replicas, seed)
    }
}

/// The sizes that make sense, one after the other.
fn size(seed: u64) -> usize {
    [3, 5, 3, 7, 4][(seed % 5) as usize]
}

/// Calls all the time until the faults end.
fn busy(mut plan: Plan, until_ms: u64) -> Plan {
    for client in &mut plan.clients {
        client.operations = 60;
        client.pause = Duration::from_millis(until_ms * client.burst / client.operations);
    }
    plan
}

/// Row 39: each leader in turn is heard and does not hear, hears and is not heard, or is left with a
/// single link.
fn partial(seed: u64) -> Plan {
    let n = size(seed);
    let mut plan = busy(calm(n, seed, &[FaultKind::Partition]), 4500);
    let leader = Target::Leader;
    for (i, still_hears) in [(0, true), (1, false)] {
        let isolate = Action::Isolate {
            target: leader,
            still_hears,
        };
        plan = plan
            .at(300 + i * 1500, isolate)
            .at(1400 + i * 1500, Action::Mend);
    }
    // A chain: each replica hears its neighbours only.
    let apart = |a: usize, b: usize| a.abs_diff(b) > 1;
    let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
    let chain: Vec<_> = pairs.filter(|(a, b)| apart(*a, *b)).collect();
    plan.at(3300, Action::Cut(chain)).heal_at(4500)
}

/// Row 40: a disk a hundred times slower than the others', and a replica that stands still.
fn slow(seed: u64) -> Plan {
    let n = size(seed);
    let must = [FaultKind::SlowDisk, FaultKind::Pause];
    busy(calm(n, seed, &must), 3000)
        .at(0, Action::SlowDisk(NodeId((seed % n as u64) as u32), 100))
        .at(1000, Action::Pause(Target::Replica(NodeId(1))))
        .at(2500, Action::ResumeAll)
        .heal_at(3000)
}

/// Rows 41 and 43: power fails everywhere, in the middle of writes.
fn power_cuts(seed: u64) -> Plan {
    let n = size(seed);
    let must = [FaultKind::Crash, FaultKind::LostWrites];
    let mut rng = SeededRng::new(seed);
    let mut plan = busy(calm(n, seed, &must), 3000);
    // Slow enough for writes to be on their way.
    plan.sync = (Duration::from_millis(2), Duration::from_millis(8));
    for client in &mut plan.clients {
        (client.burst, client.pause) = (1, Duration::from_millis(30));
    }
    // Short enough for there to be a leader between two power cuts.
    plan.patience = Duration::from_millis(60);
    for i in 0..7 {
        let kinds = [
            CrashKind::DuringWrite,
            CrashKind::PowerCut,
            CrashKind::LosingAll,
        ];
        let kind = kinds[(i % 3) as usize];
        let at = 250 + i * 380 + rng.below(100);
        plan = plan
            .at(at, Action::CrashAll(kind))
            .at(at + 50, Action::RestartAll);
    }
    plan.heal_at(3000)
}

/// Votes and acknowledgements must be on the disk before they leave: leaders come and go, and voters
/// lose their power in the middle of it.
fn votes_and_power_cuts(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed ^ 0x766f_7465);
    let mut plan = busy(
        calm(3, seed, &[FaultKind::Crash, FaultKind::Suspicion]),
        5000,
    );
    plan.sync = (Duration::from_millis(2), Duration::from_millis(8));
    plan.patience = Duration::from_millis(150);
    let mut at = 200;
    while at < 5000 {
        if rng.chance(0.4) {
            let isolate = Action::Isolate {
                target: Target::Leader,
                still_hears: false,
            };
            plan = plan.at(at, isolate);
        } else {
            plan = plan.at(at, Action::Suspect);
        }
        for _ in 0..3 {
            let victim = Target::Replica(NodeId(rng.below(3) as u32));
            at += rng.between(3, 60);
            plan = plan
                .at(at, Action::Crash(victim, CrashKind::LosingAll))
                .at(at + 1, Action::RestartAll);
        }
        at += rng.between(20, 300);
        plan = plan.at(at, Action::Mend);
    }
    plan.heal_at(5100)
}

/// Figure 3.7 of the Raft thesis: each leader is cut off a few milliseconds into its term, often with
/// entries that few have got.
fn short_terms(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed ^ 0x7465_726d);
    let mut plan = busy(calm(3, seed, &[FaultKind::Partition]), 8000);
    plan.patience = Duration::from_millis(60);
    plan.limits.in_flight_max = 1;
    plan.quality.delay_mean = Duration::from_millis(rng.between(1, 6));
    let mut at = 150;
    while at < 8000 {
        let isolate = Action::Isolate {
            target: Target::Leader,
            still_hears: rng.chance(0.2),
        };
        plan = plan.at(at, Action::Mend).at(at, isolate);
        at += rng.between(2, 40);
    }
    plan.heal_at(8000)
}

/// Rows 45 and 46: a disk is lost; later another; and others crash while the replica rejoins.
fn wiped(seed: u64) -> Plan {
    let n = size(seed);
    let mut plan = Plan {
        limits: Plan::small_limits(8),
        ..busy(calm(n, seed, &[FaultKind::Wipe, FaultKind::Restart]), 6000)
    };
    for (at, victim) in [(400, Target::Leader), (3200, Target::Replica(NodeId(1)))] {
        plan = plan
            .at(at, Action::Crash(victim, CrashKind::Wipe))
            .at(at + 400, Action::RestartAll);
    }
    if n >= 5 {
        let crash = Action::Crash(Target::Leader, CrashKind::PowerCut);
        plan = plan.at(900, crash).at(1300, Action::RestartAll);
    }
    plan.heal_at(6000)
}

/// Row 41: a bit flips in the log (or the newest checkpoint) of a leader that is stopped, and in another
/// replica's later: each finds it and rejoins as one that has no memory (of what it had cut from its log).
fn damaged_log(seed: u64, flip: Flip) -> Plan {
    let n = size(seed);
    damaged(busy(calm(n, seed, &[FaultKind::Damage]), 6000), flip)
}

pub(super) fn damaged(mut plan: Plan, flip: Flip) -> Plan {
    plan.limits = Plan::small_limits(8);
    for (at, victim) in [(400, Target::Leader), (3200, Target::Replica(NodeId(1)))] {
        plan = plan
            .at(at, Action::Crash(victim, CrashKind::Damage(flip)))
            .at(at + 400, Action::RestartAll);
    }
    plan.heal_at(6000)
}

/// Row 45: what two of three have decided is known to a leader that crashes and to a replica that loses
/// its disk. The third, which was cut off, must not lead with that one's vote.
fn forgotten(seed: u64) -> Plan {
    let plan = busy(
        calm(3, seed, &[FaultKind::Wipe, FaultKind::Partition]),
        4000,
    );
    let cut_off = NodeId((seed % 3) as u32);
    let wiped = NodeId(((seed + 1 + seed / 3 % 2) % 3) as u32);
    let isolate = Action::Isolate {
        target: Target::Replica(cut_off),
        still_hears: false,
    };
    let wipe = Action::Crash(Target::Replica(wiped), CrashKind::Wipe);
    let crash = Action::Crash(Target::Leader, CrashKind::PowerCut);
    plan.at(300, isolate)
        .at(1500, wipe)
        .at(1501, crash)
        .at(1503, Action::Mend)
        .at(1505, Action::Restart(wiped))
        .at(3000, Action::RestartAll)
        .heal_at(4000)
}

/// Row 46: one is away until the others have cut their logs; it, and whoever it fetches from, crash
/// again and again while it catches up.
fn behind(seed: u64) -> Plan {
    let n = size(seed);
    let away = Target::Replica(NodeId(2));
    let limits = Plan::small_limits(8);
    let plan = Plan {
        limits,
        ..busy(calm(n, seed, &[FaultKind::Crash, FaultKind::Restart]), 3000)
    };
    let mut plan = plan
        .at(100, Action::Crash(away, CrashKind::PowerCut))
        .at(1900, Action::Restart(NodeId(2)));
    for i in 0..3 {
        let other = Target::Replica(NodeId(((seed + i) % 2) as u32));
        plan = plan
            .at(1905 + 40 * i, Action::Crash(other, CrashKind::Kill))
            .at(1910 + 40 * i, Action::RestartAll)
            .at(1925 + 40 * i, Action::Crash(away, CrashKind::DuringWrite))
            .at(1930 + 40 * i, Action::RestartAll);
    }
    plan.heal_at(3000)
}

/// Row 41: bits flip in the checkpoints that a running replica has stored. It finds them by itself or when
/// it is asked for them, by one that was away and fetches a state; and gets them from the others.
pub(super) fn damaged_parts(plan: Plan, seed: u64) -> Plan {
    let (one, away) = (NodeId((seed % 2) as u32), NodeId(2));
    let damage = |replica| Action::DamageParts(Target::Replica(replica));
    Plan {
        limits: Plan::small_limits(8),
        ..busy(plan, 7000)
    }
    .at(
        300,
        Action::Crash(Target::Replica(away), CrashKind::PowerCut),
    )
    .at(1500, damage(one))
    .at(1900, Action::Restart(away))
    .at(2700, damage(one))
    .at(3500, damage(away))
    .at(4800, Action::Crash(Target::Replica(one), CrashKind::Kill))
    .at(4900, Action::Restart(one))
    .heal_at(7000)
}

pub(super) fn repairs(report: &Report) -> Result<(), String> {
    counted(report, &["parts_repaired"])
}

/// A leader is cut off with requests that it goes on appending; when it comes back, the others'
/// checkpoints have passed the places of its entries.
fn conflicting_log(seed: u64) -> Plan {
    let isolate = Action::Isolate {
        target: Target::Leader,
        still_hears: false,
    };
    let plan = Plan {
        limits: Plan::small_limits(4),
        ..busy(calm(3, seed, &[FaultKind::Partition]), 4000)
    };
    plan.at(400, isolate.clone())
        .at(1700, Action::Mend)
        .at(2100, isolate)
        .at(3600, Action::Mend)
        .heal_at(4000)
}

/// Row 47: the leader stands still, others lead, and it goes on as if nothing had happened; and
/// replicas are killed in a loop.
fn paused(seed: u64) -> Plan {
    let mut plan = busy(calm(size(seed), seed, &[FaultKind::Pause]), 6000);
    for i in 0..4 {
        plan = plan
            .at(300 + i * 1400, Action::Pause(Target::Leader))
            .at(1400 + i * 1400, Action::ResumeAll);
    }
    plan.heal_at(6000)
}

fn killed(seed: u64) -> Plan {
    let n = size(seed);
    let mut rng = SeededRng::new(seed);
    let mut plan = busy(calm(n, seed, &[FaultKind::Crash, FaultKind::Restart]), 5000);
    for i in 0..30 {
        let target = match rng.below(3) {
            0 => Target::Leader,
            _ => Target::Replica(NodeId(rng.below(n as u64) as u32)),
        };
        let at = 200 + i * 150;
        plan = plan
            .at(at, Action::Crash(target, CrashKind::Kill))
            .at(at + 60, Action::RestartAll);
    }
    for at in [1500, 3500] {
        plan = plan
            .at(at, Action::CrashAll(CrashKind::Kill))
            .at(at + 20, Action::RestartAll);
    }
    plan.heal_at(5000)
}

/// Row 48: wall clocks jump by an hour, forth and back.
fn clock_jumps(seed: u64) -> Plan {
    const HOUR_MS: u64 = 3_600_000;
    let n = size(seed);
    let mut plan = busy(calm(n, seed, &[FaultKind::ClockJump]), 3000);
    let right = Clock::TRUE.wall_ahead_ms;
    for clock in &mut plan.clocks {
        clock.wall_ahead_ms = HOUR_MS + right;
    }
    for i in 0..8 {
        let ahead = [HOUR_MS + right, 2 * HOUR_MS + right, right][(i % 3) as usize];
        let replica = NodeId((i % n as u64) as u32);
        plan = plan.at(300 + i * 300, Action::SetWall(replica, ahead));
    }
    plan.heal_at(3000)
}

/// Row 50: checkpoints every few decisions, and messages that come late, twice, or out of order.
fn late(seed: u64) -> Plan {
    let must = [FaultKind::Duplicate, FaultKind::Reorder];
    let limits = Plan::small_limits(2);
    let quality = Quality {
        delay_mean: Duration::from_millis(8),
        loss: 0.05,
        duplicate: 0.3,
        reorder: 0.4,
        ..Quality::good()
    };
    Plan {
        limits,
        quality,
        ..busy(calm(size(seed), seed, &must), 4000)
    }
    .heal_at(4000)
}

fn disk(seed: u64, fault: DiskFault, must: FaultKind) -> Plan {
    let plan = busy(calm(size(seed), seed, &[must, FaultKind::Restart]), 3000);
    plan.at(400, Action::DiskFault(Target::Leader, fault))
        .at(1200, Action::RestartAll)
        .at(1600, Action::DiskFault(Target::Replica(NodeId(1)), fault))
        .at(2400, Action::RestartAll)
        .heal_at(3000)
}

/// A replica is cut off for a while and comes back: nobody's leader changes for that.
fn comes_back(seed: u64) -> Plan {
    let n = size(seed);
    let isolate = |replica| Action::Isolate {
        target: Target::Replica(NodeId(replica)),
        still_hears: false,
    };
    let mut plan = busy(calm(n, seed, &[FaultKind::Partition]), 5000);
    plan.schedule.push((Time::ZERO, isolate(0)));
    // The first leader is one of the others, and stays.
    plan.at(2000, Action::Mend)
        .at(2500, isolate(0))
        .at(4500, Action::Mend)
        .heal_at(5000)
}

fn stays(report: &Report) -> Result<(), String> {
    match report.view_changes {
        0..=1 => Ok(()),
        changes => Err(format!("{changes} changes of leader where one will do")),
    }
}

fn reads(report: &Report) -> Result<(), String> {
    counted(report, &["reads not ordered"])
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "row-39-partial-partitions",
        about: "leaders that are only heard, or only hear, and a chain of replicas",
        plan: partial,
        shows: nothing,
    },
    Scenario {
        name: "row-40-slow-replica",
        about: "one disk is slow, and one replica stands still: the others go on",
        plan: slow,
        shows: nothing,
    },
    Scenario {
        name: "row-41-torn-writes",
        about: "rows 41 and 43: all lose their power in the middle of writes, seven times",
        plan: power_cuts,
        shows: nothing,
    },
    Scenario {
        name: "row-41-damaged-parts",
        about: "bits flip in stored checkpoints: they are found, and repaired from the others",
        plan: |seed| damaged_parts(calm(size(seed), seed, &[FaultKind::DamagedPart]), seed),
        shows: repairs,
    },
    Scenario {
        name: "row-41-damaged-log",
        about: "a bit flips in a leader's log, then in another's: they say so and rejoin without memory",
        plan: |seed| damaged_log(seed, Flip::Log),
        shows: nothing,
    },
    Scenario {
        name: "row-41-damaged-checkpoint",
        about: "a bit flips in a leader's newest checkpoint, then in another's: they start from the one before",
        plan: |seed| damaged_log(seed, Flip::Checkpoint),
        shows: nothing,
    },
    Scenario {
        name: "row-15-decisions-by-two-paths",
        about: "decisions come by log transfer and otherwise, late and twice: each is executed once",
        plan: |seed| {
            // Of three, the two that go on are never so far ahead that they have cut their logs.
            let n = [5, 7][(seed % 2) as usize];
            let plan = busy(calm(n, seed, &[FaultKind::Duplicate]), 4000);
            super::network::two_paths(plan)
        },
        shows: |report| counted(report, &["decisions_transferred"]),
    },
    Scenario {
        name: "row-26-lost-votes-of-voters",
        about: "voters lose their power with votes on their way to slow disks: nobody votes twice",
        plan: |seed| {
            let mut plan = votes_and_power_cuts(seed);
            plan.must_happen.push(FaultKind::LostRecord);
            plan
        },
        shows: |report| counted(report, &["votes"]),
    },
    Scenario {
        name: "reads-beside-writes",
        about: "reads are answered from a state that was taken some time before: linearizable",
        plan: |seed| {
            let mut plan = busy(calm(size(seed), seed, &[FaultKind::Pause]), 3000);
            plan.reading = Duration::from_millis(4);
            plan.keys = 2;
            plan.at(1000, Action::Pause(Target::Leader))
                .at(1800, Action::ResumeAll)
                .heal_at(3000)
        },
        shows: |report| {
            counted(
                report,
                &["reads not ordered", "reads answered from an older state"],
            )
        },
    },
    Scenario {
        name: "parallel-execution-and-crashes",
        about: "every other replica runs what can run in parallel in an order of its own: no difference",
        plan: |seed| {
            let must = [FaultKind::Crash, FaultKind::Restart];
            let plan = busy(calm(size(seed), seed, &must), 3000);
            super::network::crowded(plan)
                .at(1000, Action::Crash(Target::Leader, CrashKind::PowerCut))
                .at(1500, Action::RestartAll)
                .heal_at(3000)
        },
        shows: nothing,
    },
    Scenario {
        name: "row-34-failing-requests-and-crashes",
        about: "the application panics, or has no reply: the same answer everywhere, as if it had not run",
        plan: |seed| {
            let must = [FaultKind::Crash, FaultKind::Restart];
            let mut plan = super::network::failing(calm(size(seed), seed, &must));
            plan.parallel = seed % 2 == 1;
            plan
        },
        shows: super::network::failed,
    },
    Scenario {
        name: "row-42-failed-sync",
        about: "a sync fails: the replica stops, and comes back with what is durable",
        plan: |seed| disk(seed, DiskFault::SyncFails, FaultKind::SyncFailed),
        shows: nothing,
    },
    Scenario {
        name: "row-44-full-disk",
        about: "a disk is full: the replica stops, and goes on when there is room",
        plan: |seed| disk(seed, DiskFault::Full, FaultKind::DiskFull),
        shows: nothing,
    },
    Scenario {
        name: "row-45-lost-disks",
        about: "a leader loses its disk, then another replica: they rejoin without voting twice",
        plan: wiped,
        shows: nothing,
    },
    Scenario {
        name: "row-45-forgotten-decisions",
        about: "a replica forgets what it had acknowledged while the leader is down",
        plan: forgotten,
        shows: nothing,
    },
    Scenario {
        name: "row-46-crashes-during-transfers",
        about: "a replica far behind and those it fetches from crash while it catches up",
        plan: behind,
        shows: nothing,
    },
    Scenario {
        name: "row-47-paused-leaders",
        about: "leaders stand still for a second and go on: no stale reads",
        plan: paused,
        shows: reads,
    },
    Scenario {
        name: "row-47-killed-in-a-loop",
        about: "replicas are killed thirty times, and all at once twice",
        plan: killed,
        shows: nothing,
    },
    Scenario {
        name: "row-48-clock-jumps",
        about: "wall clocks jump by hours, forth and back",
        plan: clock_jumps,
        shows: nothing,
    },
    Scenario {
        name: "row-50-late-messages",
        about: "a checkpoint every other decision, and messages that come late and twice",
        plan: late,
        shows: nothing,
    },
    Scenario {
        name: "crash-votes-and-power-cuts",
        about: "voters lose their power while votes are on their way to slow disks",
        plan: votes_and_power_cuts,
        shows: nothing,
    },
    Scenario {
        name: "crash-short-terms",
        about: "whoever leads is cut off a few milliseconds later, again and again",
        plan: short_terms,
        shows: nothing,
    },
    Scenario {
        name: "crash-conflicting-log",
        about: "a leader comes back with entries of its own where the others have checkpoints",
        plan: conflicting_log,
        shows: nothing,
    },
    Scenario {
        name: "crash-comes-back",
        about: "one that was cut off comes back: no leader is replaced for it",
        plan: comes_back,
        shows: stays,
    },
    Scenario {
        name: "crash-leaders-change",
        about: "monitors distrust the leader forty times under load",
        plan: |seed| {
            let mut plan = busy(calm(size(seed), seed, &[FaultKind::Suspicion]), 3500);
            for i in 1..40 {
                plan = plan.at(200 + i * 79, Action::Suspect);
            }
            plan.heal_at(3500)
        },
        shows: nothing,
    },
];

/// A scenario's name, and what else its report must show.
pub(super) type Shows = (&'static str, fn(&Report) -> Result<(), String>);

/// What must be seen of protocols with a leader besides.
pub(super) const LED: &[Shows] = &[
    ("row-39-partial-partitions", |report| {
        changed_views(report, 1)
    }),
    ("row-47-paused-leaders", |report| changed_views(report, 2)),
    ("crash-short-terms", |report| changed_views(report, 5)),
    ("crash-leaders-change", |report| changed_views(report, 5)),
];
