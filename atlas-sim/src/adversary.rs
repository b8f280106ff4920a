//! Byzantine replicas: a correct replica in the hands of somebody who is not.
//!
//! An adversary stands between a replica and the network. It sees what the replica would send and
//! what arrives, may change, withhold, delay or add anything, and signs with that one replica's key;
//! other keys' signatures it has only where it received them.

mod general;
pub mod pbft;

pub use general::GENERAL;

use crate::faults::{FaultCounts, FaultKind};
use crate::protocol::SimProtocol;
use atlas_common::crypto::Signer;
use atlas_common::rng::SeededRng;
use atlas_common::{NodeId, Time, View};
use atlas_core::{Limits, Membership};
use atlas_smr_core::client_message::ReplyMessage;
use atlas_smr_core::message::SystemMessage;
use bytes::Bytes;
use std::fmt::Debug;
use std::time::Duration;

/// Something that travels between replicas.
#[derive(Debug)]
pub enum Packet<P: SimProtocol> {
    /// A message.
    Message(SystemMessage<P>),
    /// Bytes that need not be one.
    Raw(Bytes),
}

impl<P: SimProtocol> Clone for Packet<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Message(message) => Self::Message(message.clone()),
            Self::Raw(bytes) => Self::Raw(bytes.clone()),
        }
    }
}

/// What an adversary has in its hands.
#[derive(Debug)]
pub struct Power<'a, P: SimProtocol> {
    /// Which replica it controls.
    pub me: NodeId,
    /// That replica's key.
    pub signer: &'a dyn Signer,
    /// The cluster.
    pub membership: &'a Membership,
    /// The cluster's limits.
    pub limits: &'a Limits,
    /// The view that the replica is in, and its leader.
    pub leader: (View, Option<NodeId>),
    /// How long the others wait before they suspect a leader.
    pub patience: Duration,
    /// The present moment.
    pub now: Time,
    /// The wall clock's time, for proposals.
    pub wall: atlas_common::AgreedTime,
    /// Random numbers.
    pub rng: &'a mut SeededRng,
    /// Where it says what it did.
    pub counts: &'a mut FaultCounts,
    /// What it sends: after which delay, to whom, what.
    pub out: &'a mut Vec<(Duration, NodeId, Packet<P>)>,
}

impl<P: SimProtocol> Power<'_, P> {
    /// Sends a message.
    pub fn send(&mut self, to: NodeId, message: SystemMessage<P>) {
        self.out
            .push((Duration::ZERO, to, Packet::Message(message)));
    }

    /// Sends a message of the protocol.
    pub fn say(&mut self, to: NodeId, message: P::Message) {
        self.send(to, SystemMessage::Protocol(message));
    }

    /// Sends a message later.
    pub fn send_after(&mut self, delay: Duration, to: NodeId, message: SystemMessage<P>) {
        self.out.push((delay, to, Packet::Message(message)));
    }

    /// Sends any bytes.
    pub fn send_raw(&mut self, to: NodeId, bytes: Bytes) {
        self.out.push((Duration::ZERO, to, Packet::Raw(bytes)));
    }

    /// All replicas but its own.
    #[must_use]
    pub fn others(&self) -> Vec<NodeId> {
        let ids = self.membership.members().iter().map(|member| member.id);
        ids.filter(|id| *id != self.me).collect()
    }

    /// Counts a fault that really happened.
    pub fn did(&mut self, kind: FaultKind) {
        self.counts.count(kind);
    }
}

/// Somebody who controls one replica.
pub trait Adversary<P: SimProtocol>: Debug + Send {
    /// The replica wants to send this. By default it may.
    fn on_send(&mut self, to: NodeId, message: SystemMessage<P>, power: &mut Power<'_, P>) {
        power.send(to, message);
    }

    /// This arrives. Gives whether the replica gets it.
    fn on_receive(
        &mut self,
        from: NodeId,
        message: &SystemMessage<P>,
        power: &mut Power<'_, P>,
    ) -> bool {
        let _ = (from, message, power);
        true
    }

    /// A client's message arrives. Gives whether the replica gets it.
    fn on_request(&mut self, client: usize, request: &Bytes, power: &mut Power<'_, P>) -> bool {
        let _ = (client, request, power);
        true
    }

    /// The replica answers a client. Gives what is really sent.
    fn on_reply(&mut self, reply: ReplyMessage, power: &mut Power<'_, P>) -> Option<ReplyMessage> {
        let _ = power;
        Some(reply)
    }

    /// Whether the replica answers reads from the state before its last decisions.
    fn reads_late(&self) -> bool {
        false
    }

    /// Comes every few milliseconds.
    fn on_tick(&mut self, power: &mut Power<'_, P>) {
        let _ = power;
    }
}

/// How often [`Adversary::on_tick`] comes.
pub const TICK: Duration = Duration::from_millis(50);

/// The adversary of this name: one of the protocol's, or one that needs no knowledge of it.
#[must_use]
pub fn by_name<P: SimProtocol>(name: &str) -> Option<Box<dyn Adversary<P>>> {
    P::adversary(name).or_else(|| general::by_name(name))
}

/// The names of all adversaries of a protocol.
#[must_use]
pub fn all<P: SimProtocol>() -> Vec<&'static str> {
    GENERAL.iter().chain(P::adversaries()).copied().collect()
}
