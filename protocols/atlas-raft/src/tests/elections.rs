//! Elections (thesis, sections 3.4, 3.6, 3.10, 4.2.3, 6.2, 9.6).

use super::rig::{ELECTION_MAX, Rig, limits, settings};
use super::solo::{Solo, entry, id};
use crate::RaftSettings;
use crate::message::{Body, RequestVote};
use crate::raft::Timer;
use atlas_common::{Lsn, NodeId, SeqNo, View};
use atlas_core::{Admin, Input};
use std::time::Duration;

#[test]
fn section_3_4_one_leader_is_elected_in_clusters_of_every_size() {
    for n in [1, 2, 3, 4, 5, 7] {
        for seed in 0..5 {
            let mut rig = Rig::new(n, seed);
            rig.elect();
            rig.submit(20);
            rig.settle();
            assert!(rig.decisions.len() >= 21, "n = {n}, seed {seed}");
        }
    }
}

#[test]
fn section_3_4_a_leader_that_crashes_is_replaced_within_a_few_time_outs() {
    for seed in 0..20 {
        let mut rig = Rig::new(5, seed);
        let leader = rig.elect();
        rig.submit(5);
        rig.settle();
        let crashed = rig.now;
        rig.crash(leader);
        rig.elect();
        assert!(rig.now.since(crashed) < 3 * ELECTION_MAX, "seed {seed}");
        rig.submit(5);
        rig.settle();
        rig.restart(leader);
        rig.settle();
    }
}

/// robustmq #2039, tikv #994: the vote must be on the disk before the answer leaves.
#[test]
fn section_3_6_a_vote_leaves_only_when_it_is_durable_and_survives_a_restart() {
    let mut voter = Solo::new(3);
    voter.request(1, 5, id(0, 0), false);
    assert_eq!(
        voter.granted(),
        [] as [bool; 0],
        "the disk has not written it"
    );
    voter.sync();
    assert_eq!(voter.granted(), [true]);
    let durable = voter.last_lsn();
    let mut voter = voter.restarted(durable);
    assert_eq!(voter.raft.term, View(5));
    voter.request(2, 5, id(9, 4), false);
    voter.sync();
    assert_eq!(voter.granted(), [false], "its vote in term 5 is given");
    voter.request(1, 5, id(0, 0), false);
    voter.sync();
    assert_eq!(voter.granted(), [true], "the same candidate may ask again");
    voter.request(2, 6, id(9, 4), false);
    voter.sync();
    assert_eq!(voter.granted(), [true]);
}

/// noraft #27: a cluster of one is no exception.
#[test]
fn section_3_6_a_single_voter_leads_only_when_its_own_vote_is_durable() {
    let mut one = Solo::new(1);
    assert!(!one.raft.leads(), "its vote is on its way to the disk");
    one.sync();
    assert!(one.raft.leads());
    assert_eq!(one.decided.len(), 0, "so is its first entry");
    one.sync();
    assert_eq!(one.decided.len(), 1);
}

#[test]
fn section_3_6_the_own_vote_counts_only_when_it_is_durable() {
    let mut candidate = Solo::with(4, 0, &limits(), settings());
    candidate.pass(Duration::from_secs(1));
    candidate.step(Input::Timeout(Timer::Election));
    candidate.vote(1, 0, true);
    candidate.vote(2, 0, true);
    assert_eq!(candidate.raft.term, View(1));
    // The answers to requests that its disk has let go.
    candidate.vote(1, 1, false);
    candidate.vote(2, 1, false);
    assert!(!candidate.raft.leads());
    candidate.sync();
    assert!(candidate.raft.leads());
}

#[test]
fn section_3_6_1_who_has_the_older_log_gets_no_vote() {
    let mut voter = Solo::new(3);
    voter.append(1, 3, id(0, 0), vec![entry(2, "a"), entry(3, "b")], 0);
    voter.pass(Duration::from_secs(1));
    for (last, granted) in [(id(9, 2), false), (id(1, 3), false), (id(2, 3), true)] {
        let term = voter.raft.term.0 + 1;
        voter.request(2, term, last, false);
        voter.sync();
        assert_eq!(voter.granted(), [granted], "{last:?}");
    }
}

#[test]
fn section_9_6_a_replica_that_was_cut_off_does_not_raise_the_term() {
    let mut rig = Rig::new(3, 1);
    let leader = rig.elect();
    let term = rig.raft(leader).term;
    let cut = (leader + 1) % 3;
    rig.isolate(cut);
    for _ in 0..20 {
        rig.submit_to(&[leader]);
        rig.run_millis(100);
    }
    rig.cuts.clear();
    rig.settle();
    assert_eq!(rig.raft(leader).term, term, "no election when it came back");
    assert_eq!(rig.leader(), Some(leader));
}

/// etcd #8334, raft-rs #84: with check-quorum its votes are ignored, with pre-vote it is refused, and
/// it refuses the leader: unless the leader hears of its term, it never comes back.
#[test]
fn section_9_6_a_replica_with_a_higher_term_and_a_shorter_log_comes_back() {
    let mut rig = Rig::new(3, 2);
    let leader = rig.elect();
    let ahead = (leader + 1) % 3;
    rig.isolate(ahead);
    rig.submit_to(&[leader]);
    rig.run_millis(100);
    // It stood for election once, before pre-votes could tell it better.
    let candidate = (ahead + 1) % 3;
    let (last, pre, forced) = (id(99, 9), false, true);
    let request = Body::RequestVote(RequestVote { last, pre, forced });
    let message = crate::message::Message::new(&rig.membership, View(9), request);
    rig.inject(candidate, ahead, message).unwrap();
    assert_eq!(rig.raft(ahead).term, View(9));
    rig.cuts.clear();
    rig.submit(3);
    rig.settle();
    assert!(rig.raft(ahead).term >= View(9));
    let term = rig.raft(ahead).term;
    assert!(
        (0..3).all(|i| rig.raft(i).term == term),
        "{}",
        rig.describe()
    );
}

#[test]
fn section_9_6_a_candidate_of_an_earlier_term_learns_the_present_one() {
    let mut ahead = Solo::new(3);
    ahead.request(2, 7, id(0, 0), false);
    ahead.sync();
    ahead.sent();
    ahead.pass(Duration::from_secs(1));
    ahead.request(1, 3, id(9, 3), true);
    ahead.sync();
    let (_, answer) = ahead.out[0].clone();
    assert_eq!(answer.term, View(7));
    let mut behind = Solo::with(3, 1, &limits(), settings());
    behind.pass(Duration::from_secs(1));
    behind.step(Input::Timeout(Timer::Election));
    behind.hear(0, 7, answer.body);
    assert_eq!(behind.raft.term, View(7));
}

/// openraft #1839: a candidate of a later term does not unseat a leader that its followers hear.
#[test]
fn section_4_2_3_no_election_is_forced_on_a_sitting_leader() {
    let mut follower = Solo::new(3);
    follower.append(1, 3, id(0, 0), vec![entry(3, "a")], 0);
    follower.sync();
    follower.sent();
    follower.request(2, 9, id(99, 8), true);
    follower.sync();
    assert_eq!(follower.granted(), [false]);
    follower.request(2, 9, id(99, 8), false);
    follower.sync();
    assert_eq!(follower.granted(), [] as [bool; 0], "not even an answer");
    assert_eq!(follower.raft.term, View(3), "nor the term");
    follower.pass(settings().election_min);
    follower.request(2, 9, id(99, 8), false);
    follower.sync();
    assert_eq!(follower.granted(), [true], "the leader has fallen silent");

    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.pass(Duration::from_secs(5));
    leader.request(2, 9, id(99, 8), false);
    assert!(
        leader.raft.leads(),
        "it steps down when it has lost its majority, not before"
    );
}

#[test]
fn section_6_2_a_leader_without_its_majority_steps_down_and_its_clients_hear_it() {
    let mut rig = Rig::new(5, 3);
    let leader = rig.elect();
    rig.isolate(leader);
    let read = rig.read(leader);
    rig.run(3 * ELECTION_MAX);
    assert!(!rig.raft(leader).leads());
    assert_eq!(
        rig.nodes[leader].leader, None,
        "requests no longer go to it"
    );
    assert_eq!(rig.answer(read), Some(None));
    assert!(rig.leader().is_some(), "the others have another");
}

/// openraft #2080: an old leader that is heard and does not hear, or only through a bridge, must not
/// hold up a majority that is connected.
#[test]
fn row_39_heartbeats_of_a_deaf_leader_do_not_hold_up_a_connected_majority() {
    for seed in 0..10 {
        let mut rig = Rig::new(5, seed);
        let old = rig.elect();
        // Everybody hears it; it hears nobody.
        rig.cuts = (0..5).filter(|i| *i != old).map(|i| (i, old)).collect();
        let others: Vec<usize> = (0..5).filter(|i| *i != old).collect();
        rig.submit_to(&others);
        rig.run_until("the others decide", |rig| {
            others.iter().all(|i| rig.nodes[*i].pool.is_empty())
        });
        assert_ne!(rig.leader(), Some(old));
    }
}

#[test]
fn row_39_a_bridge_between_two_halves_is_enough_and_a_cut_link_costs_nothing() {
    for seed in 0..10 {
        let mut rig = Rig::new(5, seed);
        let old = rig.elect();
        let bridge = (old + 1) % 5;
        // The old leader is left with the bridge; the bridge hears everybody.
        rig.cuts = (0..5)
            .filter(|i| *i != old && *i != bridge)
            .flat_map(|i| [(i, old), (old, i)])
            .collect();
        let others: Vec<usize> = (0..5).filter(|i| *i != old).collect();
        rig.submit_to(&others);
        rig.run_until("the others decide", |rig| {
            others.iter().all(|i| rig.nodes[*i].pool.is_empty())
        });
        let before = rig.leader().unwrap();
        let term = rig.raft(before).term;
        rig.run_millis(5000);
        assert_eq!(
            rig.leader(),
            Some(before),
            "seed {seed}: leadership goes back and forth"
        );
        assert_eq!(rig.raft(before).term, term, "seed {seed}");
    }
}

#[test]
fn section_3_10_leadership_goes_where_the_operator_wants_it() {
    for seed in 0..10 {
        let mut rig = Rig::new(5, seed);
        let old = rig.elect();
        rig.submit(30);
        rig.run_millis(3);
        let to = NodeId(((old + 2) % 5) as u32);
        let asked = rig.now;
        rig.step(old, Input::Admin(Admin::TransferLeadership { to }));
        rig.run_until("the heir leads", |rig| rig.leader() == Some(to.index()));
        assert!(
            rig.now.since(asked) < settings().election_min,
            "without a time-out"
        );
        rig.settle();
    }
}

#[test]
fn section_3_10_a_hand_over_to_a_replica_that_is_down_is_given_up() {
    let mut rig = Rig::new(3, 4);
    let old = rig.elect();
    let down = (old + 1) % 3;
    rig.crash(down);
    let to = NodeId(down as u32);
    rig.step(old, Input::Admin(Admin::TransferLeadership { to }));
    rig.submit_to(&[old]);
    rig.run_millis(20);
    assert!(
        !rig.nodes[old].pool.is_empty(),
        "nothing is proposed meanwhile"
    );
    rig.run(2 * ELECTION_MAX);
    assert_eq!(rig.leader(), Some(old));
    assert!(rig.nodes[old].pool.is_empty(), "it goes on");
}

#[test]
fn a_monitor_that_distrusts_a_leader_makes_it_hand_over() {
    let mut rig = Rig::new(3, 5);
    let old = rig.elect();
    rig.run_millis(50);
    rig.step(old, Input::Suspect);
    rig.run_millis(100);
    assert_eq!(rig.leader(), Some((old + 1) % 3));
    rig.submit(3);
    rig.settle();
}

#[test]
fn followers_that_all_distrust_a_leader_replace_it_and_one_alone_does_not() {
    let mut rig = Rig::new(3, 6);
    let old = rig.elect();
    let term = rig.raft(old).term;
    rig.step((old + 1) % 3, Input::Suspect);
    rig.run_millis(400);
    assert_eq!((rig.leader(), rig.raft(old).term), (Some(old), term));
    for i in [1, 2] {
        rig.step((old + i) % 3, Input::Suspect);
    }
    rig.run_millis(200);
    assert_ne!(rig.leader(), Some(old));
}

/// It is heard, but what it is asked never gets through: requests wait and nothing is decided.
#[test]
fn a_leader_that_decides_nothing_is_distrusted_though_it_is_heard() {
    let mut rig = Rig::new(3, 7);
    let old = rig.elect();
    let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
    rig.submit_to(&others);
    rig.run_until("somebody else decides", |rig| {
        others.iter().all(|i| rig.nodes[*i].pool.is_empty())
    });
    assert_ne!(rig.leader(), Some(old));
}

#[test]
fn a_candidate_with_a_slow_disk_does_not_pile_up_terms() {
    let mut rig = Rig::new(3, 8);
    for i in 0..3 {
        rig.nodes[i].sync = Duration::from_millis(400); // longer than a time-out
    }
    rig.run_until("nobody leads", |rig| rig.leader().is_some());
    assert!(
        rig.raft(rig.leader().unwrap()).term <= View(6),
        "{}",
        rig.describe()
    );
    rig.submit(3);
    rig.settle();
}

#[test]
fn a_vote_request_that_is_lost_is_sent_again() {
    let mut candidate = Solo::new(3);
    candidate.pass(Duration::from_secs(1));
    candidate.step(Input::Timeout(Timer::Election));
    candidate.sync();
    assert_eq!(candidate.sent().len(), 2);
    candidate.vote(1, 0, true);
    candidate.sync();
    assert_eq!(candidate.sent().len(), 2);
    candidate.step(Input::Timeout(Timer::Heartbeat));
    candidate.sync();
    assert_eq!(candidate.sent().len(), 2, "the vote itself, too");
}

#[test]
fn a_message_of_another_epoch_or_of_a_learner_who_leads_is_refused() {
    use crate::Raft;
    use atlas_core::{OrderingProtocol, Reject};
    let rig = Rig::with(3, 1, 9, limits(), settings());
    let mut message = crate::message::Message::new(&rig.membership, View(1), Body::TimeoutNow);
    let verify =
        |from, message: &_| Raft::verify(&rig.config(), &rig.membership, NodeId(from), message);
    assert_eq!(verify(1, &message), Ok(()));
    assert_eq!(verify(3, &message), Err(Reject::WrongSender));
    message.epoch = atlas_common::Epoch(1);
    assert_eq!(verify(1, &message), Err(Reject::WrongEpoch));
}

#[test]
fn a_replica_without_records_has_no_term_and_one_whose_terms_fall_does_not_start() {
    use crate::record::Record;
    use crate::{Raft, RaftConfig};
    use atlas_core::{OrderingProtocol, Origin, RecoverError, Recovery};
    let config = RaftConfig::new(&limits(), RaftSettings::default()).unwrap();
    let recover = |me, records| {
        let recovery = Recovery {
            me: NodeId(me),
            origin: Origin::Restart,
            installed: None,
            records,
        };
        Raft::recover(config.clone(), super::rig::membership(3, 0), recovery)
    };
    assert_eq!(recover(0, Vec::new()).unwrap().term, View(0));
    assert!(matches!(
        recover(3, Vec::new()),
        Err(RecoverError::NotAMember(_))
    ));
    let (first, entries) = (SeqNo(1), vec![entry(2, "a"), entry(1, "b")]);
    let falling = vec![(Lsn(1), Record::Entries { first, entries })];
    let error = recover(0, falling).unwrap_err();
    assert!(matches!(&error, RecoverError::Records { at, .. } if at == "entry 2"));
}
