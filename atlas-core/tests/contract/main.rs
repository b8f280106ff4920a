//! Protocols of other families, in outline, against the contract: that it is not made for one of them
//! alone. They show which inputs and effects carry what, not how the protocols decide.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says so by panicking"
)]

mod rabia;
mod raft;

use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Epoch, Lsn, NodeId, Time};
use atlas_core::{
    Batch, Context, Effect, Input, Member, Membership, OrderingProtocol, Role, Verified,
};
use std::sync::Arc;

/// Three replicas that may crash.
fn three() -> Arc<Membership> {
    let member = |i: u8| Member {
        id: NodeId(u32::from(i)),
        key: KeyPair::from_seed(&[i; 32]).public_key(),
        role: Role::Voter,
    };
    let members = (0..3).map(member).collect();
    let (genesis, verifier) = (Digest::of(b"three"), Arc::new(Ed25519));
    let membership = Membership::new(genesis, Epoch(0), FaultModel::Crash, members, verifier);
    Arc::new(membership.unwrap())
}

fn batch(text: &'static str) -> Batch {
    Batch::new(AgreedTime::default(), &[text.into()])
}

/// Steps a protocol and gives what it asked for.
struct Driver<P: OrderingProtocol> {
    protocol: P,
    config: P::Config,
    last_lsn: Lsn,
    rng: SeededRng,
}

impl<P: OrderingProtocol> Driver<P> {
    fn new(protocol: P, config: P::Config) -> Self {
        Self {
            protocol,
            config,
            last_lsn: Lsn::ZERO,
            rng: SeededRng::new(1),
        }
    }

    fn step(&mut self, input: Input<P>) -> Vec<Effect<P>> {
        let mut effects = Vec::new();
        let (rng, lsn) = (&mut self.rng, &mut self.last_lsn);
        let mut cx = Context::new(Time::ZERO, AgreedTime::default(), rng, lsn, &mut effects);
        self.protocol.step(input, &mut cx);
        effects
    }

    fn message(&mut self, from: u32, message: P::Message) -> Vec<Effect<P>> {
        let from = NodeId(from);
        let mut any = |_: &Batch| Ok(());
        let message = Verified::check::<P>(&self.config, &three(), from, message, &mut any);
        self.step(Input::Message {
            from,
            message: message.unwrap(),
        })
    }
}
