//! The log and the checkpoint store on real files.

// The helpers are tests too, which clippy does not see.
#![allow(clippy::unwrap_used, clippy::panic)]

use atlas_common::{Digest, Lsn, SeqNo};
use atlas_persistent_log::{
    Birth, Checkpoint, CheckpointMeta, Durability, FileStorage, LogError, LogEvents, LogHandle,
    LogOptions, LogWriter, MonolithicStateLog, OperationMode, PartStore, Storage, StorageError,
    StoreOptions, birth,
};
use bytes::Bytes;
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        fill_bytes: 16 << 10,
        ..LogOptions::new(Digest::of(b"genesis"))
    }
}

fn storage(directory: &Path) -> Arc<FileStorage> {
    Arc::new(FileStorage::open(directory).unwrap())
}

fn silent() -> LogEvents {
    LogEvents {
        durable: Box::new(|_| ()),
        failed: Box::new(|error| panic!("{error}")),
    }
}

#[test]
fn a_directory_has_one_owner_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/on/demand");
    let first = storage(&path);
    match FileStorage::open(&path) {
        Err(error @ StorageError::AlreadyOpen { .. }) => {
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(
        first.list().unwrap().is_empty(),
        "the lock is no file of ours"
    );
    drop(first);
    FileStorage::open(&path).unwrap();
}

#[test]
fn a_log_survives_its_process_in_every_written_mode() {
    for durability in [Durability::Sync, Durability::Async] {
        let directory = tempfile::tempdir().unwrap();
        let mut last = 0;
        for life in 1..=3u64 {
            let options = options().durability(durability);
            let (writer, found) = LogWriter::open(storage(directory.path()), options).unwrap();
            assert_eq!(found.last, Lsn(last));
            assert_eq!(found.torn, None);
            let first = found.records.first().map_or(1, |(lsn, _)| lsn.0);
            for (n, (lsn, record)) in (first..).zip(&found.records) {
                assert_eq!((*lsn, &record[..]), (Lsn(n), &[n as u8; 700][..]));
            }
            let log = LogHandle::start(writer, silent()).unwrap();
            for _ in 0..300 {
                last += 1;
                let record = Bytes::from(vec![last as u8; 700]);
                log.append(Lsn(last), record, OperationMode::Notify)
                    .unwrap();
            }
            log.compact(Lsn(last - 100), OperationMode::Notify).unwrap();
            match life {
                1 => assert_eq!(log.shutdown().unwrap(), Lsn(last)),
                _ => drop(log),
            }
        }
        let files = fs::read_dir(directory.path()).unwrap().count();
        assert!(files < 12, "{files} files: the front was not removed");
    }
}

#[test]
fn a_torn_file_is_cut_and_a_damaged_one_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let write = |records: std::ops::RangeInclusive<u64>| {
        let (mut log, found) = LogWriter::open(storage(directory.path()), options()).unwrap();
        assert_eq!(found.last.next(), Lsn(*records.start()));
        for n in records {
            log.append(Lsn(n), &[7; 100]).unwrap();
            log.commit().unwrap();
        }
        found
    };
    write(1..=10);
    let segment = directory.path().join("log-0000000000000001");
    let mut bytes = fs::read(&segment).unwrap();
    let frame = 132;
    let last = 128 + 9 * frame;
    // The last record was written in part.
    bytes[last + 80..].fill(0);
    fs::write(&segment, &bytes).unwrap();
    let torn = write(10..=20).torn.unwrap();
    assert_eq!((torn.lsn, torn.offset), (Lsn(10), last as u64));
    // One in the middle has changed.
    let mut bytes = fs::read(&segment).unwrap();
    bytes[128 + 4 * frame + 50] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    for _ in 0..2 {
        match LogWriter::open(storage(directory.path()), options()) {
            Err(LogError::Damaged { lsn, offset, .. }) => {
                assert_eq!((lsn, offset), (Lsn(5), 128 + 4 * frame as u64));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(&segment).unwrap(), bytes);
    }
}

#[test]
fn checkpoints_and_birth_lie_beside_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = Digest::of(b"genesis");
    let checkpoint = Checkpoint {
        meta: CheckpointMeta {
            seq: SeqNo(77),
            ..CheckpointMeta::default()
        },
        state: vec![9; 3_000_000].into(),
    };
    let born = Birth {
        genesis,
        info: Bytes::from_static(b"replica 0"),
    };
    {
        let storage = storage(directory.path());
        birth::write(&*storage, &born).unwrap();
        let (mut log, _) = LogWriter::open(storage.clone(), options()).unwrap();
        log.append(Lsn(1), b"record").unwrap();
        log.close().unwrap();
        let store = PartStore::open(storage, StoreOptions::new(genesis)).unwrap();
        store.write_checkpoint(checkpoint.clone()).unwrap();
    }
    let storage = storage(directory.path());
    assert_eq!(birth::read(&*storage).unwrap(), Some(born));
    let (_, found) = LogWriter::open(storage.clone(), options()).unwrap();
    assert_eq!(found.records, [(Lsn(1), Bytes::from_static(b"record"))]);
    let store = PartStore::open(storage, StoreOptions::new(genesis)).unwrap();
    assert_eq!(store.read_checkpoint().unwrap(), Some(checkpoint));
    assert_eq!(store.stored(SeqNo(77)).unwrap().descriptor.parts, 3);
}
