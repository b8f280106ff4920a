//! A small cluster in one thread: virtual time, a network that tests can disturb, disks that keep
//! what was synced. It checks at every step what must hold in every run.

mod effects;
mod events;

use super::keys::{Key, Keys};
use crate::message::{Message, Phase, Proof, Vote, prepare_digest};
use crate::record::Record;
use crate::{Pbft, PbftConfig, Timer};
use atlas_common::crypto::Signer;
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Epoch, Lsn, NodeId, SeqNo, Time, View};
use atlas_core::{
    Batch, CheckpointCertificate, CheckpointId, Input, Installed, Limits, Member, Membership,
    OrderingProtocol, Origin, Outbox, Recipients, Recovery, Reject, Role, Timers, Waiting,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(super) const TIMEOUT: Duration = Duration::from_millis(500);
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(4);
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
    Decide(SeqNo, Batch, Proof),
}

/// One replica with its surroundings.
pub(super) struct Node {
    id: NodeId,
    life: u32,
    pub(super) protocol: Option<Pbft>,
    outbox: Outbox<Out>,
    decides: Outbox<Out>,
    decides_after: Lsn,
    compactions: Vec<(Lsn, Lsn)>,
    timers: Timers<Timer>,
    last_lsn: Lsn,
    durable: Lsn,
    pub(super) log: BTreeMap<Lsn, Record>,
    rng: SeededRng,
    /// How many times slower than the others its timers run.
    pub(super) slowness: u32,
    pub(super) wants_batch: bool,
    pub(super) fetching: BTreeSet<Digest>,
    fetching_state: bool,
    pub(super) decided: BTreeMap<SeqNo, (Batch, Proof)>,
    pub(super) checkpoint: Option<Arc<CheckpointCertificate>>,
    /// What clients sent here and is not yet decided.
    pool: BTreeMap<u64, (Bytes, Time)>,
    taken: BTreeSet<u64>,
    waiting: Option<Waiting>,
    pub(super) timer_effects: u64,
    pub(super) stopped: usize,
}

/// The cluster.
pub(super) struct Rig {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    pub(super) keys: Keys,
    pub(super) membership: Arc<Membership>,
    pub(super) limits: Limits,
    pub(super) loss: f64,
    pub(super) filter: Filter,
    /// Replicas of one group hear each other only.
    pub(super) groups: Vec<BTreeSet<NodeId>>,
    /// How long a transfer takes.
    pub(super) state_delay: Duration,
    /// How many bodies were asked for.
    pub(super) fetches: usize,
    /// Decisions wait for the own record.
    pub(super) durable_decisions: bool,
    /// Certify checkpoints.
    pub(super) checkpoints: bool,
    pub(super) rejected: Vec<(NodeId, Reject)>,
    pub(super) evidence: Vec<(NodeId, Message, Message)>,
    pub(super) decisions: BTreeMap<SeqNo, Digest>,
    events: BTreeMap<(Time, u64), Event>,
    count: u64,
    rng: SeededRng,
    submitted: u64,
    votes: BTreeMap<(NodeId, Phase, View, SeqNo), Digest>,
    checkpoint_votes: BTreeMap<CheckpointId, BTreeSet<NodeId>>,
}

pub(super) fn limits() -> Limits {
    Limits {
        checkpoint_interval: 8,
        window: 32,
        in_flight_max: 8,
        ..Limits::default()
    }
}

pub(super) fn membership(n: usize, keys: &Keys, genesis: &[u8], epoch: u64) -> Arc<Membership> {
    let member = |i: usize| Member {
        id: NodeId(i as u32),
        key: keys.0[i].public_key(),
        role: Role::Voter,
    };
    let (genesis, members) = (Digest::of(genesis), (0..n).map(member).collect());
    let (model, verifier) = (FaultModel::Byzantine, Arc::new(keys.clone()));
    Arc::new(Membership::new(genesis, Epoch(epoch), model, members, verifier).unwrap())
}

pub(super) fn ids(ids: impl IntoIterator<Item = u32>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

impl Rig {
    /// A cluster of `n` born replicas, started.
    pub(super) fn new(n: usize, seed: u64) -> Self {
        Self::with_limits(n, seed, limits())
    }

    pub(super) fn with_limits(n: usize, seed: u64, limits: Limits) -> Self {
        let keys = Keys::new(n);
        let mut rig = Self {
            now: Time::ZERO,
            nodes: (0..n).map(|i| Node::new(i, seed)).collect(),
            membership: membership(n, &keys, b"rig", 0),
            keys,
            limits,
            loss: 0.0,
            filter: Box::new(|_, _, _| true),
            groups: Vec::new(),
            durable_decisions: false,
            checkpoints: true,
            state_delay: Duration::from_millis(4),
            fetches: 0,
            rejected: Vec::new(),
            evidence: Vec::new(),
            decisions: BTreeMap::new(),
            events: BTreeMap::new(),
            count: 0,
            rng: SeededRng::new(seed),
            submitted: 0,
            votes: BTreeMap::new(),
            checkpoint_votes: BTreeMap::new(),
        };
        for i in 0..n {
            rig.boot(i, Origin::Genesis);
        }
        rig
    }

    pub(super) fn key(&self, i: usize) -> &Key {
        &self.keys.0[i]
    }

    pub(super) fn config(&self, i: usize) -> PbftConfig {
        let signer = Arc::new(self.key(i).clone());
        let config = PbftConfig::new(
            signer,
            self.keys.0.len(),
            &self.limits,
            TIMEOUT,
            TIMEOUT_MAX,
            STATUS,
        );
        let config = config.unwrap();
        let config = config.with_durable_decisions(self.durable_decisions);
        #[cfg(feature = "seeded-bugs")]
        if let Some(bug) = super::byzantine::BUG.get() {
            return config.with_bug(bug);
        }
        config
    }

    pub(super) fn pbft(&self, i: usize) -> &Pbft {
        self.nodes[i].protocol.as_ref().expect("the replica is up")
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].protocol.is_some())
            .collect()
    }

    /// Starts a replica from what is durable.
    pub(super) fn boot(&mut self, i: usize, origin: Origin) {
        let config = self.config(i);
        let node = &mut self.nodes[i];
        node.life += 1;
        node.log = node.log.split_off(&Lsn::ZERO);
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
        let protocol = Pbft::recover(config, Arc::clone(&self.membership), recovery).unwrap();
        node.protocol = Some(protocol);
        self.step(i, Input::Start);
        self.watch_oldest(i);
    }

    /// Stops a replica; what was not synced is gone.
    pub(super) fn crash(&mut self, i: usize) {
        let node = &mut self.nodes[i];
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
        node.waiting = None;
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

    /// A client sends a request to these replicas.
    pub(super) fn submit_to(&mut self, to: &[usize]) -> u64 {
        self.submitted += 1;
        let request = self.submitted;
        let (bytes, now) = (Bytes::copy_from_slice(&request.to_le_bytes()), self.now);
        for i in to {
            self.nodes[*i].pool.insert(request, (bytes.clone(), now));
            self.watch_oldest(*i);
            self.offer(*i);
        }
        request
    }

    pub(super) fn submit(&mut self, count: usize) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        for _ in 0..count {
            self.submit_to(&all);
        }
    }

    fn watch_oldest(&mut self, i: usize) {
        let node = &self.nodes[i];
        let oldest = node
            .pool
            .iter()
            .min_by_key(|(number, (_, since))| (*since, **number));
        let waiting = oldest.map(|(_, (bytes, since))| Waiting {
            oldest: Digest::of(bytes),
            since: *since,
        });
        if waiting != node.waiting && node.protocol.is_some() {
            self.nodes[i].waiting = waiting;
            self.step(i, Input::Waiting(waiting));
        }
    }

    /// Hands a waiting request to a replica that asked for one.
    fn offer(&mut self, i: usize) {
        loop {
            let node = &self.nodes[i];
            let next = node
                .pool
                .iter()
                .find(|(number, _)| !node.taken.contains(number));
            let Some((number, (bytes, _))) = next.filter(|_| node.wants_batch) else {
                return;
            };
            let batch = Batch::new(self.now_wall(), std::slice::from_ref(bytes));
            let (number, node) = (*number, &mut self.nodes[i]);
            node.taken.insert(number);
            node.wants_batch = false;
            self.step(i, Input::Propose(batch));
        }
    }

    pub(super) fn now_wall(&self) -> AgreedTime {
        AgreedTime::from_unix_millis(1_000_000 + self.now.as_nanos() / 1_000_000)
    }

    /// A vote by a replica of the test's making.
    pub(super) fn vote(&self, i: usize, phase: Phase, view: u64, seq: u64, digest: Digest) -> Vote {
        let (view, seq) = (View(view), SeqNo(seq));
        let mut vote = Vote {
            phase,
            view,
            seq,
            digest,
            signature: self.key(i).sign(&digest),
        };
        vote.signature = self.key(i).sign(&vote.signing_digest(&self.membership));
        vote
    }

    /// A proposal signed by replica `i`.
    pub(super) fn proposal(&self, i: usize, view: u64, seq: u64, batch: &Batch) -> Message {
        let (view, seq, batch) = (View(view), SeqNo(seq), batch.clone());
        let digest = prepare_digest(&self.membership, view, seq, &batch.digest());
        let signature = self.key(i).sign(&digest);
        Message::PrePrepare(crate::message::PrePrepare {
            view,
            seq,
            batch,
            signature,
        })
    }

    pub(super) fn batch(&self, what: &str) -> Batch {
        Batch::new(self.now_wall(), &[Bytes::copy_from_slice(what.as_bytes())])
    }

    /// The replica is the test's puppet from now on.
    pub(super) fn puppet(&mut self, i: usize) {
        self.crash(i);
    }

    pub(super) fn rejects(&self, at: usize, reason: Reject) -> usize {
        let here = |(node, why): &&(NodeId, Reject)| node.index() == at && *why == reason;
        self.rejected.iter().filter(here).count()
    }
}

fn request_of(bundle: &Bytes) -> u64 {
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
            slowness: 1,
            wants_batch: false,
            fetching: BTreeSet::new(),
            fetching_state: false,
            decided: BTreeMap::new(),
            checkpoint: None,
            pool: BTreeMap::new(),
            taken: BTreeSet::new(),
            waiting: None,
            timer_effects: 0,
            stopped: 0,
        }
    }

    /// The votes of this replica that are on its disk.
    pub(super) fn durable_votes(&self) -> BTreeMap<(View, SeqNo), Digest> {
        let durable = self.log.range(..=self.durable);
        let vote = |(_, record): (&Lsn, &Record)| match record {
            Record::Prepare { view, seq, digest } => Some(((*view, *seq), *digest)),
            _ => None,
        };
        durable.filter_map(vote).collect()
    }
}
