//! A small cluster in one thread: virtual time, a network that tests can disturb, disks that keep
//! what was synced. It checks at every step what must hold in every run.

use super::keys::{Key, Keys};
use crate::message::{Message, Phase, Proof, Vote, prepare_digest};
use crate::record::Record;
use crate::{Pbft, PbftConfig, Timer};
use atlas_common::crypto::Signer;
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Epoch, Lsn, NodeId, SeqNo, Time, View};
use atlas_core::{
    Batch, CheckpointCertificate, CheckpointId, Context, Effect, Input, Installed, Limits, Member,
    Membership, OrderingProtocol, Origin, Outbox, Recipients, Recovery, Reject, Role, Timers,
    Verified, Waiting,
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
        PbftConfig::new(signer, &self.limits, TIMEOUT, TIMEOUT_MAX, STATUS).unwrap()
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

    /// One input for one replica, and everything that follows from it at once.
    pub(super) fn step(&mut self, i: usize, input: Input<Pbft>) {
        let wall = self.now_wall();
        let node = &mut self.nodes[i];
        let Some(protocol) = node.protocol.as_mut() else {
            return;
        };
        let mut effects = Vec::new();
        let mut cx = Context::new(
            self.now,
            wall,
            &mut node.rng,
            &mut node.last_lsn,
            &mut effects,
        );
        protocol.step(input, &mut cx);
        let before = node
            .log
            .last_key_value()
            .map_or(node.durable, |(lsn, _)| *lsn);
        for effect in effects {
            self.carry_out(i, effect);
        }
        let (node, last) = (&self.nodes[i], self.nodes[i].last_lsn);
        if last > before {
            let at = self.now.after(Duration::from_nanos(FSYNC_NANOS));
            let event = Event::Durable {
                at: node.id,
                life: node.life,
                lsn: last,
            };
            self.schedule(at, event);
        }
        self.offer(i);
    }

    fn carry_out(&mut self, i: usize, effect: Effect<Pbft>) {
        let node = &mut self.nodes[i];
        match effect {
            Effect::Persist { lsn, record } => {
                node.log.insert(lsn, record);
            }
            Effect::Send { to, message, after } => {
                assert!(
                    after > Lsn::ZERO
                        || matches!(message, Message::Status(_))
                        || node.last_lsn == Lsn::ZERO,
                    "{message:?} overtakes the log"
                );
                if let Some(out) = node.outbox.push(after, Out::Send(to, message)) {
                    self.leave(i, out);
                }
            }
            Effect::Decide {
                seq,
                batch,
                proof,
                after,
            } => {
                node.decides_after = node.decides_after.max(after);
                let after = node.decides_after;
                if let Some(out) = node.decides.push(after, Out::Decide(seq, batch, proof)) {
                    self.leave(i, out);
                }
            }
            Effect::SetTimer { timer, at } => {
                node.timer_effects += 1;
                let delay = at.since(self.now) * node.slowness;
                node.timers.set(timer, self.now.after(delay));
            }
            Effect::CancelTimer(timer) => {
                node.timer_effects += 1;
                node.timers.cancel(timer);
            }
            Effect::WantBatch => node.wants_batch = true,
            Effect::Fetch(digest) => {
                node.fetching.insert(digest);
                let at = node.id;
                self.fetches += 1;
                self.schedule_soon(Event::Body { at, digest });
            }
            Effect::Release(digest) => {
                assert!(
                    node.fetching.remove(&digest),
                    "released what was not fetched"
                );
            }
            Effect::Leader { .. } => {
                node.wants_batch = false;
                node.taken.clear();
            }
            Effect::Stopped(batches) => {
                node.stopped += batches.len();
                for bundle in batches.iter().flat_map(Batch::bundles) {
                    node.taken.remove(&request_of(bundle));
                }
            }
            Effect::FetchState { at_least } => {
                if !std::mem::replace(&mut node.fetching_state, true) {
                    let at = node.id;
                    let when = self.now.after(self.state_delay);
                    self.schedule(when, Event::Fetch { at, at_least });
                }
            }
            Effect::Compact { below } => {
                assert!(below <= node.last_lsn.next());
                // A compaction comes after the records that were queued before it.
                node.compactions.push((node.last_lsn, below));
            }
            Effect::Rejected { reason, .. } => self.rejected.push((self.nodes[i].id, reason)),
            Effect::Evidence { culprit, messages } => {
                self.evidence.push((culprit, messages.0, messages.1));
            }
            Effect::ReadAt { .. } => panic!("PBFT orders reads"),
            Effect::ReadRefused(_) => {}
        }
    }

    fn leave(&mut self, i: usize, out: Out) {
        match out {
            Out::Send(to, message) => self.send(i, to, message),
            Out::Decide(seq, batch, proof) => self.decided(i, seq, batch, proof),
        }
    }

    fn send(&mut self, i: usize, to: Recipients, message: Message) {
        self.check_vote(i, &message);
        let from = self.nodes[i].id;
        let others: Vec<NodeId> = match to {
            Recipients::One(to) => vec![to],
            Recipients::Others => {
                let all = self.nodes.iter().map(|node| node.id);
                all.filter(|id| *id != from).collect()
            }
        };
        for to in others {
            let apart = self
                .groups
                .iter()
                .any(|g| g.contains(&from) != g.contains(&to));
            if apart || !(self.filter)(from, to, &message) || self.rng.chance(self.loss) {
                continue;
            }
            let delay = self.rng.between(HOP_NANOS.0, HOP_NANOS.1);
            let at = self.now.after(Duration::from_nanos(delay));
            self.schedule(
                at,
                Event::Deliver {
                    from,
                    to,
                    message: message.clone(),
                },
            );
        }
    }

    /// No replica votes for two things in one view and slot, in all its lives, and no vote leaves
    /// before its record is durable.
    fn check_vote(&mut self, i: usize, message: &Message) {
        let node = &self.nodes[i];
        let (phase, view, seq, digest) = match message {
            Message::Vote(v) => (v.phase, v.view, v.seq, v.digest),
            Message::PrePrepare(p) if p.view.0 % self.nodes.len() as u64 == i as u64 => {
                (Phase::Prepare, p.view, p.seq, p.batch.digest())
            }
            _ => return,
        };
        let earlier = *self
            .votes
            .entry((node.id, phase, view, seq))
            .or_insert(digest);
        assert_eq!(earlier, digest, "{} voted twice in {view} {seq}", node.id);
        let mut durable = node.log.range(..=node.durable).map(|(_, record)| record);
        let low = node.checkpoint.as_ref().map_or(SeqNo::ZERO, |c| c.id.seq);
        let logged = durable.any(|record| match record {
            Record::Prepare {
                view: v,
                seq: s,
                digest: d,
            } => phase == Phase::Prepare && (*v, *s, *d) == (view, seq, digest),
            Record::Prepared(p) => {
                phase == Phase::Commit && (p.view, p.seq, p.digest) == (view, seq, digest)
            }
            _ => false,
        });
        assert!(
            logged || seq <= low,
            "{} sent a vote that is not durable",
            node.id
        );
    }

    fn decided(&mut self, i: usize, seq: SeqNo, batch: Batch, proof: Proof) {
        let node = &mut self.nodes[i];
        let last = node
            .decided
            .last_key_value()
            .map_or(SeqNo::ZERO, |(seq, _)| *seq);
        assert_eq!(seq, last.next(), "decisions come in order at {}", node.id);
        let known = *self.decisions.entry(seq).or_insert(batch.digest());
        assert_eq!(known, batch.digest(), "agreement in slot {seq}");
        assert_eq!(proof.digest, batch.digest());
        for bundle in batch.bundles() {
            node.pool.remove(&request_of(bundle));
        }
        node.decided.insert(seq, (batch, proof));
        if self.checkpoints && seq.0.is_multiple_of(self.limits.checkpoint_interval) {
            self.vote_checkpoint(i, seq);
        }
        self.watch_oldest(i);
    }

    pub(super) fn checkpoint_id(&self, seq: SeqNo) -> CheckpointId {
        let digests: Vec<u8> = self
            .decisions
            .range(..=seq)
            .flat_map(|(_, digest)| digest.0)
            .collect();
        let (epoch, state) = (self.membership.epoch(), Digest::of(&digests));
        CheckpointId { epoch, seq, state }
    }

    pub(super) fn certificate(&self, seq: SeqNo, by: &BTreeSet<NodeId>) -> CheckpointCertificate {
        let id = self.checkpoint_id(seq);
        let genesis = self.membership.genesis();
        let vote = |voter: &NodeId| (*voter, id.sign(genesis, self.key(voter.index())));
        CheckpointCertificate {
            id,
            votes: by.iter().map(vote).collect(),
        }
    }

    fn vote_checkpoint(&mut self, i: usize, seq: SeqNo) {
        let id = self.checkpoint_id(seq);
        let voters = self.checkpoint_votes.entry(id).or_default();
        voters.insert(NodeId(i as u32));
        let quorum = self.membership.quorums().quorum();
        let voters = voters.clone();
        if voters.len() < quorum {
            return;
        }
        let certificate = Arc::new(self.certificate(seq, &voters));
        for voter in voters {
            self.certify(voter.index(), &certificate);
        }
    }

    /// The certificate reaches a replica that has the checkpoint.
    pub(super) fn certify(&mut self, i: usize, certificate: &Arc<CheckpointCertificate>) {
        let node = &mut self.nodes[i];
        let newer = node
            .checkpoint
            .as_ref()
            .is_none_or(|c| c.id.seq < certificate.id.seq);
        let has_it = node.decided.contains_key(&certificate.id.seq);
        if newer && has_it && node.protocol.is_some() {
            node.checkpoint = Some(Arc::clone(certificate));
            self.step(i, Input::Checkpointed(Arc::clone(certificate)));
        }
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    fn schedule_soon(&mut self, event: Event) {
        self.schedule(self.now.after(Duration::from_millis(4)), event);
    }

    /// Runs for this long.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while self.advance_until(end) {}
        self.now = end;
    }

    /// Runs until the condition holds. Fails after ten virtual minutes.
    pub(super) fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.now.after(Duration::from_secs(600));
        while !condition(self) {
            assert!(
                self.advance_until(end),
                "no progress: {what}: {}",
                self.describe()
            );
        }
    }

    /// Runs until every running replica has decided every request that it knows of.
    pub(super) fn settle(&mut self) {
        self.run_until("requests wait", |rig| {
            let alive = rig.alive();
            let last = |i: &usize| rig.pbft(*i).status().decided;
            let first = last(&alive[0]);
            let same = alive.iter().all(|i| last(i) == first);
            same && alive.iter().all(|i| rig.nodes[*i].pool.is_empty())
        });
    }

    pub(super) fn describe(&self) -> String {
        let status = |i: &usize| format!("\n{i}: {:?}", self.pbft(*i).status());
        self.alive().iter().map(status).collect()
    }

    fn advance_until(&mut self, end: Time) -> bool {
        let timers = self.nodes.iter().enumerate();
        let timer = timers
            .filter_map(|(i, node)| Some((node.timers.next_deadline()?, i)))
            .min();
        let event = self.events.first_key_value().map(|(key, _)| *key);
        let timer_first = match (timer, event) {
            (Some((at, _)), Some((other, _))) => at < other,
            (timer, _) => timer.is_some(),
        };
        if timer_first {
            let Some((at, i)) = timer.filter(|(at, _)| *at <= end) else {
                return false;
            };
            self.now = self.now.max(at);
            if let Some(name) = self.nodes[i].timers.pop_due(self.now) {
                self.step(i, Input::Timeout(name));
            }
            return true;
        }
        let Some(key) = event.filter(|(at, _)| *at <= end) else {
            return false;
        };
        self.now = self.now.max(key.0);
        if let Some(event) = self.events.remove(&key) {
            self.happen(event);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => {
                if self.nodes[to.index()].protocol.is_some() {
                    let sent = format!("{message:?}");
                    let verdict = self.inject(from.index(), to.index(), message);
                    assert_eq!(verdict, Ok(()), "a correct replica's message: {sent}");
                }
            }
            Event::Durable { at, life, lsn } => {
                let node = &mut self.nodes[at.index()];
                if node.life != life || node.protocol.is_none() {
                    return;
                }
                node.durable = node.durable.max(lsn);
                for (_, below) in node.compactions.extract_if(.., |(after, _)| *after <= lsn) {
                    node.log = node.log.split_off(&below);
                }
                let mut out: Vec<Out> = node.outbox.durable(lsn).collect();
                out.extend(node.decides.durable(lsn));
                for out in out {
                    self.leave(at.index(), out);
                }
                self.step(at.index(), Input::Durable(lsn));
            }
            Event::Body { at, digest } => self.fetch_body(at.index(), digest),
            Event::Fetch { at, at_least } => self.fetch_state(at.index(), at_least),
        }
    }

    /// A message from one replica to another, checked as in production, stepped at once.
    pub(super) fn inject(
        &mut self,
        from: usize,
        to: usize,
        message: Message,
    ) -> Result<(), Reject> {
        let from = NodeId(from as u32);
        let config = self.config(to);
        let checked =
            Verified::check::<Pbft>(&config, &self.membership, from, message, &mut |_| Ok(()))?;
        self.step(
            to,
            Input::Message {
                from,
                message: checked,
            },
        );
        Ok(())
    }

    fn hears(&self, a: usize, b: usize) -> bool {
        let (a, b) = (NodeId(a as u32), NodeId(b as u32));
        self.groups.iter().all(|g| g.contains(&a) == g.contains(&b))
    }

    fn fetch_body(&mut self, i: usize, digest: Digest) {
        if !self.nodes[i].fetching.contains(&digest) {
            return;
        }
        let peers = self
            .alive()
            .into_iter()
            .filter(|p| *p != i && self.hears(i, *p));
        let held = |p: usize| {
            let kept = self.nodes[p]
                .decided
                .values()
                .find(|(b, _)| b.digest() == digest);
            self.pbft(p)
                .body(&digest)
                .or_else(|| kept.map(|(batch, _)| batch.clone()))
        };
        if let Some(batch) = peers.filter_map(held).next() {
            self.step(i, Input::Body(batch));
        }
        let again = self.now.after(Duration::from_millis(50));
        self.schedule(
            again,
            Event::Body {
                at: NodeId(i as u32),
                digest,
            },
        );
    }

    fn fetch_state(&mut self, i: usize, at_least: SeqNo) {
        self.nodes[i].fetching_state = false;
        let Some(own) = self.nodes[i].protocol.as_ref().map(|p| p.status().decided) else {
            return;
        };
        let alive = self.alive();
        let peer = alive.into_iter().filter(|p| *p != i && self.hears(i, *p));
        let ahead = |p: &usize| self.pbft(*p).status().decided;
        let Some(peer) = peer.filter(|p| ahead(p) > own).max_by_key(|p| ahead(p)) else {
            self.nodes[i].fetching_state = true;
            self.schedule_soon(Event::Fetch {
                at: NodeId(i as u32),
                at_least,
            });
            return;
        };
        let (checkpoint, decided) = (
            self.nodes[peer].checkpoint.clone(),
            self.nodes[peer].decided.clone(),
        );
        if let Some(certificate) = checkpoint.filter(|c| c.id.seq > own) {
            let low = certificate.id.seq;
            let node = &mut self.nodes[i];
            node.decided = decided
                .range(..=low)
                .map(|(s, d)| (*s, d.clone()))
                .collect();
            let known: BTreeSet<u64> = node
                .decided
                .values()
                .flat_map(|(batch, _)| batch.bundles().iter().map(request_of))
                .collect();
            node.pool.retain(|number, _| !known.contains(number));
            node.checkpoint = Some(Arc::clone(&certificate));
            let installed = Installed {
                certificate,
                frontier: Bytes::new(),
            };
            self.step(i, Input::StateInstalled(installed));
            self.watch_oldest(i);
        }
        for (seq, (batch, proof)) in decided {
            let (config, digest) = (self.config(i), batch.digest());
            let verdict = Pbft::verify_decision(&config, &self.membership, seq, &digest, &proof);
            assert_eq!(verdict, Ok(()));
            self.step(i, Input::Decided { seq, batch, proof });
        }
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
