//! An application with every kind of behaviour, and clients to drive it.

use atlas_common::crypto::{PublicKey, Signature, Signer};
use atlas_common::{
    AgreedTime, ClientId, Digest, Epoch, NodeId, OpNumber, ReplicaSet, SeqNo, SessionId,
};
use atlas_core::{Batch, Limits};
use atlas_smr_core::bundle::{RequestBundle, UnsignedBundle};
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_execution::map::OrdMap;
use atlas_smr_execution::{
    Application, ApplicationData, Decision, Execute, ExecutionContext, Executor, ExecutorConfig,
};
use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Adds to a key's total, which is the reply.
    Add(u8, u64),
    /// The same, then panics.
    AddAndPanic(u8, u64),
    /// A reply of so many bytes.
    Fill(usize),
    Time,
    Random,
    Total(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Number(u64),
    Filled(Bytes),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) totals: OrdMap<u8, u64>,
    pub(crate) updates: u64,
}

pub(crate) struct Totals;

impl ApplicationData for Totals {
    type Request = Request;
    type Reply = Answer;
}

impl Application for Totals {
    type State = State;

    fn initial_state(&self) -> State {
        State::default()
    }

    fn update(&self, state: &mut State, request: Request, cx: &mut ExecutionContext) -> Answer {
        state.updates += 1;
        match request {
            Request::Add(key, amount) => Answer::Number(add(state, key, amount)),
            Request::AddAndPanic(key, amount) => {
                add(state, key, amount);
                panic!("as it was asked to");
            }
            Request::Time => Answer::Number(cx.time().unix_millis),
            Request::Random => {
                let random = cx.random();
                random.next_u64();
                let number = random.next_u64();
                // It enters the state, so that a difference would show in the digest.
                state.totals.insert(255, number);
                Answer::Number(number)
            }
            request => self.read(state, request),
        }
    }

    fn read(&self, state: &State, request: Request) -> Answer {
        match request {
            Request::Total(key) => Answer::Number(state.totals.get(&key).copied().unwrap_or(0)),
            Request::Fill(bytes) => Answer::Filled(vec![7; bytes].into()),
            _ => panic!("not a read"),
        }
    }
}

fn add(state: &mut State, key: u8, amount: u64) -> u64 {
    let total = state.totals.get(&key).copied().unwrap_or(0) + amount;
    state.totals.insert(key, total);
    total
}

/// Signatures are not checked here, and cost more than all the rest.
#[derive(Debug)]
struct NoSigner(PublicKey);

impl Signer for NoSigner {
    fn public_key(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, _digest: &Digest) -> Signature {
        Signature([0; 64])
    }
}

pub(crate) fn genesis() -> Digest {
    Digest::of(b"a cluster")
}

pub(crate) fn limits() -> Limits {
    Limits {
        checkpoint_interval: 4,
        sessions_max: 3,
        session_replies_max: 8,
        chunk_bytes: 64,
        operation_bytes_max: 256,
        batch_bytes_max: 600,
        ..Limits::default()
    }
}

pub(crate) fn config(limits: Limits) -> ExecutorConfig {
    ExecutorConfig {
        replica: NodeId(0),
        genesis: genesis(),
        epoch: Epoch(2),
        limits,
    }
}

pub(crate) fn executor() -> Executor<Totals> {
    Executor::new(Totals, config(limits()))
}

pub(crate) fn client(instance: u64) -> ClientId {
    ClientId {
        key: PublicKey([9; 32]),
        instance,
    }
}

pub(crate) fn encoded(request: &Request) -> Bytes {
    let mut bytes = Vec::new();
    Totals::encode_request(request, &mut bytes).unwrap();
    bytes.into()
}

pub(crate) fn open(instance: u64) -> Bytes {
    let client = client(instance);
    RequestBundle::open(client, &genesis(), &NoSigner(client.key))
        .raw()
        .clone()
}

pub(crate) fn raw_bundle(instance: u64, session: u64, first: u64, operations: &[Bytes]) -> Bytes {
    bundle_for(ReplicaSet::default(), instance, session, first, operations)
}

/// A bundle that only these replicas are to answer at once.
pub(crate) fn bundle_for(
    repliers: ReplicaSet,
    instance: u64,
    session: u64,
    first: u64,
    operations: &[Bytes],
) -> Bytes {
    let client = client(instance);
    let says = UnsignedBundle {
        client,
        session: SessionId(session),
        first: OpNumber(first),
        acknowledged: OpNumber(0),
        repliers,
        operations,
    };
    RequestBundle::new(&says, &genesis(), &NoSigner(client.key))
        .raw()
        .clone()
}

pub(crate) fn bundle(instance: u64, session: u64, first: u64, requests: &[Request]) -> Bytes {
    let operations: Vec<Bytes> = requests.iter().map(encoded).collect();
    raw_bundle(instance, session, first, &operations)
}

pub(crate) fn decision(seq: u64, time: u64, bundles: &[Bytes]) -> Decision {
    Decision {
        seq: SeqNo(seq),
        batch: Batch::new(AgreedTime::from_unix_millis(time), bundles),
        bundles: None,
    }
}

/// Applies bundles as the next decision; gives the replies.
pub(crate) fn apply(executor: &mut dyn Execute, bundles: &[Bytes]) -> Vec<Reply> {
    let decision = decision(executor.executed().0 + 1, 0, bundles);
    let replies = executor.apply(&decision).replies;
    replies.into_iter().map(|(_, reply)| reply).collect()
}

pub(crate) fn ok(answer: &Answer) -> OperationResult {
    let mut bytes = Vec::new();
    Totals::encode_reply(answer, &mut bytes).unwrap();
    OperationResult::Ok(bytes.into())
}

pub(crate) fn number(number: u64) -> OperationResult {
    ok(&Answer::Number(number))
}

pub(crate) fn results(session: u64, first: u64, results: Vec<OperationResult>) -> Reply {
    Reply::Results {
        session: SessionId(session),
        first: OpNumber(first),
        results,
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        6 => (0u8..5, 0u64..100).prop_map(|(key, amount)| Request::Add(key, amount)),
        1 => (0u8..5, 0u64..100).prop_map(|(key, amount)| Request::AddAndPanic(key, amount)),
        1 => (0usize..400).prop_map(Request::Fill),
        1 => Just(Request::Time),
        1 => Just(Request::Random),
    ]
}

fn any_bundle() -> impl Strategy<Value = Bytes> {
    let operations = proptest::collection::vec(any_request(), 1..4);
    prop_oneof![
        // More clients than there may be sessions, and sessions that are not theirs.
        2 => (0u64..5).prop_map(open),
        8 => (0u64..5, 1u64..8, 1u64..12, operations)
            .prop_map(|(client, session, first, requests)| bundle(client, session, first, &requests)),
        1 => Just(raw_bundle(0, 1, 1, &[Bytes::from_static(b"\xff\xff")])),
        1 => proptest::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from),
    ]
}

/// Decisions 1 and on.
pub(crate) fn any_decisions() -> impl Strategy<Value = Vec<Decision>> {
    let batch = (0u64..1000, proptest::collection::vec(any_bundle(), 0..6));
    proptest::collection::vec(batch, 1..24).prop_map(|batches| {
        let numbered = (1..).zip(batches);
        numbered
            .map(|(seq, (time, bundles))| decision(seq, time, &bundles))
            .collect()
    })
}
