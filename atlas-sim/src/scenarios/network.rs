//! The network, disks and crashes: row 18, and every size of cluster under loss.

use super::{Scenario, changed_views, counted, nothing};
use crate::faults::FaultKind;
use crate::network::Quality;
use crate::plan::{Action, CrashKind, Flip, Plan, Target};
use crate::verdict::Report;
use atlas_common::NodeId;
use atlas_common::rng::SeededRng;
use std::time::Duration;

fn calm(replicas: usize, seed: u64, must_happen: &[FaultKind]) -> Plan {
    Plan {
        must_happen: must_happen.to_vec(),
        ..Plan::calm("", replicas, seed)
    }
}

fn lossy(replicas: usize, seed: u64) -> Plan {
    let quality = Quality {
        loss: 0.2,
        duplicate: 0.1,
        reorder: 0.2,
        ..Quality::good()
    };
    let must = [FaultKind::Loss, FaultKind::Duplicate, FaultKind::Reorder];
    Plan {
        quality,
        ..calm(replicas, seed, &must)
    }
    .heal_at(3000)
}

/// One replica is away long enough for the others to cut their logs.
fn behind(seed: u64, adversary: Option<&'static str>) -> Plan {
    let away = Action::Crash(Target::Replica(NodeId(2)), CrashKind::PowerCut);
    let plan = Plan {
        limits: Plan::small_limits(8),
        ..calm(7, seed, &[FaultKind::Crash, FaultKind::Restart])
    };
    let plan = plan
        .at(100, away)
        .at(1100, Action::RestartAll)
        .heal_at(1200);
    match adversary {
        Some(name) => plan.adversary(5, name).adversary(6, name),
        None => plan,
    }
}

/// One replica's disk is fast, the others' are slow; again and again all lose their power, and the
/// fast one is the last to come back. What it has decided must be on the disks of the others.
fn power_cuts(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let mut plan = calm(4, seed, &[FaultKind::Crash, FaultKind::SlowDisk]);
    plan.sync = (Duration::from_micros(50), Duration::from_micros(100));
    let fast = rng.below(4) as u32;
    for replica in (0..4).filter(|replica| *replica != fast) {
        plan = plan.at(0, Action::SlowDisk(NodeId(replica), 200));
    }
    for i in 0..8 {
        let at = 100 + i * 400 + rng.below(150);
        let alone = Action::Crash(Target::Replica(NodeId(fast)), CrashKind::Kill);
        plan = plan
            .at(at, alone)
            .at(at, Action::CrashAll(CrashKind::DuringWrite));
        for replica in (0..4).filter(|replica| *replica != fast) {
            plan = plan.at(at + 20, Action::Restart(NodeId(replica)));
        }
        plan = plan
            .at(at + 20, Action::Suspect)
            .at(at + 220, Action::RestartAll);
    }
    plan.heal_at(3600)
}

/// Links come and go while views change, so that slots are prepared here and there, in one view after
/// the other.
fn flapping(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let mut plan = calm(4, seed, &[FaultKind::Partition, FaultKind::Suspicion]);
    // Slow enough for a slot to be caught between its phases.
    plan.quality.delay_mean = Duration::from_millis(rng.between(1, 10));
    let mut at = 100;
    while at < 3500 {
        let mut cuts = Vec::new();
        for from in 0..4 {
            cuts.extend(
                (0..4)
                    .filter(|to| *to != from && rng.chance(0.35))
                    .map(|to| (from, to)),
            );
        }
        plan = plan.at(at, Action::Mend).at(at, Action::Cut(cuts));
        if rng.chance(0.5) {
            plan = plan.at(at + rng.below(40), Action::Suspect);
        }
        at += rng.between(10, 100);
    }
    plan.heal_at(3500)
}

/// Many clients at once on few keys and accounts, so that decisions hold much that could run in parallel,
/// and some that could not.
pub(super) fn crowded(mut plan: Plan) -> Plan {
    plan.parallel = true;
    plan.banking.0 = 0.5;
    plan.keys = 3;
    for client in &mut plan.clients {
        (client.burst, client.outstanding) = (8, 16);
    }
    plan.grouping = Duration::from_micros(400);
    plan
}

/// Row 34: every fifth of the clients' calls is one on which the application panics, or whose reply has
/// no encoding, after it has taken money from an account.
pub(super) fn failing(mut plan: Plan) -> Plan {
    plan.banking = (0.5, 0.4);
    plan.limits = Plan::small_limits(8);
    plan.at(500, Action::Crash(Target::Leader, CrashKind::PowerCut))
        .at(800, Action::RestartAll)
        .heal_at(900)
}

pub(super) fn failed(report: &Report) -> Result<(), String> {
    counted(report, &["requests that failed"])
}

/// SRDS'21: replicas learn of decisions at very different times, and one answers reads from before its
/// last decisions. A write that counted with f + 1 answers could be missed by a read.
fn quorum_reads(seed: u64) -> Plan {
    let mut plan = Plan {
        quorum_reads: true,
        reading: Duration::from_micros(300),
        keys: 4,
        ..calm(4, seed, &[FaultKind::StaleRead])
    }
    .adversary((seed % 4) as u32, "late-reads");
    plan.quality.delay_mean = Duration::from_millis(8);
    plan.banking.0 = 0.0;
    plan.clients.extend_from_within(..);
    for client in &mut plan.clients {
        (client.burst, client.outstanding) = (1, 2);
        client.pause = Duration::from_millis(5);
    }
    plan
}

/// The power of all fails again and again, with decisions that were acknowledged and are known to no disk
/// but by their certificates: until they are decided again, nobody knows what reads are to find.
fn reads_after_power_cuts(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed ^ 0x7265_6164);
    let mut plan = Plan {
        quorum_reads: true,
        keys: 3,
        ..calm(4, seed, &[FaultKind::Crash, FaultKind::LostRecord])
    };
    plan.sync = (Duration::from_millis(3), Duration::from_millis(6));
    plan.quality.delay_mean = Duration::from_millis(6);
    for client in &mut plan.clients {
        (client.operations, client.burst, client.outstanding) = (120, 1, 4);
        client.pause = Duration::from_millis(20);
    }
    for i in 0..12 {
        let at = 150 + i * 300 + rng.below(100);
        plan = plan
            .at(at, Action::CrashAll(CrashKind::LosingAll))
            .at(at + 1, Action::RestartAll);
    }
    plan.heal_at(4000)
}

/// Row 22: one is away again and again, until the others have cut their logs, and asks two liars first.
fn asks_liars(seed: u64, liars: &'static str) -> Plan {
    let mut plan = Plan {
        limits: Plan::small_limits(4),
        ..calm(7, seed, &[])
    }
    .adversary(0, liars)
    .adversary(1, liars);
    for client in &mut plan.clients {
        client.pause = Duration::from_millis(220);
    }
    let away = Action::Crash(Target::Replica(NodeId(2)), CrashKind::PowerCut);
    for i in 0..12 {
        plan = plan
            .at(100 + i * 450, away.clone())
            .at(450 + i * 450, Action::RestartAll);
    }
    plan.heal_at(5500)
}

/// Row 20: a replica's state is changed behind its back, a leader's or another's; it comes back later.
fn corrupted(seed: u64) -> Plan {
    let must = [FaultKind::Corruption, FaultKind::Diverged];
    let victim = match seed % 2 {
        0 => Target::Leader,
        _ => Target::Replica(NodeId(2)),
    };
    Plan {
        limits: Plan::small_limits(8),
        ..calm(4, seed, &must)
    }
    .at(300 + seed % 50, Action::Corrupt(victim))
    .at(1500, Action::RestartAll)
    .heal_at(1600)
}

/// Row 15: one replica after the other is away for so long that it asks for what it missed, while
/// everything that was said meanwhile and since arrives late and twice.
pub(super) fn two_paths(mut plan: Plan) -> Plan {
    plan.limits = Plan::small_limits(4);
    plan.quality.delay_mean = Duration::from_millis(8);
    plan.quality.duplicate = 0.8;
    plan.quality.reorder = 0.3;
    plan.must_happen.push(FaultKind::TwoPaths);
    let n = plan.replicas as u64;
    for client in &mut plan.clients {
        client.operations = 140;
        client.pause = Duration::from_millis(7200 * client.burst / client.operations);
    }
    for i in 0..10 {
        let away = Action::Isolate {
            target: Target::Replica(NodeId((i % n) as u32)),
            still_hears: false,
        };
        plan = plan.at(200 + i * 700, away).at(800 + i * 700, Action::Mend);
    }
    plan.heal_at(7200)
}

/// Row 26: replicas lose their power with records of votes on their way to slow disks.
fn lost_votes(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed ^ 0x6c6f_7374);
    let must = [
        FaultKind::Crash,
        FaultKind::LostRecord,
        FaultKind::Suspicion,
    ];
    let mut plan = calm(4, seed, &must);
    plan.sync = (Duration::from_millis(2), Duration::from_millis(8));
    for client in &mut plan.clients {
        client.pause = Duration::from_millis(150);
    }
    let mut at = 150;
    while at < 3500 {
        for _ in 0..3 {
            let victim = Target::Replica(NodeId(rng.below(4) as u32));
            plan = plan
                .at(at, Action::Crash(victim, CrashKind::LosingAll))
                .at(at + rng.between(1, 20), Action::RestartAll);
            at += rng.between(20, 120);
        }
        plan = plan.at(at, Action::Suspect);
    }
    plan.heal_at(3700)
}

/// All links but those to one of four replicas.
fn all_but_to(one: usize) -> Action {
    let pairs = (0..4).flat_map(|from| (0..4).map(move |to| (from, to)));
    Action::Cut(
        pairs
            .filter(|(from, to)| from != to && *to != one)
            .collect(),
    )
}

/// Certificates of one slot from different views meet. In each round all votes reach one replica only,
/// which prepares what is in flight, and is cut off; the others go on to the next view, where another one
/// alone learns what is decided in that slot, and is cut off; the next view begins with the certificates of
/// the first and of the rest.
fn two_certificates(seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed ^ 0x6365_7274);
    let mut plan = calm(4, seed, &[FaultKind::Partition, FaultKind::Suspicion]);
    plan.limits = Plan::small_limits(32);
    plan.quality.delay_mean = Duration::from_millis(1);
    for client in &mut plan.clients {
        (client.operations, client.burst) = (120, 1);
        client.pause = Duration::from_millis(25);
    }
    let isolate = |replica: usize| Action::Isolate {
        target: Target::Replica(NodeId(replica as u32)),
        still_hears: false,
    };
    for round in 0..12 {
        let at = 150 + round * 300 + rng.below(50);
        let one = rng.below(4) as usize;
        let other = (one + rng.between(1, 3) as usize) % 4;
        let alone = at + rng.between(2, 8);
        let second = alone + rng.between(4, 16);
        let back = second + rng.between(2, 8);
        plan = plan
            .at(at, all_but_to(one))
            .at(alone, Action::Mend)
            .at(alone, isolate(one))
            .at(alone, Action::Suspect)
            .at(second, all_but_to(other))
            .at(back, Action::Mend)
            .at(back, isolate(other))
            .at(back, Action::Suspect)
            .at(back + 150, Action::Mend);
    }
    plan.heal_at(4000)
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "certificates-of-two-views",
        about: "a slot is prepared by one replica in one view and decided otherwise in the next",
        plan: two_certificates,
        shows: |report| changed_views(report, 1),
    },
    Scenario {
        name: "srds21-quorum-reads",
        about: "unordered reads among slow replicas and one that answers from the past: linearizable",
        plan: quorum_reads,
        shows: |report| {
            counted(
                report,
                &["reads not ordered", "reads answered from an older state"],
            )
        },
    },
    Scenario {
        name: "srds21-reads-after-power-cuts",
        about: "all lose what was not on their disks, and read before it is decided again: linearizable",
        plan: reads_after_power_cuts,
        shows: |report| counted(report, &["reads not ordered"]),
    },
    Scenario {
        name: "parallel-execution",
        about: "every other replica runs what can run in parallel in an order of its own: no difference",
        plan: |seed| Plan {
            must_happen: vec![FaultKind::Suspicion],
            ..crowded(calm(4, seed, &[])).at(60, Action::Suspect)
        },
        shows: nothing,
    },
    Scenario {
        name: "row-34-failing-requests",
        about: "the application panics, or has no reply: the same answer everywhere, as if it had not run",
        plan: |seed| {
            let must = [FaultKind::Crash, FaultKind::Restart];
            let mut plan = failing(calm(4, seed, &must));
            plan.parallel = seed % 2 == 1;
            plan
        },
        shows: failed,
    },
    Scenario {
        name: "row-15-two-paths",
        about: "decisions come by log transfer and by votes, late and twice: each is executed once",
        plan: |seed| two_paths(calm(4, seed, &[FaultKind::Duplicate])),
        shows: |report| counted(report, &["decisions_transferred"]),
    },
    Scenario {
        name: "row-20-wrong-state",
        about: "a replica whose state is not the certified one stops, and what it has stored is still right",
        plan: corrupted,
        shows: nothing,
    },
    Scenario {
        name: "row-21-lies-in-transfers",
        about: "parts, heights and answers that are wrong or missing: refused, their sender blamed and replaced",
        plan: |seed| Plan {
            must_happen: vec![FaultKind::BadTransfer],
            ..asks_liars(seed, "bad-transfers")
        },
        shows: |report| {
            counted(
                report,
                &["parts_rejected", "peers_blamed", "states_installed"],
            )
        },
    },
    Scenario {
        name: "row-22-parts-that-were-not-asked-for",
        about: "other parts, and lengths and counts that do not fit: refused, and their sender blamed",
        plan: |seed| Plan {
            must_happen: vec![FaultKind::WrongPart, FaultKind::WrongLength],
            ..asks_liars(seed, "wrong-parts")
        },
        shows: |report| {
            // A description that comes when there is a plan already is not looked at.
            counted(report, &["parts_rejected", "peers_blamed"])?;
            counted(report, &["states_installed"])
        },
    },
    Scenario {
        name: "row-26-lost-votes",
        about: "power cuts take votes with them that were not durable: nobody votes twice",
        plan: lost_votes,
        shows: |report| counted(report, &["votes"]),
    },
    Scenario {
        name: "row-18-all-apart",
        about: "every replica is cut off from every other for three seconds: no livelock afterwards",
        plan: |seed| {
            calm(4, seed, &[FaultKind::Partition])
                .at(300, Action::Partition((0..4).map(|i| vec![i]).collect()))
                .heal_at(3300)
        },
        shows: nothing,
    },
    Scenario {
        name: "leader-crashes",
        about: "each leader in turn loses its power",
        plan: |seed| {
            let mut plan = calm(4, seed, &[FaultKind::Crash, FaultKind::Restart]);
            for i in 0..3 {
                plan = plan
                    .at(
                        200 + i * 1000,
                        Action::Crash(Target::Leader, CrashKind::PowerCut),
                    )
                    .at(900 + i * 1000, Action::RestartAll);
            }
            plan.heal_at(3200)
        },
        shows: |report| changed_views(report, 1),
    },
    Scenario {
        name: "all-lose-power",
        about: "all replicas lose their power at once, twice: nothing acknowledged is lost",
        plan: |seed| {
            calm(4, seed, &[FaultKind::Crash, FaultKind::Restart])
                .at(300, Action::CrashAll(CrashKind::PowerCut))
                .at(400, Action::RestartAll)
                .at(700, Action::CrashAll(CrashKind::DuringWrite))
                .at(800, Action::RestartAll)
                .heal_at(900)
        },
        shows: nothing,
    },
    Scenario {
        name: "votes-and-power-cuts",
        about: "power is cut with votes on their way to slow disks: no decision is forgotten",
        plan: power_cuts,
        shows: nothing,
    },
    Scenario {
        name: "flapping-links",
        about: "links come and go while views change: the newest certificate of a slot counts",
        plan: flapping,
        shows: |report| changed_views(report, 1),
    },
    Scenario {
        name: "row-41-damaged-parts-among-liars",
        about: "bits flip in stored checkpoints, and two of those who are asked for the parts lie",
        plan: |seed| {
            let must = [FaultKind::DamagedPart, FaultKind::BadTransfer];
            let liars = "bad-transfers";
            let plan = calm(7, seed, &must).adversary(5, liars).adversary(6, liars);
            super::crash::damaged_parts(plan, seed)
        },
        shows: super::crash::repairs,
    },
    Scenario {
        name: "row-41-damaged-logs-among-liars",
        about: "a bit flips in the log of two replicas, one after the other, while a third equivocates",
        plan: |seed| {
            let must = [FaultKind::Damage, FaultKind::Equivocation];
            super::crash::damaged(calm(7, seed, &must).adversary(0, "equivocate"), Flip::Log)
        },
        shows: nothing,
    },
    Scenario {
        name: "row-41-damaged-checkpoints-among-liars",
        about: "the newest checkpoint of two replicas, one after the other, while a third equivocates",
        plan: |seed| {
            let must = [FaultKind::Damage, FaultKind::Equivocation];
            let plan = calm(7, seed, &must).adversary(0, "equivocate");
            super::crash::damaged(plan, Flip::Checkpoint)
        },
        shows: nothing,
    },
    Scenario {
        name: "row-45-wiped-disk",
        about: "a replica loses its disk under an equivocating leader: it rejoins and votes only later",
        plan: |seed| {
            calm(7, seed, &[FaultKind::Wipe, FaultKind::Equivocation])
                .adversary(0, "equivocate")
                .at(
                    250 + seed % 100,
                    Action::Crash(Target::Replica(NodeId(3)), CrashKind::Wipe),
                )
                .at(400, Action::RestartAll)
                .at(700, Action::Suspect)
                .heal_at(1000)
        },
        shows: nothing,
    },
    Scenario {
        name: "left-behind",
        about: "a replica comes back after the others have cut their logs: it fetches a state",
        plan: |seed| behind(seed, None),
        shows: |report| counted(report, &["states_installed"]),
    },
    Scenario {
        name: "left-behind-among-liars",
        about: "the same with f replicas that lie in transfers",
        plan: |seed| Plan {
            must_happen: vec![FaultKind::Restart, FaultKind::BadTransfer],
            ..behind(seed, Some("bad-transfers"))
        },
        shows: |report| counted(report, &["states_installed"]),
    },
    Scenario {
        name: "loss-4",
        about: "4 replicas lose a fifth of their messages",
        plan: |seed| lossy(4, seed),
        shows: nothing,
    },
    Scenario {
        name: "loss-5",
        about: "5 replicas lose a fifth of their messages",
        plan: |seed| lossy(5, seed),
        shows: nothing,
    },
    Scenario {
        name: "loss-6",
        about: "6 replicas lose a fifth of their messages",
        plan: |seed| lossy(6, seed),
        shows: nothing,
    },
    Scenario {
        name: "loss-7",
        about: "7 replicas lose a fifth of their messages",
        plan: |seed| lossy(7, seed),
        shows: nothing,
    },
    Scenario {
        name: "loss-10",
        about: "10 replicas lose a fifth of their messages",
        plan: |seed| lossy(10, seed),
        shows: nothing,
    },
];
