//! View changes (OSDI'99, section 4.4) and what keeps them live (section 4.5.2).

use super::rig::{Rig, TIMEOUT, TIMEOUT_MAX, ids};
use crate::message::{
    Message, NewView, Phase, Prepared, SignedViewChange, ViewChange, new_view_digest,
    view_change_digest,
};
use crate::sealed::Sealed;
use atlas_common::crypto::Signer;
use atlas_common::{NodeId, SeqNo, View};
use atlas_core::{Batch, CheckpointCertificate, Input, OrderingProtocol, Reject};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn view_change(
    rig: &Rig,
    from: usize,
    view: u64,
    stable: Option<CheckpointCertificate>,
    prepared: Vec<Prepared>,
) -> SignedViewChange {
    let change = Sealed::new(ViewChange {
        view: View(view),
        stable,
        prepared,
    });
    let signature = rig
        .key(from)
        .sign(&view_change_digest(&rig.membership, &change));
    SignedViewChange {
        from: NodeId(from as u32),
        change,
        signature,
    }
}

pub(super) fn new_view(rig: &Rig, view: u64, changes: Vec<SignedViewChange>) -> Message {
    let leader = view as usize % rig.nodes.len();
    let view = View(view);
    let signature = rig
        .key(leader)
        .sign(&new_view_digest(&rig.membership, view, &changes));
    Message::NewView(NewView {
        view,
        changes,
        signature,
    })
}

fn prepared(rig: &Rig, by: &[usize], view: u64, seq: u64, batch: &Batch) -> Prepared {
    let digest = batch.digest();
    let vote = |i: &usize| {
        let vote = rig.vote(*i, Phase::Prepare, view, seq, digest);
        (NodeId(*i as u32), vote.signature)
    };
    let votes = by.iter().map(vote).collect();
    Prepared {
        seq: SeqNo(seq),
        view: View(view),
        digest,
        votes,
    }
}

#[test]
fn osdi99_4_4_a_dead_leader_is_replaced_and_prepared_slots_survive() {
    for n in [4, 5, 6, 7, 10] {
        let mut rig = Rig::new(n, n as u64);
        rig.submit(30);
        rig.run(Duration::from_millis(5));
        rig.crash(0);
        rig.settle();
        assert_eq!(rig.pbft(1).status().view, View(1), "n = {n}");
        rig.restart(0);
        rig.submit(30);
        rig.settle();
        rig.run_until("the view is unknown", |rig| {
            rig.pbft(0).status().view == View(1)
        });
    }
}

#[test]
fn a_leader_that_never_started_is_replaced() {
    let mut rig = Rig::new(4, 1);
    rig.crash(0);
    rig.wipe(0);
    rig.submit(10);
    rig.settle();
    assert_eq!(rig.pbft(2).status().view, View(1));
}

#[test]
fn two_dead_leaders_in_a_row_are_passed_over() {
    let mut rig = Rig::new(7, 2);
    rig.crash(0);
    rig.crash(1);
    rig.submit(10);
    rig.settle();
    assert_eq!(rig.pbft(3).status().view, View(2));
}

#[test]
fn row_2_a_censored_client_is_served_though_others_progress() {
    let mut rig = Rig::new(4, 3);
    // The leader never hears of this request: for the others it is the same as censorship.
    let censored_at = rig.now;
    rig.submit_to(&[1, 2, 3]);
    while rig.pbft(1).status().view == View::ZERO {
        rig.submit(1);
        rig.run(Duration::from_millis(20));
        assert!(
            rig.now < censored_at.after(TIMEOUT * 2),
            "within the stated bound"
        );
    }
    rig.settle();
}

#[test]
fn row_12_a_fabricated_prepared_certificate_is_refused() {
    let mut rig = Rig::new(4, 4);
    let batch = rig.batch("never prepared");
    let good = prepared(&rig, &[0, 1, 2], 0, 1, &batch);
    let mut forged = good.clone();
    forged.votes[2].0 = NodeId(3);
    let mut short = good.clone();
    short.votes.pop();
    let mut twice = good.clone();
    twice.votes[2] = twice.votes[1];
    let mut late = prepared(&rig, &[0, 1, 2], 1, 1, &batch);
    late.seq = SeqNo(1);
    let mut foreign = good.clone();
    foreign.votes[0].0 = NodeId(9);
    let cases = [
        (forged, Reject::BadSignature),
        (short, Reject::BadCertificate),
        (twice, Reject::BadCertificate),
        (late, Reject::BadCertificate),
        (foreign, Reject::NotAMember),
    ];
    for (certificate, why) in cases {
        let change = view_change(&rig, 1, 1, None, vec![certificate]);
        assert_eq!(rig.inject(1, 0, Message::ViewChange(change)), Err(why));
    }
    let change = view_change(&rig, 1, 1, None, vec![good]);
    assert_eq!(rig.inject(1, 0, Message::ViewChange(change)), Ok(()));
}

#[test]
fn row_11_a_certificate_that_mixes_views_and_a_view_change_of_a_stranger_are_refused() {
    let mut rig = Rig::new(4, 5);
    let batch = rig.batch("mixed");
    let mut mixed = prepared(&rig, &[0, 1, 2], 0, 1, &batch);
    mixed.votes[1] = prepared(&rig, &[1], 1, 1, &batch).votes[0];
    let change = view_change(&rig, 1, 5, None, vec![mixed]);
    assert_eq!(
        rig.inject(1, 0, Message::ViewChange(change)),
        Err(Reject::BadSignature)
    );
    let mut change = view_change(&rig, 1, 5, None, Vec::new());
    change.from = NodeId(7);
    let stranger = Message::ViewChange(change.clone());
    assert_eq!(rig.inject(1, 0, stranger.clone()), Err(Reject::WrongSender));
    assert_eq!(rig.inject(7, 0, stranger), Err(Reject::NotAMember));
    let twice = prepared(&rig, &[0, 1, 2], 0, 1, &batch);
    let change = view_change(&rig, 1, 1, None, vec![twice.clone(), twice]);
    assert_eq!(
        rig.inject(1, 0, Message::ViewChange(change)),
        Err(Reject::OutOfWindow)
    );
}

#[test]
fn row_13_a_new_view_without_a_quorum_of_its_own_view_changes_is_refused() {
    let mut rig = Rig::new(4, 6);
    let change = |rig: &Rig, from, view| view_change(rig, from, view, None, Vec::new());
    let good: Vec<_> = (0..3).map(|i| change(&rig, i, 1)).collect();
    let few = new_view(&rig, 1, good[..2].to_vec());
    let twice = new_view(
        &rig,
        1,
        vec![good[0].clone(), good[1].clone(), good[1].clone()],
    );
    let other = change(&rig, 2, 2);
    let mixed = new_view(&rig, 1, vec![good[0].clone(), good[1].clone(), other]);
    for bad in [few, twice, mixed] {
        assert_eq!(rig.inject(1, 3, bad), Err(Reject::BadNewView));
    }
    let Message::NewView(mut stolen) = new_view(&rig, 1, good.clone()) else {
        unreachable!();
    };
    stolen.signature = rig
        .key(2)
        .sign(&new_view_digest(&rig.membership, View(1), &good));
    let stolen = Message::NewView(stolen);
    assert_eq!(rig.inject(1, 3, stolen), Err(Reject::BadSignature));
    let right = new_view(&rig, 1, good);
    assert_eq!(rig.inject(2, 3, right), Ok(()), "anybody may pass it on");
    assert_eq!(rig.pbft(3).status().view, View(1));
}

/// Row 13: the leader sends no proposals with its new view, so it can omit or alter none; a proposal
/// that contradicts what the view begins with is refused.
#[test]
fn row_13_what_a_view_begins_with_is_worked_out_by_each_replica() {
    let mut rig = Rig::new(4, 7);
    for i in 0..3 {
        rig.puppet(i);
    }
    let (kept, other) = (rig.batch("prepared"), rig.batch("the new leader's own"));
    let certificate = prepared(&rig, &[0, 1, 2], 0, 2, &kept);
    let changes = vec![
        view_change(&rig, 0, 1, None, Vec::new()),
        view_change(&rig, 1, 1, None, Vec::new()),
        view_change(&rig, 2, 1, None, vec![certificate]),
    ];
    let begun = new_view(&rig, 1, changes);
    rig.inject(1, 3, begun).unwrap();
    let proposal = |rig: &Rig, seq| rig.pbft(3).slots[&SeqNo(seq)].proposal;
    assert_eq!(proposal(&rig, 1), Some(Batch::null().digest()));
    assert_eq!(proposal(&rig, 2), Some(kept.digest()));
    for seq in [1, 2] {
        let instead = rig.proposal(1, 1, seq, &other);
        rig.inject(1, 3, instead).unwrap();
    }
    assert_eq!(rig.rejects(3, Reject::Equivocation), 2);
    assert_eq!(proposal(&rig, 2), Some(kept.digest()));
    let next = rig.proposal(1, 1, 3, &other);
    rig.inject(1, 3, next).unwrap();
    assert_eq!(proposal(&rig, 3), Some(other.digest()));
}

/// The slots up to the checkpoint that a view begins at are history: a replica that has not got
/// them yet must not let the leader fill them anew.
#[test]
fn osdi99_4_4_slots_below_the_checkpoint_of_a_new_view_are_not_voted_for() {
    let mut rig = Rig::new(4, 8);
    rig.checkpoints = false;
    rig.groups = vec![ids([3])];
    rig.submit(8);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.pbft(0).status().decided, SeqNo(8));
    rig.puppet(1);
    rig.groups.clear();
    let stable = rig.certificate(SeqNo(8), &ids([0, 1, 2]));
    let changes = vec![
        view_change(&rig, 0, 1, None, Vec::new()),
        view_change(&rig, 1, 1, Some(stable), Vec::new()),
        view_change(&rig, 3, 1, None, Vec::new()),
    ];
    let begun = new_view(&rig, 1, changes);
    let other = rig.batch("history, rewritten");
    let proposal = rig.proposal(1, 1, 1, &other);
    for to in [0, 2, 3] {
        rig.inject(1, to, begun.clone()).unwrap();
        rig.inject(1, to, proposal.clone()).unwrap();
    }
    for to in [0, 2, 3] {
        assert_ne!(
            rig.pbft(to).slots.get(&SeqNo(1)).and_then(|s| s.voted),
            Some((View(1), other.digest()))
        );
    }
    rig.run(Duration::from_millis(50));
    let commit = rig.vote(1, Phase::Commit, 1, 1, other.digest());
    rig.inject(1, 3, Message::Vote(commit)).unwrap();
    rig.run(Duration::from_secs(5));
}

#[test]
fn row_16_a_decision_that_races_a_view_change_is_made_and_nothing_hangs() {
    for seed in 0..20 {
        let mut rig = Rig::new(4, seed);
        rig.submit(10);
        rig.run(Duration::from_micros(1500 + 300 * seed));
        for i in 0..4 {
            rig.step(i, Input::Suspect);
        }
        rig.submit(10);
        rig.settle();
        assert!(rig.decisions.len() >= 20);
    }
}

#[test]
fn row_17_f_view_changers_move_nobody_and_f_plus_1_move_all() {
    let mut rig = Rig::new(7, 9);
    rig.puppet(5);
    rig.puppet(6);
    for view in [1, 5, 1 << 40] {
        for liar in [5, 6] {
            let change = view_change(&rig, liar, view, None, Vec::new());
            for to in 0..5 {
                rig.inject(liar, to, Message::ViewChange(change.clone()))
                    .unwrap();
            }
        }
        rig.submit(3);
        rig.settle();
        assert!((0..5).all(|i| rig.pbft(i).status().view == View::ZERO));
    }
    rig.step(4, Input::Suspect);
    rig.submit(3);
    rig.settle();
    assert_eq!(
        rig.pbft(0).status().view,
        View(1),
        "to the lowest that f+1 go beyond"
    );
}

#[test]
fn row_17_back_off_doubles_and_is_capped() {
    let rig = Rig::new(4, 10);
    let config = rig.config(0);
    assert_eq!(config.timeout_after(0), TIMEOUT);
    assert_eq!(config.timeout_after(2), TIMEOUT * 4);
    assert_eq!(config.timeout_after(40), TIMEOUT_MAX);
    let mut rig = Rig::new(4, 11);
    rig.filter = Box::new(|_, _, message| !matches!(message, Message::NewView(_)));
    rig.crash(0);
    rig.submit(1);
    rig.run(Duration::from_secs(60));
    let views = rig.pbft(1).status().view.0;
    assert!((10..=25).contains(&views), "{views} views in a minute");
    rig.filter = Box::new(|_, _, _| true);
    let healed = rig.now;
    rig.settle();
    assert!(rig.now < healed.after(TIMEOUT_MAX * 4));
}

#[test]
fn row_18_n_minus_1_partitioned_and_healed_go_on() {
    for n in [4, 7] {
        let mut rig = Rig::new(n, n as u64);
        rig.submit(10);
        rig.settle();
        rig.groups = (0..n as u32).map(|i| ids([i])).collect();
        rig.submit(10);
        rig.run(Duration::from_secs(60));
        rig.groups.clear();
        let healed = rig.now;
        rig.settle();
        assert!(rig.now < healed.after(TIMEOUT_MAX * 6), "n = {n}");
    }
}

#[test]
fn row_19_replicas_with_timers_out_of_step_come_together() {
    let mut rig = Rig::new(4, 12);
    for i in 0..4 {
        rig.nodes[i].slowness = [1, 2, 4, 1][i];
    }
    rig.filter = Box::new(|from, _, message| {
        from.0 != 1 || !matches!(message, Message::NewView(_) | Message::PrePrepare(_))
    });
    rig.crash(0);
    rig.submit(20);
    rig.settle();
    assert!(rig.pbft(2).status().view >= View(2));
}

/// Row 24 (Abraham et al.): what at most some prepared in the first slot.
#[test]
fn row_24_proposals_split_over_a_view_change_in_the_first_slot() {
    for heard in 0..8_u32 {
        for seed in 0..5 {
            let mut rig = Rig::new(4, seed);
            rig.puppet(0);
            let (a, b) = (rig.batch("a"), rig.batch("b"));
            for i in 1..4_usize {
                let batch = if heard & (1 << (i - 1)) == 0 { &a } else { &b };
                let proposal = rig.proposal(0, 0, 1, batch);
                rig.inject(0, i, proposal).unwrap();
                for phase in [Phase::Prepare, Phase::Commit] {
                    let vote = rig.vote(0, phase, 0, 1, batch.digest());
                    rig.inject(0, i, Message::Vote(vote)).unwrap();
                }
            }
            let mut coin = atlas_common::rng::SeededRng::new(seed);
            rig.filter =
                Box::new(move |_, _, m| !matches!(m, Message::Vote(_)) || coin.chance(0.6));
            rig.submit(3);
            rig.run(Duration::from_secs(1));
            rig.filter = Box::new(|_, _, _| true);
            rig.settle();
        }
    }
}

#[test]
fn a_new_view_that_was_lost_is_sent_again() {
    let mut rig = Rig::new(4, 13);
    rig.filter = Box::new(|_, to, m| to.0 != 3 || !matches!(m, Message::NewView(_)));
    rig.crash(0);
    rig.submit(5);
    rig.run(Duration::from_secs(1));
    rig.filter = Box::new(|_, _, _| true);
    rig.settle();
    rig.run_until("the new view is lost", |rig| {
        (1..4).all(|i| !rig.pbft(i).status().changing_view)
    });
}

#[test]
fn a_replica_that_changes_view_alone_still_learns_and_helps_later() {
    let mut rig = Rig::new(4, 14);
    rig.step(3, Input::Suspect);
    rig.submit(30);
    rig.settle();
    assert!(rig.pbft(3).status().changing_view);
    assert_eq!(rig.pbft(1).status().view, View::ZERO);
    rig.crash(0);
    rig.submit(10);
    rig.settle();
}

#[test]
fn stale_view_changes_are_answered_at_a_bounded_rate() {
    let mut rig = Rig::new(4, 15);
    rig.step(1, Input::Suspect);
    rig.step(2, Input::Suspect);
    rig.run(Duration::from_millis(200));
    assert_eq!(rig.pbft(0).status().view, View(1));
    rig.puppet(3);
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    rig.filter = Box::new(move |_, to, m| {
        if to.0 == 3 && matches!(m, Message::NewView(_)) {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        true
    });
    let old = view_change(&rig, 3, 1, None, Vec::new());
    for _ in 0..100 {
        rig.inject(3, 0, Message::ViewChange(old.clone())).unwrap();
    }
    rig.run(Duration::from_millis(10));
    assert_eq!(sent.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_body_that_a_view_change_made_needless_is_no_longer_fetched() {
    let mut rig = Rig::new(4, 16);
    for i in 0..3 {
        rig.puppet(i);
    }
    let batch = rig.batch("vouched for, and lost");
    for from in [1, 2] {
        let vote = rig.vote(from, Phase::Prepare, 0, 1, batch.digest());
        rig.inject(from, 3, Message::Vote(vote)).unwrap();
    }
    assert_eq!(rig.nodes[3].fetching.len(), 1);
    let changes = (0..3)
        .map(|i| view_change(&rig, i, 1, None, Vec::new()))
        .collect();
    let begun = new_view(&rig, 1, changes);
    rig.inject(1, 3, begun).unwrap();
    assert!(rig.nodes[3].fetching.is_empty());
}

#[test]
fn votes_of_a_view_that_came_before_its_new_view_count() {
    let mut rig = Rig::new(4, 17);
    for i in 0..3 {
        rig.puppet(i);
    }
    let batch = rig.batch("early");
    for from in [0, 2] {
        let vote = rig.vote(from, Phase::Prepare, 1, 1, batch.digest());
        rig.inject(from, 3, Message::Vote(vote)).unwrap();
    }
    let changes = (0..3)
        .map(|i| view_change(&rig, i, 1, None, Vec::new()))
        .collect();
    let begun = new_view(&rig, 1, changes);
    rig.inject(1, 3, begun).unwrap();
    assert!(rig.nodes[3].fetching.contains(&batch.digest()));
}

#[test]
fn a_replica_that_changes_view_alone_keeps_the_bodies_of_the_view_it_left() {
    let mut rig = Rig::new(4, 18);
    rig.step(3, Input::Suspect);
    rig.submit(30);
    rig.run(Duration::from_millis(40));
    assert_eq!(rig.pbft(3).status().decided, SeqNo(30));
    assert!(rig.pbft(3).status().changing_view);
    assert!(
        rig.fetches < 6,
        "{} bodies came after all votes",
        rig.fetches
    );
}

/// A batch that one replica alone had prepared loses its slot to another in a view that began
/// without that replica; the view after must keep to the later one, which may be decided.
#[test]
fn osdi99_4_4_the_certificate_of_the_highest_view_wins() {
    certificates_of_two_views();
}

pub(super) fn certificates_of_two_views() {
    let mut rig = Rig::new(4, 21);
    for i in 0..3 {
        rig.puppet(i);
    }
    let (early, late) = (rig.batch("early"), rig.batch("late"));
    let of_early = prepared(&rig, &[0, 1, 2], 0, 1, &early);
    let of_late = prepared(&rig, &[0, 1, 2], 1, 1, &late);
    let changes = vec![
        view_change(&rig, 0, 2, None, vec![of_early]),
        view_change(&rig, 1, 2, None, vec![of_late]),
        view_change(&rig, 2, 2, None, Vec::new()),
    ];
    let begun = new_view(&rig, 2, changes);
    rig.inject(2, 3, begun).unwrap();
    assert_eq!(rig.pbft(3).slots[&SeqNo(1)].proposal, Some(late.digest()));
}
