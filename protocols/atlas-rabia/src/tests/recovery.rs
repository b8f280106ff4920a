//! Crashes, restarts, lost disks, reads.

use super::rig::{Rig, ids};
use crate::message::Message;
use atlas_common::rng::SeededRng;
use atlas_common::{Lsn, NodeId, SeqNo};
use atlas_core::{Input, OrderingProtocol, Origin, ReadId};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// The rig checks at every send that it is durable and contradicts nothing said in an earlier life.
#[test]
fn trap_what_was_said_in_a_slot_survives_a_crash() {
    for seed in 0..60 {
        let mut rig = Rig::new(3, seed);
        let mut rng = SeededRng::new(seed);
        rig.loss = 0.1;
        for round in 0..12 {
            rig.submit(4);
            rig.run(Duration::from_micros(rng.between(100, 20_000)));
            let victim = rng.below(3) as usize;
            rig.crash(victim);
            if round % 3 != 0 {
                rig.run(Duration::from_micros(rng.between(0, 40_000)));
            }
            rig.restart(victim);
        }
        rig.loss = 0.0;
        rig.settle();
        assert_eq!(rig.requests(0), rig.requests(1), "seed {seed}");
        assert_eq!(rig.requests(0), rig.requests(2), "seed {seed}");
    }
}

#[test]
fn row_43_a_power_cut_of_all_loses_nothing_decided() {
    for seed in 0..40 {
        let mut rig = Rig::new(3, seed);
        rig.submit(40);
        rig.run(Duration::from_micros(2_000 + 700 * seed));
        let acknowledged = rig.decisions.clone();
        for i in 0..3 {
            rig.crash(i);
        }
        for i in 0..3 {
            rig.restart(i);
        }
        rig.settle();
        // The rig has compared every decision with those of before the cut.
        assert!(
            rig.nodes[0].decided.len() >= acknowledged.len(),
            "seed {seed}"
        );
        let mut requests = rig.requests(1);
        requests.sort_unstable();
        requests.dedup();
        assert_eq!(requests.len(), 40, "seed {seed}");
    }
}

/// Nobody sends it anything: what its own records say must be enough to go on.
#[test]
fn row_43_a_replica_that_is_alone_goes_on_where_it_stopped() {
    for seed in 0..200 {
        let mut rig = Rig::new(1, seed);
        let mut rng = SeededRng::new(seed);
        for _ in 0..6 {
            rig.submit(3);
            rig.run(Duration::from_micros(rng.between(0, 2_000)));
            rig.crash(0);
            rig.restart(0);
        }
        rig.submit(1);
        rig.settle();
        assert!(rig.requests(0).contains(&19), "seed {seed}");
    }
}

#[test]
fn row_47_all_stop_and_start_again_and_again() {
    let mut rig = Rig::new(5, 3);
    for round in 0..30 {
        rig.submit(10);
        rig.run(Duration::from_millis(round));
        for i in 0..5 {
            rig.crash(i);
        }
        for i in (0..5).rev() {
            rig.restart(i);
            rig.run(MILLI);
        }
    }
    rig.settle();
    assert_eq!(rig.requests(0), rig.requests(4));
}

#[test]
fn the_log_stays_short_however_long_it_runs() {
    let mut rig = Rig::new(3, 4);
    for _ in 0..40 {
        rig.submit(20);
        rig.settle();
    }
    rig.run(SECOND);
    for node in &rig.nodes {
        assert!(node.log.len() < 400, "{} records", node.log.len());
        assert!(*node.log.keys().next().unwrap() > Lsn(500));
    }
    for i in 0..3 {
        rig.crash(i);
        rig.restart(i);
    }
    rig.submit(9);
    rig.settle();
}

#[test]
fn row_45_a_wiped_disk_takes_part_in_nothing_that_it_may_have_taken_part_in() {
    for seed in 0..40 {
        let mut rig = Rig::new(3, seed);
        rig.submit(30);
        rig.run(Duration::from_millis(2 + seed));
        rig.crash(2);
        rig.wipe(2);
        // The rig remembers everything that replica 2 has ever said, and compares.
        rig.reboot_wiped(2);
        rig.run(20 * MILLI);
        if seed % 2 == 0 {
            rig.crash(2); // in the middle of it
            rig.reboot_wiped(2);
        }
        rig.run(2 * SECOND);
        assert!(rig.rabia(2).amnesia.is_none(), "seed {seed}");
        // It counts again: without it the others are too few.
        rig.crash(0);
        rig.submit_to(1);
        rig.submit_to(2);
        rig.settle();
        assert_eq!(rig.requests(1), rig.requests(2), "seed {seed}");
    }
}

#[test]
fn row_45_the_bound_lies_above_every_slot_that_the_wiped_replica_had_reached() {
    for seed in 0..40 {
        let mut rig = Rig::new(5, seed);
        rig.submit(40);
        rig.run(Duration::from_millis(1 + seed));
        let reached = rig.rabia(4).reached;
        rig.crash(4);
        rig.wipe(4);
        rig.crash(3); // of the others only a majority of all answers
        rig.reboot_wiped(4);
        rig.run_until("it remembers", |rig| rig.rabia(4).amnesia.is_none());
        assert!(rig.rabia(4).floor >= reached, "seed {seed}");
    }
}

#[test]
fn row_45_without_f_plus_1_answers_a_wiped_replica_stays_mute() {
    let mut rig = Rig::new(3, 5);
    rig.submit(10);
    rig.settle();
    rig.crash(2);
    rig.wipe(2);
    rig.crash(1);
    rig.reboot_wiped(2);
    rig.submit_to(0);
    let decided = rig.decided(0);
    rig.run(5 * SECOND);
    assert!(rig.rabia(2).amnesia.is_some());
    assert_eq!(rig.durable_words(2), 0);
    assert_eq!(rig.decided(0), decided, "its word does not count");
    rig.restart(1);
    rig.settle();
    rig.run(2 * SECOND);
    assert!(rig.rabia(2).amnesia.is_none());
}

#[test]
fn row_45_two_replicas_without_memory_do_not_vouch_for_each_other() {
    let mut rig = Rig::new(5, 6);
    rig.submit(20);
    rig.settle();
    for i in [3, 4] {
        rig.crash(i);
        rig.wipe(i);
    }
    rig.crash(2);
    rig.reboot_wiped(3);
    rig.reboot_wiped(4);
    rig.run(5 * SECOND);
    assert!(rig.rabia(3).amnesia.is_some() && rig.rabia(4).amnesia.is_some());
    let forgot = |rig: &Rig| [2, 3, 4].map(|i| rig.rabia(i).status().forgot_votes);
    rig.restart(2);
    assert_eq!(forgot(&rig), [false, true, true]);
    rig.submit_to(0);
    rig.settle();
    rig.run(2 * SECOND);
    assert!(rig.rabia(3).amnesia.is_none() && rig.rabia(4).amnesia.is_none());
    // In the slots that they may have forgotten they still have no voice.
    rig.submit(60);
    rig.settle();
    assert_eq!(forgot(&rig), [false; 3]);
}

#[test]
fn row_46_replicas_crash_while_others_catch_up() {
    for seed in 0..15 {
        let mut rig = Rig::new(5, seed);
        let mut rng = SeededRng::new(seed);
        rig.crash(4);
        for _ in 0..12 {
            rig.submit_to(0);
            rig.submit_to(1);
            rig.run(60 * MILLI);
        }
        rig.restart(4);
        rig.run(Duration::from_micros(rng.between(100, 30_000)));
        rig.crash(3);
        rig.run(Duration::from_micros(rng.between(100, 30_000)));
        rig.restart(3);
        rig.crash(4);
        rig.run(10 * MILLI);
        rig.restart(4);
        rig.settle();
        assert_eq!(rig.requests(0), rig.requests(4), "seed {seed}");
    }
}

#[test]
fn an_older_checkpoint_than_the_log_takes_part_in_nothing_below_the_cut() {
    let mut rig = Rig::new(3, 7);
    rig.submit(100);
    rig.settle();
    let low = rig.rabia(2).low;
    assert!(low > SeqNo(8));
    rig.crash(2);
    // The newest checkpoint is damaged; what the log held below it is gone.
    rig.nodes[2].checkpoint = None;
    rig.boot(2, Origin::Restart);
    assert_eq!(rig.rabia(2).floor, low);
    assert!(!rig.rabia(2).may_join(low));
    rig.run(5 * SECOND);
    assert_eq!(rig.decided(2), rig.decided(0));
}

#[test]
fn reads_wait_for_every_write_acknowledged_before_they_began() {
    for seed in 0..30 {
        let mut rig = Rig::new(3, seed);
        rig.submit(10);
        rig.run(Duration::from_millis(2 + seed));
        // Replica 2 hears nothing of the next writes.
        rig.groups = vec![ids([2])];
        rig.submit_to(0);
        rig.run(50 * MILLI);
        let acknowledged = rig.nodes[0].decided.keys().next_back().copied();
        rig.step(2, Input::Read(ReadId(1)));
        rig.run(SECOND);
        assert!(
            !rig.nodes[2].reads.contains_key(&ReadId(1)),
            "alone it knows nothing"
        );
        rig.groups.clear();
        rig.run_until("the read may run", |rig| {
            rig.nodes[2].reads.contains_key(&ReadId(1))
        });
        let at = rig.nodes[2].reads[&ReadId(1)];
        assert!(at >= acknowledged, "seed {seed}: {at:?} {acknowledged:?}");
        // And what it waits for gets decided though no client wants anything.
        let at = at.unwrap();
        rig.run_until("it is decided", |rig| rig.rabia(2).decided >= at);
    }
}

#[test]
fn row_45_a_read_counts_what_a_wiped_disk_has_forgotten() {
    for seed in 0..20 {
        let mut rig = Rig::new(3, seed);
        rig.groups = vec![ids([1])];
        rig.submit_to(0);
        rig.submit_to(2);
        rig.run(200 * MILLI);
        let acknowledged = rig.nodes[0].decided.keys().next_back().copied();
        rig.crash(2);
        rig.wipe(2);
        // Replica 1 hears answers only, so that it learns nothing of the decisions.
        rig.groups.clear();
        rig.filter = Box::new(|_, to, message| {
            to != NodeId(1) || matches!(message, Message::Question { .. } | Message::Answer { .. })
        });
        rig.reboot_wiped(2);
        rig.run_until("it remembers", |rig| rig.rabia(2).amnesia.is_none());
        rig.groups = vec![ids([0])];
        rig.step(2, Input::Read(ReadId(1)));
        rig.run(200 * MILLI);
        let at = rig.nodes[2].reads[&ReadId(1)];
        assert!(at >= acknowledged, "seed {seed}: {at:?} {acknowledged:?}");
    }
}

#[test]
fn reads_share_a_question_but_never_one_asked_before_they_came() {
    let mut rig = Rig::new(3, 12);
    rig.submit(10);
    rig.settle();
    rig.run(SECOND);
    let sent = rig.sent;
    for id in 0..100 {
        rig.step(1, Input::Read(ReadId(id)));
    }
    rig.run(50 * MILLI);
    assert_eq!(rig.nodes[1].reads.len(), 100);
    assert!(rig.sent - sent <= 6, "two questions: {}", rig.sent - sent);
    assert_eq!(rig.nodes[1].reads[&ReadId(99)], Some(SeqNo(rig.decided(1))));
}

#[test]
fn a_replica_without_memory_refuses_reads() {
    let mut rig = Rig::new(3, 13);
    rig.submit(5);
    rig.settle();
    rig.crash(2);
    rig.wipe(2);
    rig.groups = vec![ids([2])];
    rig.reboot_wiped(2);
    rig.step(2, Input::Read(ReadId(5)));
    assert_eq!(rig.nodes[2].reads[&ReadId(5)], None);
    assert_eq!(rig.nodes[2].id, NodeId(2));
}
