//! A fetcher among peers that are honest, corrupt, slow, or have moved on.

use super::*;
use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::quorum::FaultModel;
use atlas_common::{Digest, Epoch};
use atlas_core::{CheckpointId, Member, Role};
use std::collections::BTreeMap;
use std::time::Duration;

const CHUNK: u32 = 1024;

fn cluster(model: FaultModel) -> (Vec<KeyPair>, Arc<Membership>) {
    let keys: Vec<_> = (0..4).map(|i| KeyPair::from_seed(&[i; 32])).collect();
    let member = |(i, key): (usize, &KeyPair)| Member {
        id: NodeId(i as u32),
        key: key.public_key(),
        role: Role::Voter,
    };
    let members = keys.iter().enumerate().map(member).collect();
    let genesis = Digest::of(b"genesis");
    let membership = Membership::new(genesis, Epoch(0), model, members, Arc::new(Ed25519));
    (keys, Arc::new(membership.unwrap()))
}

fn limits() -> Limits {
    Limits {
        chunk_bytes: CHUNK as usize,
        ..Limits::default()
    }
}

/// A checkpoint of `count` chunks, of which those below `changed` tell its sequence number.
#[derive(Clone)]
struct State {
    certificate: CheckpointCertificate,
    manifest: Manifest,
    chunks: Vec<Bytes>,
}

impl State {
    fn new(seq: u64, count: u32, changed: u32, keys: &[KeyPair], membership: &Membership) -> Self {
        let chunk = |i: u32| {
            let mark = if i < changed { seq as u8 } else { 0 };
            let mut bytes = vec![mark; CHUNK as usize];
            bytes[..4].copy_from_slice(&i.to_le_bytes());
            Bytes::from(bytes)
        };
        let chunks: Vec<Bytes> = (0..count).map(chunk).collect();
        let manifest = Manifest::of(CHUNK, &chunks);
        let id = CheckpointId {
            epoch: Epoch(0),
            seq: SeqNo(seq),
            state: manifest.root(),
        };
        let vote = |i: usize| (NodeId(i as u32), id.sign(membership.genesis(), &keys[i]));
        let votes = if membership.quorums().signed() {
            (0..3).map(vote).collect()
        } else {
            Vec::new()
        };
        let certificate = CheckpointCertificate { id, votes };
        Self {
            certificate,
            manifest,
            chunks,
        }
    }

    fn offer(&self) -> StateTransferMessage {
        StateTransferMessage::Offer {
            certificate: self.certificate.clone(),
            frontier: Bytes::from_static(b"term 7"),
            manifest: self.manifest.clone(),
        }
    }

    fn answer(&self, message: &StateTransferMessage) -> Option<StateTransferMessage> {
        let own = self.certificate.id.seq;
        Some(match *message {
            StateTransferMessage::RequestLatestState { above } if own > above => self.offer(),
            StateTransferMessage::RequestChunk { seq, index } if seq == own => {
                let bytes = self.chunks[index as usize].clone();
                StateTransferMessage::Chunk { seq, index, bytes }
            }
            StateTransferMessage::RequestLatestState { above: seq }
            | StateTransferMessage::RequestChunk { seq, .. } => StateTransferMessage::Gone { seq },
            _ => return None,
        })
    }
}

struct Run {
    fetcher: MonolithicStateTransfer,
    now: Time,
    fetched: Option<FetchedState>,
    asked: BTreeMap<NodeId, usize>,
}

impl Run {
    fn new(membership: &Arc<Membership>, above: u64) -> Self {
        let peers = (1..4).map(NodeId).collect();
        let mut fetcher = MonolithicStateTransfer::new(Arc::clone(membership), peers, &limits());
        let now = Time::from_millis(1);
        fetcher.request_latest_state(now, SeqNo(above));
        let (fetched, asked) = (None, BTreeMap::new());
        Self {
            fetcher,
            now,
            fetched,
            asked,
        }
    }

    /// Lets peers answer, at a millisecond each, until the state is there or `steps` are over.
    fn go(
        &mut self,
        steps: usize,
        mut answer: impl FnMut(NodeId, &StateTransferMessage) -> Option<StateTransferMessage>,
    ) {
        for _ in 0..steps {
            if !self.fetcher.is_active() && self.fetched.is_some() {
                return;
            }
            match self.fetcher.poll() {
                Some(StateTransferEffect::Send { to, message }) => {
                    let (_, chunks) = self.fetcher.progress();
                    let in_flight: usize = self.fetcher.fetch.in_flight();
                    assert!(in_flight <= 16 && (chunks == 0 || in_flight <= chunks));
                    *self.asked.entry(to).or_default() += 1;
                    self.now = self.now.after(Duration::from_millis(1));
                    if let Some(answer) = answer(to, &message) {
                        self.fetcher.process_message(self.now, to, answer);
                    }
                }
                Some(StateTransferEffect::Fetched(state)) => self.fetched = Some(state),
                Some(other) => panic!("{other:?}"),
                None => {
                    let deadline = self.fetcher.deadline().expect("it waits for something");
                    assert!(deadline > self.now, "a deadline that is over");
                    self.now = deadline;
                    self.fetcher.handle_timeout(self.now);
                }
            }
        }
    }

    fn assert_fetched(&self, state: &State) {
        let fetched = self.fetched.as_ref().expect("nothing was fetched");
        assert_eq!(fetched.certificate.id, state.certificate.id);
        assert_eq!(fetched.chunks, state.chunks);
        assert_eq!(fetched.frontier, Bytes::from_static(b"term 7"));
        assert_eq!(self.fetcher.deadline(), None);
    }
}

#[test]
fn a_state_comes_from_several_peers_at_once() {
    for model in [FaultModel::Byzantine, FaultModel::Crash] {
        let (keys, membership) = cluster(model);
        let state = State::new(8, 100, 100, &keys, &membership);
        let mut run = Run::new(&membership, 5);
        run.go(1000, |_, message| state.answer(message));
        run.assert_fetched(&state);
        assert_eq!(run.fetcher.counters().chunks_fetched, 100);
        for peer in 1..4 {
            assert!(run.asked[&NodeId(peer)] > 10, "{:?}", run.asked);
        }
    }
}

#[test]
fn an_empty_state_is_a_state() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let state = State::new(8, 0, 0, &keys, &membership);
    let mut run = Run::new(&membership, 0);
    run.go(100, |_, message| state.answer(message));
    run.assert_fetched(&state);
}

#[test]
fn row_21_corrupt_oversized_and_misplaced_chunks_are_rejected_and_their_sender_replaced() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let state = State::new(8, 40, 40, &keys, &membership);
    let corrupt = |index: usize, kind: u32| match kind {
        0 => Bytes::from(vec![9; CHUNK as usize]),
        1 => Bytes::from(vec![9; 5 * CHUNK as usize]),
        _ => state.chunks[(index + 1) % 40].clone(), // row 22: valid elsewhere
    };
    for kind in 0..3 {
        let mut run = Run::new(&membership, 5);
        run.go(2000, |peer, message| match (peer, message) {
            (NodeId(2), StateTransferMessage::RequestChunk { seq, index }) => {
                Some(StateTransferMessage::Chunk {
                    seq: *seq,
                    index: *index,
                    bytes: corrupt(*index as usize, kind),
                })
            }
            _ => state.answer(message),
        });
        run.assert_fetched(&state);
        let counters = run.fetcher.counters();
        assert_eq!(
            (counters.chunks_rejected, counters.peers_blamed),
            (1, 1),
            "{kind}"
        );
    }
}

#[test]
fn row_21_a_peer_that_stalls_is_replaced() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let state = State::new(8, 40, 40, &keys, &membership);
    let mut run = Run::new(&membership, 5);
    run.go(2000, |peer, message| {
        let chunk = matches!(message, StateTransferMessage::RequestChunk { .. });
        if peer == NodeId(1) && chunk {
            None
        } else {
            state.answer(message)
        }
    });
    run.assert_fetched(&state);
    assert!(run.now < Time::from_millis(20_000), "took {:?}", run.now);
}

#[test]
fn offers_that_are_not_certified_are_refused() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let state = State::new(8, 10, 10, &keys, &membership);
    let mut few_votes = state.clone();
    few_votes.certificate.votes.pop();
    let mut inflated = state.clone();
    inflated.certificate.id.seq = SeqNo(1 << 60);
    let mut other_state = state.clone();
    other_state.manifest = State::new(9, 10, 10, &keys, &membership).manifest;
    let mut huge = state.clone();
    huge.manifest.total_bytes = 1 << 62;
    let bad = [few_votes, inflated, other_state, huge];
    for (i, bad) in bad.iter().enumerate() {
        let mut run = Run::new(&membership, 5);
        run.go(2000, |peer, message| {
            let server = if peer == NodeId(1) { bad } else { &state };
            server.answer(message)
        });
        run.assert_fetched(&state);
        assert_eq!(
            run.fetcher.counters().offers_rejected,
            u64::from(i < 4),
            "{i}"
        );
    }
}

#[test]
fn what_a_newer_checkpoint_has_in_common_is_not_fetched_again() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let old = State::new(8, 60, 60, &keys, &membership);
    // The newer one differs in its first ten chunks.
    let mut new = State::new(16, 60, 10, &keys, &membership);
    for i in 10..60 {
        new.chunks[i] = old.chunks[i].clone();
    }
    new.manifest = Manifest::of(CHUNK, &new.chunks);
    new.certificate.id.state = new.manifest.root();
    let id = new.certificate.id;
    let vote = |i: usize| (NodeId(i as u32), id.sign(membership.genesis(), &keys[i]));
    new.certificate.votes = (0..3).map(vote).collect();
    let mut run = Run::new(&membership, 5);
    let mut served = 0;
    run.go(3000, |_, message| {
        served += usize::from(matches!(message, StateTransferMessage::RequestChunk { .. }));
        if served <= 30 {
            old.answer(message)
        } else {
            new.answer(message)
        }
    });
    run.assert_fetched(&new);
    let counters = run.fetcher.counters();
    assert_eq!(counters.restarts, 1);
    assert!(counters.chunks_reused >= 15, "{counters:?}");
    assert!(
        counters.chunks_fetched + counters.chunks_reused <= 90,
        "{counters:?}"
    );
}

#[test]
fn it_waits_for_a_checkpoint_and_ends_when_decisions_catch_up() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let state = State::new(8, 10, 10, &keys, &membership);
    let mut run = Run::new(&membership, 8);
    run.go(100, |_, message| state.answer(message));
    assert!(run.fetched.is_none() && run.fetcher.is_active());
    let newer = State::new(16, 10, 10, &keys, &membership);
    run.fetcher
        .process_message(run.now, NodeId(1), newer.offer());
    assert_eq!(run.fetcher.fetching().unwrap().id.seq, SeqNo(16));
    run.fetcher.on_progress(SeqNo(15));
    assert!(run.fetcher.is_active());
    run.fetcher.on_progress(SeqNo(16));
    assert!(!run.fetcher.is_active());
    assert_eq!(run.fetcher.deadline(), None);
}

#[test]
fn a_newer_offer_wins_while_nothing_is_here_yet() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let (old, new) = (
        State::new(8, 10, 10, &keys, &membership),
        State::new(16, 10, 10, &keys, &membership),
    );
    let mut run = Run::new(&membership, 5);
    run.fetcher.process_message(run.now, NodeId(1), old.offer());
    run.fetcher.process_message(run.now, NodeId(2), new.offer());
    run.go(500, |peer, message| {
        let server = if peer == NodeId(1) { &old } else { &new };
        server.answer(message)
    });
    run.assert_fetched(&new);
}

#[test]
fn strangers_and_the_unasked_are_not_listened_to() {
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let state = State::new(8, 10, 10, &keys, &membership);
    let mut fetcher =
        MonolithicStateTransfer::new(Arc::clone(&membership), vec![NodeId(1)], &limits());
    fetcher.process_message(Time::ZERO, NodeId(1), state.offer());
    assert!(!fetcher.is_active() && fetcher.poll().is_none());
    fetcher.request_latest_state(Time::ZERO, SeqNo(0));
    fetcher.process_message(Time::ZERO, NodeId(9), state.offer());
    assert_eq!(fetcher.fetching(), None);
    fetcher.process_message(Time::ZERO, NodeId(1), state.offer());
    let stray = StateTransferMessage::Chunk {
        seq: SeqNo(8),
        index: u32::MAX,
        bytes: Bytes::new(),
    };
    fetcher.process_message(Time::ZERO, NodeId(9), stray.clone());
    assert_eq!(fetcher.counters().chunks_rejected, 0);
    fetcher.process_message(Time::ZERO, NodeId(1), stray);
    assert_eq!(fetcher.counters().chunks_rejected, 1);
}

#[test]
fn what_a_peer_is_served_at_once_is_bounded() {
    let (_, membership) = cluster(FaultModel::Byzantine);
    let mut server = MonolithicStateTransfer::new(membership, vec![NodeId(1)], &limits());
    let mut now = Time::from_millis(1);
    let request = |index| StateTransferMessage::RequestChunk {
        seq: SeqNo(8),
        index,
    };
    for index in 0..100 {
        server.process_message(now, NodeId(1), request(index));
    }
    assert_eq!(
        std::iter::from_fn(|| server.poll()).count(),
        serve::OUTSTANDING_MAX
    );
    assert_eq!(server.counters().requests_dropped, 84);
    server.served(NodeId(1));
    server.process_message(now, NodeId(1), request(7));
    assert!(matches!(
        server.poll(),
        Some(StateTransferEffect::ReadChunk { index: 7, .. })
    ));
    // What the driver never answers does not count for ever.
    now = now.after(Duration::from_secs(11));
    let offer = StateTransferMessage::RequestLatestState { above: SeqNo(3) };
    server.process_message(now, NodeId(1), offer);
    assert!(matches!(
        server.poll(),
        Some(StateTransferEffect::ServeOffer {
            above: SeqNo(3),
            ..
        })
    ));
}
