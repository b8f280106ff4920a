//! Log replication (thesis, sections 3.5, 3.6.2, 10.2.1).

use super::rig::{Rig, limits, settings};
use super::solo::{Solo, batch, entry, id};
use crate::RaftSettings;
use crate::message::{Body, Rejected};
use crate::raft::Timer;
use atlas_common::{Lsn, NodeId, SeqNo, View};
use atlas_core::{Input, Recipients};
use std::time::Duration;

#[test]
fn section_10_2_1_the_leader_sends_before_its_disk_and_counts_itself_after() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    leader.sent();
    leader.step(Input::Propose(batch("x")));
    assert_eq!(leader.appends()[0].entries[0].batch, batch("x"), "at once");
    leader.accept(1, 1, 2, 0);
    assert_eq!(
        leader.decided.len(),
        1,
        "two of three, but one of them not on a disk"
    );
    leader.sync();
    assert_eq!(leader.decided.len(), 2);
}

#[test]
fn section_10_2_1_a_majority_of_others_decides_without_the_leaders_disk() {
    let mut rig = Rig::new(3, 1);
    let leader = rig.elect();
    rig.nodes[leader].sync = Duration::from_secs(3600);
    rig.submit(20);
    rig.run_millis(400);
    assert_eq!(rig.leader(), Some(leader));
    assert!(
        (0..3).all(|i| rig.nodes[i].pool.is_empty()),
        "{}",
        rig.describe()
    );
    // What it has decided it may have lost: the others have it.
    rig.crash(leader);
    rig.nodes[leader].sync = Duration::from_micros(300);
    rig.restart(leader);
    rig.submit(3);
    rig.settle();
}

/// tikv #994: an acknowledgement promises what is on the disk.
#[test]
fn section_3_5_an_entry_is_acknowledged_when_it_is_durable() {
    let mut follower = Solo::new(3);
    follower.append(1, 1, id(0, 0), vec![entry(1, "a"), entry(1, "b")], 0);
    assert!(follower.accepted().is_empty());
    follower.sync();
    assert_eq!(follower.accepted(), [2], "one acknowledgement for both");
    // The same again, while something newer is on its way to the disk.
    follower.append(1, 1, id(2, 1), vec![entry(1, "c")], 0);
    follower.append(1, 1, id(0, 0), vec![entry(1, "a"), entry(1, "b")], 0);
    assert!(
        follower.accepted().is_empty(),
        "what it says now includes c"
    );
    follower.sync();
    assert_eq!(follower.accepted(), [3, 3]);
}

/// raftos #26: an append that was overtaken erases nothing.
#[test]
fn section_3_5_a_stale_append_erases_no_matching_entries() {
    let mut follower = Solo::new(3);
    let (a, b, c) = (entry(1, "a"), entry(1, "b"), entry(1, "c"));
    follower.append(1, 1, id(0, 0), vec![a.clone(), b, c], 0);
    follower.sync();
    follower.sent();
    let before = follower.last_lsn();
    follower.append(1, 1, id(0, 0), vec![a], 0);
    assert_eq!(follower.raft.log.last(), SeqNo(3));
    assert_eq!(follower.last_lsn(), before, "nothing to write");
    follower.sync();
    assert_eq!(follower.accepted(), [3]);
    // A heartbeat that was overtaken, too.
    follower.append(1, 1, id(1, 1), Vec::new(), 0);
    assert_eq!(follower.raft.log.last(), SeqNo(3));
}

#[test]
fn section_3_5_conflicting_entries_give_way_and_everything_after_them() {
    let mut follower = Solo::new(3);
    let entries = vec![entry(1, "a"), entry(1, "b"), entry(1, "c")];
    follower.append(1, 1, id(0, 0), entries, 1);
    assert_eq!(follower.decided.len(), 1);
    follower.append(2, 2, id(1, 1), vec![entry(2, "d")], 2);
    assert_eq!(follower.raft.log.last_id(), id(2, 2));
    follower.sync();
    let decided: Vec<_> = follower.decided.iter().map(|(_, b)| b.clone()).collect();
    assert_eq!(decided, [batch("a"), batch("d")]);
    let durable = follower.last_lsn();
    let restarted = follower.restarted(durable);
    assert_eq!(
        restarted.raft.log.last_id(),
        id(2, 2),
        "on the disk as well"
    );
}

/// PySyncObj #166: neither goes back, whatever arrives in whatever order.
#[test]
fn figure_3_2_commit_and_match_index_never_fall() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    for text in ["a", "b", "c"] {
        leader.step(Input::Propose(batch(text)));
    }
    leader.sync();
    leader.accept(1, 1, 4, 0);
    assert_eq!(leader.raft.commit, SeqNo(4));
    leader.accept(1, 1, 2, 0);
    leader.accept(2, 1, 1, 0);
    assert_eq!(leader.raft.commit, SeqNo(4));
    assert_eq!(leader.raft.peers[1].matched, SeqNo(4));
    leader.hear(1, 1, rejected(2, 0, 0));
    assert_eq!(
        leader.raft.peers[1].matched,
        SeqNo(4),
        "a refusal that was overtaken"
    );
    assert_eq!(leader.raft.peers[1].next, SeqNo(5));
    let mut follower = Solo::new(3);
    follower.append(1, 1, id(0, 0), vec![entry(1, "a"), entry(1, "b")], 2);
    follower.append(1, 1, id(0, 0), vec![entry(1, "a")], 1);
    assert_eq!(
        (follower.raft.commit, follower.decided.len()),
        (SeqNo(2), 2)
    );
    // A commit index above what this append shows to match is not believed for the rest.
    let mut other = Solo::new(3);
    other.append(1, 1, id(0, 0), vec![entry(1, "a"), entry(1, "b")], 0);
    other.append(2, 2, id(1, 1), Vec::new(), 2);
    assert_eq!(other.raft.commit, SeqNo(1));
}

/// An acknowledgement counts towards entries that the leader has, no more.
#[test]
fn an_acknowledgement_beyond_the_log_counts_up_to_its_end() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.accept(1, 1, 1 << 40, 0);
    assert_eq!(leader.raft.commit, SeqNo(1));
    assert_eq!(leader.raft.peers[1].next, SeqNo(2));
}

/// PySyncObj #166 to #169: an entry of an earlier term is committed by one of the own term only.
#[test]
fn figure_3_7_an_entry_of_an_earlier_term_is_not_committed_by_counting() {
    let mut leader = Solo::new(5);
    leader.append(1, 2, id(0, 0), vec![entry(1, "a"), entry(2, "b")], 0);
    leader.sync();
    leader.sent();
    leader.elect(&[2, 3]);
    assert_eq!(leader.raft.own_first, SeqNo(3));
    leader.accept(2, 3, 2, 0);
    leader.accept(3, 3, 2, 0);
    assert_eq!(
        leader.raft.commit,
        SeqNo(0),
        "b is on a majority, and may be replaced yet"
    );
    leader.accept(2, 3, 3, 0);
    assert_eq!(leader.raft.commit, SeqNo(0));
    leader.accept(3, 3, 3, 0);
    assert_eq!(
        leader.raft.commit,
        SeqNo(3),
        "the entry of the own term takes them along"
    );
}

/// The figure itself, in a cluster of three: what the second leader appended overwrites what the third
/// had brought to a majority.
#[test]
fn figure_3_7_an_entry_of_an_earlier_term_on_a_majority_may_be_overwritten() {
    figure_3_7(1);
}

pub(super) fn figure_3_7(seed: u64) {
    let one_by_one = RaftSettings {
        append_bytes_max: 1,
        entries_in_flight_max: 1,
        ..settings()
    };
    let mut rig = Rig::with(3, 0, seed, limits(), one_by_one);
    let first = rig.elect();
    rig.submit(2);
    rig.settle();
    // (a) The first leader appends an entry that nobody else gets.
    rig.isolate(first);
    rig.submit_to(&[first]);
    let contested = rig.raft(first).log.last();
    // (b) The second, likewise.
    let later = |rig: &Rig, than| rig.leader().is_some_and(|l| rig.raft(l).term > than);
    let term = rig.raft(first).term;
    rig.run_until("a second leads", |rig| later(rig, term));
    let second = rig.leader().unwrap();
    let third = 3 - first - second;
    rig.isolate(second);
    assert_eq!(rig.raft(second).log.last(), contested);
    // (c) The first leads again, and brings its entry to a majority, but none of its new term.
    let term = rig.raft(second).term;
    rig.filter = Box::new(move |from, _, message| match &message.body {
        Body::Append(append) if from.index() == first => {
            append.entries.iter().all(|entry| entry.term < term)
        }
        _ => true,
    });
    rig.run_until("the entry is on a majority", |rig| {
        later(rig, term) && rig.raft(third).durable == contested
    });
    rig.run_millis(20);
    // (d) The second leads again.
    rig.isolate(first);
    let term = rig.raft(third).term;
    rig.run_until("the second leads again", |rig| later(rig, term));
    assert_eq!(rig.leader(), Some(second));
    rig.filter = Box::new(|_, _, _| true);
    rig.cuts.clear();
    rig.nodes[first].pool.clear(); // its client has given up
    rig.submit(1);
    rig.settle();
}

/// A disk that reports late: the record that held an entry's place before says nothing about it.
#[test]
fn asynchronous_appends_aba_a_record_that_was_replaced_makes_nothing_durable() {
    let mut replica = Solo::new(3);
    replica.elect(&[1]);
    replica.accept(1, 1, 1, 0);
    replica.step(Input::Propose(batch("first")));
    let old = replica.last_lsn();
    // Another leads, cuts the entry off, and falls silent; this one leads again.
    replica.append(2, 2, id(1, 1), vec![entry(2, "x")], 1);
    replica.append(2, 2, id(2, 2), Vec::new(), 2);
    replica.sync_to(old);
    assert_eq!(replica.raft.durable, SeqNo(1), "x is not on the disk");
    replica.sync_to(old.next()); // nor is it with the record of the term
    assert_eq!(replica.raft.durable, SeqNo(1));
    replica.pass(Duration::from_secs(1));
    replica.step(Input::Timeout(Timer::Election));
    replica.sync_to(old.next());
    replica.vote(1, 2, true);
    let vote = replica.last_lsn();
    replica.vote(1, 3, false);
    assert!(!replica.raft.leads());
    replica.sync_to(vote);
    assert!(replica.raft.leads());
    assert_eq!(replica.raft.durable, SeqNo(2));
    replica.accept(1, 3, 3, 0);
    assert_eq!(
        replica.raft.commit,
        SeqNo(2),
        "its own first entry is not on the disk"
    );
    replica.sync();
    assert_eq!(replica.raft.commit, SeqNo(3));
}

#[test]
fn section_10_2_1_appends_follow_each_other_and_one_acknowledgement_covers_all() {
    let mut leader = Solo::new(3);
    leader.elect(&[1]);
    leader.accept(1, 1, 1, 0);
    leader.accept(2, 1, 1, 0);
    leader.accept(3, 1, 1, 0);
    leader.sent();
    for text in ["a", "b", "c", "d"] {
        leader.step(Input::Propose(batch(text)));
    }
    let all = leader
        .out
        .iter()
        .filter(|(to, _)| *to == Recipients::Others)
        .count();
    assert_eq!(all, 4, "each at once, and encoded once for all");
    leader.sync();
    leader.accept(1, 1, 5, 0);
    assert_eq!(leader.decided.len(), 5);
}

#[test]
fn what_a_follower_may_have_unacknowledged_is_bounded_by_entries_and_bytes() {
    let size = batch("a").raw().len() as u64;
    for (entries, bytes) in [(3, 1 << 20), (100, 3 * size)] {
        let bounded = RaftSettings {
            entries_in_flight_max: entries,
            bytes_in_flight_max: bytes,
            ..settings()
        };
        let mut leader = Solo::with(3, 0, &limits(), bounded);
        leader.elect(&[1]);
        leader.accept(1, 1, 1, 0);
        leader.sent();
        for text in ["a", "b", "c", "d", "e"] {
            leader.step(Input::Propose(batch(text)));
        }
        let to_one = |leader: &mut Solo| -> usize {
            let to =
                |to: &Recipients| [Recipients::Others, Recipients::One(NodeId(1))].contains(to);
            let out = std::mem::take(&mut leader.out);
            let appends = out.into_iter().filter(|(r, _)| to(r));
            let count = |(_, message): (Recipients, crate::message::Message)| match message.body {
                Body::Append(append) => append.entries.len(),
                _ => 0,
            };
            appends.map(count).sum()
        };
        assert_eq!(to_one(&mut leader), 3, "{entries} entries, {bytes} bytes");
        leader.accept(1, 1, 3, 0);
        assert_eq!(to_one(&mut leader), 2, "as much as was acknowledged");
    }
}

#[test]
fn a_commit_is_told_at_once_when_nothing_else_goes_out() {
    let mut rig = Rig::new(3, 2);
    let leader = rig.elect();
    rig.run_millis(30);
    let request = rig.submit_to(&[leader]);
    let submitted = rig.now;
    rig.run_until("all decide", |rig| {
        let last = rig.decisions.len() as u64;
        (0..3).all(|i| rig.raft(i).commit.0 == last) && rig.nodes[leader].pool.is_empty()
    });
    // Three hops of 3 ms at most, and two syncs: sooner than any heartbeat.
    assert!(
        rig.now.since(submitted) < Duration::from_millis(11),
        "request {request}"
    );
}

fn rejected(previous: u64, hint: u64, term: u64) -> Body {
    let (previous, hint, round, counts) = (SeqNo(previous), id(hint, term), 0, true);
    Body::Rejected(Rejected {
        previous,
        hint,
        round,
        counts,
    })
}

#[test]
fn section_3_5_a_follower_hints_at_where_the_logs_may_meet() {
    let mut follower = Solo::new(3);
    let entries = [1, 1, 2, 2, 2].map(|term| entry(term, "old")).to_vec();
    follower.append(1, 2, id(0, 0), entries, 1);
    follower.sync();
    follower.sent();
    follower.append(2, 5, id(9, 4), vec![entry(5, "new")], 1);
    follower.append(2, 5, id(4, 1), vec![entry(5, "new")], 1);
    follower.sync();
    let hints: Vec<_> = follower
        .sent()
        .into_iter()
        .filter_map(|body| match body {
            Body::Rejected(rejected) => Some(rejected.hint),
            _ => None,
        })
        .collect();
    assert_eq!(
        hints,
        [id(5, 2), id(2, 1)],
        "its end; the end of the earlier term"
    );
    assert_eq!(
        follower.raft.log.last(),
        SeqNo(5),
        "a refusal changes nothing"
    );
}

#[test]
fn section_3_5_a_leader_goes_back_by_whole_terms_and_not_at_old_refusals() {
    let mut leader = Solo::new(3);
    let entries: Vec<_> = [1, 1, 1, 3, 3, 3].map(|term| entry(term, "e")).to_vec();
    leader.append(2, 3, id(0, 0), entries, 0);
    leader.sync();
    leader.elect(&[2]);
    leader.sent();
    // Replica 1 has entries 4 to 9 of term 2 where this log has terms 1 and 3.
    leader.hear(1, 4, rejected(6, 6, 2));
    let append = &leader.appends()[0];
    assert_eq!(
        append.previous,
        id(3, 1),
        "the last that is not above term 2"
    );
    leader.hear(1, 4, rejected(6, 6, 2));
    assert!(leader.appends().is_empty(), "the same refusal again");
    leader.accept(1, 4, 7, 0);
    assert_eq!(leader.raft.peers[1].matched, SeqNo(7));
}

#[test]
fn section_3_5_logs_that_differ_in_many_terms_meet_after_few_messages() {
    let mut rig = Rig::new(3, 11);
    rig.checkpoints = false;
    let leader = rig.elect();
    rig.isolate(leader);
    for _ in 0..8 {
        rig.submit_to(&[leader]);
    }
    rig.run_millis(1000);
    for _ in 0..12 {
        let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
        rig.submit_to(&others);
        rig.run_millis(40);
    }
    rig.cuts.clear();
    rig.nodes[leader].pool.clear(); // its clients have given up
    let before = rig.sent("rejected");
    rig.settle();
    assert!(
        rig.sent("rejected") - before <= 6,
        "{}",
        rig.sent("rejected") - before
    );
}

#[test]
fn lost_duplicated_and_reordered_messages_are_made_up_for() {
    for seed in 0..10 {
        let mut rig = Rig::new(5, seed);
        rig.loss = 0.2;
        for _ in 0..40 {
            rig.submit(2);
            rig.run_millis(20);
        }
        rig.settle();
    }
}

#[test]
fn learners_get_everything_and_count_for_nothing() {
    let mut rig = Rig::with(3, 2, 12, limits(), settings());
    rig.elect();
    rig.submit(30);
    rig.settle();
    assert!((3..5).all(|i| rig.raft(i).commit >= SeqNo(31)));
    // With two voters gone, two learners make no majority of the three that are left.
    let leader = rig.leader().unwrap();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    others.iter().for_each(|i| rig.crash(*i));
    let before = rig.decisions.len();
    rig.submit_to(&[leader]);
    rig.run_millis(2000);
    assert_eq!(rig.decisions.len(), before);
    assert_eq!(rig.leader(), None, "and no learner stands");
    others.iter().for_each(|i| rig.restart(*i));
    rig.settle();
}

#[test]
fn a_learner_that_lost_its_disk_gets_everything_again() {
    let mut rig = Rig::with(3, 1, 13, limits(), settings());
    rig.elect();
    rig.submit(5);
    rig.settle();
    rig.crash(3);
    rig.wipe(3);
    rig.reboot_wiped(3);
    rig.submit(2);
    rig.settle();
}

/// A proposal that comes when somebody else leads goes back where it came from.
#[test]
fn a_proposal_at_a_replica_that_does_not_lead_is_given_back() {
    let mut follower = Solo::new(3);
    follower.step(Input::Propose(batch("a")));
    assert_eq!((follower.stopped, follower.last_lsn()), (1, Lsn(0)));
}

#[test]
fn no_more_than_the_limit_is_in_flight() {
    let few = atlas_core::Limits {
        in_flight_max: 3,
        ..limits()
    };
    let mut leader = Solo::with(3, 0, &few, settings());
    leader.elect(&[1]);
    for (text, wants) in [("a", true), ("b", false)] {
        leader.wants_batch = false;
        leader.step(Input::Propose(batch(text)));
        assert_eq!(leader.wants_batch, wants);
    }
    leader.sync();
    leader.accept(1, 1, 2, 0);
    assert!(leader.wants_batch);
    assert_eq!(leader.raft.term, View(1));
}
