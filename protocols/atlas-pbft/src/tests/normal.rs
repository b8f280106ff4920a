//! The normal case (OSDI'99, section 4.2).

use super::rig::{Rig, ids};
use crate::message::{Message, Phase};
use atlas_common::{Digest, SeqNo, View};
use atlas_core::{Batch, Input, OrderingProtocol, Reject};
use std::time::Duration;

#[test]
fn osdi99_4_2_many_slots_are_in_flight_and_decided_in_order() {
    for n in [1, 4, 5, 6, 7, 10] {
        let mut rig = Rig::new(n, n as u64);
        rig.submit(60);
        let most = rig.pbft(0).status().in_flight;
        assert_eq!(most, if n == 1 { 0 } else { 8 }, "n = {n}");
        rig.settle();
        assert_eq!(rig.decisions.len(), 60, "n = {n}");
        assert!((0..n).all(|i| rig.pbft(i).status().view == View::ZERO));
    }
}

/// A cluster of which only replica 3 runs: the test speaks for the others.
fn puppets() -> (Rig, Batch) {
    let mut rig = Rig::new(4, 1);
    for i in 0..3 {
        rig.puppet(i);
    }
    let batch = rig.batch("a");
    (rig, batch)
}

fn send_vote(rig: &mut Rig, from: usize, phase: Phase, view: u64, seq: u64, digest: Digest) {
    let vote = rig.vote(from, phase, view, seq, digest);
    rig.inject(from, 3, Message::Vote(vote)).unwrap();
}

#[test]
fn osdi99_4_2_prepared_takes_the_proposal_and_a_quorum_of_prepares() {
    let (mut rig, batch) = puppets();
    let digest = batch.digest();
    let proposal = rig.proposal(0, 0, 1, &batch);
    rig.inject(0, 3, proposal).unwrap();
    let commits = |rig: &Rig| rig.pbft(3).slots[&SeqNo(1)].prepared.is_some();
    assert!(
        !commits(&rig),
        "the leader and this replica are two of three"
    );
    send_vote(&mut rig, 1, Phase::Prepare, 0, 1, digest);
    assert!(commits(&rig));
}

#[test]
fn osdi99_4_2_committed_local_takes_a_quorum_of_commits() {
    let (mut rig, batch) = puppets();
    let digest = batch.digest();
    let proposal = rig.proposal(0, 0, 1, &batch);
    rig.inject(0, 3, proposal).unwrap();
    send_vote(&mut rig, 1, Phase::Prepare, 0, 1, digest);
    send_vote(&mut rig, 1, Phase::Commit, 0, 1, digest);
    assert_eq!(rig.pbft(3).status().decided, SeqNo(0));
    send_vote(&mut rig, 0, Phase::Commit, 0, 1, digest);
    assert_eq!(rig.pbft(3).status().decided, SeqNo(1));
}

#[test]
fn votes_are_counted_per_member_and_not_per_message() {
    let (mut rig, batch) = puppets();
    let digest = batch.digest();
    let proposal = rig.proposal(0, 0, 1, &batch);
    for _ in 0..3 {
        rig.inject(0, 3, proposal.clone()).unwrap();
        send_vote(&mut rig, 0, Phase::Prepare, 0, 1, digest);
    }
    assert!(rig.pbft(3).slots[&SeqNo(1)].prepared.is_none());
    for _ in 0..3 {
        send_vote(&mut rig, 1, Phase::Commit, 0, 1, digest);
    }
    assert_eq!(rig.pbft(3).status().decided, SeqNo(0));
}

#[test]
fn prepares_are_compared_by_digest() {
    let (mut rig, batch) = puppets();
    let proposal = rig.proposal(0, 0, 1, &batch);
    rig.inject(0, 3, proposal).unwrap();
    let other = Digest::of(b"something else");
    send_vote(&mut rig, 1, Phase::Prepare, 0, 1, other);
    assert!(rig.pbft(3).slots[&SeqNo(1)].prepared.is_none());
    send_vote(&mut rig, 2, Phase::Prepare, 0, 1, batch.digest());
    assert!(rig.pbft(3).slots[&SeqNo(1)].prepared.is_some());
}

#[test]
fn row_1_of_two_proposals_for_a_slot_at_most_one_commits_and_both_are_kept() {
    let mut rig = Rig::new(4, 2);
    rig.puppet(0);
    let (a, b) = (rig.batch("a"), rig.batch("b"));
    let (to_a, to_b) = (rig.proposal(0, 0, 1, &a), rig.proposal(0, 0, 1, &b));
    rig.inject(0, 1, to_a.clone()).unwrap();
    rig.inject(0, 2, to_a).unwrap();
    rig.inject(0, 3, to_b.clone()).unwrap();
    rig.inject(0, 1, to_b).unwrap();
    assert_eq!(rig.rejects(1, Reject::Equivocation), 1);
    let (culprit, first, second) = rig.evidence.pop().expect("the two proposals");
    assert_eq!(culprit.0, 0);
    let (Message::Vote(first), Message::Vote(second)) = (first, second) else {
        panic!("two signed digests");
    };
    assert_eq!((first.digest, second.digest), (a.digest(), b.digest()));
    // The rig's checker compares every decision with those of the others.
    rig.submit(20);
    rig.settle();
    assert!(rig.decisions.len() >= 20);
}

#[test]
fn row_5_a_batch_over_the_limit_is_refused() {
    let (mut rig, _) = puppets();
    let large = "x".repeat(rig.limits.batch_bytes_max);
    let batch = rig.batch(&large);
    let proposal = rig.proposal(0, 0, 1, &batch);
    assert_eq!(rig.inject(0, 3, proposal), Err(Reject::TooLarge));
}

/// The filter of a leader whose proposals do not reach these replicas.
fn withhold(rig: &mut Rig, from: &'static [u32]) {
    rig.filter = Box::new(|_, to, m| !from.contains(&to.0) || !matches!(m, Message::PrePrepare(_)));
}

#[test]
fn row_6_a_proposal_that_reached_only_some_is_fetched_by_digest() {
    let mut rig = Rig::new(7, 3);
    withhold(&mut rig, &[4, 5, 6]);
    rig.submit(30);
    rig.settle();
    assert_eq!(rig.decisions.len(), 30);
    assert_eq!(
        rig.pbft(6).status().view,
        View::ZERO,
        "nobody had to suspect the leader"
    );
}

/// The leader and one more: too few to vouch for the batch, so the others ask for help first.
#[test]
fn row_6_a_proposal_that_reached_f_plus_1_with_the_leader_is_fetched_by_digest() {
    let mut rig = Rig::new(4, 3);
    withhold(&mut rig, &[3]);
    rig.crash(2);
    rig.submit(8);
    rig.settle();
    assert_eq!(rig.decisions.len(), 8);
    assert_eq!(rig.pbft(3).status().view, View::ZERO);
}

#[test]
fn row_7_votes_before_the_proposal_wait_and_nothing_is_decided_without_the_body() {
    let (mut rig, batch) = puppets();
    let digest = batch.digest();
    for from in 0..3 {
        send_vote(&mut rig, from, Phase::Prepare, 0, 1, digest);
        send_vote(&mut rig, from, Phase::Commit, 0, 1, digest);
    }
    assert_eq!(rig.pbft(3).status().decided, SeqNo(0));
    assert!(rig.nodes[3].fetching.contains(&digest));
    rig.step(3, Input::Body(batch));
    assert_eq!(rig.pbft(3).status().decided, SeqNo(1));
    assert!(rig.nodes[3].fetching.is_empty());
}

#[test]
fn row_10_far_future_slots_and_views_take_no_memory() {
    let (mut rig, batch) = puppets();
    for seq in [33, 34, 1 << 40, u64::MAX] {
        send_vote(&mut rig, 1, Phase::Prepare, 0, seq, batch.digest());
        let proposal = rig.proposal(0, 0, seq, &batch);
        rig.inject(0, 3, proposal).unwrap();
    }
    for view in [4, 1 << 40, u64::MAX - 3] {
        let proposal = rig.proposal((view % 4) as usize, view, 1, &batch);
        rig.inject(0, 3, proposal).unwrap();
        send_vote(&mut rig, 1, Phase::Commit, view, 1, batch.digest());
    }
    assert!(rig.pbft(3).slots.len() <= 1);
    assert_eq!(rig.rejects(3, Reject::OutOfWindow), 4 + 4 + 3);
}

#[test]
fn row_14_only_the_batch_of_the_decided_digest_is_decided() {
    let (mut rig, batch) = puppets();
    let first = rig.batch("proposed and dropped");
    let proposal = rig.proposal(0, 0, 1, &first);
    rig.inject(0, 3, proposal).unwrap();
    for from in 0..3 {
        send_vote(&mut rig, from, Phase::Commit, 1, 1, batch.digest());
    }
    assert_eq!(rig.pbft(3).status().decided, SeqNo(0));
    rig.step(3, Input::Body(batch.clone()));
    rig.run(Duration::from_millis(10));
    assert_eq!(rig.nodes[3].decided[&SeqNo(1)].0, batch);
}

#[test]
fn row_15_a_decision_that_comes_by_two_paths_is_made_once() {
    let mut rig = Rig::new(4, 4);
    rig.submit(5);
    rig.settle();
    let known = rig.nodes[1].decided.clone();
    for (seq, (batch, proof)) in known {
        rig.step(
            1,
            Input::Decided {
                seq,
                batch,
                proof: proof.clone(),
            },
        );
        rig.inject(2, 1, Message::Committed { seq, proof }).unwrap();
    }
    rig.submit(5);
    rig.settle();
    assert_eq!(rig.decisions.len(), 10);
}

#[test]
fn a_lost_slot_below_a_committed_one_is_asked_for() {
    let mut rig = Rig::new(4, 5);
    rig.groups = vec![];
    rig.filter = Box::new(|_, to, message| match message {
        Message::PrePrepare(p) => to.0 != 3 || p.seq.0 != 1,
        Message::Vote(v) => to.0 != 3 || v.seq.0 != 1,
        _ => true,
    });
    rig.submit(2);
    rig.run(Duration::from_millis(400));
    assert_eq!(rig.pbft(3).status().decided, SeqNo(2));
}

#[test]
fn tocs02_5_2_twenty_percent_loss_converges() {
    for n in [4, 5, 6, 7, 10] {
        let mut rig = Rig::new(n, 6 + n as u64);
        rig.loss = 0.2;
        rig.submit(80);
        rig.settle();
        assert!(rig.decisions.len() >= 80);
    }
}

#[test]
fn a_message_costs_few_timer_effects() {
    let mut rig = Rig::new(4, 7);
    rig.checkpoints = true;
    rig.submit(200);
    rig.settle();
    let most = rig
        .nodes
        .iter()
        .map(|node| node.timer_effects)
        .max()
        .unwrap();
    assert!(
        most < 100,
        "{most} timers set or cancelled for 200 decisions"
    );
}

#[test]
fn a_mute_follower_changes_nothing() {
    let mut rig = Rig::new(4, 8);
    rig.groups = vec![ids([3])];
    rig.submit(40);
    rig.run(Duration::from_millis(300));
    assert_eq!(rig.pbft(0).status().decided, SeqNo(40));
    rig.groups.clear();
    rig.settle();
}
