//! The log on a simulated disk. What a crash may take and what damage looks like.

mod crash;
mod damage;

use super::format::{HEAD_BYTES, HEADER_BYTES, is_spare, spare_name};
use super::*;
use crate::storage::{BLOCK_BYTES, SimStorage};
use proptest::prelude::*;
use std::ops::RangeInclusive;
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

/// For records by [`large`]: segments of several blocks.
fn large_options() -> LogOptions {
    LogOptions {
        segment_bytes: 9000,
        fill_bytes: 2000,
        ..options()
    }
}

fn open_large(disk: &SimStorage) -> Result<(LogWriter, Recovered), LogError> {
    LogWriter::open(Arc::new(disk.clone()), large_options())
}

/// The content of record `n` in these tests.
fn record(n: u64) -> Bytes {
    // No zeros: a torn one must differ from a whole one.
    vec![n as u8 | 1; n as usize % 7 * 8].into()
}

/// The same for records so long that blocks and sectors of the disk end within them.
fn large(n: u64) -> Bytes {
    vec![n as u8 | 1; n as usize % 7 * 150].into()
}

fn append(log: &mut LogWriter, lsns: RangeInclusive<u64>) -> Result<Lsn, LogError> {
    append_all(log, lsns, record)
}

fn append_all(
    log: &mut LogWriter,
    lsns: RangeInclusive<u64>,
    record: fn(u64) -> Bytes,
) -> Result<Lsn, LogError> {
    for n in lsns {
        log.append(Lsn(n), &record(n))?;
    }
    log.commit()
}

/// Checks that records are the right ones, without gaps, and gives the first and last.
fn check(found: &Recovered) -> (u64, u64) {
    check_all(found, record)
}

fn check_all(found: &Recovered, record: fn(u64) -> Bytes) -> (u64, u64) {
    let first = found.records.first().map_or(0, |(lsn, _)| lsn.0);
    for (expected, (lsn, bytes)) in (first..).zip(&found.records) {
        assert!(
            (*lsn, bytes) == (Lsn(expected), &record(expected)),
            "record {expected}"
        );
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

fn newest_segment(disk: &SimStorage) -> String {
    let mut names = disk.list().unwrap();
    names.retain(|name| !is_spare(name));
    names.pop().unwrap()
}

fn spares(disk: &SimStorage) -> usize {
    let names = disk.list().unwrap();
    names.iter().filter(|name| is_spare(name)).count()
}

#[test]
fn the_front_goes_by_whole_segments_and_some_files_are_written_over() {
    let disk = SimStorage::new();
    let (mut log, _) = open_large(&disk).unwrap();
    append_all(&mut log, 1..=200, large).unwrap();
    let segments = disk.list().unwrap().len();
    log.truncate_below(Lsn(160)).unwrap();
    let first = log.first_lsn();
    assert!(first <= Lsn(160) && first > Lsn(140), "{first}");
    let names = disk.list().unwrap();
    assert_eq!(spares(&disk), SPARES_MAX);
    assert!(names.len() < segments, "not all files are kept");
    let spare = disk.live_bytes(&spare_name(SPARES_MAX - 1)).unwrap();
    // Not all the way: the file must still hold old frames when it is looked at.
    while spares(&disk) == SPARES_MAX {
        let n = log.next_lsn().0;
        append_all(&mut log, n..=n, large).unwrap();
    }
    let newest = newest_segment(&disk);
    let reused = disk.live_bytes(&newest).unwrap();
    let kept = BLOCK_BYTES..;
    assert!(
        reused[kept.clone()] == spare[kept],
        "{newest} is no recycled file"
    );
    let last = log.next_lsn().0 - 1;
    // Killed, and asked again and again with the old frames behind the new ones.
    let disk = disk.crash_losing_all();
    let (mut log, found) = open_large(&disk).unwrap();
    assert_eq!(check_all(&found, large), (first.0, last));
    assert_eq!(found.torn, None);
    for n in last + 1..last + 30 {
        append_all(&mut log, n..=n, large).unwrap();
        let (_, found) = open_large(&disk.duplicate()).unwrap();
        assert_eq!(check_all(&found, large), (first.0, n));
    }
}

/// Old frames begin with the next block: what ends the new ones must lie in front of them.
#[test]
fn frames_that_end_with_a_block_end_so_in_a_recycled_file_too() {
    for short in [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1] {
        let disk = SimStorage::new();
        let (mut log, _) = open_large(&disk).unwrap();
        append_all(&mut log, 1..=200, large).unwrap();
        log.truncate_below(Lsn(160)).unwrap();
        let mut n = 200;
        while spares(&disk) == SPARES_MAX {
            n += 1;
            append_all(&mut log, n..=n, large).unwrap();
        }
        let end = HEADER_BYTES + HEAD_BYTES + large(n).len();
        let length = BLOCK_BYTES - short - end - HEAD_BYTES;
        log.append(Lsn(n + 1), &vec![7; length]).unwrap();
        log.commit().unwrap();
        let newest = newest_segment(&disk);
        let bytes = disk.live_bytes(&newest).unwrap();
        let end = BLOCK_BYTES - short;
        assert!(bytes[end - length..end].iter().all(|byte| *byte == 7));
        let (_, found) = open_large(&disk.crash_losing_all()).unwrap();
        assert_eq!((found.last, found.torn), (Lsn(n + 1), None), "{short}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_was_committed_comes_back(
        groups in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..6), 1..20),
        segment_bytes in 300u64..20_000,
        fill_bytes in 0u64..10_000,
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
