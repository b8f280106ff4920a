//! Lost disks (row 45; nats-server #7038): the front page's rule for a replica without memory.

use super::rig::Rig;
use super::solo::{Solo, entry, id};
use crate::message::Body;
use atlas_common::{SeqNo, View};
use atlas_core::{OrderingProtocol, Origin};
use std::time::Duration;

fn lose_disk(rig: &mut Rig, i: usize) {
    rig.crash(i);
    rig.wipe(i);
    rig.reboot_wiped(i);
}

#[test]
fn row_45_a_wiped_replica_votes_and_counts_again_after_a_term_that_began_since() {
    for n in [3, 5] {
        for seed in 0..10 {
            let mut rig = Rig::new(n, seed);
            let leader = rig.elect();
            rig.submit(20);
            rig.settle();
            let before = rig.raft(leader).term;
            let wiped = (leader + 1) % n;
            lose_disk(&mut rig, wiped);
            assert!(!rig.raft(wiped).counts() && rig.raft(wiped).status().forgot_votes);
            rig.run_until("it counts again", |rig| rig.raft(wiped).counts());
            assert!(!rig.raft(wiped).status().forgot_votes);
            assert!(
                rig.raft(wiped).term > before,
                "the leader has begun a new term"
            );
            rig.submit(3);
            rig.settle();
            // It is as good as any other now.
            let leader = rig.elect();
            let next = (0..n).find(|i| *i != leader && *i != wiped).unwrap();
            if n == 3 {
                rig.crash(next);
            }
            rig.submit_to(&[leader]);
            rig.settle();
        }
    }
}

/// Of two checkpoints the newer one is damaged, and the log goes on above it only: what lies between is
/// lost, and what the log still holds may have been acknowledged with it.
#[test]
fn row_41_a_log_that_begins_above_the_checkpoint_is_a_lost_one() {
    for seed in 0..10 {
        let mut rig = Rig::new(3, seed);
        let leader = rig.elect();
        rig.submit(40);
        rig.settle();
        let damaged = (leader + 1) % 3;
        let older = rig.nodes[damaged].checkpoint.clone();
        rig.submit(80);
        rig.settle();
        for checkpoint in [older, None] {
            rig.submit(3);
            rig.run(Duration::from_millis(1));
            rig.crash(damaged);
            rig.nodes[damaged].checkpoint = checkpoint;
            rig.boot(damaged, Origin::Restart);
            assert!(!rig.raft(damaged).counts(), "seed {seed}");
            // A crash must not make it forget that it has forgotten.
            rig.crash(damaged);
            rig.restart(damaged);
            assert!(!rig.raft(damaged).counts(), "seed {seed}");
            rig.submit(5);
            rig.run_until("it counts again", |rig| rig.raft(damaged).counts());
            rig.settle();
            rig.run(Duration::from_millis(100)); // so that this is on its disk
            rig.crash(damaged);
            rig.restart(damaged);
            assert!(rig.raft(damaged).counts(), "seed {seed}");
            rig.settle();
        }
    }
}

#[test]
fn row_45_a_wiped_leader_comes_back() {
    for seed in 0..10 {
        let mut rig = Rig::new(3, seed);
        let leader = rig.elect();
        rig.submit(20);
        rig.settle();
        lose_disk(&mut rig, leader);
        rig.submit(5);
        rig.run_until("it counts again", |rig| rig.raft(leader).counts());
        rig.settle();
    }
}

/// The classic loss: an entry is committed by the leader and one follower; the follower's disk is
/// replaced; the leader dies; the third, which never had the entry, must not lead.
#[test]
fn row_45_a_wiped_replica_does_not_elect_one_that_lacks_what_it_had_acknowledged() {
    let mut rig = Rig::new(3, 1);
    let leader = rig.elect();
    let (had, lacks) = ((leader + 1) % 3, (leader + 2) % 3);
    rig.run_millis(50);
    rig.isolate(lacks);
    rig.submit_to(&[leader]);
    rig.run_until("decided", |rig| rig.nodes[leader].pool.is_empty());
    let decided = rig.decisions.len();
    rig.crash(leader);
    lose_disk(&mut rig, had);
    rig.cuts.clear();
    rig.run_millis(5000);
    assert_eq!(
        rig.leader(),
        None,
        "two are left, and one of them does not count"
    );
    rig.restart(leader);
    rig.submit(1);
    rig.settle();
    assert!(rig.decisions.len() > decided);
    assert!(rig.raft(lacks).commit.0 > decided as u64);
}

#[test]
fn row_45_an_answer_of_before_the_start_or_of_few_is_not_enough() {
    let mut solo = Solo::new(5);
    solo.raft.amnesia = Some(crate::amnesia::Amnesia::default());
    let nonce = 0; // of the default
    solo.append(1, 7, id(0, 0), vec![entry(7, "a")], 1);
    for (from, term, nonce) in [(1, 6, nonce), (2, 6, nonce), (3, 6, 99)] {
        solo.hear(from, term, Body::Recalled { nonce });
    }
    assert!(
        !solo.raft.counts(),
        "two of four others are no majority of five"
    );
    solo.hear(3, 7, Body::Recalled { nonce });
    assert!(
        !solo.raft.counts(),
        "term 7 may have begun before the question"
    );
    solo.hear(4, 6, Body::Recalled { nonce });
    assert!(solo.raft.counts(), "any majority will do");
    solo.request(2, 7, id(99, 7), false);
    solo.sync();
    let granted = solo.granted();
    assert!(!granted.contains(&true), "it may have voted in term 7");
}

#[test]
fn row_45_what_a_wiped_replica_acknowledges_counts_for_nothing() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    let mut accepted = crate::message::Accepted {
        matched: SeqNo(1),
        room: SeqNo(99),
        round: 0,
        counts: false,
    };
    leader.hear(1, 1, Body::Accepted(accepted));
    assert_eq!(leader.raft.commit, SeqNo(0));
    leader.read(1);
    assert_eq!(
        leader.raft.peers[1].matched,
        SeqNo(1),
        "but it is sent what follows"
    );
    accepted.counts = true;
    leader.hear(1, 1, Body::Accepted(accepted));
    assert_eq!(leader.raft.commit, SeqNo(1));
}

#[test]
fn row_45_a_wiped_replica_gets_again_what_it_once_had() {
    let mut rig = Rig::new(3, 2);
    rig.checkpoints = false;
    let leader = rig.elect();
    rig.submit(20);
    rig.settle();
    let wiped = (leader + 1) % 3;
    rig.transfers = false; // by the leader's appends alone
    lose_disk(&mut rig, wiped);
    rig.settle();
    assert_eq!(rig.raft(wiped).commit, rig.raft(leader).commit);
}

#[test]
fn row_45_a_wiped_replica_that_restarts_has_no_memory_still() {
    let mut rig = Rig::new(3, 3);
    let leader = rig.elect();
    rig.submit(5);
    rig.settle();
    let (wiped, other) = ((leader + 1) % 3, (leader + 2) % 3);
    rig.isolate(other);
    lose_disk(&mut rig, wiped);
    rig.run_millis(300);
    rig.crash(wiped);
    rig.reboot_wiped(wiped);
    assert!(!rig.raft(wiped).counts());
    rig.run_millis(300);
    assert!(!rig.raft(wiped).counts(), "one other is not enough");
    rig.cuts.clear();
    rig.run_until("it counts again", |rig| rig.raft(wiped).counts());
    rig.run_millis(5);
    rig.crash(wiped);
    rig.restart(wiped);
    assert!(rig.raft(wiped).counts(), "and stays so");
    rig.submit(1);
    rig.settle();
}

#[test]
fn row_45_in_a_cluster_of_one_or_two_nobody_is_left_to_say_what_was_lost() {
    for n in [1, 2] {
        let mut rig = Rig::new(n, 4);
        let leader = rig.elect();
        rig.submit(3);
        rig.settle();
        lose_disk(&mut rig, leader);
        rig.run_millis(10_000);
        assert_eq!(rig.leader(), None);
        assert_eq!(rig.raft(leader).status().leader, None);
        assert!(rig.raft(leader).term <= View(9));
    }
}
