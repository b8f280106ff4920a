//! View changes under more load than the cluster bears: they must not feed on each other.

use super::rig::{Rig, ids};
use super::views::{new_view, view_change};
use crate::message::{Message, Phase};
use atlas_common::{SeqNo, View};
use atlas_core::{Input, OrderingProtocol, Waiting};
use std::time::Duration;

/// A view over many decided slots begins with few votes, and a replica that lacks the decisions gets their
/// proofs.
#[test]
fn slots_decided_long_ago_are_not_voted_for_again() {
    let mut rig = Rig::new(4, 23);
    rig.checkpoints = false;
    rig.groups = vec![ids([3])];
    for _ in 0..24 {
        rig.submit_to(&[0, 1, 2]);
        rig.run(Duration::from_millis(20));
    }
    assert_eq!(rig.pbft(0).status().decided, SeqNo(24));
    rig.groups.clear();
    for i in 0..4 {
        rig.step(i, Input::Suspect);
    }
    rig.run_until("all are in the next view", |rig| {
        (0..4).all(|i| rig.pbft(i).entered.view == View(1))
    });
    assert_eq!(rig.pbft(0).entered.proposals.len(), 24);
    rig.submit(1);
    rig.settle();
    assert_eq!(rig.pbft(3).status().decided, SeqNo(25));
    for i in 0..3 {
        let votes = rig.nodes[i].durable_votes();
        let again = votes
            .keys()
            .filter(|(view, seq)| view.0 == 1 && seq.0 <= 24);
        let again = again.count() as u64;
        assert!(again <= rig.limits.in_flight_max as u64, "{again} of {i}");
    }
}

/// More load than the cluster bears must not keep it busy with view changes: a view that left something
/// waiting that waited as it began gives the next one more time.
#[test]
fn one_decision_does_not_end_the_back_off() {
    let mut rig = Rig::new(4, 24);
    for i in 0..3 {
        rig.puppet(i);
    }
    let decide = |rig: &mut Rig, seq: u64| {
        let batch = rig.batch(&format!("of slot {seq}"));
        let proposal = rig.proposal(1, 1, seq, &batch);
        rig.inject(1, 3, proposal).unwrap();
        for phase in [Phase::Prepare, Phase::Commit] {
            for i in 0..3 {
                let vote = rig.vote(i, phase, 1, seq, batch.digest());
                rig.inject(i, 3, Message::Vote(vote)).unwrap();
            }
        }
        assert_eq!(rig.pbft(3).status().decided, SeqNo(seq));
    };
    let waiting = |rig: &mut Rig, since| {
        let oldest = rig.batch("waits").digest();
        rig.step(3, Input::Waiting(Some(Waiting { oldest, since })));
    };
    rig.run(Duration::from_millis(10));
    let early = rig.now;
    waiting(&mut rig, early);
    rig.run(Duration::from_millis(10));
    rig.step(3, Input::Suspect);
    let changes = [0, 1, 2].map(|i| view_change(&rig, i, 1, None, Vec::new()));
    let begun = new_view(&rig, 1, changes.to_vec());
    rig.inject(1, 3, begun).unwrap();
    assert_eq!(rig.pbft(3).fruitless, 1);
    decide(&mut rig, 1);
    assert_eq!(rig.pbft(3).fruitless, 1, "what waited before waits still");
    rig.run(Duration::from_millis(10));
    let late = rig.now;
    waiting(&mut rig, late);
    assert_eq!(rig.pbft(3).fruitless, 0, "what waits now came later");
}
