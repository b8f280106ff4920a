//! Reads on threads of their own.

use crate::common::*;
use crate::thread::{PATIENCE, next, start};
use atlas_common::SeqNo;
use atlas_smr_core::client_message::{Consistency, OperationResult, ReadRequest, Reply};
use atlas_smr_execution::{
    Application, ApplicationData, DecisionExecutorHandle, ExecutionContext, Executor,
    ExecutorOptions,
};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::thread::spawn;

/// A number that every update counts up. A read of 1 waits to be let go, one of 2 panics.
struct Watched {
    entered: Sender<()>,
    gate: Receiver<()>,
}

impl ApplicationData for Watched {
    type Request = u8;
    type Reply = u64;
}

impl Application for Watched {
    type State = u64;

    const CONCURRENT_READS: bool = true;

    fn initial_state(&self) -> u64 {
        0
    }

    fn update(&self, count: &mut u64, _: u8, _: &mut ExecutionContext) -> u64 {
        *count += 1;
        *count
    }

    fn read(&self, count: &u64, request: u8) -> u64 {
        if request == 1 {
            self.entered.send(()).unwrap();
            self.gate.recv_timeout(PATIENCE).unwrap();
        }
        assert_ne!(request, 2, "as it was asked to");
        *count
    }
}

struct Gate {
    entered: Receiver<()>,
    open: Sender<()>,
}

fn watched() -> (Executor<Watched>, Gate) {
    let (entered, has_entered) = unbounded();
    let (open, gate) = unbounded();
    let gate_of_test = Gate {
        entered: has_entered,
        open,
    };
    let watched = Watched { entered, gate };
    (Executor::new(watched, config(limits())), gate_of_test)
}

fn options(read_threads: usize, reads_max: usize) -> ExecutorOptions {
    ExecutorOptions {
        read_threads,
        reads_max,
        ..ExecutorOptions::of(&limits())
    }
}

fn read(id: u64, request: u8) -> ReadRequest {
    ReadRequest {
        id,
        consistency: Consistency::Linearizable,
        operation: Bytes::from(vec![request]),
    }
}

fn update(session_operation: u64) -> Bytes {
    raw_bundle(1, 1, session_operation, &[Bytes::from_static(&[0])])
}

fn answer(id: u64, count: u8, at: u64) -> Reply {
    Reply::Read {
        id,
        result: OperationResult::Ok(Bytes::from(vec![count])),
        at: SeqNo(at),
    }
}

#[test]
fn a_read_that_takes_its_time_stops_no_write_and_no_other_read() {
    let (executor, gate) = watched();
    let (thread, seen) = start(executor, &options(2, 100));
    let handle = thread.handle();
    handle.queue_update(decision(1, 0, &[open(1), update(1)]));
    handle.queue_update_unordered(client(5), read(1, 1), SeqNo(1));
    next(&gate.entered);
    // Writes are executed and answered meanwhile, and read by others.
    handle.queue_update(decision(2, 0, &[update(2)]));
    handle.queue_update_unordered(client(5), read(2, 0), SeqNo(2));
    let replies: Vec<_> = (0..4).map(|_| next(&seen.replies).1).collect();
    // The read may be answered before the write that it waited for is.
    assert!(replies.contains(&answer(2, 2, 2)), "{replies:?}");
    let results = |reply: &&Reply| matches!(reply, Reply::Results { .. });
    assert_eq!(replies.iter().filter(results).count(), 2);
    // The slow one is answered from the state that it was given.
    gate.open.send(()).unwrap();
    assert_eq!(next(&seen.replies).1, answer(1, 1, 1));
}

#[test]
fn an_answer_does_not_wait_for_the_read_behind_it() {
    let (executor, gate) = watched();
    let (thread, seen) = start(executor, &options(1, 100));
    let handle = thread.handle();
    for (id, request) in [(1, 1), (2, 0), (3, 1)] {
        handle.queue_update_unordered(client(5), read(id, request), SeqNo::ZERO);
    }
    next(&gate.entered);
    gate.open.send(()).unwrap();
    next(&gate.entered);
    // The third stands still; the two before it are answered.
    for id in [1, 2] {
        assert_eq!(next(&seen.replies).1, answer(id, 0, 0));
    }
    gate.open.send(()).unwrap();
    assert_eq!(next(&seen.replies).1, answer(3, 0, 0));
}

#[test]
fn a_read_on_another_thread_waits_for_its_decision() {
    let (executor, _gate) = watched();
    let (thread, seen) = start(executor, &options(1, 100));
    let handle = thread.handle();
    handle.queue_update_unordered(client(5), read(1, 0), SeqNo(2));
    handle.queue_update_unordered(client(5), read(2, 0), SeqNo::ZERO);
    assert_eq!(next(&seen.replies).1, answer(2, 0, 0));
    handle.queue_update(decision(1, 0, &[open(1), update(1)]));
    handle.queue_update(decision(2, 0, &[update(2)]));
    let replies: Vec<_> = (0..4).map(|_| next(&seen.replies).1).collect();
    let at: Vec<_> = replies
        .iter()
        .filter(|reply| matches!(reply, Reply::Read { .. }))
        .collect();
    assert_eq!(at, [&answer(1, 2, 2)]);
}

#[test]
fn reads_see_what_was_installed() {
    let (mut ahead, _gate) = watched();
    for seq in 1..=4 {
        use atlas_smr_execution::Execute;
        ahead.apply(&decision(seq, 0, &[open(1), update(seq)]));
    }
    let image = atlas_smr_execution::Execute::snapshot(&ahead)
        .into_image(64)
        .unwrap();
    let (executor, _gate) = watched();
    let (thread, seen) = start(executor, &options(1, 100));
    let handle = thread.handle();
    handle.queue_update_unordered(client(5), read(1, 0), SeqNo::ZERO);
    assert_eq!(next(&seen.replies).1, answer(1, 0, 0));
    let source = std::sync::Arc::new(image.blobs());
    handle.install_parts(image.id, image.descriptor.clone(), source);
    drop(next(&seen.installed));
    handle.queue_update_unordered(client(5), read(2, 0), SeqNo::ZERO);
    assert_eq!(next(&seen.replies).1, answer(2, 4, 4));
}

#[test]
fn a_read_that_panics_is_answered_and_others_go_on() {
    let (executor, _gate) = watched();
    let (thread, seen) = start(executor, &options(1, 100));
    let handle = thread.handle();
    handle.queue_update_unordered(client(5), read(1, 2), SeqNo::ZERO);
    let failed = Reply::Read {
        id: 1,
        result: OperationResult::ApplicationFailed,
        at: SeqNo::ZERO,
    };
    assert_eq!(next(&seen.replies).1, failed);
    handle.queue_update_unordered(client(5), read(2, 0), SeqNo::ZERO);
    assert_eq!(next(&seen.replies).1, answer(2, 0, 0));
    assert!(seen.failed.is_empty());
}

#[test]
fn too_many_reads_are_refused_and_the_others_answered() {
    let (executor, gate) = watched();
    let (thread, seen) = start(executor, &options(1, 2));
    let handle = thread.handle();
    handle.queue_update_unordered(client(5), read(0, 1), SeqNo::ZERO);
    next(&gate.entered);
    for id in 1..=3 {
        handle.queue_update_unordered(client(5), read(id, 0), SeqNo::ZERO);
        // Reads are taken before progress is told: this one is in its place then.
        handle.queue_update(decision(id, 0, &[]));
        while next(&seen.progress).seq < SeqNo(id) {}
    }
    gate.open.send(()).unwrap();
    drop(thread);
    let replies: Vec<_> = seen.replies.try_iter().map(|(_, reply)| reply).collect();
    assert_eq!(replies[0], Reply::ReadRefused(3));
    assert_eq!(replies[1], answer(0, 0, 0));
    for (id, reply) in (1..=2).zip(&replies[2..]) {
        // The decision that was queued behind a read may be executed before it is taken.
        let may_be = [id - 1, id].map(|at| answer(id, 0, at));
        assert!(may_be.contains(reply), "{reply:?}");
    }
    assert_eq!(replies.len(), 4);
    let stats = handle.stats();
    assert_eq!((stats.refused, stats.reads), (1, 3));
}

#[test]
fn a_thread_that_is_stopped_answers_the_reads_under_way_first() {
    let (executor, gate) = watched();
    let (thread, seen) = start(executor, &options(1, 100));
    let handle = thread.handle();
    handle.queue_update_unordered(client(5), read(1, 1), SeqNo::ZERO);
    handle.queue_update_unordered(client(5), read(2, 0), SeqNo::ZERO);
    next(&gate.entered);
    let stopping = spawn(move || drop(thread));
    gate.open.send(()).unwrap();
    stopping.join().unwrap();
    let replies: Vec<_> = seen.replies.try_iter().map(|(_, reply)| reply).collect();
    assert_eq!(replies, [answer(1, 0, 0), answer(2, 0, 0)]);
}
