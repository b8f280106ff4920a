//! A fetcher among peers that are honest, slow, silent or liars.

use super::*;
use atlas_common::{AgreedTime, Digest, Epoch};
use atlas_core::CheckpointId;
use bytes::Bytes;

type Message = LogTransferMessage<u64>;

fn batch(seq: u64) -> Batch {
    let bundle = Bytes::from(seq.to_le_bytes().to_vec());
    Batch::new(AgreedTime::from_unix_millis(seq), &[bundle])
}

fn certificate(seq: u64) -> CheckpointCertificate {
    CheckpointCertificate::unsigned(CheckpointId {
        epoch: Epoch(0),
        seq: SeqNo(seq),
        state: Digest::of(&seq.to_le_bytes()),
    })
}

/// A peer that keeps some decisions.
struct Server {
    store: DecisionStore<u64>,
    decided: SeqNo,
    checkpoint: Option<CheckpointCertificate>,
}

impl Server {
    fn new(oldest: u64, decided: u64) -> Self {
        let mut store = DecisionStore::new(usize::MAX);
        for seq in oldest..=decided {
            store.push(SeqNo(seq), batch(seq), seq);
        }
        let checkpoint = (oldest > 1).then(|| certificate(oldest - 1));
        let decided = SeqNo(decided);
        Self {
            store,
            decided,
            checkpoint,
        }
    }

    fn answer(&self, now: Time, message: &Message) -> Option<Message> {
        let LogTransferMessage::Request { from, to } = message else {
            return None;
        };
        // Each answer comes from a server of its own, at rest: budgets have a test of their own.
        let mut server = LogTransfer::new(vec![], &Limits::default());
        let (store, checkpoint) = (&self.store, self.checkpoint.as_ref());
        server.answer(
            now,
            NodeId(0),
            (*from, *to),
            store,
            self.decided,
            checkpoint,
        )
    }
}

/// Runs a fetcher against what `answer` gives for each request, at 10 ms a round trip, for at most
/// `rounds` of them. Gives what was delivered, and the state that was asked for.
struct Run {
    fetcher: LogTransfer<u64>,
    now: Time,
    decided: u64,
    need_state: Option<CheckpointCertificate>,
    requests: Vec<NodeId>,
}

impl Run {
    fn new(peers: u32, at_least: u64) -> Self {
        let peers = (0..peers).map(NodeId).collect();
        let mut fetcher = LogTransfer::new(peers, &Limits::default());
        let now = Time::from_millis(1);
        fetcher.want(now, SeqNo::ZERO, SeqNo(at_least));
        let (need_state, requests) = (None, Vec::new());
        Self {
            fetcher,
            now,
            decided: 0,
            need_state,
            requests,
        }
    }

    fn go(&mut self, rounds: usize, mut answer: impl FnMut(NodeId, &Message) -> Option<Message>) {
        for _ in 0..rounds {
            if !self.fetcher.is_active() {
                return;
            }
            let effects = self.fetcher.drain();
            if effects.is_empty() {
                let deadline = self
                    .fetcher
                    .deadline()
                    .expect("an active fetcher waits for something");
                assert!(deadline > self.now, "a deadline that is over");
                self.now = deadline;
                self.fetcher.on_deadline(self.now);
                continue;
            }
            self.now = self.now.after(Duration::from_millis(10));
            for effect in effects {
                match effect {
                    LogTransferEffect::Send { to, message } => {
                        self.requests.push(to);
                        if let Some(answer) = answer(to, &message) {
                            self.fetcher.on_message(self.now, to, answer);
                        }
                    }
                    LogTransferEffect::Deliver { first, decisions } => {
                        assert_eq!(first.0, self.decided + 1, "delivered out of order");
                        for (batch, proof) in decisions {
                            self.decided += 1;
                            assert_eq!(proof, self.decided);
                            assert_eq!(batch.digest(), super::tests::batch(proof).digest());
                        }
                        self.fetcher.on_progress(self.now, SeqNo(self.decided));
                    }
                    LogTransferEffect::NeedState { certificate } => {
                        self.need_state = Some(certificate);
                        return;
                    }
                }
            }
        }
    }
}

#[test]
fn missed_decisions_come_in_order_from_several_peers() {
    let server = Server::new(1, 3000);
    let mut run = Run::new(3, 2500);
    let now = run.now;
    run.go(100, |_, message| server.answer(now, message));
    assert_eq!(run.decided, 3000, "what was decided meanwhile comes too");
    for peer in 0..3 {
        assert!(
            run.requests.contains(&NodeId(peer)),
            "peer {peer} was never asked"
        );
    }
    assert!(!run.fetcher.is_active() && run.fetcher.deadline().is_none());
}

#[test]
fn row_21_a_silent_peer_is_left_alone_and_others_asked() {
    let server = Server::new(1, 2000);
    let mut run = Run::new(3, 2000);
    let now = run.now;
    run.go(200, |peer, message| {
        (peer != NodeId(1))
            .then(|| server.answer(now, message))
            .flatten()
    });
    assert_eq!(run.decided, 2000);
    let silent = run
        .requests
        .iter()
        .filter(|peer| **peer == NodeId(1))
        .count();
    assert!((1..4).contains(&silent), "asked {silent} times");
}

#[test]
fn a_slow_link_is_no_obstacle() {
    // The only peer answers after three seconds, each time.
    let server = Server::new(1, 100);
    let mut fetcher = LogTransfer::new(vec![NodeId(0)], &Limits::default());
    let mut now = Time::from_millis(1);
    fetcher.want(now, SeqNo::ZERO, SeqNo(100));
    let mut answers: BTreeMap<Time, Message> = BTreeMap::new();
    for _ in 0..50 {
        for effect in fetcher.drain() {
            match effect {
                LogTransferEffect::Send { message, .. } => {
                    let arrives = now.after(Duration::from_secs(3));
                    answers.insert(arrives, server.answer(now, &message).unwrap());
                }
                LogTransferEffect::Deliver { decisions, .. } => {
                    fetcher.on_progress(now, SeqNo(decisions.len() as u64));
                }
                LogTransferEffect::NeedState { .. } => panic!("no state is needed"),
            }
        }
        let Some(deadline) = fetcher.deadline() else {
            break;
        };
        let arrival = answers.keys().next().copied().unwrap_or(Time::NEVER);
        now = deadline.min(arrival);
        match answers.remove(&now) {
            Some(message) => fetcher.on_message(now, NodeId(0), message),
            None => fetcher.on_deadline(now),
        }
    }
    assert!(!fetcher.is_active());
}

#[test]
fn a_replica_a_few_behind_never_fetches_a_state() {
    // Two peers have cut their logs, one has not; the two are most of the three, but the third
    // has what is wanted and is asked first.
    let (whole, cut) = (Server::new(1, 50), Server::new(40, 50));
    let mut run = Run::new(4, 50);
    let now = run.now;
    run.go(100, |peer, message| {
        let server = if peer.0 < 2 { &whole } else { &cut };
        server.answer(now, message)
    });
    assert_eq!((run.decided, run.need_state), (50, None));
}

#[test]
fn a_state_is_needed_when_most_peers_have_cut_their_logs() {
    let servers = [
        Server::new(40, 50),
        Server::new(30, 50),
        Server::new(60, 70),
    ];
    let mut run = Run::new(3, 50);
    let now = run.now;
    run.go(100, |peer, message| {
        servers[peer.index()].answer(now, message)
    });
    assert_eq!(run.decided, 0);
    assert!(run.need_state.unwrap().id.seq >= SeqNo(29));
    // The state has come: the rest is fetched from the log.
    let mut run = Run {
        need_state: None,
        decided: 59,
        ..run
    };
    run.fetcher.on_progress(run.now, SeqNo(59));
    run.fetcher.want(run.now, SeqNo(59), SeqNo(70));
    run.go(100, |peer, message| {
        servers[peer.index()].answer(now, message)
    });
    assert_eq!((run.decided, run.need_state), (70, None));
}

#[test]
fn one_liar_cannot_make_a_replica_fetch_a_state() {
    let server = Server::new(1, 300);
    let mut run = Run::new(3, 300);
    let now = run.now;
    run.go(100, |peer, message| {
        if peer == NodeId(0) {
            let checkpoint = Some(certificate(400));
            return Some(LogTransferMessage::Unavailable {
                oldest: Some(SeqNo(401)),
                decided: SeqNo(500),
                checkpoint,
            });
        }
        server.answer(now, message)
    });
    assert_eq!((run.decided, run.need_state), (300, None));
}

#[test]
fn row_21_an_inflated_height_is_forgotten_when_nothing_follows() {
    let server = Server::new(1, 100);
    let mut run = Run::new(3, 100);
    let now = run.now;
    run.go(300, |peer, message| {
        let answer = server.answer(now, message);
        match (peer, answer) {
            (
                NodeId(0),
                Some(LogTransferMessage::Decisions {
                    first, decisions, ..
                }),
            ) => {
                let decided = SeqNo(u64::MAX);
                Some(LogTransferMessage::Decisions {
                    first,
                    decisions,
                    decided,
                })
            }
            (NodeId(0), Some(LogTransferMessage::Unavailable { .. })) => {
                Some(LogTransferMessage::Unavailable {
                    oldest: Some(SeqNo(1)),
                    decided: SeqNo(u64::MAX),
                    checkpoint: None,
                })
            }
            (_, answer) => answer,
        }
    });
    assert_eq!(run.decided, 100);
    assert!(
        !run.fetcher.is_active(),
        "still wants {:?}",
        run.fetcher.target()
    );
}

#[test]
fn what_peers_push_is_bounded() {
    let limits = Limits {
        frame_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 18,
        ..Limits::default()
    };
    let mut fetcher: LogTransfer<u64> = LogTransfer::new(vec![NodeId(0)], &limits);
    fetcher.want(Time::ZERO, SeqNo::ZERO, SeqNo(1 << 40));
    for i in 0..200 {
        let first = SeqNo(2 + i * 7);
        let big = Batch::new(AgreedTime::default(), &[Bytes::from(vec![1; 200_000])]);
        let (decisions, decided) = (vec![(big, 1)], SeqNo(1 << 40));
        let message = LogTransferMessage::Decisions {
            first,
            decisions,
            decided,
        };
        fetcher.on_message(Time::from_millis(i), NodeId(0), message);
    }
    assert!(fetcher.buffered_bytes <= BUFFERED_RESPONSES_MAX * fetcher.response_bytes_max);
    let far = LogTransferMessage::Decisions {
        first: SeqNo(1 << 39),
        decisions: vec![(Batch::null(), 1)],
        decided: SeqNo(1 << 40),
    };
    let before = fetcher.buffer.len();
    fetcher.on_message(Time::from_millis(300), NodeId(0), far);
    assert_eq!(fetcher.buffer.len(), before);
}

#[test]
fn what_was_delivered_and_came_to_nothing_is_fetched_again() {
    let server = Server::new(1, 10);
    let mut run = Run::new(1, 10);
    let request = run.fetcher.drain().remove(0);
    let LogTransferEffect::Send { message, .. } = request else {
        panic!("{request:?}")
    };
    let answer = server.answer(run.now, &message).unwrap();
    run.fetcher.on_message(run.now, NodeId(0), answer);
    assert!(matches!(
        run.fetcher.drain()[..],
        [LogTransferEffect::Deliver { .. }]
    ));
    // The caller does nothing with it.
    let now = run.now;
    run.go(20, |_, message| server.answer(now, message));
    assert_eq!(run.decided, 10);
}

#[test]
fn answers_fit_a_frame_and_a_peers_share() {
    let mut store = DecisionStore::new(usize::MAX);
    for seq in 1..=300 {
        let big = Batch::new(AgreedTime::default(), &[Bytes::from(vec![1; 1 << 20])]);
        store.push(SeqNo(seq), big, ());
    }
    let limits = Limits::default();
    let mut server = LogTransfer::new(vec![], &limits);
    let mut answered = 0;
    let wanted = (SeqNo(1), SeqNo(u64::MAX));
    let now = Time::from_millis(1);
    while let Some(answer) = server.answer(now, NodeId(1), wanted, &store, SeqNo(300), None) {
        let encoded = atlas_common::wire::encode(&answer).unwrap();
        assert!(encoded.len() <= limits.frame_bytes_max);
        answered += 1;
        assert!(answered < 100, "no end to it");
    }
    assert!(answered >= 4);
    // Another peer's share is its own, and time brings more.
    let other = server.answer(now, NodeId(2), wanted, &store, SeqNo(300), None);
    assert!(matches!(other, Some(LogTransferMessage::Decisions { .. })));
    let later = now.after(Duration::from_secs(1));
    assert!(
        server
            .answer(later, NodeId(1), wanted, &store, SeqNo(300), None)
            .is_some()
    );
    // Nonsense gets no answer, and what is not kept a word that says so.
    let none = (SeqNo(0), SeqNo(5));
    assert!(
        server
            .answer(later, NodeId(3), none, &store, SeqNo(300), None)
            .is_none()
    );
    let beyond = server.answer(
        later,
        NodeId(3),
        (SeqNo(301), SeqNo(305)),
        &store,
        SeqNo(300),
        None,
    );
    assert!(matches!(
        beyond,
        Some(LogTransferMessage::Unavailable {
            oldest: Some(SeqNo(1)),
            ..
        })
    ));
}

#[test]
fn a_blamed_peer_is_left_alone_for_a_while() {
    let server = Server::new(1, 2000);
    let mut run = Run::new(3, 0);
    run.fetcher.blame(run.now, NodeId(2));
    run.fetcher.want(run.now, SeqNo::ZERO, SeqNo(2000));
    let now = run.now;
    run.go(200, |_, message| server.answer(now, message));
    assert_eq!(run.decided, 2000);
    assert!(!run.requests.contains(&NodeId(2)));
}
