//! `kill -9`, again and again, under load: the history stays linearizable and the pauses short.
//!
//! A few cycles each here; as many as `ATLAS_KILL_CYCLES` says in a long run
//! (`scripts/kill-cycles.sh`), which also prints how long each kill stopped the service.

use crate::processes::{Cluster, PATIENCE, seed, wait_for};
use atlas_common::Time;
use atlas_common::rng::SeededRng;
use atlas_kv::{Kv, KvReply, KvRequest};
use atlas_sim::checkers::history::{Answer, Call, Key};
use atlas_sim::checkers::linearizability::{self, Linearizability, Operation};
use atlas_smr::{ApplicationClient, CallError, Consistency, connect};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CALLERS: u64 = 8;
const KEYS: u64 = 16;
/// Answers to wait for after each kill and each restart.
const ANSWERS: u64 = 50;
/// In one cycle of so many, the third, all replicas are killed at once.
const ALL_AT_ONCE: u64 = 10;
/// Steps of the search for an order, per operation.
const STEPS: usize = 1000;

type Seen = Operation<Call, Answer>;

/// What all callers share.
struct Load {
    began: Instant,
    stop: AtomicBool,
    answers: AtomicU64,
    /// When the last answer came, in nanoseconds since the beginning.
    last: AtomicU64,
    /// The longest time without an answer since it was last asked for.
    pause: AtomicU64,
    seen: Vec<Mutex<Vec<Seen>>>,
}

impl Load {
    fn now(&self) -> Time {
        Time::from_nanos(self.began.elapsed().as_nanos() as u64)
    }

    fn answered(&self) {
        let now = self.now().as_nanos();
        let pause = now.saturating_sub(self.last.swap(now, Relaxed));
        self.pause.fetch_max(pause, Relaxed);
        self.answers.fetch_add(1, Relaxed);
    }

    fn wait_for_answers(&self) {
        let enough = self.answers.load(Relaxed) + ANSWERS;
        wait_for("answers", || {
            (self.answers.load(Relaxed) >= enough).then_some(())
        });
    }
}

fn number(bytes: &Bytes) -> u64 {
    u64::from_le_bytes(bytes.as_ref().try_into().unwrap())
}

fn request(key: u64, call: Call) -> KvRequest {
    let key = format!("key {key}");
    match call {
        Call::Get => KvRequest::Get { key },
        Call::Put(value) => KvRequest::Put {
            key,
            value: value.to_le_bytes().to_vec().into(),
        },
        Call::Cas { expected, new } => KvRequest::Cas {
            key,
            expect: expected.map(|value| value.to_le_bytes().to_vec().into()),
            new: Some(new.to_le_bytes().to_vec().into()),
        },
        Call::Delete => KvRequest::Delete { key },
        other => panic!("{other:?} is nothing that the store is asked"),
    }
}

fn answer(reply: &KvReply) -> Answer {
    match reply {
        KvReply::Value(value) => Answer::Value(value.as_ref().map(number)),
        KvReply::Put { previous } => Answer::Put {
            previous: *previous,
        },
        KvReply::Deleted { existed } => Answer::Deleted { existed: *existed },
        KvReply::Cas { swapped: true, .. } => Answer::Swapped,
        KvReply::Cas { current, .. } => Answer::Kept(current.as_ref().map(number)),
        other => panic!("unexpected {other:?}"),
    }
}

/// One caller: reads (every fourth time by an unordered read) and changes of random keys.
async fn call_until_stopped(
    client: ApplicationClient<Kv>,
    load: Arc<Load>,
    caller: u64,
    seed: u64,
) {
    let mut rng = SeededRng::new(seed ^ (caller + 1));
    for turn in 0.. {
        if load.stop.load(Relaxed) {
            return;
        }
        let key = rng.below(KEYS);
        let value = turn * CALLERS + caller;
        let call = match rng.below(4) {
            0 | 1 => Call::Get,
            2 => Call::Put(value),
            _ => Call::Delete,
        };
        let called = load.now();
        let reply = match (call, turn % 2) {
            (Call::Get, 0) => {
                let request = request(key, call);
                client.read(&request, Consistency::Linearizable).await
            }
            _ => client.call(&request(key, call)).await,
        };
        let returned = match reply {
            Ok(reply) => {
                load.answered();
                Some((answer(&reply), load.now()))
            }
            // It may take effect at any time from now on, or never.
            Err(CallError::UnknownOutcome { .. }) => None,
            // A read that got no answer says nothing about the store.
            Err(CallError::TimedOut) => continue,
            Err(error) => panic!("caller {caller}: {error}"),
        };
        let hint = returned.map_or(u64::MAX, |(_, time)| time.as_nanos());
        load.seen[key as usize].lock().unwrap().push(Operation {
            call,
            called,
            returned,
            hint,
        });
    }
}

fn cycles() -> u64 {
    let given = std::env::var("ATLAS_KILL_CYCLES");
    given.map_or(3, |cycles| cycles.parse().unwrap())
}

/// The newest view or term that a replica speaks of, and its leader, where there are such.
fn view(cluster: &Cluster) -> (Option<u64>, Option<u64>) {
    let statuses = cluster.status();
    // One that has just been restarted may still think of an older view.
    let newest = statuses.iter().max_by_key(|status| status["view"].as_u64());
    let number = |name: &str| newest.and_then(|status| status[name].as_u64());
    (number("view"), number("leader"))
}

/// Whom to kill: the leader where there is one, or anybody.
fn victim(leader: Option<u64>, size: usize, rng: &mut SeededRng) -> usize {
    let anybody = rng.below(size as u64);
    let leader = leader.filter(|_| !rng.chance(0.3));
    leader.unwrap_or(anybody) as usize
}

fn survives_kills(protocol: &str, replicas: usize) {
    let seed = seed();
    println!("seed {seed}");
    let mut rng = SeededRng::new(seed);
    let mut cluster = Cluster::start_with(protocol, replicas, &[]);
    let load = Arc::new(Load {
        began: Instant::now(),
        stop: AtomicBool::new(false),
        answers: AtomicU64::new(0),
        last: AtomicU64::new(0),
        pause: AtomicU64::new(0),
        seen: (0..KEYS).map(|_| Mutex::default()).collect(),
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let guard = runtime.enter();
    let client = ApplicationClient::<Kv>::new(connect(&cluster.client_config()).unwrap());
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (client, load) = (client.clone(), Arc::clone(&load));
            runtime.spawn(call_until_stopped(client, load, caller, seed))
        })
        .collect();
    drop(guard);
    let mut pauses = Vec::new();
    for cycle in 1..=cycles() {
        load.wait_for_answers();
        if cycle % ALL_AT_ONCE == 3 {
            let all: Vec<usize> = (0..replicas).collect();
            cluster.kill_9(&all);
            all.iter()
                .for_each(|replica| cluster.start_replica(*replica));
            continue;
        }
        let (before, leader) = view(&cluster);
        let victim = victim(leader, replicas, &mut rng);
        load.pause.store(0, Relaxed);
        cluster.kill_9(&[victim]);
        load.wait_for_answers();
        let pause = Duration::from_nanos(load.pause.load(Relaxed));
        pauses.push(pause);
        println!(
            "cycle {cycle}: replica {victim} of {leader:?} killed in view {before:?}, {pause:?} without answers"
        );
        cluster.start_replica(victim);
    }
    load.wait_for_answers();
    load.stop.store(true, Relaxed);
    for caller in callers {
        let ended = async { tokio::time::timeout(PATIENCE, caller).await };
        runtime.block_on(ended).unwrap().unwrap();
    }
    cluster.wait_until_agreed();
    check(&load, seed);
    pauses.sort_unstable();
    println!(
        "{protocol}, {replicas} replicas, {} kills, {} operations: pause median {:?}, worst {:?}",
        pauses.len(),
        load.answers.load(Relaxed),
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1],
    );
}

fn check(load: &Load, seed: u64) {
    for (key, seen) in load.seen.iter().enumerate() {
        let seen = seen.lock().unwrap();
        let verdict = linearizability::check::<Key>(&seen, seen.len() * STEPS + STEPS);
        assert_eq!(
            verdict,
            Linearizability::Linearizable,
            "key {key}, {} operations, seed {seed}",
            seen.len()
        );
    }
}

#[test]
fn row_47_pbft_survives_kills_of_its_leader_under_load() {
    survives_kills("pbft", 4);
}

#[test]
fn row_47_raft_survives_kills_of_its_leader_under_load() {
    survives_kills("raft", 5);
}

#[test]
fn row_47_rabia_survives_kills_of_replicas_under_load() {
    survives_kills("rabia", 5);
}
