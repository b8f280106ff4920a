//! The core against a fake replicated service: a network that drops, duplicates and reorders, replicas
//! that lag, sessions that get evicted, and f replicas that lie and collude.
//!
//! The oracle is the order of execution: every reply must be the one that belongs to the operation's
//! single execution, and what a client was told had no effect must not have been executed.

use super::*;
use atlas_common::crypto::{KeyPair, PublicKey, Signature};
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::rng::SeededRng;
use atlas_common::{Digest, OpNumber, SeqNo, View};
use atlas_core::Limits;
use atlas_smr_core::client_message::{OperationResult, ReadRequest};
use atlas_smr_core::session::{Admission, SessionTable};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Signs for free.
#[derive(Debug)]
struct FreeSigner;

impl Signer for FreeSigner {
    fn public_key(&self) -> PublicKey {
        PublicKey([1; 32])
    }

    fn sign(&self, _: &Digest) -> Signature {
        Signature([0; 64])
    }
}

fn genesis() -> Digest {
    Digest::of(b"cluster")
}

/// The application: a list of the writes executed. A write's reply is its place; a read's the length.
#[derive(Debug)]
struct Replica {
    table: SessionTable,
    executed: Vec<u64>,
    /// How far it has come in the order.
    position: usize,
    /// What the client sent to it, and it has not executed.
    asked: BTreeSet<Digest>,
}

const READ: u64 = 1 << 63;

impl Replica {
    fn new(replies_bytes_max: usize) -> Self {
        let limits = Limits {
            sessions_max: 2,
            session_replies_max: 64,
            replies_bytes_max,
            ..Limits::default()
        };
        Self {
            table: SessionTable::new(&limits),
            executed: vec![],
            position: 0,
            asked: BTreeSet::new(),
        }
    }

    fn run(&mut self, operation: &[u8]) -> OperationResult {
        let Ok(number) = operation.try_into().map(u64::from_le_bytes) else {
            return OperationResult::InvalidRequest;
        };
        if number & READ == 0 {
            self.executed.push(number);
        }
        self.value()
    }

    fn value(&self) -> OperationResult {
        OperationResult::Ok(Bytes::copy_from_slice(
            &(self.executed.len() as u64).to_le_bytes(),
        ))
    }

    /// Executes the next bundle in the order.
    fn step(&mut self, bundle: &RequestBundle) -> Option<Reply> {
        self.position += 1;
        let reply = self.admit(bundle);
        self.table.settle();
        reply
    }

    fn admit(&mut self, bundle: &RequestBundle) -> Option<Reply> {
        let session = bundle.session();
        match self.table.admit(bundle, SeqNo(self.position as u64)) {
            Admission::Opened { session, .. } => Some(Reply::Opened(session)),
            Admission::Expired => Some(Reply::SessionExpired(session)),
            Admission::Gap | Admission::NotTheirs => None,
            Admission::Run { from } => {
                for (number, operation) in bundle.numbered() {
                    if number >= from {
                        let result = self.run(operation);
                        self.table.record(session, result);
                    }
                }
                self.cached(bundle)
            }
        }
    }

    fn cached(&self, bundle: &RequestBundle) -> Option<Reply> {
        let session = bundle.session();
        let (first, results) = self.table.cached(session, bundle.first(), bundle.last())?;
        Some(Reply::Results {
            session,
            first,
            results,
        })
    }
}

enum Event {
    ToReplica(NodeId, ClientMessage),
    ToClient(NodeId, ReplyMessage),
    /// A replica executes as far as the order goes.
    Execute(usize),
    /// Another client opens a session, which may close this one's.
    Intrude,
    Call,
}

struct World {
    rng: SeededRng,
    core: ClientCore,
    now: Time,
    events: BTreeMap<(Time, u64), Event>,
    serial: u64,
    order: Vec<RequestBundle>,
    replicas: Vec<Replica>,
    liars: usize,
    /// The replicas that execute late, each by so many milliseconds at most.
    lags: Vec<u64>,
    loss: f64,
    /// Of replies that a replica keeps.
    bytes_max: usize,
    intruders: u64,
    /// Writes: number, and how it ended. Reads: how many writes were answered when it began.
    writes: BTreeMap<CallId, u64>,
    reads: BTreeMap<CallId, (Consistency, u64)>,
    results: BTreeMap<CallId, Result<Bytes, CallError>>,
    answered_length: u64,
}

impl World {
    fn new(seed: u64, unordered_reads: bool) -> Self {
        let mut rng = SeededRng::new(seed);
        let n = *rng.pick(&[4, 5, 7]).unwrap();
        let quorums = Quorums::new(FaultModel::Byzantine, n).unwrap();
        let mut config = CoreConfig::new(genesis(), quorums, rng.next_u64());
        config.unordered_reads = unordered_reads;
        config.limits.bundle_operations_max = rng.between(1, 16) as usize;
        config.limits.session_replies_max = 64;
        config.call_timeout = Duration::from_secs(rng.between(1, 20));
        // Every fourth time room for three to six.
        let bytes_max = match seed % 4 {
            0 => 72 * rng.between(4, 8) as usize,
            _ => 1 << 20,
        };
        let core = ClientCore::new(config, Arc::new(FreeSigner)).unwrap();
        let mut world = Self {
            core,
            now: Time::ZERO,
            events: BTreeMap::new(),
            serial: 0,
            order: vec![],
            replicas: (0..n).map(|_| Replica::new(bytes_max)).collect(),
            liars: quorums.faults(),
            lags: (0..n)
                .map(|_| if rng.chance(0.4) { 1500 } else { 20 })
                .collect(),
            loss: rng.below(30) as f64 / 100.0,
            bytes_max,
            intruders: 0,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            results: BTreeMap::new(),
            answered_length: 0,
            rng,
        };
        for _ in 0..120 {
            let at = world.rng.below(20_000);
            world.at(at, Event::Call);
        }
        for _ in 0..world.rng.below(4) {
            let at = world.rng.below(20_000);
            world.at(at, Event::Intrude);
        }
        world
    }

    fn at(&mut self, millis: u64, event: Event) {
        self.serial += 1;
        let at = self.now.after(Duration::from_millis(millis));
        self.events.insert((at, self.serial), event);
    }

    /// Drops, duplicates, delays.
    fn travel(&mut self, make: impl Fn() -> Event) {
        let copies = if self.rng.chance(0.1) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.rng.chance(self.loss) {
                let delay = if self.rng.chance(0.1) { 2000 } else { 30 };
                let delay = self.rng.below(delay);
                self.at(delay, make());
            }
        }
    }

    fn run(&mut self) {
        loop {
            let due = self.core.next_deadline();
            let next = self
                .events
                .first_key_value()
                .map_or(Time::NEVER, |((at, _), _)| *at);
            if due.min(next) == Time::NEVER {
                return;
            }
            if due <= next {
                self.now = self.now.max(due);
                self.core.on_timeout(self.now);
            } else if let Some(((at, _), event)) = self.events.pop_first() {
                self.now = at;
                self.handle(event);
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll(self.now) {
            match output {
                Output::Send { to, message } => {
                    self.travel(|| Event::ToReplica(to, message.clone()));
                }
                Output::SendAll { message } => {
                    for replica in 0..self.replicas.len() as u32 {
                        self.travel(|| Event::ToReplica(NodeId(replica), message.clone()));
                    }
                }
                Output::Completed { call, result } => self.completed(call, result),
            }
        }
    }

    fn completed(&mut self, call: CallId, result: Result<Bytes, CallError>) {
        if let Ok(reply) = &result {
            let length = u64::from_le_bytes(reply.as_ref().try_into().unwrap());
            if let Some((consistency, answered)) = self.reads.get(&call) {
                let executed = self.executed().len() as u64;
                assert!(
                    length <= executed,
                    "a read of writes that were not executed"
                );
                let stale = *consistency == Consistency::Stale;
                assert!(
                    stale || length >= *answered,
                    "a linearizable read missed a write"
                );
            }
            self.answered_length = self.answered_length.max(length);
        }
        assert!(
            self.results.insert(call, result).is_none(),
            "{call:?} ended twice"
        );
    }

    /// The writes in the order, each as often as it took effect.
    fn executed(&self) -> Vec<u64> {
        let mut replica = Replica::new(self.bytes_max);
        for bundle in &self.order {
            replica.step(bundle);
        }
        replica.executed
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Call => self.call(),
            Event::Intrude => {
                self.intruders += 1;
                for i in 0..2 {
                    let id = ClientId {
                        key: PublicKey([2; 32]),
                        instance: self.intruders * 2 + i,
                    };
                    let key = KeyPair::from_seed(&[2; 32]);
                    let open = RequestBundle::open(id, &genesis(), &key);
                    self.decide(open);
                }
            }
            Event::ToClient(from, message) => self.core.on_message(self.now, from, message),
            Event::Execute(index) => self.execute(index),
            Event::ToReplica(to, message) => {
                if to.index() >= self.replicas.len() - self.liars {
                    return self.lie(to, &message);
                }
                match message {
                    ClientMessage::Bundle(raw) => {
                        let limits = Limits::default();
                        let bundle = RequestBundle::decode(raw, &genesis(), &limits).unwrap();
                        self.bundle(to, bundle);
                    }
                    ClientMessage::Read(read) => self.read(to, &read),
                    ClientMessage::Status(_) => {}
                }
            }
        }
    }

    fn call(&mut self) {
        let number = self.writes.len() as u64 + 1;
        match self.rng.below(4) {
            0 => {
                let consistency = *self
                    .rng
                    .pick(&[Consistency::Stale, Consistency::Linearizable])
                    .unwrap();
                let operation = Bytes::copy_from_slice(&READ.to_le_bytes());
                let call = self.core.read(self.now, operation, consistency);
                self.reads.insert(call, (consistency, self.answered_length));
            }
            _ => {
                let operation = Bytes::copy_from_slice(&number.to_le_bytes());
                let call = self.core.call(self.now, operation);
                self.writes.insert(call, number);
            }
        }
    }

    fn bundle(&mut self, to: NodeId, bundle: RequestBundle) {
        let replica = &mut self.replicas[to.index()];
        let executed = replica
            .table
            .last(bundle.session())
            .is_some_and(|l| l >= bundle.last());
        if !bundle.opens_session() && executed {
            if let Some(reply) = replica.cached(&bundle) {
                self.reply(to, reply);
            }
            return;
        }
        replica.asked.insert(bundle.digest());
        // What is on its way already is not proposed twice, as a rule.
        let known = self
            .order
            .iter()
            .rev()
            .take(3)
            .any(|b| b.digest() == bundle.digest());
        if !known || self.rng.chance(0.2) {
            self.decide(bundle);
        }
    }

    fn decide(&mut self, bundle: RequestBundle) {
        self.order.push(bundle);
        for index in 0..self.replicas.len() - self.liars {
            let lag = if self.rng.chance(0.1) {
                3000
            } else {
                self.lags[index]
            };
            let delay = self.rng.below(lag);
            self.at(delay, Event::Execute(index));
        }
    }

    fn execute(&mut self, index: usize) {
        while let Some(bundle) = self.order.get(self.replicas[index].position).cloned() {
            let me = NodeId(index as u32);
            let replica = &mut self.replicas[index];
            let reply = replica.step(&bundle);
            let asked = replica.asked.remove(&bundle.digest()) || bundle.is_answered_by(me);
            if let Some(reply) = reply.filter(|_| asked && bundle.client() == self.core.id()) {
                self.reply(me, reply);
            }
        }
    }

    fn read(&mut self, to: NodeId, read: &ReadRequest) {
        if self.rng.chance(0.1) {
            return self.reply(to, Reply::ReadRefused(read.id));
        }
        let result = self.replicas[to.index()].value();
        self.reply(
            to,
            Reply::Read {
                id: read.id,
                result,
                at: SeqNo(1),
            },
        );
    }

    fn reply(&mut self, from: NodeId, reply: Reply) {
        let hint = LeaderHint {
            view: View(1),
            leader: Some(NodeId(1)),
        };
        let message = ReplyMessage { hint, reply };
        self.travel(|| Event::ToClient(from, message.clone()));
    }

    /// The liars tell the same lies, so that they would match each other; or the truth about writes,
    /// early, and about reads, late.
    fn lie(&mut self, from: NodeId, message: &ClientMessage) {
        let fake = |i: u64| OperationResult::Ok(Bytes::copy_from_slice(&(900 + i).to_le_bytes()));
        let correct = &self.replicas[..self.replicas.len() - self.liars];
        let reply = match message {
            ClientMessage::Read(read) => {
                let slowest = correct.iter().min_by_key(|r| r.position).unwrap();
                let result = if self.rng.chance(0.5) {
                    fake(0)
                } else {
                    slowest.value()
                };
                Reply::Read {
                    id: read.id,
                    result,
                    at: SeqNo(9),
                }
            }
            ClientMessage::Bundle(raw) => {
                let limits = Limits::default();
                let bundle = RequestBundle::decode(raw.clone(), &genesis(), &limits).unwrap();
                let fastest = correct.iter().max_by_key(|r| r.position).unwrap();
                let truth = fastest.cached(&bundle);
                let session = bundle.session();
                let first = OpNumber(bundle.first().0.saturating_sub(self.rng.below(3)));
                let count = bundle.operations().len() as u64 + self.rng.below(3);
                match (self.rng.below(5), truth) {
                    (0, _) if bundle.opens_session() => Reply::Opened(SessionId(77)),
                    (0, _) => Reply::SessionExpired(session),
                    (1, _) => Reply::Opened(SessionId(78)),
                    (2 | 3, Some(truth)) => truth,
                    _ => Reply::Results {
                        session,
                        first,
                        results: (0..count).map(fake).collect(),
                    },
                }
            }
            ClientMessage::Status(_) => return,
        };
        let hint = LeaderHint {
            view: View(1 << 40),
            leader: Some(from),
        };
        let message = ReplyMessage { hint, reply };
        self.travel(|| Event::ToClient(from, message.clone()));
    }

    fn check(&self) -> Tallies {
        let executed = self.executed();
        let place = |number: u64| executed.iter().position(|n| *n == number);
        let mut tallies = Tallies::default();
        for (call, number) in &self.writes {
            let times = executed.iter().filter(|n| *n == number).count();
            assert!(times <= 1, "operation {number} executed {times} times");
            match self.results.get(call).expect("every call ends") {
                Ok(reply) => {
                    let place = place(*number).expect("answered, so executed") as u64 + 1;
                    assert_eq!(reply.as_ref(), place.to_le_bytes(), "operation {number}");
                    tallies.answered += 1;
                }
                Err(CallError::UnknownOutcome { request, doubt }) => {
                    if *doubt == Doubt::Forgotten {
                        assert_eq!(times, 1, "operation {number}");
                        tallies.forgotten += 1;
                    }
                    let bundle = self.order.iter().find(|b| {
                        b.session() == request.session
                            && (b.first()..=b.last()).contains(&request.operation)
                    });
                    if let Some(bundle) = bundle {
                        let index = request.operation.since(bundle.first()) as usize;
                        assert_eq!(bundle.operations()[index].as_ref(), number.to_le_bytes());
                    }
                    tallies.unknown += 1;
                }
                Err(error) => {
                    assert!(error.is_retry_safe(), "{error}");
                    assert_eq!(times, 0, "{error}, yet operation {number} was executed");
                    tallies.safe += 1;
                }
            }
        }
        for call in self.reads.keys() {
            match self.results.get(call).expect("every read ends") {
                Ok(_) => tallies.reads += 1,
                Err(error) => assert_eq!(error, &CallError::TimedOut),
            }
        }
        tallies
    }
}

#[derive(Debug, Default)]
struct Tallies {
    answered: usize,
    unknown: usize,
    forgotten: usize,
    safe: usize,
    reads: usize,
}

#[test]
fn row_33_every_reply_is_true_and_nothing_runs_twice_under_loss_and_lies() {
    let mut total = Tallies::default();
    for seed in 0..200 {
        let unordered_reads = seed % 2 == 0;
        println!("seed {seed}");
        let mut world = World::new(seed, unordered_reads);
        world.run();
        let one = world.check();
        total.answered += one.answered;
        total.unknown += one.unknown;
        total.forgotten += one.forgotten;
        total.safe += one.safe;
        total.reads += one.reads;
    }
    println!("{total:?}");
    // Each kind of outcome came up, and success is the rule.
    assert!(total.answered > 12_000, "{total:?}");
    assert!(total.forgotten > 20, "{total:?}");
    assert!(
        total.reads > 3_000 && total.unknown > 50 && total.safe > 50,
        "{total:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed, true);
        world.run();
        (world.now, world.order.len(), format!("{:?}", world.results))
    };
    assert_eq!(trace(5), trace(5));
}
