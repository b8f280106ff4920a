//! Byzantine clients. They hold a valid key and keep to no rule.
//!
//! Their operations go to a key of their own, so that they do not disturb the histories of the
//! others, but through the same sessions, pools and batches.

use super::Known;
use crate::app;
use crate::checkers::execution::Label;
use crate::checkers::history::Call;
use crate::faults::{FaultCounts, FaultKind};
use crate::plan::BadClient;
use atlas_common::crypto::Signer;
use atlas_common::rng::SeededRng;
use atlas_common::{ClientId, NodeId, OpNumber, ReplicaSet, SessionId, wire};
use atlas_smr_core::bundle::{RequestBundle, UnsignedBundle};
use atlas_smr_core::client_message::{ClientMessage, LeaderHint, Reply, ReplyMessage};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A Byzantine client.
#[derive(Debug)]
pub struct BadActor {
    number: usize,
    kind: BadClient,
    known: Known,
    signer: Arc<dyn Signer>,
    rng: SeededRng,
    instance: u64,
    session: Option<SessionId>,
    next: u64,
    /// What it has sent, to send again.
    sent: Vec<Bytes>,
    variant: u64,
}

/// How often it does something.
pub const PAUSE: Duration = Duration::from_millis(150);

/// A key that no correct client uses.
const KEY: u64 = 1 << 40;

impl BadActor {
    /// Client number `number`.
    #[must_use]
    pub fn new(
        number: usize,
        kind: BadClient,
        known: Known,
        signer: Arc<dyn Signer>,
        rng: SeededRng,
    ) -> Self {
        Self {
            number,
            kind,
            known,
            signer,
            rng,
            instance: number as u64,
            session: None,
            next: 1,
            sent: Vec::new(),
            variant: 0,
        }
    }

    /// Who it claims to be just now.
    #[must_use]
    pub fn id(&self) -> ClientId {
        ClientId {
            key: self.signer.public_key(),
            instance: self.instance,
        }
    }

    /// It believes any replica.
    pub fn on_reply(&mut self, reply: &ReplyMessage) {
        if let Reply::Opened(session) = &reply.reply {
            self.session.get_or_insert(*session);
        }
    }

    /// It does something: gives what it sends to each replica.
    pub fn act(&mut self, counts: &mut FaultCounts) -> Vec<(NodeId, ClientMessage)> {
        let Some(session) = self.session else {
            let open = self.open();
            return self.to_all(&open);
        };
        match self.kind {
            BadClient::Equivocates => self.equivocate(session, counts),
            BadClient::Disorderly => self.disorder(session, counts),
            BadClient::Garbage => self.garbage(counts),
        }
    }

    fn replicas(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.known.quorums.n() as u32).map(NodeId)
    }

    /// Whom it asks to answer: now all, now a few, now nobody that there is.
    fn some_replicas(&mut self) -> ReplicaSet {
        (0..self.rng.below(4))
            .map(|_| NodeId(self.rng.below(130) as u32))
            .collect()
    }

    fn to_all(&self, bundle: &Bytes) -> Vec<(NodeId, ClientMessage)> {
        let message = ClientMessage::Bundle(bundle.clone());
        self.replicas().map(|to| (to, message.clone())).collect()
    }

    fn open(&self) -> Bytes {
        RequestBundle::open(self.id(), &self.known.genesis, &*self.signer)
            .raw()
            .clone()
    }

    /// A bundle of `count` operations; the same numbers with another payload each time.
    fn bundle(&mut self, session: SessionId, first: u64, count: u64) -> Bytes {
        self.variant += 1;
        let operation = |number: u64| {
            // The label is the place in the session: two payloads of one number have one label, and
            // one session's order says nothing of another's.
            let label = Label {
                client: (self.number as u64) << 32 | session.0,
                operation: number,
            };
            app::encode(label, KEY + self.number as u64, Call::Put(self.variant))
        };
        let operations: Vec<Bytes> = (0..count)
            .map(|i| operation(first.saturating_add(i)))
            .collect();
        let says = UnsignedBundle {
            client: self.id(),
            session,
            first: OpNumber(first),
            acknowledged: OpNumber(first.saturating_sub(1 + self.rng.below(3))),
            repliers: self.some_replicas(),
            operations: &operations,
        };
        let bundle = RequestBundle::new(&says, &self.known.genesis, &*self.signer);
        let raw = bundle.raw().clone();
        if self.sent.len() < 100 {
            self.sent.push(raw.clone());
        }
        raw
    }

    /// To each replica another payload under the same number (row 29).
    fn equivocate(
        &mut self,
        session: SessionId,
        counts: &mut FaultCounts,
    ) -> Vec<(NodeId, ClientMessage)> {
        let first = self.next;
        self.next += 1;
        counts.count(FaultKind::ClientEquivocation);
        let replicas: Vec<_> = self.replicas().collect();
        let send = |to| (to, ClientMessage::Bundle(self.bundle(session, first, 1)));
        replicas.into_iter().map(send).collect()
    }

    /// Gaps, jumps, repeated numbers, others' sessions, many sessions (row 30).
    fn disorder(
        &mut self,
        session: SessionId,
        counts: &mut FaultCounts,
    ) -> Vec<(NodeId, ClientMessage)> {
        counts.count(FaultKind::ClientDisorder);
        let raw = match self.rng.below(7) {
            0 => self.bundle(session, self.next + 5, 2),
            1 => self.bundle(session, 1 << 60, 1),
            2 => self.bundle(session, 1, 3),
            3 => {
                let other = SessionId(self.rng.between(1, 20));
                self.bundle(other, 1, 1)
            }
            4 => {
                // Another session, by another instance; this one is forgotten.
                self.instance = self.number as u64 + 1000 * (1 + self.rng.below(200));
                self.session = None;
                self.next = 1;
                self.open()
            }
            5 => self.rng.pick(&self.sent).cloned().unwrap_or_default(),
            _ => {
                self.next += 2;
                self.bundle(session, self.next - 2, 2)
            }
        };
        self.to_all(&raw)
    }

    /// Noise, a reply, another client's name, a broken signature (row 31).
    fn garbage(&mut self, counts: &mut FaultCounts) -> Vec<(NodeId, ClientMessage)> {
        counts.count(FaultKind::ClientGarbage);
        let raw = match self.rng.below(5) {
            0 => (0..self.rng.below(300))
                .map(|_| self.rng.next_u64() as u8)
                .collect(),
            1 => {
                let mut bomb = vec![253];
                bomb.extend_from_slice(&(1u64 << 62).to_le_bytes());
                bomb.into()
            }
            2 => wire::encode(&ReplyMessage {
                hint: LeaderHint::default(),
                reply: Reply::Opened(SessionId(1)),
            })
            .map_or_else(|_| Bytes::new(), Bytes::from),
            3 => {
                let stranger = ClientId {
                    instance: 0,
                    ..self.id()
                };
                RequestBundle::open(stranger, &self.known.genesis, &*self.signer)
                    .raw()
                    .clone()
            }
            _ => {
                let session = self.session.unwrap_or_default();
                let mut raw = self.bundle(session, self.next, 1).to_vec();
                if let Some(byte) = raw.last_mut() {
                    *byte ^= 1;
                }
                raw.into()
            }
        };
        self.to_all(&raw)
    }
}
