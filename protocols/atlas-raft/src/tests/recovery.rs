//! Crashes, checkpoints and states from peers (thesis, sections 3.8 and 5).

use super::rig::{Rig, limits};
use super::solo::{Solo, batch, entry, id};
use crate::message::{Accepted, Append, Body, Entry, Message, Rejected};
use crate::record::Record;
use crate::{Raft, Timer};
use atlas_common::rng::SeededRng;
use atlas_common::{Lsn, NodeId, SeqNo, View};
use atlas_core::{
    Batch, CheckpointCertificate, CheckpointId, Input, Installed, OrderingProtocol, Origin,
    Recovery,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn state(seq: u64, term: u64) -> Installed {
    let (epoch, seq, state) = (Default::default(), SeqNo(seq), Default::default());
    let id = CheckpointId { epoch, seq, state };
    Installed {
        certificate: Arc::new(CheckpointCertificate::unsigned(id)),
        frontier: Bytes::copy_from_slice(&term.to_le_bytes()),
    }
}

fn recovered(installed: Option<Installed>, records: Vec<Record>) -> Raft {
    let solo = Solo::new(3);
    let recovery = Recovery {
        me: NodeId(0),
        origin: Origin::Restart,
        installed,
        records: (1..).map(Lsn).zip(records).collect(),
    };
    let membership = Arc::clone(&solo.raft.membership);
    Raft::recover(solo.raft.config, membership, recovery).unwrap()
}

fn entries(first: u64, terms: &[u64]) -> Record {
    Record::Entries {
        first: SeqNo(first),
        entries: terms.iter().map(|term| entry(*term, "e")).collect(),
    }
}

#[test]
fn row_47_replicas_that_crash_at_any_moment_never_vote_twice_nor_lose_what_was_decided() {
    for seed in 0..25 {
        let n = [3, 5, 4, 7, 1][seed as usize % 5];
        let mut rig = Rig::new(n, seed);
        let mut rng = SeededRng::new(seed);
        rig.loss = 0.05;
        for _ in 0..25 {
            rig.submit(5);
            rig.run(Duration::from_micros(rng.between(100, 400_000)));
            let faults = rig.membership.quorums().faults();
            let down: Vec<usize> = (0..n)
                .filter(|i| rig.nodes[*i].protocol.is_none())
                .collect();
            if down.len() < faults || rng.chance(0.1) {
                let up = rig.alive();
                if let Some(one) = rng.pick(&up) {
                    rig.crash(*one);
                }
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
        rig.submit(1);
        rig.settle();
    }
}

#[test]
fn row_43_all_replicas_lose_power_at_once_and_nothing_decided_is_lost() {
    for seed in 0..20 {
        let mut rig = Rig::new(3, seed);
        // One disk is much faster: it is the one that decides first.
        rig.nodes[seed as usize % 3].sync = Duration::from_micros(20);
        rig.elect();
        for _ in 0..6 {
            rig.submit(20);
            rig.run(Duration::from_micros(1000 + 900 * seed));
            (0..3).for_each(|i| rig.crash(i));
            (0..3).for_each(|i| rig.restart(i));
        }
        rig.submit(1);
        rig.settle();
    }
}

#[test]
fn section_5_1_a_checkpoint_frees_log_and_memory_and_survives_a_restart() {
    let mut rig = Rig::new(3, 3);
    let leader = rig.elect();
    rig.submit(100);
    rig.settle();
    rig.run_millis(50);
    for i in 0..3 {
        let status = rig.raft(i).status();
        assert_eq!((status.low, status.high), (SeqNo(96), SeqNo(128)));
        assert!(rig.raft(i).log.len() <= 5 + 8, "{}", rig.raft(i).log.len());
        assert!(
            rig.nodes[i].log.len() < 40,
            "{} records",
            rig.nodes[i].log.len()
        );
    }
    let term = rig.raft(leader).term;
    (0..3).for_each(|i| rig.crash(i));
    (0..3).for_each(|i| rig.restart(i));
    assert!((0..3).all(|i| rig.raft(i).term == term));
    assert!((0..3).all(|i| rig.raft(i).status().decided == SeqNo(96)));
    rig.submit(3);
    rig.settle();
}

#[test]
fn section_5_1_without_checkpoints_the_window_ends_and_with_one_it_moves() {
    let mut rig = Rig::new(3, 4);
    rig.checkpoints = false;
    let leader = rig.elect();
    rig.submit(60);
    rig.run_millis(500);
    assert_eq!(rig.raft(leader).status().decided, SeqNo(32));
    // A new leader begins its term in spite of that.
    rig.crash(leader);
    let next = rig.elect();
    assert_eq!(rig.raft(next).log.last(), SeqNo(33));
    rig.restart(leader);
    rig.run_until("all decided", |rig| {
        (0..3).all(|i| rig.raft(i).commit == SeqNo(33))
    });
    rig.run_millis(10_000);
    assert_eq!(rig.leader(), Some(next), "and nobody blames it");
    for i in 0..3 {
        let certificate = rig.certificate(SeqNo(24));
        rig.step(i, Input::Checkpointed(certificate));
    }
    rig.run_until("goes on", |rig| rig.raft(next).commit >= SeqNo(56));
}

/// Leaders that come to nothing leave their first entries behind.
#[test]
fn a_log_full_of_the_first_entries_of_leaders_can_still_be_committed() {
    let mut rig = Rig::new(3, 7);
    rig.checkpoints = false;
    let full = 2 * rig.limits.window + 20;
    for term in 0..full {
        for i in 0..3 {
            let entries = vec![Entry {
                term: View(term + 1),
                batch: Batch::null(),
            }];
            let append = Append {
                previous: id(term, term),
                entries,
                commit: SeqNo(0),
                round: 0,
            };
            let body = Body::Append(append);
            let message = Message::new(&rig.membership, View(term + 1), body);
            rig.inject((i + 1) % 3, i, message).unwrap();
        }
    }
    rig.run_until("somebody leads", |rig| rig.leader().is_some());
    let leader = rig.elect();
    assert!(rig.raft(leader).commit > SeqNo(full));
}

/// A follower whose application is slow takes no more than it has room for, and says so.
#[test]
fn row_40_a_follower_without_room_is_not_flooded_and_goes_on_when_it_has_some() {
    let mut follower = Solo::new(3);
    let (window, mut last) = (limits().window, 0);
    for _ in 0..12 {
        let entries = vec![entry(1, "e"); 8];
        follower.append(1, 1, id(last, u64::from(last > 0)), entries, last);
        last += 8;
    }
    follower.sync();
    assert_eq!(follower.raft.log.last(), SeqNo(2 * window));
    assert_eq!(follower.accepted().last(), Some(&(2 * window)));
    follower.step(Input::Checkpointed(state(32, 1).certificate));
    follower.sync();
    assert_eq!(
        follower.accepted(),
        [2 * window],
        "and tells the leader at once"
    );
    assert_eq!(follower.raft.room(), SeqNo(3 * window));

    let mut rig = Rig::new(3, 5);
    let leader = rig.elect();
    let slow = (leader + 1) % 3;
    rig.submit(150);
    rig.run_millis(2);
    rig.nodes[slow].sync = Duration::from_millis(100);
    rig.settle();
    assert_eq!(rig.leader(), Some(leader));
}

/// The leader of three with sixteen entries, all of them at replica 1, none at replica 2.
fn leader_of_sixteen() -> Solo {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    for _ in 0..15 {
        leader.step(Input::Propose(batch("x")));
        leader.sync();
        let last = leader.raft.log.last().0;
        leader.accept(1, 1, last, 0);
    }
    leader
}

#[test]
fn entries_that_a_slow_follower_needs_are_kept_for_it_within_a_window() {
    let mut leader = leader_of_sixteen();
    leader.accept(2, 1, 5, 0);
    leader.accept(3, 1, 9, 0);
    leader.step(Input::Checkpointed(state(8, 1).certificate));
    assert_eq!(leader.raft.log.base().0, SeqNo(5), "replica 2 lacks 6 to 8");
    leader.step(Input::Checkpointed(state(16, 1).certificate));
    assert_eq!(leader.raft.log.base().0, SeqNo(5));
    leader.pass(Duration::from_secs(1));
    leader.accept(1, 1, 16, 0);
    leader.step(Input::Propose(batch("y")));
    leader.sync();
    leader.accept(1, 1, 17, 0);
    leader.step(Input::Checkpointed(state(17, 1).certificate));
    assert_eq!(
        leader.raft.log.base().0,
        SeqNo(17),
        "it is silent: state transfer is for that"
    );
    assert!(
        leader
            .raft
            .peers
            .iter()
            .all(|peer| peer.next > SeqNo(17) || peer.matched > SeqNo(0))
    );
}

/// It says late that it has no room, and what it needs next is gone by then: a heartbeat that named an entry
/// whose term the leader does not know would contradict what the replica has committed.
#[test]
fn a_heartbeat_to_a_replica_without_room_names_an_entry_that_the_leader_has() {
    let mut leader = leader_of_sixteen();
    let full = Accepted {
        matched: SeqNo(5),
        room: SeqNo(5),
        round: 0,
        counts: true,
    };
    leader.pass(Duration::from_secs(1));
    leader.accept(1, 1, 16, 0);
    leader.step(Input::Checkpointed(state(16, 1).certificate));
    assert_eq!(leader.raft.log.base().0, SeqNo(16));
    leader.hear(2, 1, Body::Accepted(full));
    leader.sent();
    leader.step(Input::Timeout(Timer::Heartbeat));
    let beats = leader.appends();
    assert!(!beats.is_empty());
    for beat in beats {
        assert!(leader.raft.log.holds(beat.previous), "{:?}", beat.previous);
    }
    let refused = Rejected {
        previous: SeqNo(16),
        hint: id(5, 1),
        round: 0,
        counts: true,
    };
    leader.hear(2, 1, Body::Rejected(refused));
    leader.sync();
    let behind = |body: &Body| matches!(body, Body::Behind { .. });
    assert!(leader.sent().iter().any(behind));
}

#[test]
fn row_46_a_replica_that_was_away_for_long_is_told_and_fetches() {
    let mut rig = Rig::new(3, 6);
    let leader = rig.elect();
    let away = (leader + 1) % 3;
    rig.isolate(away);
    for _ in 0..10 {
        rig.submit(10);
        rig.run_millis(100);
    }
    assert!(rig.raft(leader).log.base().0 >= SeqNo(90));
    rig.cuts.clear();
    rig.settle();
    assert!(rig.sent("behind") >= 1);
    assert!(rig.installs + rig.transferred > 0);
}

#[test]
fn decisions_from_peers_alone_bring_the_terms_that_the_log_needs() {
    let mut follower = Solo::new(3);
    for seq in 1..=4 {
        let proof = crate::message::Proof { term: View(seq) };
        let batch = batch("learnt");
        follower.step(Input::Decided {
            seq: SeqNo(seq),
            batch,
            proof,
        });
    }
    assert_eq!(follower.decided.len(), 4);
    assert_eq!(
        follower.raft.term,
        View(4),
        "a log holds no later terms than its replica"
    );
    follower.append(1, 5, id(4, 4), vec![entry(5, "a")], 5);
    assert_eq!(follower.decided.len(), 5);
    let durable = follower.last_lsn();
    assert_eq!(follower.restarted(durable).raft.log.last_id(), id(5, 5));
}

#[test]
fn row_15_a_decision_that_comes_by_two_ways_is_decided_once() {
    let mut follower = Solo::new(3);
    follower.append(1, 1, id(0, 0), vec![entry(1, "a"), entry(1, "b")], 1);
    let proof = crate::message::Proof { term: View(1) };
    for (seq, text) in [(1, "a"), (2, "b"), (2, "b")] {
        let (seq, batch) = (SeqNo(seq), batch(text));
        follower.step(Input::Decided { seq, batch, proof });
    }
    follower.append(1, 1, id(2, 1), Vec::new(), 2);
    assert_eq!(follower.decided.len(), 2);
}

/// hashicorp/raft #697: what is left of a log that the state contradicts must not come back.
#[test]
fn section_5_1_a_state_over_a_longer_log_that_conflicts_takes_its_place() {
    let mut follower = Solo::new(3);
    follower.append(1, 1, id(0, 0), vec![entry(1, "old"); 6], 1);
    follower.sync();
    follower.sent();
    follower.step(Input::StateInstalled(state(4, 3)));
    assert_eq!(follower.raft.log.last_id(), id(4, 3));
    assert_eq!(follower.raft.commit, SeqNo(4));
    follower.append(2, 3, id(4, 3), vec![entry(3, "new")], 5);
    follower.sync();
    assert_eq!(follower.decided.last().unwrap().0, SeqNo(5));
    assert_eq!(follower.accepted(), [5]);
    let records: Vec<_> = follower.log.values().cloned().collect();
    let raft = recovered(Some(state(4, 3)), records);
    assert_eq!(raft.log.last_id(), id(5, 3));

    let mut same = Solo::new(3);
    same.append(1, 1, id(0, 0), vec![entry(1, "e"); 6], 1);
    same.step(Input::StateInstalled(state(4, 1)));
    assert_eq!(
        same.raft.log.last_id(),
        id(6, 1),
        "what follows the state stays"
    );
}

/// The state is stored, and the power fails before the log knows.
#[test]
fn section_5_1_a_crash_during_the_installation_leaves_the_state_or_the_log() {
    let old = || vec![entries(1, &[1, 1, 1, 1, 1, 1])];
    let before = recovered(None, old());
    assert_eq!(before.log.last_id(), id(6, 1));
    let after = recovered(Some(state(4, 3)), old());
    assert_eq!((after.log.last_id(), after.commit), (id(4, 3), SeqNo(4)));
    assert_eq!(
        after.term,
        View(3),
        "the term of the state has been entered"
    );
    let longer = recovered(Some(state(9, 3)), old());
    assert_eq!(longer.log.last_id(), id(9, 3));
    let same = recovered(Some(state(4, 1)), old());
    assert_eq!(same.log.last_id(), id(6, 1));
}

/// The record of the installation is lost with the power, the state is not; what is acknowledged in the
/// next life must be there in the one after it.
#[test]
fn section_5_1_a_second_crash_after_an_installation_loses_nothing_that_was_acknowledged() {
    let mut follower = Solo::new(3);
    follower.append(1, 1, id(0, 0), vec![entry(1, "old"); 6], 1);
    follower.sync();
    let durable = follower.last_lsn();
    follower.step(Input::StateInstalled(state(9, 3)));
    let mut follower = follower.restarted_from(Some(state(9, 3)), durable);
    follower.append(1, 3, id(9, 3), vec![entry(3, "new")], 9);
    follower.sync();
    assert_eq!(follower.accepted(), [10]);
    let durable = follower.last_lsn();
    let follower = follower.restarted_from(Some(state(9, 3)), durable);
    assert_eq!(follower.raft.log.last_id(), id(10, 3));
}

/// What was before an installation never comes back, whatever was compacted since.
#[test]
fn section_5_1_records_of_before_a_state_are_read_as_they_were_meant() {
    let installed = |seq, term| Record::Installed {
        seq: SeqNo(seq),
        term: View(term),
    };
    let log = |records| recovered(Some(state(8, 3)), records).log.last_id();
    let replaced = vec![entries(1, &[1; 20]), installed(8, 3), entries(9, &[3, 3])];
    assert_eq!(log(replaced), id(10, 3));
    let kept = vec![entries(5, &[3; 9]), installed(8, 3)];
    assert_eq!(log(kept), id(13, 3));
    let compacted = vec![entries(9, &[3, 3]), entries(11, &[4])];
    assert_eq!(log(compacted), id(11, 4));
    let twice = vec![
        entries(1, &[1; 20]),
        installed(4, 2),
        entries(5, &[2; 9]),
        installed(8, 3),
        entries(9, &[3]),
    ];
    assert_eq!(log(twice), id(9, 3));
}

/// dgraph #2707: a state counts when it is installed, not when it has been transferred.
#[test]
fn section_5_1_nothing_is_acknowledged_before_the_state_is_installed() {
    let mut follower = Solo::new(3);
    let decided = SeqNo(40);
    follower.hear(1, 2, Body::Behind { decided });
    assert_eq!(follower.fetching, Some(SeqNo(40)));
    follower.append(1, 2, id(40, 2), Vec::new(), 40);
    follower.sync();
    assert!(follower.accepted().is_empty(), "it does not have entry 40");
    assert!(follower.decided.is_empty());
    follower.step(Input::StateInstalled(state(40, 2)));
    follower.append(1, 2, id(40, 2), vec![entry(2, "next")], 40);
    assert!(
        follower.accepted().is_empty(),
        "nor on its disk what follows"
    );
    follower.sync();
    assert_eq!(follower.accepted(), [41]);
}

#[test]
fn a_state_without_a_term_makes_its_replica_mute_until_it_knows_more() {
    let mut follower = Solo::new(3);
    let mut installed = state(8, 0);
    installed.frontier = Bytes::from_static(b"none");
    follower.step(Input::StateInstalled(installed));
    follower.sync();
    follower.sent();
    follower.request(1, 5, id(99, 4), false);
    follower.sync();
    assert_eq!(follower.granted(), [] as [bool; 0]);
}

#[test]
fn row_43_a_checkpoint_ahead_of_the_durable_log_brings_its_term() {
    // The log's tail was lost; the checkpoint of what was decided is there.
    let raft = recovered(Some(state(20, 4)), vec![entries(1, &[1; 15])]);
    assert_eq!((raft.term, raft.log.last_id()), (View(4), id(20, 4)));
    assert_eq!(raft.frontier(SeqNo(20)), 4u64.to_le_bytes().as_slice());
}

/// What a checkpoint holds is durable, though the log's records of it are not.
#[test]
fn a_leader_whose_disk_lags_behind_its_checkpoint_counts_itself_again() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    for _ in 0..7 {
        leader.step(Input::Propose(batch("x")));
    }
    leader.accept(1, 1, 8, 0);
    leader.accept(2, 1, 8, 0);
    leader.accept(3, 1, 8, 0);
    leader.step(Input::Checkpointed(state(8, 1).certificate));
    assert_eq!(leader.raft.log.base().0, SeqNo(8));
    leader.step(Input::Propose(batch("y")));
    leader.sync();
    leader.accept(1, 1, 9, 0);
    assert_eq!(leader.raft.commit, SeqNo(9));
}
