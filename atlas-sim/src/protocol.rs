//! What the simulator must know of a protocol to run it.

use crate::adversary::Adversary;
use atlas_common::crypto::Signer;
use atlas_common::{Digest, NodeId, SeqNo};
use atlas_core::{Limits, Membership, OrderingProtocol};
use std::sync::Arc;
use std::time::Duration;

/// What a replica's configuration is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which replica.
    pub me: NodeId,
    /// How many there are.
    pub replicas: usize,
    /// The cluster.
    pub genesis: Digest,
    /// The key to sign with.
    pub signer: Arc<dyn Signer>,
    /// The cluster's limits.
    pub limits: Limits,
    /// How long a request may wait before a leader is suspected, to begin with.
    pub patience: Duration,
    /// Whether reads are answered by a quorum although replicas may lie.
    pub quorum_reads: bool,
    /// A deliberate defect, by its name in [`SimProtocol::bugs`].
    pub bug: Option<&'static str>,
}

/// Something that all correct replicas must agree on, such as the side of a common coin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about: equal for all replicas.
    pub name: &'static str,
    /// Where: a slot, and what is needed besides to tell facts apart.
    pub at: (SeqNo, u64),
    /// What it is.
    pub value: u64,
}

/// A vote: something that a replica may say in one way only, in all its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Where: what kind of vote, and two numbers that name the place, such as view and slot.
    pub at: (&'static str, u64, u64),
    /// What it is for.
    pub value: u64,
}

impl Vote {
    /// A vote for content with this digest.
    #[must_use]
    pub fn for_digest(kind: &'static str, major: u64, minor: u64, digest: &Digest) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = digest.0;
        Self {
            at: (kind, major, minor),
            value: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        }
    }
}

/// A protocol that the simulator can run. A protocol of one's own needs [`Self::config`] only; the
/// rest makes transcripts readable and adversaries clever.
pub trait SimProtocol: OrderingProtocol {
    /// The configuration of one replica.
    fn config(setup: &Setup) -> Self::Config;

    /// Whether it has leaders: then scenarios about them must show changes of leader.
    const LED: bool = true;

    /// A message in a few words, for transcripts.
    #[must_use]
    fn describe(message: &Self::Message) -> String {
        let text = format!("{message:?}");
        text.chars().take(120).collect()
    }

    /// What a correct replica holds for true that all correct replicas must agree on, besides
    /// decisions; the newest few will do. Looked at after every step.
    #[must_use]
    fn facts(&self) -> Vec<Fact> {
        Vec::new()
    }

    /// The votes in a message that replica `me` of `membership` sends; `to` nobody in particular: to all.
    #[must_use]
    fn votes(
        message: &Self::Message,
        me: NodeId,
        to: Option<NodeId>,
        membership: &Membership,
    ) -> Vec<Vote> {
        let _ = (message, me, to, membership);
        Vec::new()
    }

    /// What a replica has counted in this life, by name.
    #[must_use]
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// The names of the adversaries that know this protocol. Those that need no such knowledge
    /// ([`crate::adversary::GENERAL`]) are always there.
    #[must_use]
    fn adversaries() -> &'static [&'static str] {
        &[]
    }

    /// The adversary of this name.
    #[must_use]
    fn adversary(name: &str) -> Option<Box<dyn Adversary<Self>>> {
        let _unknown = name;
        None
    }

    /// The names of the defects that can be switched on to test the checkers.
    #[must_use]
    fn bugs() -> &'static [&'static str] {
        &[]
    }
}
