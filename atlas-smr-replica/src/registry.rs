//! Protocols by name: the one place above the protocols that knows which there are.

mod tools;

pub use tools::{ProtocolTools, RecordedDecisions};

use crate::config::{KnownProtocol, Timeouts};
use crate::node::{CoreSeat, Seated, StartError, seat};
use atlas_common::crypto::Signer;
use atlas_core::{Limits, Membership, OrderingProtocol};
use atlas_pbft::{Pbft, PbftConfig};
use atlas_rabia::{Rabia, RabiaConfig};
use atlas_raft::{Raft, RaftConfig, RaftSettings};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use tools::Tools;

/// What a protocol's settings are made from.
#[derive(Clone, Debug)]
pub struct ProtocolSettings {
    /// The members of the epoch.
    pub membership: Arc<Membership>,
    /// The cluster's limits.
    pub limits: Limits,
    /// The cluster's time-outs.
    pub timeouts: Timeouts,
    /// This replica's key.
    pub signer: Arc<dyn Signer>,
    /// Whether a leader may answer reads on the strength of its lease.
    pub lease_reads: bool,
    /// Whether linearizable reads are answered without being ordered.
    pub unordered_reads: bool,
}

impl ProtocolSettings {
    /// For a protocol without leases.
    ///
    /// # Errors
    /// When the cluster file asks for them.
    pub fn no_leases(&self) -> Result<(), SettingsError> {
        match self.lease_reads {
            true => {
                Err("`lease_reads` is `true`, and only raft has leases; expected `false`".into())
            }
            false => Ok(()),
        }
    }
}

/// Why a protocol cannot be set up.
pub type SettingsError = Box<dyn std::error::Error + Send + Sync>;

type Seat = dyn Fn(CoreSeat) -> Result<Seated, StartError> + Send + Sync;

#[derive(Clone)]
struct Entry {
    known: KnownProtocol,
    seat: Arc<Seat>,
    tools: Arc<dyn ProtocolTools>,
}

/// The protocols that a cluster file may name.
#[derive(Clone)]
pub struct ProtocolRegistry {
    entries: BTreeMap<&'static str, Entry>,
}

impl fmt::Debug for ProtocolRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl Default for ProtocolRegistry {
    /// The protocols that come with Atlas.
    fn default() -> Self {
        let mut registry = Self {
            entries: BTreeMap::new(),
        };
        registry.register::<Pbft>(pbft);
        registry.register::<Raft>(raft);
        registry.register::<Rabia>(rabia);
        registry
    }
}

fn pbft(settings: &ProtocolSettings) -> Result<PbftConfig, SettingsError> {
    settings.no_leases()?;
    let timeouts = settings.timeouts;
    let config = PbftConfig::new(
        Arc::clone(&settings.signer),
        settings.membership.quorums().n(),
        &settings.limits,
        timeouts.view_change(),
        timeouts.view_change_max(),
        timeouts.status(),
    )?;
    Ok(config.with_durable_decisions(settings.unordered_reads))
}

fn raft(settings: &ProtocolSettings) -> Result<RaftConfig, SettingsError> {
    let election = settings.timeouts.election();
    let raft = RaftSettings {
        election_min: election,
        election_max: election * 2,
        heartbeat: settings.timeouts.heartbeat(),
        // Two clocks may differ in speed by a tenth.
        lease: settings.lease_reads.then(|| election.mul_f64(0.9)),
        ..RaftSettings::default()
    };
    Ok(RaftConfig::new(&settings.limits, raft)?)
}

fn rabia(settings: &ProtocolSettings) -> Result<RabiaConfig, SettingsError> {
    settings.no_leases()?;
    let timeouts = settings.timeouts;
    let resend = timeouts.resend();
    // A peer's proposal or batch that is on its way arrives well within this.
    let patience = resend / 10;
    Ok(RabiaConfig::new(
        &settings.limits,
        patience,
        resend,
        timeouts.status(),
    )?)
}

impl ProtocolRegistry {
    /// Adds a protocol under its own name; one of the same name is replaced. `settings` makes the
    /// protocol's configuration from what the cluster file says.
    pub fn register<P: OrderingProtocol>(
        &mut self,
        settings: impl Fn(&ProtocolSettings) -> Result<P::Config, SettingsError>
        + Clone
        + Send
        + Sync
        + 'static,
    ) {
        let tools = Tools::<P, _> {
            settings: settings.clone(),
            protocol: PhantomData,
        };
        let start = move |parts: CoreSeat| {
            let config = settings(&parts.settings()).map_err(StartError::Protocol)?;
            seat::<P>(parts, config)
        };
        let entry = Entry {
            known: KnownProtocol::of::<P>(),
            seat: Arc::new(start),
            tools: Arc::new(tools),
        };
        self.entries.insert(P::NAME, entry);
    }

    /// What can be done with the records and proofs of a protocol, without a replica.
    #[must_use]
    pub fn tools(&self, name: &str) -> Option<&dyn ProtocolTools> {
        self.entries.get(name).map(|entry| &*entry.tools)
    }

    /// All of them, by name.
    #[must_use]
    pub fn known(&self) -> Vec<KnownProtocol> {
        self.entries.values().map(|entry| entry.known).collect()
    }

    pub(crate) fn seat(&self, parts: CoreSeat) -> Result<Seated, StartError> {
        let name = parts.node.cluster.protocol().name;
        match self.entries.get(name) {
            Some(entry) => (entry.seat)(parts),
            None => Err(StartError::UnknownProtocol(name)),
        }
    }
}
