//! Four replicas of PBFT agree on one batch.

use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Epoch, Lsn, NodeId, SeqNo, Time};
use atlas_core::{
    Batch, Context, Effect, Input, Limits, Member, Membership, OrderingProtocol, Origin,
    Recipients, Recovery, Role, Verified,
};
use atlas_pbft::{Pbft, PbftConfig};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys: Vec<_> = (0..4)
        .map(|i| Arc::new(KeyPair::from_seed(&[i; 32])))
        .collect();
    let member = |(i, key): (u32, &Arc<KeyPair>)| Member {
        id: NodeId(i),
        key: key.public_key(),
        role: Role::Voter,
    };
    let members = (0..).zip(&keys).map(member).collect();
    let (genesis, model) = (Digest::of(b"example"), FaultModel::Byzantine);
    let membership = Membership::new(genesis, Epoch(0), model, members, Arc::new(Ed25519))?;
    let membership = Arc::new(membership);
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));

    let (mut replicas, mut inputs) = (Vec::new(), VecDeque::new());
    for (me, key) in (0..).map(NodeId).zip(keys) {
        let config = PbftConfig::new(key, 4, &Limits::default(), second, minute, second)?;
        let (origin, installed, records) = (Origin::Genesis, None, Vec::new());
        let recovery = Recovery {
            me,
            origin,
            installed,
            records,
        };
        let replica = Pbft::recover(config.clone(), Arc::clone(&membership), recovery)?;
        replicas.push((config, replica, SeededRng::new(me.0.into()), Lsn::ZERO));
        inputs.push_back((me.index(), Input::Start));
    }

    let batch = Batch::new(AgreedTime::default(), &["a request bundle".into()]);
    let (mut asked, mut decided) = (false, 0);
    while let Some((at, input)) = inputs.pop_front() {
        let (_, replica, rng, lsn) = &mut replicas[at];
        let mut effects = Vec::new();
        let (now, wall) = (Time::ZERO, AgreedTime::default());
        replica.step(input, &mut Context::new(now, wall, rng, lsn, &mut effects));
        for effect in effects {
            match effect {
                // The leader asks for something to propose: it gets one batch.
                Effect::WantBatch if !std::mem::replace(&mut asked, true) => {
                    inputs.push_back((at, Input::Propose(batch.clone())));
                }
                // With an instant disk a message leaves at once. Each receiver checks it.
                Effect::Send { to, message, .. } => {
                    let from = NodeId(at as u32);
                    for (peer, (config, ..)) in replicas.iter().enumerate() {
                        if peer != at
                            && [Recipients::Others, Recipients::One(NodeId(peer as u32))]
                                .contains(&to)
                        {
                            let (copy, accept) = (message.clone(), &mut |_: &Batch| Ok(()));
                            let message =
                                Verified::check::<Pbft>(config, &membership, from, copy, accept)?;
                            inputs.push_back((peer, Input::Message { from, message }));
                        }
                    }
                }
                Effect::Decide {
                    seq,
                    batch: decision,
                    ..
                } => {
                    assert_eq!((seq, &decision), (SeqNo(1), &batch));
                    decided += 1;
                }
                _ => {}
            }
        }
    }
    assert_eq!(decided, 4);
    Ok(())
}
