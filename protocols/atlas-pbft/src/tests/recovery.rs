//! Crashes, checkpoints and lost disks (OSDI'99, sections 4.3 and 4.6; TOCS 2002, section 4).

use super::rig::{Rig, ids, membership};
use super::views::{new_view, view_change};
use crate::Pbft;
use crate::message::{Message, Phase, Status};
use atlas_common::rng::SeededRng;
use atlas_common::{NodeId, SeqNo, View};
use atlas_core::{Input, OrderingProtocol, Origin, RecoverError, Recovery, Reject};
use std::sync::Arc;
use std::time::Duration;

/// The rig checks every vote that leaves against all that left before, over all lives.
#[test]
fn row_26_replicas_that_crash_at_any_moment_never_vote_twice() {
    for seed in 0..25 {
        let n = [4, 5, 6, 7, 10][seed as usize % 5];
        let mut rig = Rig::new(n, seed);
        let mut rng = SeededRng::new(seed);
        rig.loss = 0.05;
        for _ in 0..12 {
            rig.submit(5);
            rig.run(Duration::from_micros(rng.between(100, 400_000)));
            let faults = rig.membership.quorums().faults();
            let down: Vec<usize> = (0..n)
                .filter(|i| rig.nodes[*i].protocol.is_none())
                .collect();
            if down.len() < faults || rng.chance(0.1) {
                let up = rig.alive();
                rig.crash(*rng.pick(&up).unwrap());
            }
            if let Some(back) = rng.pick(&down) {
                rig.restart(*back);
            }
        }
        for i in 0..n {
            if rig.nodes[i].protocol.is_none() {
                rig.restart(i);
            }
        }
        rig.loss = 0.0;
        rig.settle();
    }
}

#[test]
fn row_26_a_restarted_replica_keeps_to_what_its_records_say() {
    let mut rig = Rig::new(4, 1);
    for i in 0..3 {
        rig.puppet(i);
    }
    let (a, b) = (rig.batch("a"), rig.batch("b"));
    let proposal = rig.proposal(0, 0, 1, &a);
    rig.inject(0, 3, proposal).unwrap();
    rig.run(Duration::from_millis(1));
    assert_eq!(
        rig.nodes[3].durable_votes()[&(View(0), SeqNo(1))],
        a.digest()
    );
    rig.crash(3);
    rig.restart(3);
    let other = rig.proposal(0, 0, 1, &b);
    rig.inject(0, 3, other).unwrap();
    for from in [1, 2] {
        let vote = rig.vote(from, Phase::Prepare, 0, 1, b.digest());
        rig.inject(from, 3, Message::Vote(vote)).unwrap();
    }
    rig.run(Duration::from_millis(1));
    assert_eq!(
        rig.nodes[3].durable_votes()[&(View(0), SeqNo(1))],
        a.digest()
    );
    assert!(rig.pbft(3).slots[&SeqNo(1)].prepared.is_none());
}

#[test]
fn tocs02_all_replicas_restart_at_once_and_go_on() {
    for seed in 0..10 {
        let mut rig = Rig::new(4, seed);
        rig.submit(20);
        rig.run(Duration::from_micros(1000 + 700 * seed));
        (0..4).for_each(|i| rig.crash(i));
        (0..4).for_each(|i| rig.restart(i));
        rig.submit(5);
        rig.settle();
        assert!(rig.decisions.len() >= 25);
    }
}

/// It had taken part in higher slots as a follower; as a leader it must not leave them out.
#[test]
fn a_leader_that_restarts_goes_on_after_its_own_last_proposal() {
    let mut rig = Rig::new(4, 2);
    let batch = rig.batch("of a view that ended");
    rig.puppet(0);
    for seq in [1, 2, 3] {
        let proposal = rig.proposal(0, 0, seq, &batch);
        rig.inject(0, 1, proposal).unwrap();
    }
    let changes = [0, 2, 3].map(|i| view_change(&rig, i, 1, None, Vec::new()));
    let begun = new_view(&rig, 1, changes.to_vec());
    for to in 1..4 {
        rig.inject(1, to, begun.clone()).unwrap();
    }
    rig.run(Duration::from_millis(20));
    rig.crash(1);
    rig.restart(1);
    rig.submit(2);
    rig.settle();
    assert_eq!(rig.pbft(2).status().view, View(1), "no slot was left out");
}

#[test]
fn osdi99_4_3_a_checkpoint_frees_slots_and_log() {
    let mut rig = Rig::new(4, 3);
    rig.submit(100);
    rig.settle();
    rig.run(Duration::from_millis(50));
    for i in 0..4 {
        let status = rig.pbft(i).status();
        assert_eq!((status.low, status.high), (SeqNo(96), SeqNo(128)));
        assert_eq!(rig.pbft(i).slots.len(), 4);
        assert!(rig.pbft(i).bodies.len() <= 4);
        assert!(
            rig.nodes[i].log.len() < 40,
            "{} records",
            rig.nodes[i].log.len()
        );
    }
    rig.crash(2);
    rig.restart(2);
    assert_eq!(rig.pbft(2).status().decided, SeqNo(100));
}

#[test]
fn osdi99_4_3_without_checkpoints_the_window_ends_and_with_one_it_moves() {
    let mut rig = Rig::new(4, 4);
    rig.checkpoints = false;
    rig.submit(50);
    rig.run(Duration::from_millis(300));
    assert_eq!(rig.pbft(1).status().decided, SeqNo(32));
    assert!(rig.pbft(1).slots.len() <= 32);
    let certificate = Arc::new(rig.certificate(SeqNo(24), &ids([0, 1, 2])));
    (0..4).for_each(|i| rig.certify(i, &certificate));
    rig.settle();
    assert_eq!(rig.decisions.len(), 50);
}

#[test]
fn a_view_that_was_entered_survives_compaction_and_restart() {
    let mut rig = Rig::new(4, 5);
    (1..4).for_each(|i| rig.step(i, Input::Suspect));
    rig.submit(40);
    rig.settle();
    (0..4).for_each(|i| rig.crash(i));
    (0..4).for_each(|i| rig.restart(i));
    assert!((0..4).all(|i| rig.pbft(i).status().view == View(1)));
    rig.step(1, Input::Suspect);
    rig.run(Duration::from_millis(5));
    rig.crash(1);
    rig.restart(1);
    let status = rig.pbft(1).status();
    assert_eq!((status.view, status.changing_view), (View(2), true));
}

#[test]
fn an_installed_state_takes_a_replica_past_what_it_missed() {
    let mut rig = Rig::new(4, 6);
    rig.groups = vec![ids([3])];
    for _ in 0..10 {
        rig.submit(10);
        rig.run(Duration::from_millis(60));
    }
    assert_eq!(rig.pbft(3).status().decided, SeqNo(0));
    rig.groups.clear();
    rig.settle();
    assert!(rig.pbft(3).status().low >= SeqNo(96));
    assert!(rig.pbft(3).slots.len() <= 32);
}

/// Loses the disk of replica 3 and starts it again.
fn lose_disk(rig: &mut Rig) {
    rig.crash(3);
    rig.wipe(3);
    rig.reboot_wiped(3);
}

#[test]
fn a_replica_without_memory_has_no_vote_until_its_checkpoint_passes_the_bound() {
    let mut rig = Rig::new(4, 7);
    rig.submit(20);
    rig.settle();
    lose_disk(&mut rig);
    rig.run(Duration::from_millis(300));
    rig.submit(20);
    rig.settle();
    assert!(
        !rig.pbft(3).may_change_view(),
        "decided 40, may have voted up to 20 + 32"
    );
    let low = rig.pbft(3).status().low;
    while !rig.pbft(3).may_change_view() {
        assert!(rig.pbft(3).status().forgot_votes);
        assert!(rig.pbft(3).status().low < SeqNo(64));
        rig.submit(4);
        rig.settle();
    }
    assert!(rig.pbft(3).status().low >= SeqNo(52) && low < SeqNo(52));
    assert!(!rig.pbft(3).status().forgot_votes);
    // It keeps out of the view that it may have left, and votes in the next.
    assert!(!rig.pbft(3).may_vote());
    rig.crash(0);
    rig.submit(5);
    rig.settle();
    assert!(rig.pbft(3).may_vote());
}

#[test]
fn a_replica_without_memory_that_restarts_has_no_memory_still() {
    let mut rig = Rig::new(4, 8);
    rig.submit(20);
    rig.settle();
    lose_disk(&mut rig);
    rig.submit(20);
    rig.settle();
    rig.crash(3);
    rig.reboot_wiped(3);
    assert!(!rig.pbft(3).may_change_view());
    rig.run(Duration::from_millis(300));
    rig.submit(40);
    rig.settle();
    rig.submit(8);
    rig.settle();
    assert!(rig.pbft(3).may_change_view());
    rig.run(Duration::from_millis(50));
    rig.crash(3);
    rig.reboot_wiped(3);
    assert!(rig.pbft(3).may_change_view() && !rig.pbft(3).may_vote());
}

/// What a replica has acknowledged it knows after a power cut, without anybody's help: reads may be
/// answered from its state.
#[test]
fn srds21_durable_decisions_are_there_again_after_a_power_cut() {
    for seed in 0..10 {
        let mut rig = Rig::new(4, seed);
        rig.durable_decisions = true;
        for i in 0..4 {
            rig.crash(i);
            rig.restart(i);
        }
        rig.submit(30);
        rig.run(Duration::from_micros(12_000 + 900 * seed));
        let last = |rig: &Rig, i: usize| rig.nodes[i].decided.keys().next_back().copied();
        let before: Vec<_> = (0..4).map(|i| last(&rig, i)).collect();
        assert!(before.iter().any(Option::is_some), "seed {seed}");
        rig.groups = (0..4).map(|i| ids([i])).collect();
        for (i, before) in before.into_iter().enumerate() {
            rig.crash(i);
            rig.restart(i);
            assert!(last(&rig, i) >= before, "seed {seed} replica {i}");
        }
        rig.groups.clear();
        rig.settle();
    }
}

/// Of two checkpoints the newer one is damaged, and the log was cut at it: what the replica voted for in
/// between is forgotten, and what it may still say would be another vote.
#[test]
fn row_41_a_replica_that_starts_below_its_logs_cut_says_nothing_until_it_has_passed_it() {
    for (seed, older) in [(1, 32), (2, 8), (3, 0), (4, 16)] {
        let mut rig = Rig::new(4, seed);
        rig.submit(44);
        rig.settle();
        rig.run(Duration::from_millis(50));
        assert_eq!(rig.pbft(3).status().low, SeqNo(40));
        let first = rig.nodes[3].checkpoint.clone();
        rig.groups = vec![ids([3])];
        rig.crash(3);
        rig.nodes[3].checkpoint = (older > 0).then(|| {
            let votes = ids([0, 1, 2]);
            Arc::new(rig.certificate(SeqNo(older), &votes))
        });
        rig.boot(3, Origin::Restart);
        // It is offered a forgotten slot again, with another batch and with the votes of two others; the
        // rig compares what it says with what it said before.
        let batch = rig.batch("another");
        let slot = older + 1;
        let proposal = rig.proposal(0, 0, slot, &batch);
        rig.inject(0, 3, proposal).unwrap();
        for from in [1, 2] {
            let vote = rig.vote(from, Phase::Prepare, 0, slot, batch.digest());
            rig.inject(from, 3, Message::Vote(vote)).unwrap();
        }
        rig.run(Duration::from_millis(1));
        assert!(
            !rig.nodes[3]
                .durable_votes()
                .contains_key(&(View(0), SeqNo(slot)))
        );
        rig.step(3, Input::Suspect);
        rig.run(Duration::from_millis(10));
        assert!(!rig.pbft(3).changing, "its certificates are incomplete");
        // A crash must not make it forget that it has forgotten.
        rig.crash(3);
        rig.restart(3);
        assert!(!rig.pbft(3).may_vote() && !rig.pbft(3).may_change_view());
        rig.groups.clear();
        let cut = first.map(|certificate| certificate.id.seq);
        rig.run_until("it has passed the cut", |rig| {
            Some(rig.pbft(3).status().low) >= cut
        });
        assert!(rig.pbft(3).may_vote(), "in the view that it was in");
        // Now it is needed: and takes part with all that lies above the cut.
        rig.crash(1);
        rig.submit(5);
        rig.settle();
    }
}

/// An old status still on its way is no answer, and a liar who inflates its figures is left out.
#[test]
fn stale_and_inflated_answers_do_not_decide_what_was_forgotten() {
    let mut rig = Rig::new(7, 9);
    rig.submit(10);
    rig.settle();
    rig.puppet(6);
    rig.groups = vec![ids([3])];
    lose_disk(&mut rig);
    let answer = |decided, answers| {
        let (low, view) = (SeqNo(0), View(decided));
        let decided = SeqNo(decided);
        let (changing, wants_help, asks) = (false, false, None);
        Message::Status(Status {
            view,
            changing,
            low,
            decided,
            wants_help,
            asks,
            answers,
        })
    };
    for from in 0..3 {
        rig.inject(from, 3, answer(0, None)).unwrap();
        rig.inject(from, 3, answer(0, Some(1))).unwrap();
    }
    let nonce = rig.pbft(3).question();
    rig.inject(6, 3, answer(1 << 60, nonce)).unwrap();
    rig.groups.clear();
    rig.run(Duration::from_secs(1));
    for _ in 0..12 {
        rig.submit(5);
        rig.settle();
    }
    assert!(rig.pbft(3).may_change_view(), "{}", rig.describe());
    assert_eq!(rig.pbft(3).votes_from, View(1));
}

#[test]
fn row_9_nothing_signed_for_another_cluster_epoch_or_view_is_accepted() {
    let mut rig = Rig::new(4, 10);
    let batch = rig.batch("replayed");
    let good = rig.vote(1, Phase::Commit, 0, 1, batch.digest());
    let others = [(&b"other"[..], 0), (b"rig", 1)];
    let home = Arc::clone(&rig.membership);
    for (genesis, epoch) in others {
        rig.membership = membership(4, &rig.keys, genesis, epoch);
        let vote = rig.vote(1, Phase::Commit, 0, 1, batch.digest());
        let proposal = rig.proposal(0, 0, 1, &batch);
        let change = view_change(&rig, 1, 1, None, Vec::new());
        rig.membership = Arc::clone(&home);
        for foreign in [Message::Vote(vote), proposal, Message::ViewChange(change)] {
            let from = usize::from(!matches!(foreign, Message::PrePrepare(_)));
            assert_eq!(rig.inject(from, 2, foreign), Err(Reject::BadSignature));
        }
    }
    let mut of_view = good;
    of_view.view = View(1);
    let mut of_slot = good;
    of_slot.seq = SeqNo(2);
    let mut of_phase = good;
    of_phase.phase = Phase::Prepare;
    for replayed in [of_view, of_slot, of_phase] {
        let verdict = rig.inject(1, 2, Message::Vote(replayed));
        assert_eq!(verdict, Err(Reject::BadSignature));
    }
    let verdict = rig.inject(3, 2, Message::Vote(good));
    assert_eq!(
        verdict,
        Err(Reject::BadSignature),
        "row 8: nobody votes for another"
    );
    let verdict = rig.inject(9, 2, Message::Vote(good));
    assert_eq!(verdict, Err(Reject::NotAMember), "row 8: out of range");
    assert_eq!(rig.inject(1, 2, Message::Vote(good)), Ok(()));
}

#[test]
fn a_key_or_a_membership_that_is_not_this_replicas_is_refused() {
    let rig = Rig::new(4, 11);
    let recovery = |me| Recovery {
        me: NodeId(me),
        origin: Origin::Genesis,
        installed: None,
        records: Vec::new(),
    };
    let recover =
        |key, me| Pbft::recover(rig.config(key), Arc::clone(&rig.membership), recovery(me));
    assert!(matches!(recover(0, 1), Err(RecoverError::Config(_))));
    assert!(matches!(
        recover(0, 4),
        Err(RecoverError::NotAMember(NodeId(4)))
    ));
}
