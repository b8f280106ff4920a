//! Order, bounds and survival of the worker threads.

use super::super::ClientAdmission;
use super::super::tests::{bundle, checker, client, forged};
use super::*;
use atlas_common::quorum::FaultModel;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::BTreeMap;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

struct Channel {
    checked: Sender<RequestBundle>,
    rejected: Sender<Reject>,
}

impl PreProcessedSink for Channel {
    fn checked(&self, bundles: Vec<RequestBundle>) {
        for bundle in bundles {
            self.checked.send(bundle).unwrap();
        }
    }

    fn rejected(&self, _: &ClientId, reason: Reject) {
        self.rejected.send(reason).unwrap();
    }
}

fn start(config: WorkerConfig) -> (WorkerPool, Receiver<RequestBundle>, Receiver<Reject>) {
    let (checked, checked_out) = unbounded();
    let (rejected, rejected_out) = unbounded();
    let (checker, _) = checker(FaultModel::Byzantine, ClientAdmission::Any);
    let sink = Arc::new(Channel { checked, rejected });
    let pool = WorkerPool::start(config, Arc::new(checker), sink).unwrap();
    (pool, checked_out, rejected_out)
}

fn with_workers(workers: usize) -> WorkerConfig {
    WorkerConfig {
        workers,
        ..WorkerConfig::default()
    }
}

/// Keeps one worker busy until the returned sender is dropped.
fn block(pool: &WorkerPool, peer: u32) -> Sender<()> {
    let (started, has_started) = bounded::<()>(1);
    let (release, released) = bounded::<()>(0);
    let job = Box::new(move || {
        started.send(()).unwrap();
        released.recv().unwrap_err();
    });
    assert!(pool.submit_message(NodeId(peer), 10, job, true));
    has_started.recv_timeout(PATIENCE).unwrap();
    release
}

#[test]
fn trap_parallel_checking_keeps_each_clients_order() {
    for workers in [0, 1, 3] {
        let (pool, checked, _) = start(with_workers(workers));
        for first in 1..=40 {
            for number in 1..=6 {
                let raw = bundle(number, first).raw().clone();
                // Some in a hurry, some one by one: both ways keep one order.
                let more = first % 3 != 0;
                assert!(pool.submit_bundle(client(number), raw, more));
            }
        }
        let mut last: BTreeMap<ClientId, u64> = BTreeMap::new();
        for _ in 0..240 {
            let bundle = checked.recv_timeout(PATIENCE).unwrap();
            let last = last.entry(bundle.client()).or_default();
            assert_eq!(
                bundle.first().0,
                *last + 1,
                "overtaken with {workers} workers"
            );
            *last += 1;
        }
        assert_eq!(pool.counters().checked, 240);
    }
}

#[test]
fn a_peers_messages_keep_their_order_and_overtake_clients() {
    let (pool, checked, _) = start(with_workers(1));
    let release = block(&pool, 0);
    assert!(pool.submit_bundle(client(1), bundle(1, 1).raw().clone(), true));
    let (seen, order) = unbounded();
    for n in 0..50 {
        let (seen, checked) = (seen.clone(), checked.clone());
        let job = Box::new(move || seen.send((n, checked.len())).unwrap());
        assert!(pool.submit_message(NodeId(2), 10, job, n % 2 == 0));
    }
    drop(release);
    for n in 0..50 {
        // Nothing of the client was done before the last message.
        assert_eq!(order.recv_timeout(PATIENCE).unwrap(), (n, 0));
    }
    checked.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn full_queues_drop_and_count() {
    let config = WorkerConfig {
        workers: 1,
        queue_jobs_max: 8,
        ..WorkerConfig::default()
    };
    let (pool, checked, _) = start(config);
    let release = block(&pool, 0);
    let taken = |first| pool.submit_bundle(client(1), bundle(1, first).raw().clone(), true);
    let taken: Vec<bool> = (1..=20).map(taken).collect();
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 8);
    let messages = (0..20).map(|_| pool.submit_message(NodeId(1), 10, Box::new(|| ()), true));
    assert_eq!(messages.filter(|taken| *taken).count(), 8);
    let counters = pool.counters();
    assert_eq!(
        (counters.bundles_dropped, counters.messages_dropped),
        (12, 12)
    );
    drop(release);
    for first in 1..=8 {
        assert_eq!(checked.recv_timeout(PATIENCE).unwrap(), bundle(1, first));
    }
}

#[test]
fn queued_bytes_are_bounded() {
    let config = WorkerConfig {
        workers: 1,
        queue_bytes_max: 1000,
        ..WorkerConfig::default()
    };
    let (pool, _, _) = start(config);
    let release = block(&pool, 0);
    let send = |bytes| pool.submit_message(NodeId(1), bytes, Box::new(|| ()), true);
    assert!(send(500) && send(490));
    assert!(!send(11));
    drop(release);
}

#[test]
fn bad_bundles_and_panicking_jobs_take_nothing_else_with_them() {
    for workers in [0, 1] {
        let (pool, checked, rejected) = start(with_workers(workers));
        let job = Box::new(|| panic!("a job of the test panics"));
        assert!(pool.submit_message(NodeId(1), 1, job, true));
        assert!(pool.submit_bundle(client(1), forged(&bundle(1, 1)), true));
        assert!(pool.submit_bundle(client(1), Bytes::from_static(b"garbage"), true));
        assert!(pool.submit_bundle(client(1), bundle(1, 2).raw().clone(), true));
        assert_eq!(checked.recv_timeout(PATIENCE).unwrap(), bundle(1, 2));
        let mut reasons = [(); 2].map(|()| rejected.recv_timeout(PATIENCE).unwrap());
        reasons.sort_unstable();
        assert_eq!(reasons, [Reject::Malformed, Reject::BadSignature]);
        assert_eq!((pool.counters().panics, pool.counters().rejected), (1, 2));
    }
}

#[test]
fn a_lone_job_is_done_on_the_calling_thread() {
    let (pool, checked, _) = start(with_workers(2));
    assert!(pool.submit_bundle(client(1), bundle(1, 1).raw().clone(), false));
    assert_eq!(checked.try_recv().unwrap(), bundle(1, 1));
    let here = std::thread::current().id();
    let (seen, thread) = bounded(1);
    let job = Box::new(move || seen.send(std::thread::current().id()).unwrap());
    assert!(pool.submit_message(NodeId(1), 1, job, false));
    assert_eq!(thread.try_recv().unwrap(), here);
}

#[test]
fn what_is_queued_is_done_before_the_pool_ends() {
    let (pool, checked, _) = start(with_workers(2));
    for first in 1..=100 {
        assert!(pool.submit_bundle(client(3), bundle(3, first).raw().clone(), true));
    }
    drop(pool);
    assert_eq!(checked.try_iter().count(), 100);
}
