use super::*;
use crate::log::{LogOptions, SPARES_MAX};
use crate::storage::{Fault, SimStorage, Storage};
use atlas_common::Digest;
use crossbeam_channel::unbounded;

const WAIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Event {
    Durable(Lsn),
    Failed(LogError),
}

fn start(disk: &SimStorage, durability: Durability) -> (LogHandle, Receiver<Event>) {
    let (durable, events) = unbounded();
    let failed = durable.clone();
    let options = LogOptions::small(Digest::default()).durability(durability);
    let (writer, _) = LogWriter::open(Arc::new(disk.clone()), options).unwrap();
    let handle = LogHandle::start(
        writer,
        LogEvents {
            durable: Box::new(move |lsn| durable.send(Event::Durable(lsn)).unwrap()),
            failed: Box::new(move |error| failed.send(Event::Failed(error)).unwrap()),
        },
    );
    (handle.unwrap(), events)
}

fn recovered(disk: &SimStorage) -> Vec<(Lsn, Bytes)> {
    let options = LogOptions::small(Digest::default());
    let (_, found) = LogWriter::open(Arc::new(disk.clone()), options).unwrap();
    found.records
}

fn wait_for(events: &Receiver<Event>, lsn: Lsn) -> usize {
    for heard in 1.. {
        match events.recv_timeout(WAIT).unwrap() {
            Event::Durable(durable) if durable >= lsn => return heard,
            Event::Durable(_) => {}
            Event::Failed(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

#[test]
fn what_waits_is_committed_together() {
    let disk = SimStorage::new();
    let (entered, first_group) = bounded(1);
    let (release, gate) = bounded::<()>(0);
    let (durable, events) = unbounded();
    let (writer, _) =
        LogWriter::open(Arc::new(disk.clone()), LogOptions::small(Digest::default())).unwrap();
    let log = LogHandle::start(
        writer,
        LogEvents {
            durable: Box::new(move |lsn| {
                durable.send(lsn).unwrap();
                if lsn == Lsn(1) {
                    // Holds the log thread while the others queue up.
                    entered.send(()).unwrap();
                    gate.recv().unwrap();
                }
            }),
            failed: Box::new(|error| panic!("{error}")),
        },
    )
    .unwrap();
    log.append(Lsn(1), Bytes::from_static(b"first"), OperationMode::Notify)
        .unwrap();
    first_group.recv_timeout(WAIT).unwrap();
    let before = disk.counters();
    for n in 2..=1000 {
        let record = Bytes::copy_from_slice(&[n as u8; 100]);
        log.append(Lsn(n), record, OperationMode::Notify).unwrap();
    }
    release.send(()).unwrap();
    assert_eq!(events.recv_timeout(WAIT), Ok(Lsn(1)));
    assert_eq!(events.recv_timeout(WAIT), Ok(Lsn(1000)));
    let after = disk.counters();
    assert_eq!(after.syncs - before.syncs, 1);
    let stats = log.stats();
    assert_eq!((stats.groups, stats.records), (2, 1000));
    assert_eq!(stats.record_bytes, 5 + 999 * 100);
    log.shutdown().unwrap();
}

#[test]
fn blocking_returns_when_durable_and_commits_on_the_calling_thread() {
    let disk = SimStorage::new();
    let (log, events) = start(&disk, Durability::Sync);
    let mode = OperationMode::Blocking;
    log.append(Lsn(1), Bytes::from_static(b"a"), mode).unwrap();
    let group = vec![Bytes::from_static(b"b"), Bytes::from_static(b"c")];
    log.append_group(Lsn(2), group, mode).unwrap();
    assert!(events.is_empty(), "nobody is told what he knows");
    assert_eq!(recovered(&disk.duplicate().crash_losing_all()).len(), 3);
    // Behind others it waits for them.
    for n in 4..200 {
        log.append(Lsn(n), Bytes::new(), OperationMode::Notify)
            .unwrap();
    }
    log.append(Lsn(200), Bytes::new(), mode).unwrap();
    assert_eq!(recovered(&disk.duplicate().crash_losing_all()).len(), 200);
    assert_eq!(log.shutdown().unwrap(), Lsn(200));
}

#[test]
fn a_shutdown_and_a_drop_keep_what_was_appended() {
    let disk = SimStorage::new();
    let (log, _events) = start(&disk, Durability::Sync);
    for n in 1..=500 {
        log.append(Lsn(n), Bytes::new(), OperationMode::Notify)
            .unwrap();
    }
    assert_eq!(log.shutdown().unwrap(), Lsn(500));
    let (log, _events) = start(&disk, Durability::Async);
    log.append(Lsn(501), Bytes::new(), OperationMode::Notify)
        .unwrap();
    drop(log);
    assert_eq!(recovered(&disk.crash_losing_all()).len(), 501);
}

#[test]
fn memory_tells_at_once_without_a_thread_or_a_disk() {
    let disk = SimStorage::new();
    let (log, events) = start(&disk, Durability::Memory);
    log.append(Lsn(1), Bytes::new(), OperationMode::Notify)
        .unwrap();
    assert!(matches!(events.try_recv(), Ok(Event::Durable(Lsn(1)))));
    log.append(Lsn(2), Bytes::new(), OperationMode::Blocking)
        .unwrap();
    assert!(events.is_empty());
    log.compact(Lsn(2), OperationMode::Notify).unwrap();
    assert!(log.thread.is_none());
    log.shutdown().unwrap();
    assert_eq!(disk.counters().operations, 0);
}

#[test]
fn async_tells_before_the_sync_and_syncs_soon() {
    let disk = SimStorage::new();
    let (log, events) = start(&disk, Durability::Async);
    let syncs = disk.counters().syncs;
    log.append(Lsn(1), Bytes::from_static(b"x"), OperationMode::Notify)
        .unwrap();
    wait_for(&events, Lsn(1));
    let deadline = Instant::now() + WAIT;
    while disk.counters().syncs == syncs {
        assert!(Instant::now() < deadline, "never synced");
        std::thread::yield_now();
    }
    // A few groups more than syncs: the sync is not on the way of any.
    let syncs = disk.counters().syncs;
    for n in 2..=200 {
        log.append(Lsn(n), Bytes::new(), OperationMode::Blocking)
            .unwrap();
    }
    assert!(disk.counters().syncs - syncs < 100);
    log.shutdown().unwrap();
    assert_eq!(recovered(&disk.crash_losing_all()).len(), 200);
}

/// Catalogue rows 42 and 44.
#[test]
fn a_failure_is_reported_once_and_nothing_is_acknowledged_after_it() {
    for (fault, blocking) in [
        (Fault::SyncFails, false),
        (Fault::SyncFails, true),
        (Fault::DiskFull, false),
        (Fault::DiskFull, true),
    ] {
        let disk = SimStorage::new();
        let (log, events) = start(&disk, Durability::Sync);
        log.append(Lsn(1), Bytes::from_static(b"kept"), OperationMode::Notify)
            .unwrap();
        wait_for(&events, Lsn(1));
        disk.inject(fault, 1);
        // More than what is filled with zeros: that would need no room.
        let record = Bytes::from(vec![1; 100_000]);
        let mode = match blocking {
            true => OperationMode::Blocking,
            false => OperationMode::Notify,
        };
        assert_eq!(log.append(Lsn(2), record, mode).is_err(), blocking);
        match events.recv_timeout(WAIT).unwrap() {
            Event::Failed(LogError::Storage(error)) => {
                assert_eq!(error.is_full(), fault == Fault::DiskFull);
            }
            other => panic!("{other:?}"),
        }
        disk.free_space();
        for mode in [OperationMode::Notify, OperationMode::Blocking] {
            let refused = log.append(Lsn(3), Bytes::new(), mode);
            assert!(
                matches!(refused, Err(LogError::Failed { .. })),
                "{refused:?}"
            );
            let refused = log.compact(Lsn(3), mode);
            assert!(
                matches!(refused, Err(LogError::Failed { .. })),
                "{refused:?}"
            );
        }
        assert!(log.shutdown().is_err());
        assert!(events.is_empty(), "more was said after the failure");
        assert_eq!(recovered(&disk.crash_losing_all()).len(), 1);
    }
}

#[test]
fn a_full_queue_takes_nothing_and_says_so() {
    let disk = SimStorage::new();
    let (log, events) = start(&disk, Durability::Sync);
    let held = log.shared.writer.lock();
    let record = Bytes::from(vec![0; 1 << 20]);
    let mut n = 1;
    let full = loop {
        match log.append(Lsn(n), record.clone(), OperationMode::Notify) {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(full, LogError::QueueFull { lsn } if lsn == Lsn(n)),
        "{full}"
    );
    assert_eq!(n - 1, (QUEUE_BYTES_MAX >> 20) as u64);
    std::thread::scope(|scope| {
        // One that waits finds room when there is.
        let waits = scope.spawn(|| log.append(Lsn(n), record.clone(), OperationMode::Blocking));
        drop(held);
        waits.join().unwrap().unwrap();
    });
    wait_for(&events, Lsn(n));
    log.append(Lsn(n + 1), record, OperationMode::Notify)
        .unwrap();
    assert_eq!(log.shutdown().unwrap(), Lsn(n + 1));
}

#[test]
fn numbers_and_lengths_are_checked_before_anything_is_queued() {
    let disk = SimStorage::new();
    let (log, _events) = start(&disk, Durability::Sync);
    let refused = log.append(Lsn(2), Bytes::new(), OperationMode::Notify);
    assert!(matches!(refused, Err(LogError::OutOfOrder { .. })));
    let long = Bytes::from(vec![0; log.shared.record_bytes_max + 1]);
    let refused = log.append_group(Lsn(1), vec![Bytes::new(), long], OperationMode::Blocking);
    assert!(matches!(
        refused,
        Err(LogError::RecordTooLong { lsn: Lsn(2), .. })
    ));
    log.append(Lsn(1), Bytes::new(), OperationMode::Blocking)
        .unwrap();
    log.shutdown().unwrap();
}

#[test]
fn compaction_comes_after_what_was_appended_before_it() {
    let disk = SimStorage::new();
    let (log, _events) = start(&disk, Durability::Sync);
    for n in 1..=40 {
        let record = Bytes::from(vec![n as u8; 20_000]);
        log.append(Lsn(n), record, OperationMode::Notify).unwrap();
    }
    log.compact(Lsn(30), OperationMode::Blocking).unwrap();
    let records = recovered(&disk.duplicate().crash_losing_all());
    assert!(records[0].0 > Lsn(10) && records[0].0 <= Lsn(30));
    assert_eq!(records.last().unwrap().0, Lsn(40));
    log.shutdown().unwrap();
}

#[test]
fn segments_that_are_let_go_are_deleted_before_the_shutdown_returns() {
    let disk = SimStorage::new();
    let (log, _events) = start(&disk, Durability::Sync);
    for n in 1..=40 {
        log.append(
            Lsn(n),
            Bytes::from(vec![1; 100_000]),
            OperationMode::Blocking,
        )
        .unwrap();
    }
    let segments = disk.list().unwrap().len();
    assert!(segments > SPARES_MAX + 4);
    log.compact(Lsn(39), OperationMode::Blocking).unwrap();
    log.shutdown().unwrap();
    let names = disk.list().unwrap();
    let kept = names.iter().filter(|name| name.starts_with("log-")).count();
    assert!(kept <= 2 && names.len() == kept + SPARES_MAX, "{names:?}");
    assert_eq!(recovered(&disk).last().unwrap().0, Lsn(40));
}
