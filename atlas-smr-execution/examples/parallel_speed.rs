//! Prints what running operations in parallel gains, and what it costs where it gains nothing:
//! `cargo run --release -p atlas-smr-execution --example parallel_speed`.
//!
//! A decision has 100 bundles of ten operations each; every operation adds to one of 100,000 keys.

use atlas_common::crypto::{PublicKey, Signature, Signer};
use atlas_common::rng::SeededRng;
use atlas_common::{
    AgreedTime, ClientId, Digest, Epoch, NodeId, OpNumber, ReplicaSet, SeqNo, SessionId,
};
use atlas_core::{Batch, Limits};
use atlas_smr_core::bundle::{RequestBundle, UnsignedBundle};
use atlas_smr_execution::{
    Application, ApplicationData, Decision, DivisibleMap, Execute, ExecutionContext, ExecutionPool,
    Executor, ExecutorConfig, ReadWriteSet,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SESSIONS: u64 = 100;
const BUNDLE: u64 = 10;

/// Adds one to a key, after some work.
#[derive(Clone, Copy)]
struct Work {
    rounds: u64,
    declares: bool,
}

impl ApplicationData for Work {
    type Request = u64;
    type Reply = u64;
}

impl Application for Work {
    type State = DivisibleMap;

    fn initial_state(&self) -> DivisibleMap {
        DivisibleMap::new()
    }

    fn update(&self, map: &mut DivisibleMap, key: u64, _: &mut ExecutionContext) -> u64 {
        let mut value = map
            .get_as(&key.to_be_bytes())
            .ok()
            .flatten()
            .unwrap_or(0_u64);
        value += 1;
        black_box((0..self.rounds).fold(value, |sum, n| black_box(sum.rotate_left(3) ^ n)));
        // A number always encodes, and is never too large.
        drop(map.put_as(&key.to_be_bytes(), &value));
        value
    }

    fn keys(&self, key: &u64) -> ReadWriteSet {
        if self.declares {
            ReadWriteSet::nothing().write(&key.to_be_bytes())
        } else {
            ReadWriteSet::Unknown
        }
    }

    fn read(&self, _: &DivisibleMap, _: u64) -> u64 {
        0
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds = rounds_for(Duration::from_micros(20));
    let cases = [
        ("20 µs of work, keys declared", rounds, true, 12),
        ("20 µs of work, nothing declared", rounds, false, 12),
        ("no work, keys declared", 0, true, 100),
        ("no work, nothing declared", 0, false, 100),
    ];
    let eager = ExecutionPool::eager(2)?;
    println!("µs per operation, median of 5 runs in turn");
    println!("{:32}  one thread  two, where faster   two, always", "");
    for (what, rounds, declares, decisions) in cases {
        let work = Work { rounds, declares };
        let pool = ExecutionPool::new(Some(2))?;
        let decisions = workload(decisions);
        let (mut one, mut two, mut always) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..5 {
            one.push(run(work, &decisions, ExecutionPool::sequential()));
            two.push(run(work, &decisions, pool.clone()));
            always.push(run(work, &decisions, eager.clone()));
        }
        let (one, two, always) = (median(one), median(two), median(always));
        let gain = |other: f64| (one / other - 1.0) * 100.0;
        println!(
            "{what:32}  {one:10.2}  {two:7.2} ({:+5.1} %)  {always:7.2} ({:+5.1} %)",
            gain(two),
            gain(always)
        );
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// How many rounds take so long, when nobody else is at work: the quickest of some tries.
fn rounds_for(time: Duration) -> u64 {
    let rounds = 1_000_000;
    let attempt = |_| {
        let start = Instant::now();
        black_box((0..rounds).fold(1_u64, |sum, n| black_box(sum.rotate_left(3) ^ n)));
        start.elapsed().as_secs_f64() / rounds as f64
    };
    let each = (0..50).map(attempt).fold(f64::MAX, f64::min);
    (time.as_secs_f64() / each) as u64
}

/// µs per operation, of all decisions but the first (which opens the sessions).
fn run(work: Work, decisions: &[Decision], pool: ExecutionPool) -> f64 {
    let config = ExecutorConfig {
        replica: NodeId(0),
        genesis: Digest::default(),
        epoch: Epoch(0),
        limits: Limits::default(),
    };
    let mut executor = Executor::new(work, config).with_pool(pool);
    // The pool learns what an operation takes before it is measured.
    let (warm, measured) = decisions.split_at(3);
    warm.iter()
        .for_each(|decision| drop(executor.apply(decision)));
    let start = Instant::now();
    let mut operations = 0;
    for decision in measured {
        operations += executor.apply(decision).operations;
    }
    start.elapsed().as_secs_f64() * 1e6 / operations as f64
}

fn workload(decisions: u64) -> Vec<Decision> {
    let mut random = SeededRng::new(3);
    let opens = (1..=SESSIONS).map(|n| RequestBundle::open(client(n), &Digest::default(), &Nobody));
    let mut all = vec![decision(1, opens.collect())];
    for seq in 2..2 + decisions {
        let bundles = (1..=SESSIONS).map(|n| {
            let request = |_| {
                let mut bytes = Vec::new();
                // A number always encodes.
                drop(Work::encode_request(&random.below(100_000), &mut bytes));
                bytes.into()
            };
            let operations: Vec<_> = (0..BUNDLE).map(request).collect();
            let first = OpNumber((seq - 2) * BUNDLE + 1);
            let says = UnsignedBundle {
                client: client(n),
                session: SessionId(n),
                first,
                acknowledged: first.prev(),
                repliers: ReplicaSet::default(),
                operations: &operations,
            };
            RequestBundle::new(&says, &Digest::default(), &Nobody)
        });
        all.push(decision(seq, bundles.collect()));
    }
    all
}

fn decision(seq: u64, bundles: Vec<RequestBundle>) -> Decision {
    let raw: Vec<_> = bundles.iter().map(|bundle| bundle.raw().clone()).collect();
    Decision {
        seq: SeqNo(seq),
        batch: Batch::new(AgreedTime::default(), &raw),
        bundles: Some(Arc::new(bundles)),
    }
}

fn client(instance: u64) -> ClientId {
    let key = PublicKey([1; 32]);
    ClientId { key, instance }
}

/// Signatures are not checked here.
#[derive(Debug)]
struct Nobody;

impl Signer for Nobody {
    fn public_key(&self) -> PublicKey {
        PublicKey([1; 32])
    }

    fn sign(&self, _digest: &Digest) -> Signature {
        Signature([0; 64])
    }
}
