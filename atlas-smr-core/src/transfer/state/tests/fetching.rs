//! Fetching states.

use super::super::*;
use super::peers::{Event, PART};
use super::*;
use atlas_common::quorum::FaultModel;
use std::collections::BTreeMap;
use std::time::Duration;

fn byzantine() -> (Vec<atlas_common::crypto::KeyPair>, Arc<Membership>) {
    cluster(FaultModel::Byzantine)
}

#[test]
fn a_state_comes_from_several_peers_at_once() {
    for model in [FaultModel::Byzantine, FaultModel::Crash] {
        let (keys, membership) = cluster(model);
        let state = State::plain(8, 3000, 0, &keys, &membership);
        let mut run = Run::new(&membership).start(5);
        run.go(5000, |_, message| state.answer(message));
        run.assert_fetched(&state);
        let counters = run.counters();
        assert_eq!(counters.parts_fetched, state.blobs.len() as u64);
        assert_eq!(counters.bytes_fetched, run.received, "nothing came twice");
        for peer in 1..4 {
            assert!(run.asked[&NodeId(peer)] > 4, "{:?}", run.asked);
        }
    }
}

#[test]
fn an_empty_state_is_a_state() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 0, 0, &keys, &membership);
    let mut run = Run::new(&membership).start(0);
    run.go(100, |_, message| state.answer(message));
    run.assert_fetched(&state);
}

#[test]
fn a_part_that_occurs_often_is_fetched_once() {
    let (keys, membership) = byzantine();
    let mut parts = vec![noise(1, 5000); 700];
    parts.extend((0..100).map(|i| noise(i, 300)));
    parts.extend(vec![noise(1, 5000); 700]);
    let state = State::new(8, &parts, &keys, &membership);
    let mut run = Run::new(&membership).start(5);
    run.go(500, |_, message| state.answer(message));
    run.assert_fetched(&state);
    assert_eq!(run.counters().parts_fetched, state.blobs.len() as u64);
}

/// It comes as a page while the store is being asked about it as a part.
#[test]
fn a_part_that_is_a_page_too_is_fetched_once() {
    let (keys, membership) = byzantine();
    let mut parts: Vec<Bytes> = (0..3000).map(|i| noise(i, PART)).collect();
    let references: Vec<PartRef> = parts.iter().map(|part| PartRef::of(part)).collect();
    let (_, pages) = StateDescriptor::cut(&references).unwrap();
    parts.insert(0, pages.last().unwrap().clone());
    let state = State::new(8, &parts, &keys, &membership);
    assert_eq!(state.descriptor.pages.last(), Some(&PartRef::of(&parts[0])));
    let mut run = Run::new(&membership).start(5);
    run.go(5000, |_, message| state.answer(message));
    run.assert_fetched(&state);
    assert_eq!(run.counters().parts_fetched, state.blobs.len() as u64);
}

/// What is here of an older state is not sent again.
#[test]
fn only_differing_parts_travel() {
    let (keys, membership) = byzantine();
    let old = State::plain(8, 20_000, 0, &keys, &membership);
    // One part in a hundred changed, one came, one went.
    let number = |i: u64| if i % 100 == 7 { i + (1 << 40) } else { i };
    let mut parts: Vec<Bytes> = (0..20_000).map(|i| noise(number(i), PART)).collect();
    parts.remove(11_111);
    parts.insert(4444, noise(1 << 50, PART));
    let new = State::new(16, &parts, &keys, &membership);
    let mut run = Run::new(&membership).start(8);
    run.store = old.blobs.clone();
    run.go(5000, |_, message| new.answer(message));
    run.assert_fetched(&new);
    // 201 parts, and the pages that refer to them.
    let fresh = |(digest, _): &(&Digest, &Bytes)| !old.blobs.contains_key(*digest);
    let fresh: u64 = new
        .blobs
        .iter()
        .filter(fresh)
        .map(|(_, b)| b.len() as u64)
        .sum();
    assert_eq!(run.received, fresh);
    let total = new.descriptor.total_bytes;
    assert!(
        run.received * 20 < total,
        "{} of {total} bytes",
        run.received
    );
    let counters = run.counters();
    assert_eq!(counters.bytes_fetched, run.received);
    assert_eq!(counters.parts_reused, 20_000 - 201);
    assert_eq!(counters.bytes_reused, (20_000 - 201) * PART as u64);
}

#[test]
fn row_21_altered_oversized_unasked_and_misplaced_blobs_are_rejected_and_their_sender_replaced() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 400, 0, &keys, &membership);
    let liar = |kind: usize, honest: Vec<StateTransferMessage>| -> Vec<StateTransferMessage> {
        let lie = |message| match message {
            StateTransferMessage::Parts { mut blobs } => {
                match kind {
                    0 => {
                        let mut altered = blobs[0].to_vec();
                        altered[0] ^= 1;
                        blobs[0] = altered.into();
                    }
                    1 => blobs[0] = vec![0; 2 << 20].into(),
                    2 => blobs = vec![blobs[0].clone(); 257],
                    3 => blobs.push(Bytes::new()),
                    4 => blobs.push(noise(99, PART)),
                    // One of the state, which somebody else was asked for (row 22).
                    _ => blobs.extend(state.blobs.values().cloned()),
                }
                StateTransferMessage::Parts { blobs }
            }
            other => other,
        };
        honest.into_iter().map(lie).collect()
    };
    for kind in 0..6 {
        let mut run = Run::new(&membership).start(5);
        run.go(3000, |peer, message| match (peer, message) {
            (NodeId(2), StateTransferMessage::RequestParts { .. }) => {
                liar(kind, state.answer(message))
            }
            _ => state.answer(message),
        });
        run.assert_fetched(&state);
        let counters = run.counters();
        assert!(counters.parts_rejected > 0, "{kind}: {counters:?}");
        assert!(counters.peers_blamed > 0, "{kind}: {counters:?}");
    }
}

#[test]
fn row_21_a_peer_that_stalls_is_replaced() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 3000, 0, &keys, &membership);
    // One says nothing; another sends one blob of each request, and no more.
    for all in [true, false] {
        let mut run = Run::new(&membership).start(5);
        run.go(10_000, |peer, message| {
            let mut answers = state.answer(message);
            if peer == NodeId(1)
                && let StateTransferMessage::RequestParts { .. } = message
            {
                answers.truncate(usize::from(!all));
                if let Some(StateTransferMessage::Parts { blobs }) = answers.first_mut() {
                    blobs.truncate(1);
                }
            }
            answers
        });
        run.assert_fetched(&state);
        assert!(run.now < Time::from_millis(10_000), "took {:?}", run.now);
    }
}

/// Of equals the lowest number is asked first: one that stalls would be asked again and again, and given more
/// time at each turn.
#[test]
fn row_21_what_a_peer_was_too_slow_with_is_asked_of_another() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 6, 0, &keys, &membership);
    let mut asked: BTreeMap<Digest, u32> = BTreeMap::new();
    let mut run = Run::new(&membership).start(5);
    run.go(1000, |peer, message| {
        if peer == NodeId(1)
            && let StateTransferMessage::RequestParts { digests } = message
        {
            for digest in digests {
                *asked.entry(*digest).or_default() += 1;
            }
            return Vec::new();
        }
        state.answer(message)
    });
    run.assert_fetched(&state);
    assert!(!asked.is_empty() && asked.values().all(|times| *times == 1));
    assert!(run.now < Time::from_millis(2000), "took {:?}", run.now);
}

#[test]
fn offers_that_are_not_certified_are_refused_before_anything_is_kept() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 50, 0, &keys, &membership);
    let mut few_votes = state.clone();
    few_votes.certificate.votes.pop();
    let mut inflated = state.clone();
    inflated.certificate.id.seq = SeqNo(1 << 60);
    let mut other_state = state.clone();
    other_state.descriptor = State::plain(9, 50, 50, &keys, &membership).descriptor;
    let mut huge = state.clone();
    huge.descriptor.total_bytes = 1 << 62;
    let bad = [few_votes, inflated, other_state, huge];
    for (i, bad) in bad.iter().enumerate() {
        let mut run = Run::new(&membership).start(5);
        run.go(2000, |peer, message| {
            let server = if peer == NodeId(1) { bad } else { &state };
            server.answer(message)
        });
        run.assert_fetched(&state);
        assert_eq!(run.counters().offers_rejected, 1, "{i}");
        assert_eq!(run.store, state.blobs);
    }
}

/// Even if a quorum certified it: it ends in being refused, not in a panic or a wrong state.
#[test]
fn row_22_pages_that_are_cut_wrong_and_sums_that_do_not_add_up_are_no_state() {
    let (keys, membership) = byzantine();
    let good = State::plain(8, 500, 0, &keys, &membership);
    let page = |index: usize| good.blobs[&good.descriptor.pages[index].digest].clone();
    let joined = Bytes::from([page(0), page(1)].concat());
    let mut glued = good.descriptor.clone();
    glued.pages.splice(..2, [PartRef::of(&joined)]);
    let mut sum = good.descriptor.clone();
    sum.total_bytes += 1;
    let large = noise(5, limits().chunk_bytes + 1);
    let large = State::new(8, &[large], &keys, &membership);
    let blobs = good.blobs.values().chain([&joined]);
    let glued = State::of(8, glued, blobs.clone(), &keys, &membership);
    let sum = State::of(8, sum, blobs, &keys, &membership);
    for bad in [glued, sum, large] {
        let mut run = Run::new(&membership).start(5);
        run.go(2000, |_, message| bad.answer(message));
        assert!(run.fetched.is_none() && run.fetcher.is_active());
        assert!(run.counters().offers_rejected > 0);
        let newer = State::plain(16, 500, 10, &keys, &membership);
        run.go(5000, |_, message| newer.answer(message));
        run.assert_fetched(&newer);
    }
}

#[test]
fn a_newer_checkpoint_takes_the_place_of_one_that_the_peers_have_no_more() {
    let (keys, membership) = byzantine();
    // They differ in their second halves.
    let state = |seq: u64| {
        let number = |i: u64| if i < 3000 { i } else { i + (seq << 32) };
        let parts: Vec<Bytes> = (0..6000).map(|i| noise(number(i), PART)).collect();
        State::new(seq, &parts, &keys, &membership)
    };
    let (old, new) = (state(8), state(16));
    let mut run = Run::new(&membership).start(5);
    let mut served = 0;
    run.go(9000, |_, message| {
        served += u64::from(matches!(message, StateTransferMessage::RequestParts { .. }));
        if served <= 12 {
            old.answer(message)
        } else {
            new.answer(message)
        }
    });
    run.assert_fetched(&new);
    let counters = run.counters();
    assert_eq!(counters.restarts, 1);
    assert!(counters.parts_reused >= 1000, "{counters:?}");
    // Nothing that was here came again; the store of the test sees to it too.
    let once = new.blobs.len() as u64;
    assert!(counters.parts_fetched < once + 1500, "{counters:?}");
}

/// Each says that it has got no more of the old state, and its offer of that comes once more.
#[test]
fn a_late_offer_of_what_a_peer_has_let_go_of_does_not_hold_the_transfer_up() {
    let (keys, membership) = byzantine();
    let old = State::plain(8, 6000, 0, &keys, &membership);
    let new = State::plain(16, 6000, 1 << 32, &keys, &membership);
    let mut run = Run::new(&membership).start(5);
    let mut served = 0;
    run.go(9000, |_, message| {
        let parts = matches!(message, StateTransferMessage::RequestParts { .. });
        served += u64::from(parts);
        match served {
            0..=12 => old.answer(message),
            _ if parts => [new.answer(message), vec![old.offer()]].concat(),
            _ => new.answer(message),
        }
    });
    run.assert_fetched(&new);
}

#[test]
fn a_newer_offer_wins_while_nothing_is_here_yet() {
    let (keys, membership) = byzantine();
    let (old, new) = (
        State::plain(8, 10, 10, &keys, &membership),
        State::plain(16, 10, 10, &keys, &membership),
    );
    let mut run = Run::new(&membership).start(5);
    run.fetcher.process_message(run.now, NodeId(1), old.offer());
    run.fetcher.process_message(run.now, NodeId(2), new.offer());
    run.go(500, |peer, message| {
        let server = if peer == NodeId(1) { &old } else { &new };
        server.answer(message)
    });
    run.assert_fetched(&new);
}

/// The fetcher crashes again and again, and whoever it fetches from: what was kept stays.
#[test]
fn row_46_a_transfer_goes_on_after_crashes_of_both_ends() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 8000, 0, &keys, &membership);
    let mut run = Run::new(&membership).start(5);
    let mut lives = 0;
    while run.fetched.is_none() {
        let (before, mut messages) = (run.store.len(), 0);
        run.go(30, |peer, message| {
            messages += 1;
            // The peer of this life dies in the middle of it.
            if messages > 8 && peer.0 == 1 + lives % 3 {
                return Vec::new();
            }
            state.answer(message)
        });
        assert!(run.store.len() > before, "no progress");
        lives += 1;
        if run.fetched.is_none() {
            run.crash(5);
        }
    }
    assert!(lives > 3, "{lives} lives");
    run.assert_fetched(&state);
    // The test's store refuses what was here; what was on its way at a crash came again.
    assert!(run.counters().parts_reused > 1000);
}

#[test]
fn it_waits_for_a_checkpoint_and_ends_when_decisions_catch_up() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 10, 10, &keys, &membership);
    let mut run = Run::new(&membership).start(8);
    run.go(100, |_, message| state.answer(message));
    assert!(run.fetched.is_none() && run.fetcher.is_active());
    let newer = State::plain(16, 10, 10, &keys, &membership);
    run.fetcher
        .process_message(run.now, NodeId(1), newer.offer());
    assert_eq!(run.fetcher.fetching().unwrap().id.seq, SeqNo(16));
    run.fetcher.on_progress(SeqNo(15));
    assert!(run.fetcher.is_active());
    run.fetcher.on_progress(SeqNo(16));
    assert!(!run.fetcher.is_active());
    assert_eq!(run.fetcher.deadline(), None);
    run.go(100, |_, message| newer.answer(message));
    assert!(run.target.is_none() && run.fetched.is_none());
}

#[test]
fn strangers_and_the_unasked_are_not_listened_to() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 10, 10, &keys, &membership);
    let mut run = Run::new(&membership);
    let fetcher = &mut run.fetcher;
    fetcher.process_message(Time::ZERO, NodeId(1), state.offer());
    assert!(!fetcher.is_active() && fetcher.poll().is_none());
    fetcher.request_latest_state(Time::ZERO, SeqNo(0));
    fetcher.process_message(Time::ZERO, NodeId(9), state.offer());
    assert_eq!(fetcher.fetching(), None);
    fetcher.process_message(Time::ZERO, NodeId(1), state.offer());
    let blobs = vec![noise(1, 10)];
    let stray = StateTransferMessage::Parts { blobs };
    fetcher.process_message(Time::ZERO, NodeId(9), stray.clone());
    assert_eq!(fetcher.counters().parts_rejected, 0);
    fetcher.process_message(Time::ZERO, NodeId(1), stray);
    assert_eq!(fetcher.counters().parts_rejected, 1);
    assert_eq!(fetcher.counters().peers_blamed, 1);
}

/// The network may bring an answer twice, or after the peer was given up.
#[test]
fn an_answer_that_comes_twice_or_late_is_nobodys_fault() {
    let (keys, membership) = byzantine();
    let state = State::plain(8, 3000, 0, &keys, &membership);
    let mut run = Run::new(&membership).start(5);
    // Longer than a first request may take.
    run.delay = Duration::from_millis(700);
    run.go(5000, |_, message| {
        let answers = state.answer(message);
        [answers.clone(), answers].concat()
    });
    run.assert_fetched(&state);
    assert_eq!(run.counters().parts_rejected, 0);
}

#[test]
fn nothing_is_asked_for_while_the_store_has_enough_to_do() {
    let (keys, membership) = byzantine();
    let parts: Vec<Bytes> = (0..1000).map(|i| noise(i, 60_000)).collect();
    let state = State::new(8, &parts, &keys, &membership);
    let mut run = Run::new(&membership).start(5);
    run.store_delay = Duration::from_secs(3);
    // The bound itself is checked after each step.
    run.go(9000, |_, message| state.answer(message));
    run.assert_fetched(&state);
    assert_eq!(run.counters().peers_blamed, 0);
}

#[test]
fn what_is_in_memory_does_not_grow_with_the_state() {
    let (keys, membership) = cluster(FaultModel::Crash);
    let part = |i: u64| Bytes::copy_from_slice(&i.to_le_bytes());
    let parts: Vec<Bytes> = (0..400_000).map(part).collect();
    let state = State::new(8, &parts, &keys, &membership);
    let mut run = Run::new(&membership).start(5);
    run.go(50_000, |_, message| state.answer(message));
    run.assert_fetched(&state);
    let most = 16_384 + 256 * 128;
    assert!(
        (16_384..most).contains(&run.references_max),
        "{}",
        run.references_max
    );
}

#[test]
fn no_more_is_asked_for_in_a_second_than_the_bandwidth_allows() {
    let (keys, membership) = byzantine();
    let parts: Vec<Bytes> = (0..1000).map(|i| noise(i, 20_000)).collect();
    let state = State::new(8, &parts, &keys, &membership);
    let rate = 4 << 20;
    let mut run = Run::with_bandwidth(&membership, rate).start(5);
    run.go(9000, |_, message| state.answer(message));
    run.assert_fetched(&state);
    let took = run.now.since(Time::ZERO).as_secs_f64();
    let least = (run.received as f64 - 2e6) / rate as f64;
    assert!((least..2.0 * least).contains(&took), "{took} s, {least} s");
    assert_eq!(run.counters().peers_blamed, 0);
}

#[test]
fn an_answer_to_the_question_of_an_earlier_plan_changes_nothing() {
    let (keys, membership) = byzantine();
    let (old, new) = (
        State::plain(8, 100, 100, &keys, &membership),
        State::plain(16, 100, 100, &keys, &membership),
    );
    let mut run = Run::new(&membership).start(5);
    run.fetcher.process_message(run.now, NodeId(1), old.offer());
    run.fetcher.process_message(run.now, NodeId(2), new.offer());
    // "All is here", about the old one: were it believed, the new one would lack everything.
    let pages = old.descriptor.pages.iter();
    let pages = pages.map(|page| old.blobs.get(&page.digest).cloned());
    let found = LookedUp {
        ticket: 0,
        pages: pages.collect(),
        missing: Vec::new(),
    };
    run.later(Duration::ZERO, Event::LookedUp(found));
    run.go(500, |_, message| new.answer(message));
    run.assert_fetched(&new);
}
