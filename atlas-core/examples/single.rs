//! The smallest ordering protocol: one replica, no votes.

use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Lsn, NodeId, SeqNo, Time, View};
use atlas_core::{
    Batch, Context, Effect, Input, Membership, OrderingProtocol, ProtocolStatus, RecoverError,
    Recovery, Reject,
};
use bytes::Bytes;
use std::sync::Arc;

/// A protocol for one replica: a slot is decided when its record is durable.
#[derive(Debug)]
struct Single {
    me: NodeId,
    decided: SeqNo,
    replay: Vec<(SeqNo, Batch)>,
}

impl OrderingProtocol for Single {
    const NAME: &'static str = "single";
    const FAULT_MODEL: FaultModel = FaultModel::Crash;
    type Config = ();
    type Message = ();
    type Record = (SeqNo, Batch);
    type Proof = ();
    type Timer = ();

    fn recover(
        _config: (),
        _membership: Arc<Membership>,
        recovery: Recovery<Self>,
    ) -> Result<Self, RecoverError> {
        let decided = recovery
            .installed
            .map_or(SeqNo::ZERO, |checkpoint| checkpoint.seq());
        let mut replay: Vec<_> = recovery
            .records
            .into_iter()
            .map(|(_, record)| record)
            .collect();
        replay.retain(|(seq, _)| *seq > decided);
        Ok(Self {
            me: recovery.me,
            decided,
            replay,
        })
    }

    fn verify(_: &(), _: &Membership, _: NodeId, _: &()) -> Result<(), Reject> {
        Err(Reject::WrongSender) // there is nobody to hear from
    }

    fn batches(_: &()) -> Vec<&Batch> {
        Vec::new()
    }

    fn verify_decision(_: &(), _: &Membership, _: SeqNo, _: &Digest, _: &()) -> Result<(), Reject> {
        Ok(())
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<'_, Self>) {
        match input {
            Input::Start => {
                for (seq, batch) in std::mem::take(&mut self.replay) {
                    self.decided = seq;
                    cx.decide(seq, batch, ());
                }
                cx.leader(View::ZERO, Some(self.me));
                cx.want_batch();
            }
            Input::Propose(batch) => {
                self.decided = self.decided.next();
                cx.persist((self.decided, batch.clone()));
                cx.decide(self.decided, batch, ()); // acted on when the record is durable
                cx.want_batch();
            }
            _ => {}
        }
    }

    fn body(&self, _: &Digest) -> Option<Batch> {
        None
    }

    fn frontier(&self, _: SeqNo) -> Bytes {
        Bytes::new()
    }

    fn status(&self) -> ProtocolStatus {
        let (leader, decided) = (Some(self.me), self.decided);
        ProtocolStatus {
            leader,
            decided,
            ..ProtocolStatus::default()
        }
    }
}

fn main() {
    let mut protocol = Single {
        me: NodeId(0),
        decided: SeqNo::ZERO,
        replay: Vec::new(),
    };
    let (mut rng, mut last_lsn, mut effects) = (SeededRng::new(1), Lsn::ZERO, Vec::new());
    let mut step = |input| {
        let now = (Time::ZERO, AgreedTime::default());
        let mut cx = Context::new(now.0, now.1, &mut rng, &mut last_lsn, &mut effects);
        protocol.step(input, &mut cx);
        std::mem::take(&mut effects)
    };
    step(Input::Start);
    let batch = Batch::new(
        AgreedTime::default(),
        &[Bytes::from_static(b"a request bundle")],
    );
    let effects = step(Input::Propose(batch));
    assert!(matches!(effects[0], Effect::Persist { lsn: Lsn(1), .. }));
    assert!(matches!(
        effects[1],
        Effect::Decide {
            seq: SeqNo(1),
            after: Lsn(1),
            ..
        }
    ));
}
