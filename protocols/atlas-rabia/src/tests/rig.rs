//! A small cluster in one thread: virtual time, a network that tests can disturb, disks that keep
//! what was synced. It checks at every step what must hold in every run.

mod effects;
mod events;

use crate::message::{Message, Said};
use crate::record::Record;
use crate::{Rabia, RabiaConfig, Timer};
use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Epoch, Lsn, NodeId, SeqNo, Time};
use atlas_core::{
    Batch, CheckpointCertificate, Input, Installed, Limits, Member, Membership, OrderingProtocol,
    Origin, Outbox, ReadId, Recipients, Recovery, Reject, Role, Timers,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(super) const PATIENCE: Duration = Duration::from_millis(6);
pub(super) const RESEND: Duration = Duration::from_millis(20);
const STATUS: Duration = Duration::from_millis(1000);
const FSYNC_NANOS: u64 = 300_000;
const HOP_NANOS: (u64, u64) = (200_000, 3_000_000);

/// What a test wants of the network: `false` drops the message.
pub(super) type Filter = Box<dyn FnMut(NodeId, NodeId, &Message) -> bool>;

enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        message: Message,
    },
    Durable {
        at: NodeId,
        life: u32,
        lsn: Lsn,
    },
    Body {
        at: NodeId,
        digest: Digest,
    },
    Fetch {
        at: NodeId,
        at_least: SeqNo,
    },
}

enum Out {
    Send(Recipients, Message),
    Decide(SeqNo, Batch),
}

/// One replica with its surroundings.
pub(super) struct Node {
    pub(super) id: NodeId,
    life: u32,
    pub(super) protocol: Option<Rabia>,
    outbox: Outbox<Out>,
    decides: Outbox<Out>,
    decides_after: Lsn,
    compactions: Vec<(Lsn, Lsn)>,
    timers: Timers<Timer>,
    last_lsn: Lsn,
    pub(super) durable: Lsn,
    pub(super) log: BTreeMap<Lsn, Record>,
    rng: SeededRng,
    /// How far its wall clock is ahead.
    pub(super) ahead_ms: u64,
    pub(super) wants_batch: bool,
    pub(super) fetching: BTreeSet<Digest>,
    pub(super) fetching_state: bool,
    pub(super) decided: BTreeMap<SeqNo, Batch>,
    pub(super) checkpoint: Option<Arc<CheckpointCertificate>>,
    /// What clients sent here and is not yet decided.
    pub(super) pool: BTreeMap<u64, Bytes>,
    taken: BTreeSet<u64>,
    pub(super) reads: BTreeMap<ReadId, Option<SeqNo>>,
}

/// The cluster.
pub(super) struct Rig {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    pub(super) membership: Arc<Membership>,
    pub(super) limits: Limits,
    pub(super) loss: f64,
    pub(super) filter: Filter,
    /// Replicas of one group hear each other only.
    pub(super) groups: Vec<BTreeSet<NodeId>>,
    /// How many bodies were asked for.
    pub(super) fetches: usize,
    /// How many times somebody wanted a state.
    pub(super) state_fetches: usize,
    /// Bodies that are not served.
    pub(super) withheld: BTreeSet<Digest>,
    /// Whether replicas take checkpoints.
    pub(super) checkpoints: bool,
    pub(super) rejected: Vec<(NodeId, Reject)>,
    pub(super) decisions: BTreeMap<SeqNo, Digest>,
    pub(super) sent: usize,
    events: BTreeMap<(Time, u64), Event>,
    count: u64,
    rng: SeededRng,
    submitted: u64,
    /// Everything that a replica has ever said to others.
    words: BTreeMap<(NodeId, SeqNo, u32, bool), Said>,
    coins: BTreeMap<(SeqNo, u32), bool>,
}

pub(super) fn limits() -> Limits {
    Limits {
        checkpoint_interval: 8,
        window: 32,
        in_flight_max: 4,
        ..Limits::default()
    }
}

pub(super) fn membership(n: usize, learners: usize) -> Arc<Membership> {
    let member = |i: usize| Member {
        id: NodeId(i as u32),
        key: KeyPair::from_seed(&[i as u8; 32]).public_key(),
        role: if i < n { Role::Voter } else { Role::Learner },
    };
    let (genesis, members) = (Digest::of(b"rig"), (0..n + learners).map(member).collect());
    let (model, verifier) = (FaultModel::Crash, Arc::new(Ed25519));
    Arc::new(Membership::new(genesis, Epoch(0), model, members, verifier).unwrap())
}

pub(super) fn ids(ids: impl IntoIterator<Item = u32>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

impl Rig {
    /// A cluster of `n` born replicas, started.
    pub(super) fn new(n: usize, seed: u64) -> Self {
        Self::with_limits(n, 0, seed, limits())
    }

    pub(super) fn with_limits(n: usize, learners: usize, seed: u64, limits: Limits) -> Self {
        let all = n + learners;
        let mut rig = Self {
            now: Time::ZERO,
            nodes: (0..all).map(|i| Node::new(i, seed)).collect(),
            membership: membership(n, learners),
            limits,
            loss: 0.0,
            filter: Box::new(|_, _, _| true),
            groups: Vec::new(),
            fetches: 0,
            state_fetches: 0,
            withheld: BTreeSet::new(),
            checkpoints: true,
            rejected: Vec::new(),
            decisions: BTreeMap::new(),
            sent: 0,
            events: BTreeMap::new(),
            count: 0,
            rng: SeededRng::new(seed),
            submitted: 0,
            words: BTreeMap::new(),
            coins: BTreeMap::new(),
        };
        for i in 0..all {
            rig.boot(i, Origin::Genesis);
        }
        rig
    }

    pub(super) fn config(&self) -> RabiaConfig {
        let config = RabiaConfig::new(&self.limits, PATIENCE, RESEND, STATUS).unwrap();
        #[cfg(feature = "seeded-bugs")]
        if let Some(bug) = super::random::BUG.get() {
            return config.with_bug(bug);
        }
        config
    }

    pub(super) fn rabia(&self, i: usize) -> &Rabia {
        self.nodes[i].protocol.as_ref().expect("the replica is up")
    }

    pub(super) fn decided(&self, i: usize) -> u64 {
        self.rabia(i).status().decided.0
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].protocol.is_some())
            .collect()
    }

    /// Starts a replica from what is durable.
    pub(super) fn boot(&mut self, i: usize, origin: Origin) {
        let config = self.config();
        let node = &mut self.nodes[i];
        node.life += 1;
        let installed = node.checkpoint.clone().map(|certificate| Installed {
            certificate,
            frontier: Bytes::new(),
        });
        let low = installed.as_ref().map_or(SeqNo::ZERO, Installed::seq);
        node.decided.retain(|seq, _| *seq <= low);
        node.outbox = Outbox::new(node.durable);
        node.decides = Outbox::new(node.durable);
        node.decides_after = Lsn::ZERO;
        let recovery = Recovery {
            me: node.id,
            origin,
            installed,
            records: node.log.iter().map(|(lsn, r)| (*lsn, r.clone())).collect(),
        };
        let protocol = Rabia::recover(config, Arc::clone(&self.membership), recovery).unwrap();
        node.protocol = Some(protocol);
        self.step(i, Input::Start);
    }

    /// Stops a replica; of what was not synced, some of the first records are left, or none.
    pub(super) fn crash(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.durable = Lsn(node.rng.between(node.durable.0, node.last_lsn.0));
        node.protocol = None;
        node.timers = Timers::default();
        let durable = node.durable;
        node.log.retain(|lsn, _| *lsn <= durable);
        node.last_lsn = durable;
        node.compactions.clear();
        node.wants_batch = false;
        node.fetching.clear();
        node.fetching_state = false;
        node.taken.clear();
    }

    pub(super) fn restart(&mut self, i: usize) {
        let origin = if self.nodes[i].durable == Lsn::ZERO {
            Origin::Genesis
        } else {
            Origin::Restart
        };
        self.boot(i, origin);
    }

    /// A stopped replica loses its disk.
    pub(super) fn wipe(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.log.clear();
        node.decided.clear();
        node.checkpoint = None;
        node.pool.clear();
        (node.durable, node.last_lsn) = (Lsn::ZERO, Lsn::ZERO);
    }

    /// What a driver does with a wiped disk, or with one that has been written to since.
    pub(super) fn reboot_wiped(&mut self, i: usize) {
        let written = self.nodes[i].durable > Lsn::ZERO;
        self.boot(
            i,
            if written {
                Origin::Restart
            } else {
                Origin::Amnesiac
            },
        );
    }

    /// A client sends a request to this replica.
    pub(super) fn submit_to(&mut self, i: usize) -> u64 {
        self.submitted += 1;
        let request = self.submitted;
        let bytes = Bytes::copy_from_slice(&request.to_le_bytes());
        self.nodes[i].pool.insert(request, bytes);
        self.offer(i);
        request
    }

    /// Clients send requests to all replicas in turn.
    pub(super) fn submit(&mut self, count: usize) {
        for request in 0..count {
            let alive = self.alive();
            self.submit_to(alive[request % alive.len()]);
        }
    }

    /// Hands what waits to a replica that asked for it.
    fn offer(&mut self, i: usize) {
        let wall = self.wall(i);
        let node = &mut self.nodes[i];
        if !node.wants_batch || node.protocol.is_none() {
            return;
        }
        let waiting = node.pool.iter().filter(|(n, _)| !node.taken.contains(n));
        let waiting: Vec<(u64, Bytes)> = waiting.take(4).map(|(n, b)| (*n, b.clone())).collect();
        if waiting.is_empty() {
            return;
        }
        node.taken.extend(waiting.iter().map(|(number, _)| *number));
        node.wants_batch = false;
        let bundles: Vec<Bytes> = waiting.into_iter().map(|(_, bytes)| bytes).collect();
        self.step(i, Input::Propose(Batch::new(wall, &bundles)));
    }

    pub(super) fn wall(&self, i: usize) -> AgreedTime {
        let millis = 1_000_000 + self.now.as_nanos() / 1_000_000 + self.nodes[i].ahead_ms;
        AgreedTime::from_unix_millis(millis)
    }

    pub(super) fn batch(&self, what: &str) -> Batch {
        Batch::new(self.wall(0), &[Bytes::copy_from_slice(what.as_bytes())])
    }

    pub(super) fn nulls(&self) -> usize {
        let null = Batch::null().digest();
        self.decisions.values().filter(|d| **d == null).count()
    }

    /// The requests decided, in order.
    pub(super) fn requests(&self, i: usize) -> Vec<u64> {
        let bundles = self.nodes[i].decided.values().flat_map(Batch::bundles);
        bundles.map(request_of).collect()
    }
}

pub(super) fn request_of(bundle: &Bytes) -> u64 {
    <[u8; 8]>::try_from(&bundle[..]).map_or(0, u64::from_le_bytes)
}

impl Node {
    fn new(i: usize, seed: u64) -> Self {
        Self {
            id: NodeId(i as u32),
            life: 0,
            protocol: None,
            outbox: Outbox::default(),
            decides: Outbox::default(),
            decides_after: Lsn::ZERO,
            compactions: Vec::new(),
            timers: Timers::default(),
            last_lsn: Lsn::ZERO,
            durable: Lsn::ZERO,
            log: BTreeMap::new(),
            rng: SeededRng::new(seed ^ (i as u64 + 1)),
            ahead_ms: 0,
            wants_batch: false,
            fetching: BTreeSet::new(),
            fetching_state: false,
            decided: BTreeMap::new(),
            checkpoint: None,
            pool: BTreeMap::new(),
            taken: BTreeSet::new(),
            reads: BTreeMap::new(),
        }
    }
}
