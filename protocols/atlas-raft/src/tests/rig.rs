//! A small cluster in one thread: virtual time, a network that tests can disturb, disks that keep
//! what was synced. It checks at every step what must hold in every run.

mod checks;
mod effects;
mod events;

use crate::message::{Message, Proof};
use crate::record::Record;
use crate::{Raft, RaftConfig, RaftSettings, Timer};
use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Epoch, Lsn, NodeId, SeqNo, Time, View};
use atlas_core::{
    Batch, Input, Installed, Limits, Member, Membership, OrderingProtocol, Origin, Outbox, ReadId,
    Recipients, Recovery, Reject, Role, Timers, Waiting,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(super) const ELECTION_MAX: Duration = Duration::from_millis(300);
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
    Stored {
        at: NodeId,
        life: u32,
        checkpoint: Installed,
    },
    Fetch {
        at: NodeId,
        life: u32,
    },
}

enum Out {
    Send(Recipients, Message),
    Decide(SeqNo, Batch, Proof),
}

/// One replica with its surroundings.
pub(super) struct Node {
    pub(super) id: NodeId,
    life: u32,
    pub(super) protocol: Option<Raft>,
    /// It stands still: nothing reaches it, no timer runs out.
    pub(super) paused: bool,
    backlog: Vec<(NodeId, Message)>,
    outbox: Outbox<Out>,
    decides: Outbox<Out>,
    decides_after: Lsn,
    compactions: Vec<(Lsn, Lsn)>,
    timers: Timers<Timer>,
    last_lsn: Lsn,
    pub(super) durable: Lsn,
    pub(super) log: BTreeMap<Lsn, Record>,
    rng: SeededRng,
    pub(super) sync: Duration,
    pub(super) wants_batch: bool,
    fetching_state: bool,
    pub(super) decided: BTreeMap<SeqNo, (Batch, Proof)>,
    pub(super) checkpoint: Option<Installed>,
    /// What clients sent here and is not yet decided.
    pub(super) pool: BTreeMap<u64, (Bytes, Time)>,
    taken: BTreeSet<u64>,
    waiting: Option<Waiting>,
    pub(super) leader: Option<NodeId>,
}

/// The cluster.
pub(super) struct Rig {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    pub(super) membership: Arc<Membership>,
    pub(super) limits: Limits,
    pub(super) settings: RaftSettings,
    pub(super) loss: f64,
    pub(super) filter: Filter,
    /// Directions that nothing passes.
    pub(super) cuts: BTreeSet<(usize, usize)>,
    pub(super) checkpoints: bool,
    /// Replicas may catch up.
    pub(super) transfers: bool,
    pub(super) installs: u64,
    pub(super) transferred: u64,
    pub(super) rejected: Vec<(NodeId, Reject)>,
    pub(super) decisions: BTreeMap<SeqNo, Digest>,
    pub(super) sent: BTreeMap<&'static str, u64>,
    pub(super) reads: BTreeMap<ReadId, PendingRead>,
    events: BTreeMap<(Time, u64), Event>,
    count: u64,
    pub(super) rng: SeededRng,
    submitted: u64,
    asked: u64,
    votes: BTreeMap<(NodeId, View), NodeId>,
    leaders: BTreeMap<View, NodeId>,
    /// Logs that forgot votes on purpose: their replicas are not held to them.
    pub(super) forgot: BTreeSet<NodeId>,
}

/// A read that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRead {
    /// The last decision that anybody had made by then.
    least: SeqNo,
    /// `None`: not answered yet. `Some(None)`: refused.
    pub(super) answer: Option<Option<SeqNo>>,
}

pub(super) fn limits() -> Limits {
    Limits {
        checkpoint_interval: 8,
        window: 32,
        in_flight_max: 8,
        ..Limits::default()
    }
}

pub(super) fn settings() -> RaftSettings {
    RaftSettings {
        election_min: Duration::from_millis(150),
        election_max: ELECTION_MAX,
        heartbeat: Duration::from_millis(25),
        ..RaftSettings::default()
    }
}

pub(super) fn membership(voters: usize, learners: usize) -> Arc<Membership> {
    let member = |i: usize| Member {
        id: NodeId(i as u32),
        key: KeyPair::from_seed(&[i as u8; 32]).public_key(),
        role: if i < voters {
            Role::Voter
        } else {
            Role::Learner
        },
    };
    let members = (0..voters + learners).map(member).collect();
    let (genesis, verifier) = (Digest::of(b"rig"), Arc::new(Ed25519));
    let membership = Membership::new(genesis, Epoch(0), FaultModel::Crash, members, verifier);
    Arc::new(membership.unwrap())
}

impl Rig {
    /// A cluster of `n` born replicas, started.
    pub(super) fn new(n: usize, seed: u64) -> Self {
        Self::with(n, 0, seed, limits(), settings())
    }

    pub(super) fn with(
        n: usize,
        learners: usize,
        seed: u64,
        limits: Limits,
        settings: RaftSettings,
    ) -> Self {
        let all = n + learners;
        let mut rig = Self {
            now: Time::ZERO,
            nodes: (0..all).map(|i| Node::new(i, seed)).collect(),
            membership: membership(n, learners),
            limits,
            settings,
            loss: 0.0,
            filter: Box::new(|_, _, _| true),
            cuts: BTreeSet::new(),
            checkpoints: true,
            transfers: true,
            installs: 0,
            transferred: 0,
            rejected: Vec::new(),
            decisions: BTreeMap::new(),
            sent: BTreeMap::new(),
            reads: BTreeMap::new(),
            events: BTreeMap::new(),
            count: 0,
            rng: SeededRng::new(seed),
            submitted: 0,
            asked: 0,
            votes: BTreeMap::new(),
            leaders: BTreeMap::new(),
            forgot: BTreeSet::new(),
        };
        for i in 0..all {
            rig.boot(i, Origin::Genesis);
        }
        rig
    }

    pub(super) fn config(&self) -> RaftConfig {
        let config = RaftConfig::new(&self.limits, self.settings.clone()).unwrap();
        #[cfg(feature = "seeded-bugs")]
        if let Some(bug) = super::random::BUG.get() {
            return config.with_bug(bug);
        }
        config
    }

    pub(super) fn raft(&self, i: usize) -> &Raft {
        self.nodes[i].protocol.as_ref().expect("the replica is up")
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].protocol.is_some())
            .collect()
    }

    /// Who leads the highest term.
    pub(super) fn leader(&self) -> Option<usize> {
        let alive = self.alive();
        let leads = |i: &usize| self.raft(*i).leads() && !self.nodes[*i].paused;
        alive
            .into_iter()
            .filter(leads)
            .max_by_key(|i| self.raft(*i).term)
    }

    /// Runs until somebody leads and has committed an entry of its term.
    pub(super) fn elect(&mut self) -> usize {
        self.run_until("nobody leads", |rig| {
            rig.leader().is_some_and(|leader| {
                let raft = rig.raft(leader);
                raft.commit >= raft.own_first
            })
        });
        self.leader().unwrap()
    }

    /// Starts a replica from what is durable.
    pub(super) fn boot(&mut self, i: usize, origin: Origin) {
        let config = self.config();
        let node = &mut self.nodes[i];
        node.life += 1;
        let installed = node.checkpoint.clone();
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
        let protocol = Raft::recover(config, Arc::clone(&self.membership), recovery).unwrap();
        node.protocol = Some(protocol);
        self.step(i, Input::Start);
        self.watch_oldest(i);
    }

    /// Stops a replica; what was not synced is gone.
    pub(super) fn crash(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.protocol = None;
        node.paused = false;
        node.backlog.clear();
        node.timers = Timers::default();
        let durable = node.durable;
        node.log.retain(|lsn, _| *lsn <= durable);
        node.last_lsn = durable;
        node.compactions.clear();
        node.wants_batch = false;
        node.fetching_state = false;
        node.taken.clear();
        node.waiting = None;
        node.leader = None;
    }

    pub(super) fn restart(&mut self, i: usize) {
        self.boot(i, Origin::Restart);
    }

    /// A stopped replica loses its disk.
    pub(super) fn wipe(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.log.clear();
        node.decided.clear();
        node.checkpoint = None;
        (node.durable, node.last_lsn) = (Lsn::ZERO, Lsn::ZERO);
        self.forgot.insert(self.nodes[i].id);
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

    pub(super) fn pause(&mut self, i: usize) {
        self.nodes[i].paused = true;
    }

    /// What arrived meanwhile comes in at once, or all timers run out first.
    pub(super) fn resume(&mut self, i: usize) {
        self.nodes[i].paused = false;
        for (from, message) in std::mem::take(&mut self.nodes[i].backlog) {
            self.inject(from.index(), i, message).unwrap();
        }
    }

    /// Replicas of different groups do not hear each other.
    pub(super) fn partition(&mut self, groups: &[&[usize]]) {
        let of = |i: usize| groups.iter().position(|group| group.contains(&i));
        let n = self.nodes.len();
        let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
        self.cuts = pairs.filter(|(a, b)| a != b && of(*a) != of(*b)).collect();
    }

    /// Nobody hears this one, nor it anybody.
    pub(super) fn isolate(&mut self, i: usize) {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != i).collect();
        self.partition(&[&[i], &others]);
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

    /// Somebody wants to read at this replica.
    pub(super) fn read(&mut self, i: usize) -> ReadId {
        self.asked += 1;
        let id = ReadId(self.asked);
        let least = self
            .decisions
            .last_key_value()
            .map_or(SeqNo::ZERO, |(seq, _)| *seq);
        let answer = None;
        self.reads.insert(id, PendingRead { least, answer });
        self.step(i, Input::Read(id));
        id
    }

    pub(super) fn answer(&self, id: ReadId) -> Option<Option<SeqNo>> {
        self.reads[&id].answer
    }

    pub(super) fn now_wall(&self) -> AgreedTime {
        AgreedTime::from_unix_millis(1_000_000 + self.now.as_nanos() / 1_000_000)
    }

    pub(super) fn sent(&self, kind: &str) -> u64 {
        self.sent.get(kind).copied().unwrap_or(0)
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
            paused: false,
            backlog: Vec::new(),
            outbox: Outbox::default(),
            decides: Outbox::default(),
            decides_after: Lsn::ZERO,
            compactions: Vec::new(),
            timers: Timers::default(),
            last_lsn: Lsn::ZERO,
            durable: Lsn::ZERO,
            log: BTreeMap::new(),
            rng: SeededRng::new(seed ^ (i as u64 + 1)),
            sync: Duration::from_micros(300),
            wants_batch: false,
            fetching_state: false,
            decided: BTreeMap::new(),
            checkpoint: None,
            pool: BTreeMap::new(),
            taken: BTreeSet::new(),
            waiting: None,
            leader: None,
        }
    }
}
