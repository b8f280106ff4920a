use super::*;
use std::collections::BTreeSet;

#[test]
fn a_state_comes_back_as_it_was_written() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    assert!(store.list().unwrap().is_empty());
    for seq in [1, 2, 9] {
        let written = write(&store, seq).unwrap();
        let store = open(&disk).unwrap();
        assert_eq!(store.stored(SeqNo(seq)).unwrap(), written.stored);
        assert_eq!(written.stored.meta, meta(seq));
        assert_eq!(written.stored.descriptor, cut(&state(seq)).0);
        assert_eq!(read(&store, seq).unwrap(), state(seq));
        assert_eq!(store.verify(SeqNo(seq)).unwrap(), []);
    }
    assert_eq!(store.list().unwrap(), [SeqNo(1), SeqNo(2), SeqNo(9)]);
    let absent = store.stored(SeqNo(3));
    assert!(matches!(absent, Err(StoreError::Absent { seq: SeqNo(3) })));
}

#[test]
fn an_empty_state_is_a_state() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    store.write(meta(0), &mut std::iter::empty()).unwrap();
    let store = open(&disk).unwrap();
    assert_eq!(read(&store, 0).unwrap(), Vec::<Bytes>::new());
    assert_eq!(store.verify(SeqNo(0)).unwrap(), []);
}

#[test]
fn only_parts_that_are_not_here_are_written() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    let first = write(&store, 1).unwrap();
    assert_eq!(first.parts_written, PARTS);
    let (old, new) = (state(1), state(2));
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    let second = write(&store, 2).unwrap();
    assert_eq!(second.parts_written, new.difference(&old).count() as u64);
    assert!(second.parts_written > 0 && second.bytes_written < first.bytes_written / 2);
    // The same state under another number: only metadata.
    let parts = state(2);
    let mut parts = parts.iter().map(|part| (PartRef::of(part), part.clone()));
    let third = store.write(meta(3), &mut parts).unwrap();
    assert_eq!(
        (
            third.parts_written,
            third.pages_written,
            third.bytes_written
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_part_that_comes_twice_is_stored_once() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    let part = Bytes::from_static(b"the same");
    let mut parts = std::iter::repeat_n((PartRef::of(&part), part.clone()), 300);
    let written = store.write(meta(1), &mut parts).unwrap();
    assert_eq!(written.parts_written, 1);
    assert_eq!(read(&store, 1).unwrap(), vec![part; 300]);
}

#[test]
fn a_writer_that_is_dropped_or_refused_leaves_no_checkpoint() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    let part = Bytes::from_static(b"part");
    let mut writer = store.begin(SeqNo(5)).unwrap();
    assert!(writer.part(PartRef::of(&part), &part).unwrap());
    let again = store.begin(SeqNo(5));
    assert!(matches!(again, Err(StoreError::Exists { seq: SeqNo(5) })));
    drop(writer);
    let mut writer = store.begin(SeqNo(5)).unwrap();
    let wrong = writer.part(PartRef::of(b"other"), &part);
    assert!(matches!(wrong, Err(StoreError::WrongDigest { .. })));
    let empty = writer.part(PartRef::of(b""), &Bytes::new());
    assert!(matches!(empty, Err(StoreError::BlobLength { .. })));
    let other = writer.commit(meta(6));
    assert!(matches!(other, Err(StoreError::WrongNumber { .. })));
    assert!(disk.list().unwrap().is_empty());
    write(&store, 5).unwrap();
    assert!(matches!(write(&store, 5), Err(StoreError::Exists { .. })));
    store.remove(SeqNo(5)).unwrap();
    assert!(disk.list().unwrap().is_empty());
    assert!(matches!(
        store.remove(SeqNo(5)),
        Err(StoreError::Absent { .. })
    ));
}

#[test]
fn a_certificate_is_set_without_touching_the_state() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 7).unwrap();
    let packs = store.stats();
    certify(&store, 7).unwrap();
    assert_eq!(store.stats(), packs);
    let store = open(&disk.crash_losing_all()).unwrap();
    assert_eq!(
        &store.stored(SeqNo(7)).unwrap().meta.certificate[..],
        b"certified"
    );
    let long = Bytes::from(vec![0; META_BYTES_MAX]);
    let long = store.set_certificate(SeqNo(7), long);
    assert!(matches!(long, Err(StoreError::TooLong { .. })));
    let absent = store.set_certificate(SeqNo(8), Bytes::new());
    assert!(matches!(absent, Err(StoreError::Absent { .. })));
}

#[test]
fn as_many_certified_checkpoints_stay_as_the_retention_says() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    for seq in 1..=7 {
        write(&store, seq).unwrap();
    }
    for seq in [1, 2, 4, 5] {
        certify(&store, seq).unwrap();
    }
    // 3 never was certified, 6 and 7 still may be.
    let gone = [5, 4, 3, 2, 1].map(SeqNo);
    assert_eq!(store.retire(SeqNo(5)).unwrap(), gone[2..]);
    assert_eq!(store.list().unwrap(), [4, 5, 6, 7].map(SeqNo));
    for seq in 4..=7 {
        assert_eq!(store.verify(SeqNo(seq)).unwrap(), []);
    }
    assert_eq!(store.prune(1).unwrap(), [4, 5, 6].map(SeqNo));
    assert_eq!(read(&open(&disk).unwrap(), 7).unwrap(), state(7));
}

#[test]
fn row_46_what_a_transfer_has_kept_is_found_again_after_a_crash() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    let (blobs, target) = (blobs(3), cut(&state(3)).0);
    let wanted = digests(&blobs);
    let missing = store.missing(&wanted);
    assert!(!missing.is_empty() && missing.len() < wanted.len());
    store.begin_transfer(&target).unwrap();
    let half = blobs.len() / 2;
    store.keep(checked(&blobs[..half])).unwrap();
    // Readable at once, and durable when the process ends without the system.
    assert_eq!(store.read_part(&wanted[0]).unwrap().bytes(), &blobs[0]);
    let store = open(&disk.kill()).unwrap();
    assert_eq!(store.target().as_deref(), Some(&target));
    assert!(store.missing(&wanted[..half]).is_empty());
    let incomplete = store.commit(meta(3), target.clone());
    assert!(matches!(
        incomplete,
        Err(StoreError::Incomplete { blobs: 1.., .. })
    ));
    // What both reach is no garbage, whatever goes.
    store.remove(SeqNo(1)).unwrap();
    assert!(store.missing(&wanted[..half]).is_empty());
    store.keep(checked(&blobs[half..])).unwrap();
    let stored = store.commit(meta(3), target.clone()).unwrap();
    assert_eq!(stored.descriptor, target);
    assert_eq!(store.target(), None);
    assert_eq!(store.verify(SeqNo(3)).unwrap(), []);
    assert_eq!(read(&store, 3).unwrap(), state(3));
}

#[test]
fn a_transfer_that_turns_to_a_newer_state_keeps_only_what_that_reaches() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 99).unwrap();
    let mut bytes = Vec::new();
    for seq in 30..60 {
        store.begin_transfer(&cut(&state(seq)).0).unwrap();
        store.keep(checked(&blobs(seq))).unwrap();
        store.collect().unwrap();
        assert!(store.missing(&digests(&blobs(seq))).is_empty());
        bytes.push(store.stats().pack_bytes);
    }
    assert!(bytes[29] < bytes[0] * 3, "{bytes:?}");
    store.end_transfer().unwrap();
    store.collect().unwrap();
    assert_eq!(open(&disk).unwrap().target(), None);
    assert_eq!(store.verify(SeqNo(99)).unwrap(), []);
}

#[test]
fn nothing_is_collected_while_a_checkpoint_is_written_that_relies_on_it() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    let parts = state(1);
    let mut writer = store.begin(SeqNo(2)).unwrap();
    for part in &parts {
        assert!(!writer.part(PartRef::of(part), part).unwrap());
    }
    store.remove(SeqNo(1)).unwrap();
    writer.commit(meta(2)).unwrap();
    assert_eq!(read(&open(&disk).unwrap(), 2).unwrap(), parts);
}

#[test]
fn files_of_another_cluster_are_refused() {
    let disk = SimStorage::new();
    write(&open(&disk).unwrap(), 3).unwrap();
    for name in disk.list().unwrap() {
        let disk = disk.duplicate();
        for other in disk.list().unwrap() {
            if other != name {
                disk.lose(&other, None);
            }
        }
        let options = StoreOptions::new(Digest::of(b"other"));
        let refused = PartStore::open(Arc::new(disk), options).unwrap_err();
        assert!(matches!(refused, StoreError::Foreign(_)), "{refused}");
        assert_eq!(refused.remedy(), crate::Remedy::Correct);
    }
}

#[test]
fn compressed_blobs_come_back_and_take_less_room() {
    let disk = SimStorage::new();
    let options = StoreOptions {
        compression: Compression::Zstd,
        ..StoreOptions::new(Digest::of(b"genesis"))
    };
    let store = PartStore::open(Arc::new(disk.clone()), options).unwrap();
    let mut rng = SeededRng::new(1);
    let noise: Vec<u8> = (0..5000).map(|_| rng.next_u64() as u8).collect();
    let parts = [Bytes::from(vec![7; 100_000]), Bytes::from(noise)];
    let mut each = parts.iter().map(|part| (PartRef::of(part), part.clone()));
    let written = store.write(meta(1), &mut each).unwrap();
    assert!((5000..6000).contains(&written.bytes_written));
    // Whether it compresses is the writer's choice alone.
    let store = open(&disk).unwrap();
    assert_eq!(read(&store, 1).unwrap(), parts);
    assert_eq!(store.verify(SeqNo(1)).unwrap(), []);
}

#[test]
fn parts_are_read_while_others_write_and_collect() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    certify(&store, 1).unwrap();
    let wanted = digests(&blobs(1));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for digest in &wanted {
                    store.read_part(digest).unwrap();
                    reads += 1;
                }
            }
            reads
        });
        for seq in 2..60 {
            write(&store, seq).unwrap();
            store.keep(checked(&blobs(1000 + seq))).unwrap();
            if seq > 2 {
                store.remove(SeqNo(seq - 1)).unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(store.verify(SeqNo(1)).unwrap(), []);
}

/// More pages than are read at a time.
#[test]
fn a_large_state_is_committed_once_its_last_part_is_here() {
    let options = StoreOptions::new(Digest::of(b"genesis"));
    let store = PartStore::open(Arc::new(SimStorage::new()), options).unwrap();
    let parts: Vec<Bytes> = (0..10_000u32)
        .map(|n| n.to_le_bytes().to_vec().into())
        .collect();
    let (descriptor, pages) = cut(&parts);
    let (last, others) = parts.split_last().unwrap();
    store.begin_transfer(&descriptor).unwrap();
    store.keep(checked(&pages)).unwrap();
    store.keep(checked(others)).unwrap();
    let commit = || store.commit(meta(1), descriptor.clone());
    let first = Digest::of(last);
    match commit() {
        Err(StoreError::Incomplete {
            blobs: 1, first: f, ..
        }) => assert_eq!(f, first),
        other => panic!("{other:?}"),
    }
    store.keep(checked(std::slice::from_ref(last))).unwrap();
    commit().unwrap();
    assert_eq!(read(&store, 1).unwrap(), parts);
}
