//! The log on a simulated disk. What a crash may take and what damage looks like.

mod crash;
mod damage;

use super::*;
use crate::storage::SimStorage;
use proptest::prelude::*;
use std::sync::Arc;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 1000,
        fill_bytes: 200,
        ..LogOptions::small(Digest::of(b"genesis"))
    }
}

fn open(disk: &SimStorage) -> Result<(LogWriter, Recovered), LogError> {
    LogWriter::open(Arc::new(disk.clone()), options())
}

/// The content of record `n` in these tests.
fn record(n: u64) -> Bytes {
    // No zeros: a torn one must differ from a whole one.
    vec![n as u8 | 1; n as usize % 7 * 8].into()
}

fn append(log: &mut LogWriter, lsns: std::ops::RangeInclusive<u64>) -> Result<Lsn, LogError> {
    for n in lsns {
        log.append(Lsn(n), &record(n))?;
    }
    log.commit()
}

/// Checks that records are the right ones, without gaps, and gives the first and last.
fn check(found: &Recovered) -> (u64, u64) {
    let first = found.records.first().map_or(0, |(lsn, _)| lsn.0);
    for (expected, (lsn, bytes)) in (first..).zip(&found.records) {
        assert_eq!((*lsn, bytes), (Lsn(expected), &record(expected)));
    }
    assert_eq!(
        found.records.last().map_or(found.last, |(lsn, _)| *lsn),
        found.last
    );
    (first, found.last.0)
}

#[test]
fn records_come_back_across_segments() {
    let disk = SimStorage::new();
    let (mut log, found) = open(&disk).unwrap();
    assert_eq!(found, Recovered::default());
    for n in 0..33 {
        assert_eq!(
            append(&mut log, n * 3 + 1..=n * 3 + 3).unwrap(),
            Lsn(n * 3 + 3)
        );
    }
    log.close().unwrap();
    let disk = disk.crash_losing_all();
    assert!(disk.list().unwrap().len() > 3);
    let (log, found) = open(&disk).unwrap();
    assert_eq!(found.torn, None);
    assert_eq!(check(&found), (1, 99));
    assert_eq!(log.next_lsn(), Lsn(100));
}

#[test]
fn a_group_is_one_write_and_one_sync() {
    let disk = SimStorage::new();
    let options = LogOptions::small(Digest::default());
    let (mut log, _) = LogWriter::open(Arc::new(disk.clone()), options).unwrap();
    let before = disk.counters();
    append(&mut log, 1..=100).unwrap();
    let after = disk.counters();
    assert_eq!(after.syncs - before.syncs, 1);
    assert_eq!(after.writes - before.writes, 1);
    log.commit().unwrap();
    assert_eq!(disk.counters(), after, "an empty group does nothing");
}

#[test]
fn numbers_without_gaps_and_lengths_within_the_limit() {
    let disk = SimStorage::new();
    let small = LogOptions {
        record_bytes_max: 10,
        ..options()
    };
    let (mut log, _) = LogWriter::open(Arc::new(disk), small).unwrap();
    assert!(matches!(
        log.append(Lsn(2), b""),
        Err(LogError::OutOfOrder {
            expected: Lsn(1),
            found: Lsn(2)
        })
    ));
    assert!(matches!(
        log.append(Lsn(1), &[0; 11]),
        Err(LogError::RecordTooLong {
            limit_bytes: 10,
            ..
        })
    ));
    log.append(Lsn(1), &[0; 10]).unwrap();
    assert_eq!(log.commit().unwrap(), Lsn(1));
}

#[test]
fn a_record_longer_than_a_segment_has_one_to_itself() {
    let disk = SimStorage::new();
    let (mut log, _) = open(&disk).unwrap();
    for n in 1..=3 {
        log.append(Lsn(n), &vec![n as u8; 3000]).unwrap();
    }
    log.close().unwrap();
    let (_, found) = open(&disk).unwrap();
    let lengths: Vec<usize> = found.records.iter().map(|(_, r)| r.len()).collect();
    assert_eq!(lengths, [3000; 3]);
}

#[test]
fn logs_of_another_cluster_and_version_and_mode_are_refused() {
    let disk = SimStorage::new();
    open(&disk).unwrap();
    let other = LogOptions::small(Digest::of(b"other"));
    assert!(matches!(
        LogWriter::open(Arc::new(disk.clone()), other),
        Err(LogError::WrongCluster { .. })
    ));
    let memory = options().durability(Durability::Memory);
    assert!(matches!(
        LogWriter::open(Arc::new(disk.clone()), memory.clone()),
        Err(LogError::ExistingLog { .. })
    ));
    let empty = SimStorage::new();
    let (mut log, _) = LogWriter::open(Arc::new(empty.clone()), memory).unwrap();
    assert_eq!(append(&mut log, 1..=10).unwrap(), Lsn(10));
    assert_eq!(empty.counters().operations, 0);
    let aside = set_aside(&disk).unwrap();
    assert_eq!(aside, ["damaged-log-0000000000000001"]);
    assert_eq!(open(&disk).unwrap().1, Recovered::default());
}

#[test]
fn the_front_goes_by_whole_segments_and_one_file_is_written_over() {
    let disk = SimStorage::new();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, 1..=100).unwrap();
    let segments = disk.list().unwrap().len();
    log.truncate_below(Lsn(60)).unwrap();
    let first = log.first_lsn();
    assert!(first <= Lsn(60) && first > Lsn(40), "{first}");
    let names = disk.list().unwrap();
    assert!(names.len() < segments && names.contains(&"spare".to_owned()));
    let spare = disk.live_bytes("spare").unwrap();
    // Not all the way: the file must still hold old frames when it is looked at.
    while disk.list().unwrap().contains(&"spare".to_owned()) {
        let n = log.next_lsn().0;
        append(&mut log, n..=n).unwrap();
    }
    let newest = disk.list().unwrap().pop().unwrap();
    let reused = disk.live_bytes(&newest).unwrap();
    assert_eq!(reused[500..], spare[500..], "{newest} is no recycled file");
    let last = log.next_lsn().0 - 1;
    // Killed, and asked again and again with the old frames behind the new ones.
    let disk = disk.crash_losing_all();
    let (mut log, found) = open(&disk).unwrap();
    assert_eq!(check(&found), (first.0, last));
    assert_eq!(found.torn, None);
    for n in last + 1..last + 30 {
        append(&mut log, n..=n).unwrap();
        let (_, found) = open(&disk.duplicate()).unwrap();
        assert_eq!(check(&found), (first.0, n));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_was_committed_comes_back(
        groups in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..6), 1..20),
        segment_bytes in 300u64..4000,
        fill_bytes in 0u64..1000,
        reopen_every in 1usize..10,
    ) {
        let disk = SimStorage::new();
        let options = LogOptions { segment_bytes, fill_bytes, ..options() };
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let (mut log, _) = LogWriter::open(Arc::clone(&storage), options.clone()).unwrap();
        let mut expected = Vec::new();
        for (n, group) in groups.iter().enumerate() {
            for record in group {
                let lsn = log.next_lsn();
                log.append(lsn, record).unwrap();
                expected.push((lsn, Bytes::copy_from_slice(record)));
            }
            log.commit().unwrap();
            if n % reopen_every == 0 {
                if n % 2 == 0 {
                    log.close().unwrap();
                }
                let (again, found) = LogWriter::open(Arc::clone(&storage), options.clone()).unwrap();
                prop_assert_eq!(&found.records, &expected);
                prop_assert_eq!(found.torn, None);
                log = again;
            }
        }
    }
}
