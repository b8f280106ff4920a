//! A cluster in miniature: states, peers that answer as a test says, and the fetcher's own store.

use super::super::*;
use crate::transfer::state::download::IN_FLIGHT_MAX;
use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{Digest, Epoch};
use atlas_core::{CheckpointId, Member, Role};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const PART: usize = 1024;

pub(super) fn cluster(model: FaultModel) -> (Vec<KeyPair>, Arc<Membership>) {
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

pub(super) fn limits() -> Limits {
    Limits {
        chunk_bytes: 64 << 10,
        ..Limits::default()
    }
}

/// Incompressible, different for each number.
pub(super) fn noise(number: u64, bytes: usize) -> Bytes {
    let mut rng = SeededRng::new(number);
    (0..bytes).map(|_| rng.next_u64() as u8).collect()
}

/// A certified checkpoint, whole.
#[derive(Clone)]
pub(super) struct State {
    pub(super) certificate: CheckpointCertificate,
    pub(super) descriptor: StateDescriptor,
    pub(super) blobs: BTreeMap<Digest, Bytes>,
}

impl State {
    /// A state of these parts.
    pub(super) fn new(
        seq: u64,
        parts: &[Bytes],
        keys: &[KeyPair],
        membership: &Membership,
    ) -> Self {
        let references: Vec<PartRef> = parts.iter().map(|part| PartRef::of(part)).collect();
        let (descriptor, pages) = StateDescriptor::cut(&references).unwrap();
        Self::of(seq, descriptor, pages.iter().chain(parts), keys, membership)
    }

    pub(super) fn of<'a>(
        seq: u64,
        descriptor: StateDescriptor,
        blobs: impl Iterator<Item = &'a Bytes>,
        keys: &[KeyPair],
        membership: &Membership,
    ) -> Self {
        let id = CheckpointId {
            epoch: Epoch(0),
            seq: SeqNo(seq),
            state: descriptor.root(),
        };
        let vote = |i: usize| (NodeId(i as u32), id.sign(membership.genesis(), &keys[i]));
        let signed = membership.quorums().signed();
        let votes = (0..3).filter(|_| signed).map(vote).collect();
        Self {
            certificate: CheckpointCertificate { id, votes },
            descriptor,
            blobs: blobs.map(|blob| (Digest::of(blob), blob.clone())).collect(),
        }
    }

    /// One of `count` parts of a kibibyte, of which those below `changed` tell its number.
    pub(super) fn plain(
        seq: u64,
        count: u64,
        changed: u64,
        keys: &[KeyPair],
        membership: &Membership,
    ) -> Self {
        let number = |i: u64| if i < changed { i + (seq << 32) } else { i };
        let parts: Vec<Bytes> = (0..count).map(|i| noise(number(i), PART)).collect();
        Self::new(seq, &parts, keys, membership)
    }

    pub(super) fn offer(&self) -> StateTransferMessage {
        StateTransferMessage::Offer {
            certificate: self.certificate.clone(),
            frontier: Bytes::from_static(b"term 7"),
            descriptor: self.descriptor.clone(),
        }
    }

    /// What an honest peer says.
    pub(super) fn answer(&self, message: &StateTransferMessage) -> Vec<StateTransferMessage> {
        match message {
            StateTransferMessage::RequestLatestState { above } => {
                let newer = self.certificate.id.seq > *above;
                newer.then(|| self.offer()).into_iter().collect()
            }
            StateTransferMessage::RequestParts { digests } => {
                let bytes_max = answer_bytes_max(&limits());
                answer(digests, bytes_max, |digest| self.blobs.get(digest).cloned())
            }
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Debug)]
pub(super) enum Event {
    Arrives(NodeId, StateTransferMessage),
    LookedUp(LookedUp),
    Kept(u64),
    Time,
}

/// The fetcher, its store, and what is on its way to it.
pub(super) struct Run {
    pub(super) membership: Arc<Membership>,
    pub(super) fetcher: StateTransfer,
    pub(super) now: Time,
    pub(super) store: BTreeMap<Digest, Bytes>,
    /// What the store was told to keep.
    pub(super) target: Option<StateDescriptor>,
    pub(super) fetched: Option<FetchedState>,
    pub(super) unrepairable: Vec<Digest>,
    /// Messages to each peer.
    pub(super) asked: BTreeMap<NodeId, u64>,
    /// Bytes of blobs from all peers.
    pub(super) received: u64,
    /// How long a message takes there and back, and the store.
    pub(super) delay: Duration,
    pub(super) store_delay: Duration,
    queue: BTreeMap<(Time, u64), Event>,
    events: u64,
    unkept: u64,
    /// The most references that were in memory at once.
    pub(super) references_max: usize,
}

impl Run {
    pub(super) fn new(membership: &Arc<Membership>) -> Self {
        Self::with_bandwidth(membership, 0)
    }

    pub(super) fn with_bandwidth(membership: &Arc<Membership>, bytes_per_second: u64) -> Self {
        let fetcher = Self::fetcher(membership, bytes_per_second);
        Self {
            membership: Arc::clone(membership),
            fetcher,
            now: Time::from_millis(1),
            store: BTreeMap::new(),
            target: None,
            fetched: None,
            unrepairable: Vec::new(),
            asked: BTreeMap::new(),
            received: 0,
            delay: Duration::from_millis(2),
            store_delay: Duration::from_micros(100),
            queue: BTreeMap::new(),
            events: 0,
            unkept: 0,
            references_max: 0,
        }
    }

    fn fetcher(membership: &Arc<Membership>, bytes_per_second: u64) -> StateTransfer {
        let peers = (1..4).map(NodeId).collect();
        let key = MapKey::new(1);
        StateTransfer::new(
            Arc::clone(membership),
            peers,
            &limits(),
            bytes_per_second,
            key,
        )
    }

    pub(super) fn start(mut self, above: u64) -> Self {
        self.fetcher.request_latest_state(self.now, SeqNo(above));
        self
    }

    /// The fetcher's process ends and starts again; its store stays.
    pub(super) fn crash(&mut self, above: u64) {
        self.fetcher = Self::fetcher(&self.membership, 0);
        self.queue.clear();
        self.unkept = 0;
        self.fetcher.request_latest_state(self.now, SeqNo(above));
    }

    pub(super) fn later(&mut self, delay: Duration, event: Event) {
        self.events += 1;
        self.queue
            .insert((self.now.after(delay), self.events), event);
    }

    /// Lets peers answer until the state is there, or nothing more is repaired, or `steps` are over.
    pub(super) fn go(
        &mut self,
        steps: usize,
        mut answer: impl FnMut(NodeId, &StateTransferMessage) -> Vec<StateTransferMessage>,
    ) {
        for _ in 0..steps {
            while let Some(effect) = self.fetcher.poll() {
                self.carry_out(effect, &mut answer);
            }
            self.check_bounds();
            let idle = !self.fetcher.is_active() && !self.fetcher.is_repairing();
            if idle && self.queue.is_empty() {
                return;
            }
            self.next_event();
        }
    }

    fn check_bounds(&mut self) {
        let in_flight = self.fetcher.fetch.download.in_flight();
        assert!(in_flight < IN_FLIGHT_MAX + (1 << 20), "{in_flight}");
        assert!(self.unkept <= in_flight);
        let plan = self.fetcher.fetch.plan.as_ref();
        let references = plan.map_or(0, plan::Plan::references);
        self.references_max = self.references_max.max(references);
    }

    fn next_event(&mut self) {
        let deadline = self.fetcher.deadline();
        let first = self.queue.first_key_value().map(|((at, _), _)| *at);
        let event = match (first, deadline) {
            (Some(at), Some(deadline)) if deadline < at => {
                self.now = self.now.max(deadline);
                Event::Time
            }
            (None, Some(deadline)) => {
                self.now = self.now.max(deadline);
                Event::Time
            }
            (None, None) => panic!("it waits for nothing"),
            (Some(_), _) => {
                let ((at, _), event) = self.queue.pop_first().unwrap();
                self.now = self.now.max(at);
                event
            }
        };
        match event {
            Event::Arrives(from, message) => {
                if matches!(message, StateTransferMessage::Parts { .. }) {
                    self.received += message.bytes();
                }
                self.fetcher.process_message(self.now, from, message);
            }
            Event::LookedUp(found) => self.fetcher.looked_up(self.now, found),
            Event::Kept(bytes) => {
                self.unkept -= bytes;
                self.fetcher.kept(self.now, bytes);
            }
            Event::Time => self.fetcher.handle_timeout(self.now),
        }
    }

    fn carry_out(
        &mut self,
        effect: StateTransferEffect,
        answer: &mut impl FnMut(NodeId, &StateTransferMessage) -> Vec<StateTransferMessage>,
    ) {
        match effect {
            StateTransferEffect::Send { to, message } => {
                if let StateTransferMessage::RequestParts { digests } = &message {
                    assert!((1..=ANSWER_DIGESTS_MAX).contains(&digests.len()));
                }
                *self.asked.entry(to).or_default() += 1;
                for message in answer(to, &message) {
                    self.later(self.delay, Event::Arrives(to, message));
                }
            }
            StateTransferEffect::Lookup(question) => {
                let page = |digest: &Digest| self.store.get(digest).cloned();
                let missing = |digest: &&Digest| !self.store.contains_key(*digest);
                let found = LookedUp {
                    ticket: question.ticket,
                    pages: question.pages.iter().map(page).collect(),
                    missing: question.parts.iter().filter(missing).copied().collect(),
                };
                self.later(self.store_delay, Event::LookedUp(found));
            }
            StateTransferEffect::Keep { blobs } | StateTransferEffect::Repair { blobs } => {
                let bytes = blobs.iter().map(|blob| blob.bytes().len() as u64).sum();
                for blob in blobs {
                    let before = self.store.insert(blob.digest(), blob.into_bytes());
                    assert!(before.is_none(), "fetched what was here");
                }
                self.unkept += bytes;
                self.later(self.store_delay, Event::Kept(bytes));
            }
            StateTransferEffect::Begin(target) => self.target = Some(target),
            StateTransferEffect::End => self.target = None,
            StateTransferEffect::Fetched(state) => {
                assert_eq!(self.target.as_ref(), Some(&state.descriptor));
                self.fetched = Some(state);
            }
            StateTransferEffect::Unrepairable { digests } => self.unrepairable.extend(digests),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn counters(&self) -> StateTransferCounters {
        *self.fetcher.counters()
    }

    /// The state is in the store, byte for byte.
    pub(super) fn assert_fetched(&self, state: &State) {
        let fetched = self.fetched.as_ref().expect("nothing was fetched");
        assert_eq!(fetched.certificate.id, state.certificate.id);
        assert_eq!(fetched.descriptor, state.descriptor);
        assert_eq!(fetched.frontier, Bytes::from_static(b"term 7"));
        for (digest, blob) in &state.blobs {
            assert_eq!(self.store.get(digest), Some(blob));
        }
        assert_eq!(self.fetcher.deadline(), None);
    }
}
