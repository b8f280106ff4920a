//! Linearizable reads (thesis, section 6.4). The rig checks that no read is answered below what
//! anybody had decided when it was asked for.

use super::rig::{ELECTION_MAX, Rig, limits, settings};
use super::solo::{Solo, batch, entry, id};
use crate::RaftSettings;
use crate::message::Body;
use crate::raft::Timer;
use atlas_common::{NodeId, SeqNo};
use atlas_core::{Admin, Input, ReadId};
use std::time::Duration;

/// etcd #7331, tikv #6340: a new leader does not know yet what is committed.
#[test]
fn section_6_4_a_leader_refuses_reads_until_it_has_committed_in_its_own_term() {
    let mut leader = Solo::new(3);
    leader.append(1, 1, id(0, 0), vec![entry(1, "a")], 0);
    leader.sync();
    leader.elect(&[1]);
    leader.read(1);
    assert_eq!(leader.reads[&ReadId(1)], None, "a may be committed or not");
    leader.accept(1, 2, 2, 0);
    leader.read(2);
    assert!(
        !leader.reads.contains_key(&ReadId(2)),
        "a majority is to be asked"
    );
    let round = leader.raft.round;
    leader.accept(2, 2, 0, round);
    assert_eq!(leader.reads[&ReadId(2)], Some(SeqNo(2)));
}

/// etcd #20418: what was said before the read came says nothing about now.
#[test]
fn section_6_4_only_rounds_that_began_after_the_read_count() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    leader.step(Input::Timeout(Timer::Heartbeat));
    let before = leader.raft.round;
    leader.read(1);
    leader.accept(1, 1, 1, before);
    assert!(leader.reads.is_empty(), "it was on its way already");
    let counts = true;
    let round = before + 1;
    leader.hear(1, 1, Body::Heard { round, counts });
    assert_eq!(leader.reads[&ReadId(1)], Some(SeqNo(1)));
}

#[test]
fn section_6_4_one_round_serves_all_reads_that_gathered() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    let before = leader.raft.round;
    (1..=100).for_each(|i| leader.read(i));
    assert_eq!(leader.raft.round, before + 1);
    leader.accept(1, 1, 1, before + 1);
    assert_eq!(
        leader.reads.len(),
        1,
        "the others came after that round began"
    );
    assert_eq!(leader.raft.round, before + 2);
    leader.accept(1, 1, 1, before + 2);
    assert_eq!(leader.reads.len(), 100);
}

#[test]
fn a_round_is_answered_without_waiting_for_the_disk() {
    let mut follower = Solo::new(3);
    follower.append(1, 1, id(0, 0), vec![entry(1, "a")], 0);
    assert!(follower.sent().is_empty());
    let append = crate::message::Append {
        previous: id(1, 1),
        entries: Vec::new(),
        commit: SeqNo(0),
        round: 3,
    };
    follower.hear(1, 1, Body::Append(append));
    assert!(matches!(
        follower.sent()[..],
        [Body::Heard { round: 3, .. }]
    ));
    follower.sync();
    assert_eq!(follower.accepted(), [1, 1]);
}

#[test]
fn section_6_4_followers_and_learners_read_through_the_leader() {
    let mut rig = Rig::with(3, 1, 1, limits(), settings());
    let leader = rig.elect();
    rig.submit(20);
    rig.settle();
    rig.run_millis(50);
    let reads: Vec<ReadId> = (0..4).map(|i| rig.read(i)).collect();
    rig.run_millis(20);
    let last = rig.raft(leader).commit;
    assert!(reads.iter().all(|id| rig.answer(*id) == Some(Some(last))));
    let more: Vec<ReadId> = (0..50).map(|_| rig.read((leader + 1) % 3)).collect();
    let asks = rig.sent("read ask");
    rig.run_millis(30);
    assert!(more.iter().all(|id| rig.answer(*id) == Some(Some(last))));
    assert!(
        rig.sent("read ask") <= asks + 2,
        "one question for all that gathered"
    );
}

#[test]
fn a_read_question_that_is_lost_is_asked_again_and_ends_in_time() {
    let mut rig = Rig::new(3, 2);
    let leader = rig.elect();
    rig.run_millis(50);
    let follower = (leader + 1) % 3;
    rig.cuts = [(follower, leader)].into();
    let read = rig.read(follower);
    rig.run_millis(60);
    rig.cuts.clear();
    rig.run_millis(60);
    assert!(matches!(rig.answer(read), Some(Some(_))));
    rig.cuts = [(follower, leader)].into();
    let lost = rig.read(follower);
    rig.run(4 * ELECTION_MAX);
    assert_eq!(rig.answer(lost), Some(None), "an answer, not silence");
}

/// SIGSTOP for seconds: another leads meanwhile, and decides.
#[test]
fn row_47_a_paused_leader_reads_nothing_stale_when_it_goes_on() {
    for lease in [None, Some(Duration::from_millis(100))] {
        for seed in 0..20 {
            let settings = RaftSettings {
                lease,
                ..settings()
            };
            let mut rig = Rig::with(3, 0, seed, limits(), settings);
            let old = rig.elect();
            rig.submit(5);
            rig.settle();
            rig.run_millis(100);
            // Answers to its last rounds are still on their way to it.
            let early = rig.read(old);
            rig.pause(old);
            let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
            rig.run_until("another leads", |rig| rig.leader().is_some());
            rig.submit_to(&others);
            rig.run_millis(100);
            rig.nodes[old].paused = false;
            let late = rig.read(old);
            rig.resume(old);
            rig.run_millis(1000);
            assert!(rig.answer(early).is_some() && rig.answer(late).is_some());
            rig.submit(1);
            rig.settle();
        }
    }
}

/// The answer to an earlier life's question of the same number would be too old.
#[test]
fn questions_of_different_lives_have_different_numbers() {
    let first = Solo::new(3);
    let number = first.raft.reads.number;
    let durable = first.last_lsn();
    let second = first.restarted(durable);
    assert_ne!(second.raft.reads.number.abs_diff(number), 0);
}

fn leased() -> RaftSettings {
    RaftSettings {
        lease: Some(Duration::from_millis(130)),
        ..settings()
    }
}

#[test]
fn section_6_4_1_a_lease_answers_at_once_and_runs_out() {
    let mut leader = Solo::with(3, 0, &limits(), leased());
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    leader.step(Input::Timeout(Timer::Heartbeat));
    leader.pass(Duration::from_millis(50));
    leader.read(1);
    assert!(leader.reads.is_empty(), "no round is confirmed yet");
    leader.accept(1, 1, 1, 1);
    leader.pass(Duration::from_millis(79));
    leader.read(2);
    assert_eq!(
        leader.reads[&ReadId(2)],
        Some(SeqNo(1)),
        "129 ms after the round began"
    );
    leader.pass(Duration::from_millis(1));
    leader.read(3);
    assert!(!leader.reads.contains_key(&ReadId(3)));
}

#[test]
fn section_6_4_1_a_lease_ends_when_leadership_is_handed_over() {
    let mut leader = Solo::with(3, 0, &limits(), leased());
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    leader.step(Input::Timeout(Timer::Heartbeat));
    let round = leader.raft.round;
    leader.accept(1, 1, 1, round);
    leader.read(1);
    assert_eq!(leader.reads[&ReadId(1)], Some(SeqNo(1)));
    let to = NodeId(1);
    leader.step(Input::Admin(Admin::TransferLeadership { to }));
    leader.read(2);
    assert!(
        !leader.reads.contains_key(&ReadId(2)),
        "the heir may lead already"
    );
    leader.pass(Duration::from_secs(1));
    leader.accept(1, 1, 1, round);
    leader.step(Input::Timeout(Timer::Heartbeat));
    let round = leader.raft.round;
    leader.accept(1, 1, 1, round);
    leader.read(3);
    assert!(
        !leader.reads.contains_key(&ReadId(3)),
        "or at any time later"
    );
}

#[test]
fn section_6_4_1_a_replica_that_restarts_keeps_to_the_lease_it_may_have_given() {
    let mut follower = Solo::with(3, 0, &limits(), leased());
    follower.append(1, 1, id(0, 0), vec![entry(1, "a")], 0);
    follower.sync();
    let durable = follower.last_lsn();
    let mut follower = follower.restarted(durable);
    follower.request(2, 2, id(9, 1), true);
    follower.sync();
    assert_eq!(follower.granted(), [false]);
    follower.pass(settings().election_min);
    follower.request(2, 2, id(9, 1), true);
    follower.sync();
    assert_eq!(follower.granted(), [true]);
}

#[test]
fn section_6_4_1_distrust_does_not_break_a_lease() {
    let mut follower = Solo::with(3, 0, &limits(), leased());
    follower.append(1, 1, id(0, 0), vec![entry(1, "a")], 0);
    follower.step(Input::Suspect);
    follower.sync();
    follower.sent();
    follower.request(2, 2, id(9, 1), false);
    follower.sync();
    assert_eq!(follower.granted(), [] as [bool; 0]);
}

/// Reads at every replica all the time, while leaders crash, hand over and are cut off.
#[test]
fn section_6_4_reads_are_linearizable_through_changes_of_leader() {
    for seed in 0..20 {
        let lease = (seed % 2 == 0).then(|| Duration::from_millis(130));
        let settings = RaftSettings {
            lease,
            ..settings()
        };
        let mut rig = Rig::with(5, 0, seed, limits(), settings);
        rig.loss = 0.02;
        rig.elect();
        let mut answered = 0;
        for round in 0..60 {
            for i in rig.alive() {
                rig.read(i);
            }
            rig.submit(1);
            rig.run_millis(20);
            match (round % 12, rig.leader()) {
                (3, Some(leader)) => rig.isolate(leader),
                (7, _) => rig.cuts.clear(),
                (9, Some(leader)) => rig.step(leader, Input::Suspect),
                _ => {}
            }
        }
        rig.cuts.clear();
        rig.loss = 0.0;
        rig.settle();
        rig.run_millis(2000);
        for read in rig.reads.values() {
            assert!(read.answer.is_some(), "a read without an end");
            answered += usize::from(read.answer != Some(None));
        }
        assert!(answered > 60, "{answered} reads answered");
    }
}

#[test]
fn what_waits_to_be_read_is_bounded() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    (0..70_000).for_each(|i| leader.read(i));
    let refused = leader
        .reads
        .values()
        .filter(|answer| answer.is_none())
        .count();
    assert_eq!(refused, 70_000 - (1 << 16));
    leader.step(Input::Propose(batch("a")));
}
