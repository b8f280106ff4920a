use super::*;
use crate::storage::{Fault, SimStorage, Storage};
use atlas_common::rng::SeededRng;
use crossbeam_channel::unbounded;
use std::sync::Arc;
use std::time::Duration;

fn open(disk: &SimStorage) -> Result<CheckpointStore, CheckpointError> {
    let options = CheckpointOptions {
        genesis: Digest::of(b"genesis"),
        chunk_bytes: 100,
    };
    CheckpointStore::open(Arc::new(disk.clone()), options)
}

fn checkpoint(seq: u64) -> Checkpoint {
    let mut rng = SeededRng::new(seq);
    Checkpoint {
        meta: CheckpointMeta {
            seq: SeqNo(seq),
            certificate: Bytes::from_static(b"certificate"),
            frontier: Bytes::from_static(b"frontier"),
            info: seq.to_le_bytes().to_vec().into(),
        },
        state: (0..seq * 37).map(|_| rng.next_u64() as u8).collect(),
    }
}

fn write(store: &CheckpointStore, seq: u64) -> Result<(), CheckpointError> {
    store.write_checkpoint(OperationMode::Blocking, checkpoint(seq))
}

#[test]
fn states_come_back_whole_and_by_chunks() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    assert_eq!(store.read_checkpoint().unwrap(), None);
    // An empty state, one chunk, a whole number of chunks, and more.
    for seq in [0, 1, 100, 101] {
        write(&store, seq).unwrap();
        let store = open(&disk).unwrap();
        assert_eq!(store.read_checkpoint().unwrap(), Some(checkpoint(seq)));
        let stored = store.stored(SeqNo(seq)).unwrap();
        let state = checkpoint(seq).state;
        assert_eq!(stored.index.chunks(), state.len().div_ceil(100) as u64);
        for (n, expected) in state.chunks(100).enumerate() {
            let chunk = store.read_chunk(SeqNo(seq), n as u64).unwrap();
            assert_eq!(chunk, expected);
            assert!(stored.index.matches(n as u64, &chunk));
            assert!(!stored.index.matches(n as u64 + 1, &chunk));
        }
        assert!(matches!(
            store.read_chunk(SeqNo(seq), stored.index.chunks()),
            Err(CheckpointError::NoSuchChunk { .. })
        ));
    }
    assert_eq!(store.prune(2).unwrap(), [SeqNo(0), SeqNo(1)]);
    assert_eq!(store.list().unwrap(), [SeqNo(100), SeqNo(101)]);
    assert!(matches!(
        store.stored(SeqNo(1)),
        Err(CheckpointError::Absent { seq: SeqNo(1) })
    ));
    assert_eq!(disk.list().unwrap().len(), 4);
}

#[test]
fn pieces_of_any_length_give_the_same_state() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    let expected = checkpoint(20);
    for (seq, piece) in [1, 7, 99, 100, 101, 250, 10_000].into_iter().enumerate() {
        let seq = SeqNo(seq as u64);
        let mut writer = store.begin(seq).unwrap();
        for part in expected.state.chunks(piece) {
            writer.write(part).unwrap();
        }
        let meta = CheckpointMeta {
            seq,
            ..expected.meta.clone()
        };
        let stored = writer.commit(meta).unwrap();
        assert_eq!(open(&disk).unwrap().stored(seq).unwrap(), stored);
        assert_eq!(store.read_state(seq, 740).unwrap(), expected.state);
        assert!(matches!(
            store.read_state(seq, 739),
            Err(CheckpointError::TooLong {
                found_bytes: 740,
                ..
            })
        ));
    }
}

#[test]
fn a_certificate_is_set_without_rewriting_the_state() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 100).unwrap();
    let before = disk.counters().written_bytes;
    let certificate = Bytes::from_static(b"signed by a quorum");
    store
        .set_certificate(SeqNo(100), certificate.clone())
        .unwrap();
    assert!(disk.counters().written_bytes - before < 300);
    let disk = disk.crash_losing_all();
    let mut expected = checkpoint(100);
    expected.meta.certificate = certificate;
    assert_eq!(
        open(&disk).unwrap().read_checkpoint().unwrap(),
        Some(expected)
    );
    let long = Bytes::from(vec![0; META_BYTES_MAX]);
    assert!(matches!(
        open(&disk).unwrap().set_certificate(SeqNo(100), long),
        Err(CheckpointError::TooLong { .. })
    ));
    assert!(matches!(
        open(&disk).unwrap().set_certificate(SeqNo(7), Bytes::new()),
        Err(CheckpointError::Absent { .. })
    ));
}

#[test]
fn a_writer_that_is_dropped_or_refused_leaves_nothing() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    let mut writer = store.begin(SeqNo(5)).unwrap();
    writer.write(&[1; 1000]).unwrap();
    assert!(matches!(
        store.begin(SeqNo(5)),
        Err(CheckpointError::Exists { .. })
    ));
    drop(writer);
    let writer = store.begin(SeqNo(5)).unwrap();
    assert!(matches!(
        writer.commit(checkpoint(6).meta),
        Err(CheckpointError::WrongNumber { .. })
    ));
    assert!(disk.list().unwrap().is_empty());
    write(&store, 5).unwrap();
    assert!(matches!(
        write(&store, 5),
        Err(CheckpointError::Exists { .. })
    ));
    store.remove(SeqNo(5)).unwrap();
    assert!(matches!(
        store.remove(SeqNo(5)),
        Err(CheckpointError::Absent { .. })
    ));
    write(&store, 5).unwrap();
}

#[test]
fn every_flipped_bit_is_found_and_the_checkpoint_before_is_offered() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 3).unwrap();
    write(&store, 10).unwrap();
    let newest = "checkpoint-000000000000000a";
    for name in disk
        .list()
        .unwrap()
        .iter()
        .filter(|n| n.starts_with(newest))
    {
        for byte in 0..disk.length(name).unwrap() {
            let disk = disk.duplicate();
            assert!(disk.flip_bit(name, byte, (byte % 8) as u8));
            let store = open(&disk).unwrap();
            let latest = store.read_latest().unwrap();
            assert_eq!(latest.checkpoint.unwrap().meta, checkpoint(3).meta);
            assert_eq!(latest.damaged.len(), 1, "{name} byte {byte}");
            assert_eq!(store.read_checkpoint().unwrap(), Some(checkpoint(3)));
            store.remove(SeqNo(3)).unwrap();
            assert!(store.read_checkpoint().is_err());
            // What is damaged can be written again once it is removed.
            store.remove(SeqNo(10)).unwrap();
            write(&store, 10).unwrap();
            assert_eq!(store.read_checkpoint().unwrap(), Some(checkpoint(10)));
        }
        for length in [None, Some(0), Some(50)] {
            let disk = disk.duplicate();
            disk.lose(name, length);
            let store = open(&disk).unwrap();
            assert_eq!(store.read_checkpoint().unwrap(), Some(checkpoint(3)));
        }
    }
}

#[test]
fn a_checkpoint_of_another_cluster_is_refused() {
    let disk = SimStorage::new();
    write(&open(&disk).unwrap(), 3).unwrap();
    let options = CheckpointOptions::new(Digest::of(b"other"));
    let store = CheckpointStore::open(Arc::new(disk), options).unwrap();
    match store.read_checkpoint() {
        Err(CheckpointError::Metadata { cause, .. }) => {
            assert!(matches!(cause, SealedError::WrongCluster { .. }));
        }
        other => panic!("{other:?}"),
    }
}

/// What a run of a store has been told to be done.
#[derive(Default)]
struct Known {
    written: u64,
    certified: bool,
}

fn live(disk: &SimStorage, known: &mut Known) -> Result<(), CheckpointError> {
    let store = open(disk)?;
    let first = known.written + 1;
    for seq in first..first + 3 {
        write(&store, seq)?;
        (known.written, known.certified) = (seq, false);
        store.set_certificate(SeqNo(seq), Bytes::from_static(b"certified"))?;
        known.certified = true;
        store.prune(2)?;
    }
    Ok(())
}

fn check(disk: &SimStorage, known: &Known, context: &str) -> u64 {
    let store = open(disk).unwrap();
    let whole = store.list().unwrap();
    for seq in &whole {
        if let Err(error) = store.stored(*seq) {
            panic!("{context}: {error}");
        }
    }
    let files = disk.list().unwrap();
    assert_eq!(files.len(), 2 * whole.len(), "{context}: {files:?}");
    let latest = store.read_latest().unwrap();
    assert!(latest.damaged.is_empty(), "{context}: {:?}", latest.damaged);
    let Some(found) = store.read_checkpoint().unwrap() else {
        assert_eq!(known.written, 0, "{context}");
        return 0;
    };
    let seq = found.meta.seq.0;
    assert!(seq >= known.written, "{context}");
    let mut expected = checkpoint(seq);
    let certified = Bytes::from_static(b"certified");
    if seq == known.written && known.certified || found.meta.certificate == certified {
        expected.meta.certificate = certified;
    }
    assert_eq!(found, expected, "{context}");
    assert!(whole.len() <= 3, "{context}");
    seq
}

#[test]
fn a_power_cut_or_full_disk_or_failed_sync_at_any_operation_keeps_the_newest() {
    let disk = SimStorage::new();
    live(&disk, &mut Known::default()).unwrap();
    let operations = disk.counters().operations;
    for at in 1..=operations {
        for (seed, fault) in (0..15).map(|seed| {
            let faults = [Fault::PowerCut, Fault::DiskFull, Fault::SyncFails];
            (seed, faults[seed as usize % 3])
        }) {
            let context = format!("{fault:?} at {at} seed {seed}");
            let mut rng = SeededRng::new(at << 8 | seed);
            let disk = SimStorage::new();
            let mut known = Known::default();
            disk.inject(fault, at);
            live(&disk, &mut known).ok();
            let disk = disk.crash(&mut rng);
            disk.free_space();
            known.written = check(&disk, &known, &context);
            live(&disk, &mut known).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&disk.crash_losing_all(), &known, &context);
        }
    }
}

#[test]
fn notify_writes_on_another_thread_and_tells() {
    let disk = SimStorage::new();
    let (told, outcomes) = unbounded();
    let store = CheckpointStore::open_with(
        Arc::new(disk.clone()),
        CheckpointOptions::new(Digest::default()),
        move |outcome| {
            told.send(outcome.map_err(|error| error.to_string()))
                .unwrap()
        },
    )
    .unwrap();
    let write = |seq| store.write_checkpoint(OperationMode::Notify, checkpoint(seq));
    write(4).unwrap();
    let outcome = outcomes.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(outcome, Ok(SeqNo(4)));
    assert!(write(4).is_err());
    disk.inject(Fault::SyncFails, 1);
    write(5).unwrap();
    let outcome = outcomes.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(outcome.unwrap_err().contains("cannot sync"));
    // The last handle waits for its threads.
    write(6).unwrap();
    drop(store);
    assert_eq!(outcomes.try_recv(), Ok(Ok(SeqNo(6))));
}
