//! The thread around an executor.

use crate::common::*;
use atlas_common::{ClientId, OpNumber, SeqNo, SessionId};
use atlas_core::CheckpointId;
use atlas_smr_core::client_message::{Consistency, ReadRequest, Reply};
use atlas_smr_execution::{
    Application, ApplicationData, CheckpointImage, DecisionExecutorHandle, Execute,
    ExecutionContext, ExecutionFailure, ExecutionSink, Executor, ExecutorOptions, ExecutorThread,
    InstallError, Progress, Snapshot, SnapshotError,
};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::{Deserialize, Serialize, Serializer};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longer than anything takes here, so that a fault ends a test instead of hanging it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Sink {
    replies: Sender<(ClientId, Reply)>,
    progress: Sender<Progress>,
    checkpoints: Sender<CheckpointImage>,
    installed: Sender<(CheckpointId, Result<Progress, InstallError>)>,
    failed: Sender<ExecutionFailure>,
}

pub(crate) struct Seen {
    pub(crate) replies: Receiver<(ClientId, Reply)>,
    pub(crate) progress: Receiver<Progress>,
    pub(crate) checkpoints: Receiver<CheckpointImage>,
    pub(crate) installed: Receiver<(CheckpointId, Result<Progress, InstallError>)>,
    pub(crate) failed: Receiver<ExecutionFailure>,
}

impl ExecutionSink for Sink {
    fn replies(&self, replies: Vec<(ClientId, Reply)>) {
        for reply in replies {
            self.replies.send(reply).unwrap();
        }
    }

    fn executed(&self, progress: Progress) {
        self.progress.send(progress).unwrap();
    }

    fn checkpoint(&self, snapshot: Snapshot) -> Result<CheckpointId, SnapshotError> {
        let image = snapshot.into_image(64)?;
        let id = image.id;
        self.checkpoints.send(image).unwrap();
        Ok(id)
    }

    fn installed(&self, id: CheckpointId, outcome: Result<Progress, InstallError>) {
        self.installed.send((id, outcome)).unwrap();
    }

    fn failed(&self, failure: ExecutionFailure) {
        self.failed.send(failure).unwrap();
    }
}

pub(crate) fn start(
    executor: impl Execute + 'static,
    options: &ExecutorOptions,
) -> (ExecutorThread, Seen) {
    let (replies, seen_replies) = unbounded();
    let (progress, seen_progress) = unbounded();
    let (checkpoints, seen_checkpoints) = unbounded();
    let (installed, seen_installed) = unbounded();
    let (failed, seen_failed) = unbounded();
    let sink = Arc::new(Sink {
        replies,
        progress,
        checkpoints,
        installed,
        failed,
    });
    let thread = ExecutorThread::start("test", Box::new(executor), sink, options).unwrap();
    let seen = Seen {
        replies: seen_replies,
        progress: seen_progress,
        checkpoints: seen_checkpoints,
        installed: seen_installed,
        failed: seen_failed,
    };
    (thread, seen)
}

fn started() -> (ExecutorThread, Seen) {
    start(executor(), &ExecutorOptions::of(&limits()))
}

fn read(id: u64, request: &Request) -> ReadRequest {
    ReadRequest {
        id,
        consistency: Consistency::Stale,
        operation: encoded(request),
    }
}

pub(crate) fn next<T>(seen: &Receiver<T>) -> T {
    seen.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn decisions_are_executed_in_order_with_their_replies_and_checkpoints() {
    let (thread, seen) = started();
    let adds = |seq| bundle(1, 1, seq - 1, &[Request::Add(1, 1)]);
    let mut decisions: Vec<_> = (2..=9)
        .map(|seq| decision(seq, seq, &[adds(seq)]))
        .collect();
    decisions.insert(0, decision(1, 0, &[open(1)]));

    let mut inline = executor();
    let applied: Vec<_> = decisions.iter().map(|one| inline.apply(one)).collect();
    let handle = thread.handle();
    handle.queue_update(decisions.remove(0));
    handle.catch_up_to_quorum(decisions);
    // Ends once everything queued is done.
    drop(thread);

    let mut expected_images = Vec::new();
    for one in applied {
        for reply in one.replies {
            assert_eq!(next(&seen.replies), reply);
        }
        expected_images.extend(
            one.snapshot
                .map(|snapshot| snapshot.into_image(64).unwrap()),
        );
    }
    let images: Vec<_> = seen.checkpoints.try_iter().collect();
    assert_eq!(images, expected_images);
    let last = seen.progress.try_iter().last().unwrap();
    assert_eq!((last.seq, last.last_given), (SeqNo(9), SessionId(1)));
    let stats = handle.stats();
    assert_eq!(stats.executed, SeqNo(9));
    assert_eq!(stats.counters, inline.counters());
    assert_eq!(stats.checkpoint, images.last().map(|image| image.id));
    assert!(seen.failed.is_empty());
}

#[test]
fn a_read_waits_for_its_decision_and_no_longer() {
    let (thread, seen) = started();
    let handle = thread.handle();
    handle.queue_update_unordered(client(5), read(1, &Request::Total(1)), SeqNo(2));
    handle.queue_update_unordered(client(5), read(2, &Request::Total(1)), SeqNo::ZERO);
    let answer = |id, at, total| Reply::Read {
        id,
        result: number(total),
        at: SeqNo(at),
    };
    assert_eq!(next(&seen.replies), (client(5), answer(2, 0, 0)));
    handle.queue_update(decision(1, 0, &[open(1)]));
    assert_eq!(next(&seen.replies).1, Reply::Opened(SessionId(1)));
    handle.catch_up_to_quorum(vec![
        decision(2, 0, &[bundle(1, 1, 1, &[Request::Add(1, 3)])]),
        decision(3, 0, &[bundle(1, 1, 2, &[Request::Add(1, 4)])]),
    ]);
    let replies: Vec<_> = (0..3).map(|_| next(&seen.replies).1).collect();
    let expected = [
        results(1, 1, vec![number(3)]),
        answer(1, 2, 3),
        results(1, 2, vec![number(7)]),
    ];
    assert_eq!(replies, expected);
}

#[test]
fn a_retransmission_is_answered_from_the_cache() {
    let (thread, seen) = started();
    let handle = thread.handle();
    let add = bundle(1, 1, 1, &[Request::Add(1, 3)]);
    handle.queue_update(decision(1, 0, &[open(1), add]));
    next(&seen.replies);
    let reply = next(&seen.replies);
    handle.retransmit(client(1), SessionId(1), OpNumber(1), OpNumber(1));
    assert_eq!(next(&seen.replies), reply);
}

#[test]
fn only_so_many_reads_wait_for_a_decision() {
    let options = ExecutorOptions {
        reads_max: 2,
        ..ExecutorOptions::of(&limits())
    };
    let (thread, seen) = start(executor(), &options);
    let handle = thread.handle();
    for id in 0..4 {
        handle.queue_update_unordered(client(5), read(id, &Request::Total(1)), SeqNo(1));
        // Answered at once, which shows that the one before is in its place.
        handle.queue_update_unordered(client(6), read(9, &Request::Total(1)), SeqNo::ZERO);
        while next(&seen.replies).0 != client(6) {}
    }
    handle.queue_update(decision(1, 0, &[]));
    drop(thread);
    let served: Vec<_> = seen.replies.try_iter().collect();
    assert_eq!(served.len(), 2, "{served:?}");
    let stats = handle.stats();
    assert_eq!((stats.refused, stats.reads), (2, 6));
}

/// Does not come back from an update before it is let go.
struct Gated {
    entered: Sender<()>,
    gate: Receiver<()>,
}

impl ApplicationData for Gated {
    type Request = u8;
    type Reply = ();
}

impl Application for Gated {
    type State = ();

    fn initial_state(&self) {}

    fn update(&self, _state: &mut (), _request: u8, _cx: &mut ExecutionContext) {
        self.entered.send(()).unwrap();
        self.gate.recv_timeout(PATIENCE).unwrap();
    }

    fn read(&self, _state: &(), _request: u8) {}
}

#[test]
fn a_full_lane_refuses_reads_at_once_and_decisions_still_get_through() {
    let options = ExecutorOptions {
        reads_max: 2,
        ..ExecutorOptions::of(&limits())
    };
    let (entered, has_entered) = unbounded();
    let (let_go, gate) = unbounded();
    let gated = Executor::new(Gated { entered, gate }, config(limits()));
    let (thread, seen) = start(gated, &options);
    let handle = thread.handle();
    let operation = Bytes::from_static(&[1]);
    let update = raw_bundle(1, 1, 1, std::slice::from_ref(&operation));
    handle.queue_update(decision(1, 0, &[open(1), update]));
    next(&has_entered);
    for id in 0..3 {
        let consistency = Consistency::Stale;
        let operation = operation.clone();
        let read = ReadRequest {
            id,
            consistency,
            operation,
        };
        handle.queue_update_unordered(client(5), read, SeqNo::ZERO);
    }
    handle.retransmit(client(1), SessionId(1), OpNumber(1), OpNumber(1));
    assert_eq!(next(&seen.replies), (client(5), Reply::ReadRefused(2)));
    handle.queue_update(decision(2, 0, &[]));
    let_go.send(()).unwrap();
    drop(thread);
    let stats = handle.stats();
    assert_eq!(
        (stats.refused, stats.reads, stats.executed),
        (2, 2, SeqNo(2))
    );
}

#[test]
fn a_state_is_installed_behind_what_was_queued_before() {
    let mut ahead = executor();
    ahead.apply(&decision(1, 0, &[open(1)]));
    for _ in 2..=8 {
        apply(&mut ahead, &[]);
    }
    let image = ahead.snapshot().into_image(64).unwrap();
    let (thread, seen) = started();
    let handle = thread.handle();
    handle.queue_update(decision(1, 0, &[open(2)]));
    let (id, descriptor) = (image.id, image.descriptor.clone());
    let whole = image.blobs();
    let mut holed = whole.clone();
    holed.pop_last();
    handle.install_parts(id, descriptor.clone(), Arc::new(holed));
    handle.install_parts(id, descriptor, Arc::new(whole));
    handle.queue_update(decision(9, 0, &[bundle(1, 1, 1, &[Request::Add(1, 3)])]));
    assert!(matches!(
        next(&seen.installed),
        (_, Err(InstallError::State(_)))
    ));
    assert_eq!(next(&seen.installed), (id, Ok(ahead.progress())));
    assert_eq!(next(&seen.replies).1, Reply::Opened(SessionId(1)));
    assert_eq!(next(&seen.replies).1, results(1, 1, vec![number(3)]));
    assert_eq!(next(&seen.progress).seq, SeqNo(1));
    assert_eq!(next(&seen.progress).seq, SeqNo(9));
}

#[test]
fn the_state_digest_is_that_of_the_last_decision() {
    let (thread, seen) = started();
    let (answer, digest) = unbounded();
    thread.handle().queue_update(decision(1, 0, &[]));
    // Which of the two lanes is looked at first is open: ask behind a decision's end.
    drop(next(&seen.progress));
    thread
        .handle()
        .state_digest(Box::new(move |digest| answer.send(digest).unwrap()));
    let mut inline = executor();
    inline.apply(&decision(1, 0, &[]));
    let expected = inline.state_digest().unwrap();
    assert_eq!(next(&digest), Some((SeqNo(1), expected)));
    // A thread that has ended says so.
    let handle = thread.handle();
    drop(thread);
    let (answer, digest) = unbounded();
    handle.state_digest(Box::new(move |digest| answer.send(digest).unwrap()));
    assert_eq!(next(&digest), None);
}

/// Its state fails where the application has no business to.
struct Fragile(Weakness);

#[derive(Clone, Copy)]
enum Weakness {
    Encode,
    Clone,
}

#[derive(Deserialize)]
struct FragileState {
    clones_max: usize,
    #[serde(skip)]
    clones: AtomicUsize,
}

impl Clone for FragileState {
    fn clone(&self) -> Self {
        let before = self.clones.fetch_add(1, Ordering::Relaxed);
        assert!(before < self.clones_max, "not cloneable");
        let (clones_max, clones) = (self.clones_max, AtomicUsize::new(0));
        Self { clones_max, clones }
    }
}

impl Serialize for FragileState {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        panic!("not encodable");
    }
}

impl ApplicationData for Fragile {
    type Request = ();
    type Reply = ();
}

impl Application for Fragile {
    type State = FragileState;

    fn initial_state(&self) -> FragileState {
        let clones_max = match self.0 {
            Weakness::Encode => usize::MAX,
            // One is made at the start, to undo operations with.
            Weakness::Clone => 1,
        };
        let clones = AtomicUsize::new(0);
        FragileState { clones_max, clones }
    }

    fn update(&self, _state: &mut FragileState, _request: (), _cx: &mut ExecutionContext) {}

    fn read(&self, _state: &FragileState, _request: ()) {}
}

#[test]
fn an_application_that_fails_in_its_checkpoint_stops_the_replica_with_a_reason() {
    let fail = |weakness| {
        let fragile = Executor::new(Fragile(weakness), config(limits()));
        let (thread, seen) = start(fragile, &ExecutorOptions::of(&limits()));
        thread
            .handle()
            .catch_up_to_quorum((1..=4).map(|seq| decision(seq, 0, &[])).collect());
        next(&seen.failed)
    };
    let cause = SnapshotError::Panicked;
    let seq = SeqNo(4);
    assert_eq!(
        fail(Weakness::Encode),
        ExecutionFailure::Snapshot { seq, cause }
    );
    assert_eq!(
        fail(Weakness::Clone),
        ExecutionFailure::Panicked("not cloneable".to_owned())
    );
}
