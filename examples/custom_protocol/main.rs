//! An ordering protocol of one's own in the same replica, chosen by its name: a cluster of one that
//! decides whatever it has made durable. `cargo run --example custom_protocol`; its scenarios in the
//! simulator are `cargo test -p examples`.

#[cfg(test)]
mod scenarios;

use atlas_smr::ProtocolRegistry;
use atlas_smr::prelude::*;
use atlas_smr::protocol::*;
use std::sync::Arc;

/// Decides each batch as soon as its record is on disk.
#[derive(Debug)]
struct Solo {
    me: NodeId,
    decided: SeqNo,
    first_lsn: Lsn,
    replay: Vec<(SeqNo, Batch)>,
}

impl OrderingProtocol for Solo {
    const NAME: &'static str = "solo";
    const FAULT_MODEL: FaultModel = FaultModel::Crash;
    type Config = ();
    type Message = ();
    type Record = (SeqNo, Batch);
    type Proof = ();
    type Timer = ();

    fn recover(_: (), _: Arc<Membership>, found: Recovery<Self>) -> Result<Self, RecoverError> {
        let decided = found
            .installed
            .map_or(SeqNo::ZERO, |checkpoint| checkpoint.seq());
        let records = found.records.into_iter().map(|(_, record)| record);
        let replay = records.filter(|(seq, _)| *seq > decided).collect();
        Ok(Self {
            me: found.me,
            decided,
            first_lsn: Lsn::ZERO,
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
            }
            Input::Propose(batch) => {
                self.decided = self.decided.next();
                self.first_lsn = cx.persist((self.decided, batch.clone()));
                cx.decide(self.decided, batch, ()); // waits for the record
            }
            Input::Checkpointed(_) => cx.compact(self.first_lsn),
            _ => return,
        }
        cx.want_batch();
    }

    fn body(&self, _: &Digest) -> Option<Batch> {
        None
    }

    fn frontier(&self, _: SeqNo) -> Bytes {
        Bytes::new()
    }

    fn status(&self) -> ProtocolStatus {
        let leader = Some(self.me);
        ProtocolStatus {
            leader,
            decided: self.decided,
            ..ProtocolStatus::default()
        }
    }
}

#[derive(Clone)]
struct Sum;

impl ApplicationData for Sum {
    type Request = i64;
    type Reply = i64;
}

impl Application for Sum {
    type State = i64;

    fn initial_state(&self) -> i64 {
        0
    }

    fn update(&self, sum: &mut i64, number: i64, _: &mut ExecutionContext) -> i64 {
        *sum = sum.wrapping_add(number);
        *sum
    }

    fn read(&self, sum: &i64, _: i64) -> i64 {
        *sum
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut protocols = ProtocolRegistry::default();
    protocols.register::<Solo>(|_settings| Ok(()));
    let (protocol, replicas) = ("solo".to_owned(), 1);
    let options = LocalClusterOptions {
        protocol,
        protocols,
        replicas,
        ..Default::default()
    };
    let mut cluster = LocalCluster::start(Sum, options).await?;
    assert_eq!(cluster.client().call(&40).await?, 40);
    cluster.stop(0).await;
    cluster.restart(0)?;
    assert_eq!(cluster.client().call(&2).await?, 42);
    println!(
        "40, a restart, and 2 more: {}",
        cluster.client().read(&0, Consistency::Stale).await?
    );
    cluster.shutdown().await;
    Ok(())
}
