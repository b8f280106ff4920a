//! Random runs with everything that a crash cluster must survive. The rig checks agreement, votes,
//! acknowledgements, reads and bounds.

use super::rig::{Rig, limits, settings};
use crate::{Raft, RaftSettings};
use atlas_common::NodeId;
use atlas_common::rng::SeededRng;
use atlas_core::{Admin, Input, Limits};
use std::time::Duration;

fn small() -> Limits {
    Limits {
        checkpoint_interval: 4,
        window: 8,
        in_flight_max: 4,
        ..limits()
    }
}

/// One thing goes wrong, or is mended.
fn trouble(rig: &mut Rig, rng: &mut SeededRng) {
    let n = rig.nodes.len();
    let voters = rig.membership.quorums().n();
    let any = rng.below(n as u64) as usize;
    // Who is down, or has no memory, is faulty until it counts again.
    let up_and_sound = |rig: &Rig, i: usize| {
        let node = &rig.nodes[i];
        let sound = |raft: &Raft| raft.counts() && raft.hard_lsn <= node.durable;
        node.protocol.as_ref().is_some_and(sound)
    };
    let weak = (0..voters).filter(|i| !up_and_sound(rig, *i)).count();
    let spare = rig.membership.quorums().faults();
    match rng.below(12) {
        0..=2 => {
            let target = rig.leader().filter(|_| rng.chance(0.5)).unwrap_or(any);
            if rig.nodes[target].protocol.is_some() {
                rig.crash(target);
                if rng.chance(0.3) && weak < spare {
                    rig.wipe(target);
                }
            }
        }
        3..=5 => {
            let down = (0..n).filter(|i| rig.nodes[*i].protocol.is_none());
            let down: Vec<usize> = down.collect();
            if let Some(back) = rng.pick(&down) {
                start(rig, *back);
            }
        }
        6 => rig.isolate(rig.leader().unwrap_or(any)),
        7 => {
            let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
            rig.cuts = pairs.filter(|(a, b)| a != b && rng.chance(0.25)).collect();
        }
        8 | 9 => rig.cuts.clear(),
        10 => {
            let to = NodeId(any as u32);
            if let Some(leader) = rig.leader() {
                let wish = Admin::TransferLeadership { to };
                rig.step(leader, Input::Admin(wish));
            }
        }
        _ => rig.step(any, Input::Suspect),
    }
}

/// Leaders come to little: each is cut off, or crashes, a few milliseconds into its term, and comes
/// back when another has begun (figure 3.7).
fn storm(rig: &mut Rig, rng: &mut SeededRng) {
    let end = rig.now.after(Duration::from_millis(1500));
    let last = rig.leader().map(|leader| rig.raft(leader).term);
    while rig.leader().map(|leader| rig.raft(leader).term) <= last && rig.now < end {
        rig.run(Duration::from_micros(200));
    }
    let most = *rng.pick(&[500, 3000, 12_000]).unwrap();
    rig.run(Duration::from_micros(rng.between(0, most)));
    if rng.chance(0.3) {
        rig.cuts.clear();
    }
    let Some(leader) = rig.leader() else {
        return;
    };
    for i in 0..rig.nodes.len() {
        if rig.nodes[i].protocol.is_none() {
            start(rig, i);
        }
    }
    if rng.chance(0.5) {
        rig.crash(leader);
    } else {
        rig.isolate(leader);
    }
}

fn start(rig: &mut Rig, i: usize) {
    if rig.forgot.contains(&rig.nodes[i].id) {
        rig.reboot_wiped(i);
    } else {
        rig.restart(i);
    }
}

fn random_run(seed: u64) {
    println!("seed {seed}");
    let mut rng = SeededRng::new(seed);
    let n = [3, 3, 3, 5, 5, 4, 7][seed as usize % 7];
    let learners = usize::from(rng.chance(0.2));
    let lease = rng.chance(0.3).then(|| Duration::from_millis(120));
    // In some runs entries go one by one, so that terms end in the middle.
    let one_by_one = rng.chance(0.4);
    let settings = RaftSettings {
        lease,
        append_bytes_max: if one_by_one { 1 } else { 1 << 20 },
        entries_in_flight_max: if one_by_one { 1 } else { 256 },
        ..settings()
    };
    let stormy = rng.chance(0.3);
    let mut rig = Rig::with(n, learners, seed, small(), settings);
    rig.loss = 0.04 * rng.below(5) as f64;
    for node in &mut rig.nodes {
        node.sync = Duration::from_micros(rng.between(20, 8000));
    }
    for _ in 0..50 {
        rig.submit(2);
        for _ in 0..rng.below(6) {
            rig.run(Duration::from_micros(rng.between(50, 60_000)));
            let alive = rig.alive();
            if let Some(i) = rng.pick(&alive) {
                rig.read(*i);
            }
        }
        if stormy {
            storm(&mut rig, &mut rng);
        } else {
            trouble(&mut rig, &mut rng);
        }
    }
    rig.cuts.clear();
    rig.loss = 0.0;
    for i in 0..rig.nodes.len() {
        if rig.nodes[i].protocol.is_none() {
            start(&mut rig, i);
        }
    }
    rig.submit(1);
    rig.settle();
}

/// `ATLAS_RAFT_SEEDS=A..B` runs these seeds instead.
#[test]
fn crashes_cuts_and_lost_disks_make_nobody_disagree_or_hang() {
    let wish = std::env::var("ATLAS_RAFT_SEEDS").unwrap_or_else(|_| "0..60".into());
    let (from, to) = wish.split_once("..").unwrap();
    for seed in from.parse().unwrap()..to.parse().unwrap() {
        random_run(seed);
    }
}

#[cfg(feature = "seeded-bugs")]
thread_local! {
    /// The defect of the replicas on this thread.
    pub(super) static BUG: std::cell::Cell<Option<crate::bugs::SeededBug>> =
        const { std::cell::Cell::new(None) };
}

/// The checks of these tests are worth something: each defect trips them.
#[cfg(feature = "seeded-bugs")]
#[test]
fn every_seeded_bug_is_caught() {
    for bug in crate::bugs::SeededBug::ALL {
        BUG.set(Some(bug));
        let caught = |seed| std::panic::catch_unwind(|| random_run(seed)).is_err();
        // An entry of an earlier term is overwritten in figure 3.7 and hardly ever elsewhere.
        let figure = || std::panic::catch_unwind(|| super::replication::figure_3_7(1)).is_err();
        let found = (0..500).find(|seed| caught(*seed));
        let found = found.or_else(|| figure().then_some(u64::MAX));
        BUG.set(None);
        println!("{bug:?}: seed {found:?}");
        assert!(found.is_some(), "{bug:?} was not caught");
    }
}
