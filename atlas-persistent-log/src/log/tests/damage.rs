//! Torn tails and damaged bytes (catalogue row 41).

use super::*;
use crate::log::format::{HEAD_BYTES, HEADER_BYTES};
use crate::storage::StorageFile;

const FIRST: &str = "log-0000000000000001";

/// A disk with one more file content, durable.
fn put(disk: &SimStorage, name: &str, bytes: &[u8]) -> SimStorage {
    let disk = disk.duplicate();
    let mut file: Box<dyn StorageFile> = disk.open(name).unwrap();
    file.set_length(0).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
    disk
}

/// The ends of the frames of records, in order, in a segment that holds only records of `lsns`.
fn ends(lsns: std::ops::RangeInclusive<u64>) -> Vec<usize> {
    let lengths = lsns.map(|n| HEAD_BYTES + record(n).len());
    lengths
        .scan(HEADER_BYTES, |end, length| {
            *end += length;
            Some(*end)
        })
        .collect()
}

#[test]
fn a_write_torn_at_any_byte_is_cut_at_the_last_whole_record() {
    let disk = SimStorage::new();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, 1..=3).unwrap();
    append(&mut log, 4..=5).unwrap();
    let before = disk.live_bytes(FIRST).unwrap();
    append(&mut log, 6..=9).unwrap();
    let after = disk.live_bytes(FIRST).unwrap();
    let ends = ends(1..=9);
    let (start, end) = (ends[4], ends[8]);
    for torn in start..=end {
        // Over what was there before, over junk, and at the end of the file.
        let mut over = before.clone();
        over.resize(after.len(), 0);
        over[start..torn].copy_from_slice(&after[start..torn]);
        let mut junk = over.clone();
        junk[torn..].fill(0xa5);
        for bytes in [&over[..], &junk, &after[..torn]] {
            let disk = put(&disk, FIRST, bytes);
            let (mut log, found) = open(&disk).unwrap();
            let whole = ends
                .iter()
                // Where the bytes not written are what they would have been, nothing is torn.
                .filter(|end| bytes.get(..**end) == Some(&after[..**end]))
                .count();
            assert_eq!(check(&found), (1, whole as u64), "torn at {torn}");
            let cut = ends[whole - 1];
            let rest = &bytes[cut..bytes.len().min(cut + HEAD_BYTES)];
            let expected = rest.iter().any(|byte| *byte != 0).then(|| TornTail {
                file: FIRST.to_owned(),
                offset: cut as u64,
                lsn: Lsn(whole as u64 + 1),
            });
            assert_eq!(found.torn, expected, "torn at {torn}");
            // It goes on as if nothing had been.
            let next = whole as u64 + 1;
            append(&mut log, next..=next + 1).unwrap();
            let (_, found) = open(&disk.crash_losing_all()).unwrap();
            assert_eq!(check(&found), (1, next + 1));
            assert_eq!(found.torn, None);
        }
    }
}

#[test]
fn sectors_of_an_unfinished_group_in_any_order_are_torn_not_damaged() {
    let disk = SimStorage::new();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, 1..=2).unwrap();
    append(&mut log, 3..=9).unwrap();
    let (bytes, ends) = (disk.live_bytes(FIRST).unwrap(), ends(1..=9));
    // Each frame of the last group alone is missing, the ones behind it are whole.
    for lost in 2..9 {
        let mut torn = bytes.clone();
        torn[ends[lost - 1]..ends[lost]].fill(0);
        let disk = put(&disk, FIRST, &torn);
        let (mut log, found) = open(&disk).unwrap();
        assert_eq!(check(&found), (1, lost as u64));
        assert_eq!(found.torn.is_some(), lost < 8, "{lost}");
        // What was behind does not come back when the gap is filled with the same bytes.
        append(&mut log, lost as u64 + 1..=lost as u64 + 1).unwrap();
        let (_, found) = open(&disk).unwrap();
        assert_eq!(check(&found), (1, lost as u64 + 1));
        assert_eq!(found.torn, None, "what was cut off is gone");
    }
}

#[test]
fn frames_and_segments_of_another_history_do_not_fit() {
    // Two disks that draw the same salts, with logs that differ in one record only.
    let history = |odd: u64| {
        let disk = SimStorage::new();
        let (mut log, _) = open(&disk).unwrap();
        for n in 1..=20 {
            let content = if n == odd { 1 } else { 0 };
            log.append(Lsn(n), &[content; 60]).unwrap();
            log.commit().unwrap();
        }
        disk
    };
    let (one, other) = (history(3), history(4));
    let names = one.list().unwrap();
    assert_eq!(names, other.list().unwrap());
    assert!(names.len() > 2);
    let (a, b) = (
        one.live_bytes(FIRST).unwrap(),
        other.live_bytes(FIRST).unwrap(),
    );
    let end = HEADER_BYTES + 4 * (HEAD_BYTES + 60);
    let mut spliced = a;
    spliced[end..].copy_from_slice(&b[end..]);
    match open(&put(&one, FIRST, &spliced)) {
        Err(LogError::Damaged { lsn, damage, .. }) => {
            assert_eq!((lsn, damage), (Lsn(5), Damage::Sequence));
        }
        result => panic!("{result:?}"),
    }
    assert!(matches!(
        open(&put(&one, FIRST, &b)),
        Err(LogError::Damaged { .. })
    ));
}

/// Several segments, with a removed front, a recycled file, and small groups.
fn reference() -> (SimStorage, LogWriter, u64, u64) {
    let disk = SimStorage::new();
    let (mut log, _) = open(&disk).unwrap();
    let mut n = 0;
    while log.next_lsn() <= Lsn(70) {
        append(&mut log, n + 1..=n + 1 + n % 3).unwrap();
        n = log.next_lsn().0 - 1;
        if n > 40 {
            log.truncate_below(Lsn(25)).unwrap();
        }
    }
    let first = log.first_lsn().0;
    assert!(first > 1 && disk.list().unwrap().len() > 2);
    (disk, log, first, n)
}

/// Opens with every bit flipped in turn; `verdict` judges (file, byte, outcome).
fn flip_all(disk: &SimStorage, verdict: impl Fn(&str, u64, Result<Recovered, LogError>)) {
    for name in disk.list().unwrap() {
        for byte in 0..disk.length(&name).unwrap() {
            for bit in 0..8 {
                let disk = disk.duplicate();
                assert!(disk.flip_bit(&name, byte, bit));
                let before = disk.counters();
                let outcome = open(&disk).map(|(_, found)| found);
                if outcome.is_err() {
                    let after = disk.counters();
                    assert_eq!(before.operations, after.operations, "nothing is touched");
                }
                verdict(&name, byte, outcome);
            }
        }
    }
}

#[test]
fn after_a_clean_close_every_flipped_bit_is_found_or_harmless() {
    let (disk, log, first, last) = reference();
    log.close().unwrap();
    flip_all(&disk, |name, byte, outcome| match outcome {
        Ok(found) => assert_eq!(check(&found), (first, last), "{name} byte {byte}"),
        Err(error) => assert!(
            matches!(error, LogError::Damaged { .. }),
            "{name} byte {byte}: {error}"
        ),
    });
}

#[test]
fn after_a_kill_only_the_last_group_can_be_taken_for_torn() {
    let (disk, mut log, first, last) = reference();
    let newest = disk.list().unwrap();
    let newest = newest
        .iter()
        .rfind(|name| name.starts_with("log-"))
        .unwrap();
    append(&mut log, last + 1..=last + 2).unwrap();
    let before = log_end(&disk, newest);
    append(&mut log, last + 3..=last + 5).unwrap();
    assert!(disk.list().unwrap().last() != Some(newest) || log_end(&disk, newest) > before);
    let taken = std::cell::Cell::new(0);
    flip_all(&disk, |name, byte, outcome| match outcome {
        Ok(found) => {
            let (from, to) = check(&found);
            assert_eq!(from, first);
            if to != last + 5 {
                taken.set(taken.get() + 1);
                assert!(to >= last + 2 && found.torn.is_some(), "{name} byte {byte}");
                assert!(name == newest && byte >= before, "{name} byte {byte}");
            }
        }
        Err(error) => assert!(
            matches!(error, LogError::Damaged { .. }),
            "{name} byte {byte}: {error}"
        ),
    });
    assert!(taken.get() > 0, "the test looked at no torn tail");
    // A marker, and there is nothing left that can be taken.
    assert!(log.mark_tail().unwrap());
    assert!(!log.mark_tail().unwrap());
    flip_all(&disk, |name, byte, outcome| {
        if let Ok(found) = outcome {
            assert_eq!(check(&found), (first, last + 5), "{name} byte {byte}");
        }
    });
}

/// The end of the last frame: the end of the bytes that are not zero, in a file that was new.
fn log_end(disk: &SimStorage, name: &str) -> u64 {
    let bytes = disk.live_bytes(name).unwrap();
    let header = crate::log::format::Header::decode(&bytes).unwrap();
    let sealer = crate::log::format::Sealer::new(header.salt);
    let mut at = HEADER_BYTES;
    while let Some(head) = sealer.head(&bytes, at) {
        at += HEAD_BYTES + head.length;
    }
    at as u64
}

#[test]
fn the_error_names_the_place_and_what_to_do() {
    let disk = SimStorage::new();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, 1..=3).unwrap();
    append(&mut log, 4..=4).unwrap();
    let offset = ends(1..=3)[1] as u64;
    assert!(disk.flip_bit(FIRST, offset + 40, 0));
    let error = open(&disk).unwrap_err();
    match &error {
        LogError::Damaged {
            file,
            offset: at,
            lsn,
            damage,
        } => {
            assert_eq!((file.as_str(), *at), (FIRST, offset));
            assert_eq!((*lsn, *damage), (Lsn(3), Damage::Frame));
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("Restore the file from a copy"));
}

#[test]
fn a_missing_segment_is_noticed_wherever_it_is() {
    let (disk, mut log, first, last) = reference();
    // One more segment, so that there are a first, a middle and a last one.
    append(&mut log, last + 1..=last + 40).unwrap();
    drop(log);
    let names = disk.list().unwrap();
    let segments: Vec<&String> = names.iter().filter(|n| n.starts_with("log-")).collect();
    assert!(segments.len() >= 4);
    for name in segments {
        let disk = disk.duplicate();
        disk.lose(name, None);
        match open(&disk) {
            Err(LogError::Damaged { file, damage, .. }) => {
                assert_eq!((&file, damage), (name, Damage::Missing));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let (_, found) = open(&disk).unwrap();
    assert_eq!(check(&found), (first, last + 40));
}

#[test]
fn a_shortened_segment_in_the_middle_is_damage() {
    let (disk, log, ..) = reference();
    drop(log);
    let names = disk.list().unwrap();
    let segments: Vec<&String> = names.iter().filter(|n| n.starts_with("log-")).collect();
    for length in 0..600 {
        let disk = disk.duplicate();
        disk.lose(segments[0], Some(length));
        assert!(
            matches!(open(&disk), Err(LogError::Damaged { .. })),
            "{length}"
        );
    }
}

#[test]
fn a_payload_that_imitates_frames_cannot_pass_for_evidence() {
    // Frames that are right in every way but for the salt, and claim that all is durable.
    let sealer = crate::log::format::Sealer::new(12345);
    let mut imitation = Vec::new();
    for lsn in 1..200 {
        let head = crate::log::format::Head {
            kind: crate::log::format::Kind::Record,
            length: 0,
            chain: 0,
            lsn: Lsn(lsn),
            durable_end: 1 << 20,
        };
        sealer.encode(&head, &[], &mut imitation);
    }
    let disk = SimStorage::new();
    let (mut log, _) =
        LogWriter::open(Arc::new(disk.clone()), LogOptions::small(options().genesis)).unwrap();
    log.append(Lsn(1), &imitation).unwrap();
    log.commit().unwrap();
    log.append(Lsn(2), &imitation).unwrap();
    log.commit().unwrap();
    let mut bytes = disk.live_bytes(FIRST).unwrap();
    let second = HEADER_BYTES + HEAD_BYTES + imitation.len();
    bytes[second] ^= 1;
    let disk = put(&disk, FIRST, &bytes);
    let (_, found) = open(&disk).unwrap();
    assert_eq!(found.last, Lsn(1));
    assert!(found.torn.is_some());
}

proptest! {
    #[test]
    fn arbitrary_files_give_errors_not_panics(
        tail in prop::collection::vec(any::<u8>(), 0..600), keep in 0usize..400,
    ) {
        let disk = SimStorage::new();
        let (mut log, _) = open(&disk).unwrap();
        append(&mut log, 1..=5).unwrap();
        let mut bytes = disk.live_bytes(FIRST).unwrap();
        bytes.truncate(keep);
        bytes.extend_from_slice(&tail);
        if let Ok((_, found)) = open(&put(&disk, FIRST, &bytes)) {
            check(&found);
        }
    }
}
