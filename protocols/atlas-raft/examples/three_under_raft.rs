//! Three replicas of Raft elect a leader and agree on one batch.

use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Epoch, Lsn, NodeId, SeqNo, Time};
use atlas_core::{
    Batch, Context, Effect, Input, Limits, Member, Membership, OrderingProtocol, Origin,
    Recipients, Recovery, Role, Verified,
};
use atlas_raft::{Raft, RaftConfig, RaftSettings, Timer};
use std::collections::VecDeque;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let member = |i: u8| Member {
        id: NodeId(u32::from(i)),
        key: KeyPair::from_seed(&[i; 32]).public_key(),
        role: Role::Voter,
    };
    let (genesis, members) = (Digest::of(b"example"), (0..3).map(member).collect());
    let verifier = Arc::new(Ed25519);
    let membership = Membership::new(genesis, Epoch(0), FaultModel::Crash, members, verifier)?;
    let membership = Arc::new(membership);
    let config = RaftConfig::new(&Limits::default(), RaftSettings::default())?;

    let (mut replicas, mut inputs) = (Vec::new(), VecDeque::new());
    for me in (0..3).map(NodeId) {
        let recovery = Recovery {
            me,
            origin: Origin::Genesis,
            installed: None,
            records: Vec::new(),
        };
        let replica = Raft::recover(config.clone(), Arc::clone(&membership), recovery)?;
        replicas.push((replica, SeededRng::new(me.0.into()), Lsn::ZERO));
        inputs.push_back((me.index(), Input::Start));
    }
    // Nobody leads: a second later the time-out of replica 0 is the first to run out.
    inputs.push_back((0, Input::Timeout(Timer::Election)));

    let batch = Batch::new(AgreedTime::default(), &["a request bundle".into()]);
    let (mut asked, mut decided) = (false, Vec::new());
    while let Some((at, input)) = inputs.pop_front() {
        let (replica, rng, lsn) = &mut replicas[at];
        let started = matches!(input, Input::Start);
        let now = if started {
            Time::ZERO
        } else {
            Time::from_millis(1000)
        };
        let (mut effects, wall, before) = (Vec::new(), AgreedTime::default(), *lsn);
        replica.step(input, &mut Context::new(now, wall, rng, lsn, &mut effects));
        if *lsn > before {
            // The disk is instant.
            inputs.push_back((at, Input::Durable(*lsn)));
        }
        for effect in effects {
            match effect {
                // The leader asks for something to propose: it gets one batch.
                Effect::WantBatch if !std::mem::replace(&mut asked, true) => {
                    inputs.push_back((at, Input::Propose(batch.clone())));
                }
                Effect::Send { to, message, .. } => {
                    let from = NodeId(at as u32);
                    let peers = (0..3).map(NodeId).filter(|peer| *peer != from);
                    for peer in
                        peers.filter(|p| [Recipients::Others, Recipients::One(*p)].contains(&to))
                    {
                        let (copy, accept) = (message.clone(), &mut |_: &Batch| Ok(()));
                        let message =
                            Verified::check::<Raft>(&config, &membership, from, copy, accept)?;
                        inputs.push_back((peer.index(), Input::Message { from, message }));
                    }
                }
                Effect::Decide { seq, batch, .. } => decided.push((seq, batch)),
                _ => {}
            }
        }
    }
    // Slot 1 is the empty entry that the leader began its term with.
    let of_slot = |slot| decided.iter().filter(move |(seq, _)| *seq == SeqNo(slot));
    assert!(of_slot(1).count() == 3 && of_slot(1).all(|(_, batch)| batch.is_null()));
    assert!(of_slot(2).count() == 3 && of_slot(2).all(|(_, decision)| *decision == batch));
    Ok(())
}
