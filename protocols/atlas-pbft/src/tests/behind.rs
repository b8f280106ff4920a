//! Replicas that views have left behind.

use super::rig::{Rig, ids};
use super::views::{new_view, view_change};
use crate::Pbft;
use crate::message::{Message, Phase};
use atlas_common::{NodeId, SeqNo, View};
use atlas_core::{Input, OrderingProtocol};
use std::time::Duration;

#[test]
fn a_replica_far_behind_does_not_blame_the_leader() {
    let mut rig = Rig::new(4, 19);
    rig.groups = vec![ids([3])];
    for _ in 0..4 {
        rig.submit_to(&[0, 1, 2]);
        rig.submit_to(&[0, 1, 2]);
        rig.submit(10);
        rig.run(Duration::from_millis(100));
    }
    // It hears statuses and votes, but gets neither proposals nor what it missed.
    rig.groups.clear();
    rig.state_delay = Duration::from_secs(3);
    rig.filter = Box::new(|_, to, m| {
        to.0 != 3 || !matches!(m, Message::PrePrepare(_) | Message::Committed { .. })
    });
    rig.run(Duration::from_secs(2));
    assert!(!rig.pbft(3).status().changing_view);
    rig.filter = Box::new(|_, _, _| true);
    rig.settle();
    assert_eq!(rig.pbft(3).status().view, View::ZERO);
}

/// Row 10: however far the checkpoint of a view is ahead of a replica's own, a liar's votes in
/// between take no memory.
#[test]
fn row_10_votes_below_the_checkpoint_of_a_view_take_no_memory() {
    let mut rig = Rig::new(4, 20);
    for i in 0..3 {
        rig.puppet(i);
    }
    let stable = rig.certificate(SeqNo(1 << 20), &ids([0, 1, 2]));
    let changes = [0, 1, 2].map(|i| view_change(&rig, i, 1, Some(stable.clone()), Vec::new()));
    let begun = new_view(&rig, 1, changes.to_vec());
    rig.inject(1, 3, begun).unwrap();
    let digest = rig.batch("spam").digest();
    for seq in (1..2000).chain((1 << 20) - 500..(1 << 20) + 500) {
        let vote = rig.vote(1, Phase::Commit, 1, seq, digest);
        rig.inject(1, 3, Message::Vote(vote)).unwrap();
    }
    assert_eq!(rig.pbft(3).slots.len(), 2 * 32);
}

/// A replica whose own checkpoint stays behind, because the state is long on its way, enters view after
/// view, each from a later checkpoint: what it has voted for below that is history, takes no memory, and is
/// in no view change, which its peers would refuse.
#[test]
fn slots_that_views_have_left_behind_are_let_go_and_the_view_change_says_why() {
    let mut rig = Rig::new(4, 22);
    rig.state_delay = Duration::from_secs(3600);
    for i in 0..3 {
        rig.puppet(i);
    }
    let window = rig.limits.window;
    let mut low = 0;
    for view in [1, 2, 4, 5] {
        low += window;
        let stable = rig.certificate(SeqNo(low), &ids([0, 1, 2]));
        let changes =
            [0, 1, 2].map(|i| view_change(&rig, i, view, Some(stable.clone()), Vec::new()));
        let begun = new_view(&rig, view, changes.to_vec());
        rig.inject(view as usize % 4, 3, begun).unwrap();
        for seq in low + 1..=low + window {
            let batch = rig.batch(&format!("of slot {seq}"));
            let proposal = rig.proposal(view as usize % 4, view, seq, &batch);
            rig.inject(view as usize % 4, 3, proposal).unwrap();
            for i in 0..3 {
                let vote = rig.vote(i, Phase::Prepare, view, seq, batch.digest());
                rig.inject(i, 3, Message::Vote(vote)).unwrap();
            }
        }
        let prepared = |rig: &Rig| rig.pbft(3).status().in_flight as u64;
        assert_eq!(prepared(&rig), window, "of view {view} and no other");
        // It keeps to that through a restart.
        rig.run(Duration::from_millis(5));
        rig.crash(3);
        rig.restart(3);
        assert_eq!(prepared(&rig), window);
    }
    rig.step(3, Input::Suspect);
    let own = rig.pbft(3).changes[&NodeId(3)].clone();
    assert_eq!(own.change.low(), SeqNo(low));
    assert_eq!(own.change.prepared.len() as u64, window);
    let verdict = Pbft::verify(
        &rig.config(0),
        &rig.membership,
        NodeId(3),
        &Message::ViewChange(own),
    );
    assert_eq!(verdict, Ok(()));
}
