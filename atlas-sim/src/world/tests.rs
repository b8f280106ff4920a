//! The simulator by itself, with the smallest protocol there is.

use crate::plan::{Action, CrashKind, Plan, Target};
use crate::protocol::{Setup, SimProtocol};
use crate::{Verdict, run};
use atlas_common::quorum::FaultModel;
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::{
    Batch, Context, Input, Membership, OrderingProtocol, ProtocolStatus, RecoverError, Recovery,
    Reject,
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

impl SimProtocol for Single {
    fn config(_setup: &Setup) {}
}

fn crashes(seed: u64) -> Plan {
    let crash = |kind| Action::Crash(Target::Replica(NodeId(0)), kind);
    Plan::calm("crashes", 1, seed)
        .at(150, crash(CrashKind::PowerCut))
        .at(200, Action::RestartAll)
        .at(300, crash(CrashKind::DuringWrite))
        .at(350, Action::RestartAll)
        .at(500, crash(CrashKind::LosingAll))
        .heal_at(600)
}

#[test]
fn a_single_replica_serves_its_clients_through_crashes() {
    for seed in 0..20 {
        let report = run::<Single>(&crashes(seed), true);
        assert_eq!(report.verdict, Verdict::Pass, "{}", report.transcript);
        assert_eq!(report.operations, 200);
        assert_eq!(report.faults.get(crate::faults::FaultKind::Crash), 3);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| run::<Single>(&crashes(seed), false).trace_hash;
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}
