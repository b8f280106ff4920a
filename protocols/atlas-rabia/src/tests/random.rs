//! Random runs: loss, partitions, crashes, a lost disk. The rig checks every step of them.

use super::rig::{Rig, ids};
use atlas_common::rng::SeededRng;
use std::time::Duration;

fn random_run(seed: u64) {
    let mut rng = SeededRng::new(seed ^ 0x5eed);
    let n = [3, 3, 3, 4, 5][rng.below(5) as usize];
    let mut rig = Rig::new(n, seed);
    rig.loss = [0.0, 0.05, 0.3][rng.below(3) as usize];
    let mut wiped = false;
    for _ in 0..15 {
        let alive = rig.alive();
        for _ in 0..rng.below(6) {
            rig.submit_to(alive[rng.below(alive.len() as u64) as usize]);
        }
        let short = Duration::from_micros(rng.between(100, 15_000));
        rig.run(short);
        let victim = rng.below(n as u64) as usize;
        match rng.below(8) {
            0 | 1 => {
                rig.crash(victim);
                rig.run(Duration::from_micros(rng.between(0, 50_000)));
                rig.restart(victim);
            }
            2 => {
                rig.groups = vec![ids([victim as u32])];
                rig.run(Duration::from_micros(rng.between(0, 200_000)));
                rig.groups.clear();
            }
            3 if !wiped => {
                wiped = true;
                rig.crash(victim);
                rig.wipe(victim);
                rig.reboot_wiped(victim);
                // Until it has caught up it is the faulty one.
                rig.run_until("it remembers", |rig| rig.rabia(victim).amnesia.is_none());
            }
            _ => {}
        }
    }
    rig.loss = 0.0;
    rig.submit_to(0);
    rig.settle();
    for i in 1..n {
        assert_eq!(rig.requests(0), rig.requests(i), "seed {seed}");
    }
}

#[test]
fn random_faults_split_no_decision_and_stop_nobody_for_ever() {
    for seed in 0..120 {
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
        let found = (0..200).find(|seed| caught(*seed));
        BUG.set(None);
        assert!(found.is_some(), "{bug:?} was not caught");
    }
}
