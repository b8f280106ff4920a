//! Crashes and failures at every operation (catalogue rows 42 to 44).

use super::*;
use crate::remedy::Remedy;
use crate::storage::Fault;
use atlas_common::rng::SeededRng;

/// What a driver knows when its log stops working.
#[derive(Default)]
struct Known {
    acknowledged: u64,
    appended: u64,
    /// What it asked to be removed.
    below: u64,
}

impl Known {
    /// Part of a group is durable when it reached into a new segment.
    fn observe(&mut self, log: &LogWriter) {
        assert!((self.acknowledged..=self.appended).contains(&log.acknowledged().0));
        self.acknowledged = log.acknowledged().0;
    }
}

/// A life of a log: many groups, new segments, removals. Stops at the first error.
fn live(log: &mut LogWriter, known: &mut Known, until: u64) -> Result<(), LogError> {
    while known.appended < until {
        let next = log.next_lsn().0;
        let last = next + next % 4;
        known.appended = last;
        known.acknowledged = append_all(log, next..=last, large)?.0;
        if next.is_multiple_of(5) {
            log.mark_tail()?;
        }
        if last > 20 && next.is_multiple_of(3) {
            known.below = last - 20;
            log.truncate_below(Lsn(known.below))?;
        }
    }
    Ok(())
}

/// What must be there after a crash, whatever else is.
fn check_kept(found: &Recovered, known: &Known, context: &str) {
    let (first, last) = check_all(found, large);
    assert!(last >= known.acknowledged, "{context}: {last}");
    assert!(last <= known.appended, "{context}: {last}");
    assert!(first <= known.below.max(1), "{context}: first {first}");
}

fn operations_of_a_life(options: &LogOptions) -> u64 {
    let disk = SimStorage::new();
    let (mut log, _) = LogWriter::open(Arc::new(disk.clone()), options.clone()).unwrap();
    live(&mut log, &mut Known::default(), 80).unwrap();
    log.close().unwrap();
    disk.counters().operations
}

#[test]
fn a_power_cut_at_any_operation_keeps_what_was_acknowledged() {
    let operations = operations_of_a_life(&large_options());
    assert!(operations > 100);
    let mut torn = 0;
    for cut in 1..=operations {
        for seed in 0..12 {
            let mut rng = SeededRng::new(cut << 8 | seed);
            let mut disk = SimStorage::new();
            let mut known = Known::default();
            disk.inject(Fault::PowerCut, cut);
            if let Ok((mut log, _)) = open_large(&disk) {
                live(&mut log, &mut known, 80).ok();
            }
            // Recovery is interrupted too, again and again.
            for again in 1..4 {
                disk = disk.crash(&mut rng);
                disk.inject(Fault::PowerCut, again);
                if let Ok((mut log, found)) = open_large(&disk) {
                    check_kept(
                        &found,
                        &known,
                        &format!("cut {cut} seed {seed} again {again}"),
                    );
                    known.acknowledged = found.last.0;
                    known.appended = found.last.0;
                    let until = known.appended + 3;
                    live(&mut log, &mut known, until).ok();
                }
            }
            disk = disk.crash(&mut rng);
            let (mut log, found) =
                open_large(&disk).unwrap_or_else(|error| panic!("cut {cut} seed {seed}: {error}"));
            check_kept(&found, &known, &format!("cut {cut} seed {seed}"));
            torn += u64::from(found.torn.is_some());
            known.appended = found.last.0;
            let until = known.appended + 10;
            live(&mut log, &mut known, until).unwrap();
        }
    }
    assert!(torn > 20, "only {torn} torn tails");
}

#[test]
fn in_mode_async_a_kill_keeps_what_was_acknowledged_and_a_power_cut_is_never_taken_for_damage() {
    let options = large_options().durability(Durability::Async);
    let operations = operations_of_a_life(&options);
    let mut lost = 0;
    for cut in 1..=operations {
        for seed in 0..12 {
            let mut rng = SeededRng::new(cut << 8 | seed);
            let disk = SimStorage::new();
            let mut known = Known::default();
            let open = |disk: &SimStorage| LogWriter::open(Arc::new(disk.clone()), options.clone());
            disk.inject(Fault::PowerCut, cut);
            if let Ok((mut log, _)) = open(&disk) {
                live(&mut log, &mut known, 80).ok();
            }
            let cut_off = disk.duplicate().crash(&mut rng);
            let (_, found) =
                open(&cut_off).unwrap_or_else(|error| panic!("cut {cut} seed {seed}: {error}"));
            check_all(&found, large);
            lost += u64::from(found.last.0 < known.acknowledged);
        }
    }
    assert!(lost > 50, "a power cut should cost something in this mode");
    let disk = SimStorage::new();
    let mut known = Known::default();
    let (mut log, _) = LogWriter::open(Arc::new(disk.clone()), options.clone()).unwrap();
    live(&mut log, &mut known, 80).unwrap();
    assert!(log.needs_sync());
    let disk = disk.kill();
    let (mut log, found) = LogWriter::open(Arc::new(disk.clone()), options.clone()).unwrap();
    check_kept(&found, &known, "killed");
    assert!(!log.needs_sync());
    // What an opening reports is durable; what is appended then, once it is synced.
    append(&mut log, known.appended + 1..=known.appended + 2).unwrap();
    log.sync().unwrap();
    let (_, found) = LogWriter::open(Arc::new(disk.crash_losing_all()), options).unwrap();
    assert_eq!(found.last.0, known.appended + 2);
}

#[test]
fn a_full_disk_stops_the_log_and_loses_nothing() {
    let operations = operations_of_a_life(&large_options());
    let mut struck = 0;
    for at in 1..=operations {
        let disk = SimStorage::new();
        let mut known = Known::default();
        disk.inject(Fault::DiskFull, at);
        let outcome = match open_large(&disk) {
            Ok((mut log, _)) => {
                let outcome = live(&mut log, &mut known, 80);
                if outcome.is_err() {
                    disk.free_space();
                    let next = log.next_lsn();
                    for _ in 0..2 {
                        assert!(matches!(
                            log.append(next, b""),
                            Err(LogError::Failed { .. })
                        ));
                        assert!(matches!(log.commit(), Err(LogError::Failed { .. })));
                        assert!(matches!(log.sync(), Err(LogError::Failed { .. })));
                    }
                    known.observe(&log);
                }
                outcome
            }
            Err(error) => Err(error),
        };
        match outcome {
            Err(LogError::Storage(error)) => assert!(error.is_full(), "at {at}: {error}"),
            Err(other) => panic!("at {at}: {other}"),
            // What is left of the life overwrites and needs no room.
            Ok(()) => continue,
        }
        struck += 1;
        disk.free_space();
        let disk = if at % 2 == 0 {
            disk.kill()
        } else {
            disk.crash_losing_all()
        };
        let (mut log, found) = open_large(&disk).unwrap();
        check_kept(&found, &known, &format!("full at {at}"));
        known.appended = found.last.0;
        live(&mut log, &mut known, 100).unwrap();
    }
    assert!(struck > operations / 2, "{struck} of {operations}");
}

#[test]
fn an_error_says_what_helps_and_so_do_those_that_follow_from_it() {
    for (fault, remedy) in [
        (Fault::SyncFails, Remedy::ReplaceDisk),
        (Fault::DiskFull, Remedy::FreeSpace),
    ] {
        let disk = SimStorage::new();
        let (mut log, _) = open_large(&disk).unwrap();
        disk.inject(fault, disk.counters().operations + 1);
        let error = live(&mut log, &mut Known::default(), 80).unwrap_err();
        assert_eq!(error.remedy(), remedy, "{error}");
        let later = log.commit().unwrap_err();
        assert!(matches!(later, LogError::Failed { .. }));
        assert_eq!(later.remedy(), remedy, "{later}");
    }
}

#[test]
fn a_failed_sync_is_final_and_never_acknowledged() {
    let operations = operations_of_a_life(&large_options());
    for at in 1..=operations {
        let disk = SimStorage::new();
        let mut known = Known::default();
        disk.inject(Fault::SyncFails, at);
        if let Ok((mut log, _)) = open_large(&disk) {
            if live(&mut log, &mut known, 80).is_ok() {
                continue;
            }
            known.observe(&log);
            for _ in 0..3 {
                assert!(matches!(log.commit(), Err(LogError::Failed { .. })));
                assert!(matches!(log.mark_tail(), Err(LogError::Failed { .. })));
            }
            assert_eq!(log.acknowledged().0, known.acknowledged);
        }
        assert_eq!(disk.counters().faults, 1);
        // The process starts again; the system's cache still has the bytes that are not on the
        // disk. What the log then reports must be there after a power cut.
        let disk = disk.kill();
        let (mut log, found) = open_large(&disk).unwrap();
        check_kept(&found, &known, &format!("sync {at} failed"));
        known.acknowledged = found.last.0;
        let (_, found) = open(&disk.duplicate().crash_losing_all()).unwrap();
        check_kept(
            &found,
            &known,
            &format!("power cut at once after sync {at} failed"),
        );
        known.appended = log.next_lsn().0 - 1;
        live(&mut log, &mut known, 100).unwrap();
        let (_, found) = open(&disk.crash_losing_all()).unwrap();
        check_kept(&found, &known, &format!("power cut after sync {at} failed"));
    }
}
