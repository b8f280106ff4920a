//! Three replicas of Rabia, each with a client of its own, agree on the order of three batches.

use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Epoch, Lsn, NodeId, Time};
use atlas_core::{
    Batch, Context, Effect, Input, Limits, Member, Membership, OrderingProtocol, Origin,
    Recipients, Recovery, Role, Verified,
};
use atlas_rabia::{Rabia, RabiaConfig};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let member = |i: u8| Member {
        id: NodeId(i.into()),
        key: KeyPair::from_seed(&[i; 32]).public_key(),
        role: Role::Voter,
    };
    let members = (0..3).map(member).collect();
    let (genesis, model) = (Digest::of(b"example"), FaultModel::Crash);
    let membership = Membership::new(genesis, Epoch(0), model, members, Arc::new(Ed25519))?;
    let membership = Arc::new(membership);
    let (resend, status) = (Duration::from_millis(20), Duration::from_secs(1));
    let config = RabiaConfig::new(&Limits::default(), Duration::ZERO, resend, status)?;

    let (mut replicas, mut inputs) = (Vec::new(), VecDeque::new());
    for me in (0..3).map(NodeId) {
        let (origin, installed, records) = (Origin::Genesis, None, Vec::new());
        let recovery = Recovery {
            me,
            origin,
            installed,
            records,
        };
        let replica = Rabia::recover(config.clone(), Arc::clone(&membership), recovery)?;
        replicas.push((replica, SeededRng::new(me.0.into()), Lsn::ZERO));
        inputs.push_back((me.index(), Input::Start));
    }

    let mut asked = [false; 3];
    let mut decided: Vec<Vec<Batch>> = vec![Vec::new(); 3];
    while let Some((at, input)) = inputs.pop_front() {
        let (replica, rng, lsn) = &mut replicas[at];
        let mut effects = Vec::new();
        let (now, wall) = (Time::ZERO, AgreedTime::default());
        replica.step(input, &mut Context::new(now, wall, rng, lsn, &mut effects));
        for effect in effects {
            match effect {
                // Every replica asks for what its own clients want ordered. Each gets one batch.
                Effect::WantBatch if !std::mem::replace(&mut asked[at], true) => {
                    let request = format!("a request bundle sent to replica {at}");
                    let batch = Batch::new(AgreedTime::default(), &[request.into()]);
                    inputs.push_back((at, Input::Propose(batch)));
                }
                // With an instant disk a message leaves at once. Each receiver checks it.
                Effect::Send { to, message, .. } => {
                    let from = NodeId(at as u32);
                    for peer in (0..3).filter(|peer| *peer != at) {
                        let one = Recipients::One(NodeId(peer as u32));
                        if [Recipients::Others, one].contains(&to) {
                            let (copy, accept) = (message.clone(), &mut |_: &Batch| Ok(()));
                            let message =
                                Verified::check::<Rabia>(&config, &membership, from, copy, accept)?;
                            inputs.push_back((peer, Input::Message { from, message }));
                        }
                    }
                }
                // Slots in which the three proposed different batches stay empty.
                Effect::Decide { batch, .. } if !batch.is_null() => decided[at].push(batch),
                _ => {}
            }
        }
    }
    assert_eq!(decided[0].len(), 3);
    assert!(decided[1] == decided[0] && decided[2] == decided[0]);
    Ok(())
}
