//! Rabia in outline (SOSP'21): no leader, a slot that may stay empty, a decision whose batch is not
//! here yet.

use super::{Driver, batch, three};
use atlas_common::quorum::FaultModel;
use atlas_common::{Digest, NodeId, SeqNo};
use atlas_core::{
    Batch, Context, Effect, Input, Membership, OrderingProtocol, Origin, ProtocolStatus,
    RecoverError, Recovery, Reject,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Message {
    /// A batch for everybody's queue.
    Spread(Batch),
    /// What the slot's agreement came to: a batch by its digest, or nothing.
    Agreed { seq: SeqNo, digest: Option<Digest> },
}

#[derive(Debug)]
struct Rabia {
    /// Batches that wait, here in the order in which they came.
    queue: VecDeque<Batch>,
    agreed: BTreeMap<SeqNo, Option<Digest>>,
    decided: SeqNo,
}

impl Rabia {
    fn decide(&mut self, cx: &mut Context<'_, Self>) {
        while let Some(agreed) = self.agreed.get(&self.decided.next()).copied() {
            let batch = match agreed {
                None => Batch::null(),
                Some(digest) => match self.queue.iter().position(|b| b.digest() == digest) {
                    Some(at) => self.queue.remove(at).unwrap(),
                    None => return cx.fetch(digest), // decided 1 without the proposal in hand
                },
            };
            self.decided = self.decided.next();
            cx.decide(self.decided, batch, ());
        }
    }
}

impl OrderingProtocol for Rabia {
    const NAME: &'static str = "rabia-outline";
    const FAULT_MODEL: FaultModel = FaultModel::Crash;
    type Config = ();
    type Message = Message;
    type Record = ();
    type Proof = ();
    type Timer = ();

    fn recover(_: (), _: Arc<Membership>, _: Recovery<Self>) -> Result<Self, RecoverError> {
        Ok(Self {
            queue: VecDeque::new(),
            agreed: BTreeMap::new(),
            decided: SeqNo::ZERO,
        })
    }

    fn verify(_: &(), _: &Membership, _: NodeId, _: &Message) -> Result<(), Reject> {
        Ok(())
    }

    fn batches(message: &Message) -> Vec<&Batch> {
        match message {
            Message::Spread(batch) => vec![batch],
            Message::Agreed { .. } => Vec::new(),
        }
    }

    fn verify_decision(_: &(), _: &Membership, _: SeqNo, _: &Digest, _: &()) -> Result<(), Reject> {
        Ok(())
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<'_, Self>) {
        match input {
            Input::Start => {
                cx.leader(Default::default(), None); // and never one
                cx.want_batch();
            }
            Input::Propose(batch) => {
                self.queue.push_back(batch.clone());
                cx.broadcast(Message::Spread(batch));
                cx.want_batch();
            }
            Input::Message { message, .. } => match message.into_inner() {
                Message::Spread(batch) => self.queue.push_back(batch),
                Message::Agreed { seq, digest } => {
                    self.agreed.insert(seq, digest);
                }
            },
            Input::Body(batch) => {
                cx.release(batch.digest());
                self.queue.push_back(batch);
            }
            _ => {}
        }
        self.decide(cx);
    }

    fn body(&self, digest: &Digest) -> Option<Batch> {
        self.queue
            .iter()
            .find(|batch| batch.digest() == *digest)
            .cloned()
    }

    fn frontier(&self, _: SeqNo) -> Bytes {
        Bytes::new()
    }

    fn status(&self) -> ProtocolStatus {
        ProtocolStatus {
            decided: self.decided,
            ..ProtocolStatus::default()
        }
    }
}

fn replica() -> Driver<Rabia> {
    let (me, origin) = (NodeId(0), Origin::Genesis);
    let recovery = Recovery {
        me,
        origin,
        installed: None,
        records: Vec::new(),
    };
    Driver::new(Rabia::recover((), three(), recovery).unwrap(), ())
}

#[test]
fn an_empty_slot_takes_a_sequence_number() {
    let mut replica = replica();
    let effects = replica.message(
        1,
        Message::Agreed {
            seq: SeqNo(1),
            digest: None,
        },
    );
    let Effect::Decide {
        seq: SeqNo(1),
        batch,
        ..
    } = &effects[0]
    else {
        panic!("{effects:?}")
    };
    assert!(batch.is_null());
}

#[test]
fn a_decided_batch_that_is_missing_is_fetched_and_holds_up_later_slots() {
    let (mut replica, missing) = (replica(), batch("missing"));
    let digest = Some(missing.digest());
    let effects = replica.message(
        1,
        Message::Agreed {
            seq: SeqNo(1),
            digest,
        },
    );
    assert!(matches!(&effects[0], Effect::Fetch(wanted) if *wanted == missing.digest()));
    replica.message(
        1,
        Message::Agreed {
            seq: SeqNo(2),
            digest: None,
        },
    );
    assert_eq!(replica.protocol.status().decided, SeqNo::ZERO);
    let effects = replica.step(Input::Body(missing));
    let decided = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Decide { .. }))
        .count();
    assert_eq!(decided, 2);
}

#[test]
fn any_replica_takes_requests_without_a_leader() {
    let mut replica = replica();
    let effects = replica.step(Input::Start);
    assert!(matches!(effects[0], Effect::Leader { leader: None, .. }));
    assert!(matches!(effects[1], Effect::WantBatch));
    let effects = replica.step(Input::Propose(batch("mine")));
    assert!(matches!(
        effects[0],
        Effect::Send {
            message: Message::Spread(_),
            ..
        }
    ));
}
