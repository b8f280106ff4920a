use super::*;
use crate::storage::SimStorage;
use std::sync::Arc;

#[test]
fn records_come_back_across_segments() {
    let disk = SimStorage::new();
    let options = LogOptions {
        segment_bytes: 1000,
        fill_bytes: 200,
        ..LogOptions::small(Digest::of(b"genesis"))
    };
    let (mut log, found) = LogWriter::open(Arc::new(disk.clone()), options.clone()).unwrap();
    assert_eq!(found, Recovered::default());
    for n in 1..=100u64 {
        log.append(Lsn(n), &n.to_le_bytes().repeat(n as usize % 7))
            .unwrap();
        if n % 3 == 0 {
            assert_eq!(log.commit().unwrap(), Lsn(n));
        }
    }
    log.close().unwrap();
    let disk = disk.crash_losing_all();
    let (log, found) = LogWriter::open(Arc::new(disk), options).unwrap();
    assert_eq!(found.torn, None);
    assert_eq!(found.last, Lsn(100));
    assert_eq!(log.next_lsn(), Lsn(101));
    for (n, (lsn, record)) in (1..=100u64).zip(&found.records) {
        assert_eq!(*lsn, Lsn(n));
        assert_eq!(record[..], n.to_le_bytes().repeat(n as usize % 7));
    }
}
