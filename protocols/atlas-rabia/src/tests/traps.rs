//! Traps that published implementations fell into, by name.

use super::rig::{RESEND, Rig, ids, limits};
use crate::message::{Item, Message, Round, Said, Spread, Vote};
use crate::record::Record;
use atlas_common::{Digest, NodeId, SeqNo};
use atlas_core::{Input, Limits, OrderingProtocol, Reject};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn say(items: Vec<Item>) -> Message {
    Message::Round(Round {
        items,
        ..Round::default()
    })
}

fn carries_batch(message: &Message) -> bool {
    matches!(message, Message::Round(round) if !round.batches.is_empty())
}

#[test]
fn trap_decided_1_without_the_proposal_in_hand_fetches_until_it_comes() {
    let mut rig = Rig::new(3, 1);
    // The batch never reaches replica 2 by itself.
    rig.filter = Box::new(|_, to, message| to != NodeId(2) || !carries_batch(message));
    rig.submit_to(0);
    rig.run_until("others decide", |rig| rig.nodes[0].decided.len() == 1);
    let digest = rig.decisions[&SeqNo(1)];
    rig.withheld.insert(digest);
    rig.run_until("it is decided", |rig| rig.fetches > 0);
    rig.run(20 * SECOND);
    assert_eq!(rig.decided(2), 0, "it does not go on without the batch");
    assert!(rig.nodes[2].fetching.contains(&digest), "and asks on");
    rig.withheld.clear();
    rig.run(SECOND);
    assert_eq!(rig.decided(2), rig.decided(0));
    assert!(rig.nodes[2].fetching.is_empty());
}

#[test]
fn trap_a_replica_joins_a_slot_on_any_message_of_it() {
    let digest = Digest::of(b"never seen here");
    let messages = [
        Said::Proposal(None),
        Said::State {
            phase: 1,
            state: Some(digest),
        },
        Said::State {
            phase: 3,
            state: None,
        },
        Said::Vote {
            phase: 2,
            vote: Vote::Unsure(digest),
        },
        Said::Proposal(Some(digest)),
    ];
    for said in messages {
        let mut rig = Rig::new(3, 1);
        rig.crash(1);
        rig.crash(2);
        rig.inject(
            1,
            0,
            say(vec![Item {
                seq: SeqNo(2),
                said,
            }]),
        )
        .unwrap();
        // Only for a batch that may be on its way it waits, and not for long.
        rig.run(super::rig::PATIENCE + Duration::from_millis(1));
        let joined = |record: &Record| matches!(record, Record::Said { seq: SeqNo(2), .. });
        assert!(rig.nodes[0].log.values().any(joined), "{said:?}");
        rig.run(2 * RESEND);
        let joined = |record: &Record| matches!(record, Record::Said { seq: SeqNo(1), .. });
        assert!(
            rig.nodes[0].log.values().any(joined),
            "the gap below too: {said:?}"
        );
    }
}

#[test]
fn trap_a_replica_counts_itself_in_its_quorums() {
    for (n, down) in [(1, 0), (3, 1), (4, 1), (5, 2), (7, 3)] {
        let mut rig = Rig::new(n, 2);
        for i in 0..down {
            rig.crash(n - 1 - i);
        }
        rig.submit(30);
        rig.settle();
        assert_eq!(rig.requests(0).len(), 30, "n = {n} with {down} down");
    }
}

#[test]
fn trap_a_decision_binds_the_digest_and_not_only_the_slot() {
    // Replica 2 proposes something else in the slot in which the others agree.
    for seed in 0..30 {
        let mut rig = Rig::new(3, seed);
        rig.groups = vec![ids([2])];
        rig.submit_to(2);
        rig.run(Duration::from_millis(5));
        rig.submit_to(0);
        rig.run(Duration::from_millis(30));
        rig.groups.clear();
        rig.settle();
        assert_eq!(rig.requests(0), rig.requests(2));
        assert_eq!(rig.requests(2).len(), 2, "seed {seed}");
    }
}

#[test]
fn trap_requests_return_to_the_queue_after_a_null_slot() {
    let mut nulls = 0;
    for seed in 0..40 {
        let mut rig = Rig::new(3, seed);
        for i in 0..3 {
            rig.submit_to(i); // at the same moment: three heads
        }
        rig.settle();
        nulls += rig.nulls();
        let mut requests = rig.requests(0);
        requests.sort_unstable();
        assert_eq!(requests, [1, 2, 3], "seed {seed}");
    }
    assert!(nulls > 10, "{nulls} null slots");
}

#[test]
fn trap_nobody_starves_under_skewed_clocks() {
    for ahead in [0, 50, 3_600_000] {
        for skewed in 0..3 {
            let mut rig = Rig::new(3, 7);
            rig.nodes[skewed].ahead_ms = ahead;
            // The two others are never idle.
            let mut waited = 0;
            let mut mine = None;
            for _ in 0..400 {
                for i in 0..3 {
                    if i != skewed && rig.nodes[i].pool.len() < 4 {
                        rig.submit_to(i);
                    }
                }
                let pending = mine.is_some_and(|m| rig.nodes[skewed].pool.contains_key(&m));
                if pending {
                    waited += 1;
                    assert!(waited < 60, "{ahead} ms ahead: starved");
                } else {
                    (mine, waited) = (Some(rig.submit_to(skewed)), 0);
                }
                rig.run(Duration::from_millis(5));
            }
        }
    }
}

#[test]
fn row_48_a_clock_that_jumps_by_an_hour_delays_nothing() {
    let mut rig = Rig::new(3, 8);
    rig.submit(20);
    rig.nodes[0].ahead_ms = 3_600_000;
    rig.submit(20);
    rig.settle();
    rig.nodes[0].ahead_ms = 0;
    let begun = rig.now;
    rig.submit(30);
    rig.settle();
    assert!(rig.now.since(begun) < SECOND);
    assert_eq!(rig.requests(0).len(), 70);
}

#[test]
fn trap_messages_lost_before_a_reconnection_are_sent_again() {
    for seed in 0..20 {
        let mut rig = Rig::new(3, seed);
        rig.submit(5);
        rig.run(Duration::from_millis(3));
        rig.groups = vec![ids([0]), ids([1]), ids([2])];
        rig.submit(5);
        rig.run(SECOND);
        let stuck = rig.decided(0);
        rig.run(SECOND);
        assert_eq!(rig.decided(0), stuck, "nobody decides alone");
        rig.groups.clear();
        let begun = rig.now;
        rig.settle();
        assert!(rig.now.since(begun) < SECOND, "seed {seed}");
    }
}

#[test]
fn a_network_that_loses_a_third_of_all_messages() {
    for seed in 0..20 {
        for n in [3, 4, 5] {
            let mut rig = Rig::new(n, seed);
            rig.loss = 0.33;
            rig.submit(60);
            rig.settle();
            let mut requests = rig.requests(0);
            requests.sort_unstable();
            requests.dedup();
            assert_eq!(requests.len(), 60, "seed {seed}, n = {n}");
        }
    }
}

#[test]
fn row_39_proposals_that_never_reach_a_majority_do_no_harm() {
    for seed in 0..10 {
        // Replica 0 hears everybody, nobody hears replica 0.
        let mut rig = Rig::new(3, seed);
        rig.filter = Box::new(|from, _, _| from != NodeId(0));
        rig.submit_to(0);
        rig.submit_to(1);
        rig.submit_to(2);
        rig.run(2 * SECOND);
        assert_eq!(rig.requests(1).len(), 2, "seed {seed}");
        assert_eq!(rig.requests(0), rig.requests(1), "it follows");
        rig.filter = Box::new(|_, _, _| true);
        rig.settle();
        assert_eq!(rig.requests(2).len(), 3);
    }
}

#[test]
fn row_39_a_bridge_between_two_halves_is_enough() {
    // 0 and 1 do not hear each other, nor 3 and 4; replica 2 hears all.
    for seed in 0..10 {
        let mut rig = Rig::new(5, seed);
        rig.filter = Box::new(|from, to, _| {
            let side = |id: NodeId| id.0.cmp(&2) as i8;
            side(from) * side(to) >= 0
        });
        rig.submit(20);
        rig.run(5 * SECOND);
        assert!(
            rig.requests(2).len() >= 20,
            "seed {seed}: {}",
            rig.describe()
        );
    }
}

#[test]
fn trap_late_messages_of_a_compacted_slot_are_answered_cheaply_or_ignored() {
    let mut rig = Rig::new(3, 4);
    rig.submit(120);
    rig.settle();
    rig.run(SECOND);
    let low = rig.rabia(0).status().low;
    assert!(low.0 >= 8, "{low}");
    let late = |seq: u64, wants| {
        let said = Said::Vote {
            phase: 9,
            vote: Vote::Null,
        };
        let item = Item {
            seq: SeqNo(seq),
            said,
        };
        Message::Round(Round {
            wants,
            items: vec![item; 100],
            ..Round::default()
        })
    };
    let (decided, sent) = (rig.decided(0), rig.sent);
    for _ in 0..50 {
        rig.inject(1, 0, late(1, false)).unwrap();
    }
    assert_eq!(rig.sent, sent, "history is not answered");
    for _ in 0..50 {
        rig.inject(1, 0, late(1, true)).unwrap();
    }
    assert!(
        rig.sent - sent <= 2,
        "one answer at a time: {}",
        rig.sent - sent
    );
    let held = rig.rabia(0).slots.len();
    assert!(!rig.rabia(0).slots.contains_key(&SeqNo(1)));
    rig.run(SECOND);
    assert_eq!((rig.decided(0), rig.rabia(0).slots.len()), (decided, held));
}

#[test]
fn a_peer_that_asks_for_batches_in_a_loop_gets_so_many_and_no_more() {
    let mut rig = Rig::new(3, 4);
    rig.filter = Box::new(|from, _, _| from != NodeId(0));
    rig.submit(1);
    rig.run(Duration::from_millis(1));
    let asked = rig.rabia(0).own.expect("a batch that is on its way").digest;
    let answers = |rig: &mut Rig| {
        let sent = rig.sent;
        for _ in 0..1000 {
            rig.inject(1, 0, Message::Ask(asked)).unwrap();
        }
        rig.sent - sent
    };
    let most = 2 * limits().in_flight_max;
    assert_eq!(answers(&mut rig), most);
    assert_eq!(answers(&mut rig), 0);
    rig.run(RESEND / 4);
    assert_eq!(answers(&mut rig), most, "it may ask again later");
}

#[test]
fn row_50_garbage_collection_races_late_messages() {
    for seed in 0..20 {
        let mut rig = Rig::new(3, seed);
        rig.loss = 0.2;
        // Everything that replica 2 sends arrives again later, in slots that may be history by then.
        rig.submit(100);
        rig.run(Duration::from_millis(200));
        let words: Vec<Message> = (1..60)
            .map(|seq| {
                let said = Said::Proposal(None);
                say(vec![Item {
                    seq: SeqNo(seq),
                    said,
                }])
            })
            .collect();
        for message in words {
            // Contradictions in running slots are refused, the rest is old.
            rig.inject(2, 0, message).unwrap();
            rig.run(Duration::from_millis(1));
        }
        rig.loss = 0.0;
        rig.settle();
        assert_eq!(rig.requests(0), rig.requests(1), "seed {seed}");
    }
}

#[test]
fn trap_memory_is_bounded_under_a_storm_of_null_slots() {
    let mut rig = Rig::new(3, 5);
    // No batch ever leaves its replica: all proposals differ.
    rig.filter =
        Box::new(|_, _, message| !carries_batch(message) && !matches!(message, Message::Ask(_)));
    rig.filter = Box::new(|_, _, message| match message {
        Message::Ask(_) => false,
        Message::Round(round) => round.batches.is_empty(),
        _ => true,
    });
    rig.submit(30);
    let window = limits().window as usize;
    let mut storm = 0;
    for _ in 0..200 {
        rig.run(Duration::from_millis(50));
        storm = storm.max(rig.nulls());
        for i in 0..3 {
            let rabia = rig.rabia(i);
            assert!(rabia.slots.len() <= window + 1);
            assert!(rabia.queue.len() <= 3);
            assert!(rabia.patient.len() <= window && rabia.done.len() <= 2 * window);
            assert!(
                rig.nodes[i].log.len() < 2000,
                "{} records",
                rig.nodes[i].log.len()
            );
        }
    }
    assert!(storm > 100, "{storm} null slots");
    rig.filter = Box::new(|_, _, _| true);
    rig.settle();
    assert_eq!(rig.requests(0).len(), 30);
}

#[test]
fn a_lagging_replica_is_told_decisions_or_fetches_them() {
    for (count, by_transfer) in [(6, false), (200, true)] {
        let mut rig = Rig::new(3, 6);
        rig.groups = vec![ids([2])];
        for _ in 0..count {
            rig.submit_to(0);
            rig.run(Duration::from_millis(30));
        }
        rig.groups.clear();
        rig.run(5 * SECOND);
        assert_eq!(rig.decided(2), rig.decided(0), "{count} slots behind");
        assert_eq!(rig.state_fetches > 0, by_transfer);
        rig.submit(9);
        rig.settle();
    }
}

#[test]
fn what_a_confused_peer_sends_is_refused_by_its_type() {
    let mut rig = Rig::new(3, 9);
    let huge = rig.batch(&"x".repeat(limits().batch_bytes_max));
    let spread = |stamp, origin, batch| {
        Message::Round(Round {
            batches: vec![Spread {
                stamp,
                origin: NodeId(origin),
                batch,
            }],
            ..Round::default()
        })
    };
    let small = rig.batch("small");
    let phase_0 = Item {
        seq: SeqNo(1),
        said: Said::State {
            phase: 0,
            state: None,
        },
    };
    let far = Item {
        seq: SeqNo(1 << 40),
        said: Said::Proposal(None),
    };
    let cases = [
        (spread(1, 0, huge), Err(Reject::TooLarge)),
        (spread(1, 9, small.clone()), Err(Reject::NotAMember)),
        (spread(u64::MAX, 1, small), Err(Reject::FutureTime)),
        (
            spread(1, 1, atlas_core::Batch::null()),
            Err(Reject::Malformed),
        ),
        (say(vec![phase_0]), Err(Reject::Malformed)),
        (say(vec![far; 5000]), Err(Reject::TooLarge)),
        (
            Message::Decisions(vec![(SeqNo(1), None); 65]),
            Err(Reject::TooLarge),
        ),
        (say(vec![far]), Ok(())),
        (Message::Decisions(vec![(SeqNo(u64::MAX), None)]), Ok(())),
    ];
    for (message, expected) in cases {
        let text = format!("{message:.80?}");
        assert_eq!(rig.inject(1, 0, message), expected, "{text}");
    }
    assert!(rig.rejected.contains(&(NodeId(0), Reject::OutOfWindow)));
    assert!(rig.rabia(0).slots.is_empty());
    rig.submit(5);
    rig.settle();
}

#[test]
fn learners_follow_and_serve_without_a_vote() {
    let mut rig = Rig::with_limits(3, 2, 10, Limits { ..limits() });
    rig.submit(30); // to learners as well
    rig.settle();
    assert_eq!(rig.requests(4).len(), 30);
    assert_eq!(rig.durable_words(3), 0);
    let vote = say(vec![Item {
        seq: SeqNo(999),
        said: Said::Proposal(None),
    }]);
    assert_eq!(rig.inject(3, 0, vote), Err(Reject::NotAMember));
}

#[test]
fn learners_may_be_many() {
    let mut rig = Rig::with_limits(1, 140, 14, limits());
    rig.submit_to(140);
    rig.settle();
    assert_eq!(rig.requests(135), [1]);
}

#[test]
fn operators_have_nobody_to_suspect() {
    let mut rig = Rig::new(3, 11);
    rig.step(0, Input::Suspect);
    rig.submit(3);
    rig.settle();
    assert_eq!(rig.rabia(0).status().leader, None);
}

#[test]
fn queues_that_differ_come_together_again() {
    for seed in 0..20 {
        let mut rig = Rig::new(5, seed);
        // Each replica's batch reaches its neighbour only, and its maker forgets it.
        rig.filter = Box::new(|from, to, message| {
            matches!(message, Message::Round(_)) && to.0 == (from.0 + 1) % 5
        });
        rig.submit(5);
        rig.run(Duration::from_millis(5));
        for i in 0..5 {
            rig.crash(i);
            rig.nodes[i].pool.clear();
            rig.filter = Box::new(|_, _, _| false);
            rig.restart(i);
        }
        rig.filter = Box::new(|_, _, _| true);
        rig.submit(10);
        rig.settle();
        assert!(rig.nulls() < 60, "seed {seed}: {} null slots", rig.nulls());
    }
}

#[test]
fn a_batch_that_a_peer_had_decided_is_not_handed_back_and_forth() {
    let mut rig = Rig::new(3, 12);
    rig.submit_to(0);
    rig.settle();
    let batch = rig.nodes[0].decided[&SeqNo(1)].clone();
    // Another replica's pool gives the same requests at the same millisecond.
    rig.nodes[1].wants_batch = false;
    rig.step(1, Input::Propose(batch));
    assert!(rig.nodes[1].wants_batch, "it asks for another");
    assert!(rig.rabia(1).own.is_none());
    rig.submit(4);
    rig.settle();
}
