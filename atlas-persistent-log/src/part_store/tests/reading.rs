use super::*;

/// A store with blobs in several packs, one of them still being added to, and their digests in an order
/// that is none of the disk's; the ninth of a kind is nowhere.
fn several_packs() -> (SimStorage, PartStore, Vec<Bytes>) {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    write(&store, 2).unwrap();
    store.begin_transfer(&cut(&state(9)).0).unwrap();
    store.keep(checked(&blobs(9))).unwrap();
    let mut wanted: Vec<Bytes> = [1, 2, 9].into_iter().flat_map(blobs).collect();
    wanted.extend((0..9u8).map(|n| vec![n; 100].into()));
    wanted.extend_from_within(..20);
    SeededRng::new(7).shuffle(&mut wanted);
    assert!(disk.list().unwrap().len() > 5);
    (disk, store, wanted)
}

#[test]
fn blobs_read_together_are_those_read_one_by_one() {
    let (disk, store, wanted) = several_packs();
    let digests = digests(&wanted);
    let one_by_one: Vec<_> = digests.iter().map(|d| store.read_part(d).ok()).collect();
    assert_eq!(one_by_one.iter().filter(|read| read.is_none()).count(), 9);
    let before = disk.counters().reads;
    let together = store.read_parts(&digests, u64::MAX);
    let reads = disk.counters().reads - before;
    let together: Vec<_> = together.into_iter().map(Result::ok).collect();
    assert_eq!(together, one_by_one);
    assert!(reads < 20, "{reads} reads for {} blobs", digests.len());
    let for_peer = store.read_for_peer(&digests, u64::MAX).into_iter();
    let for_peer = for_peer.map(|read| read.ok().map(Blob::of));
    assert_eq!(for_peer.collect::<Vec<_>>(), one_by_one);
    for (blob, read) in wanted.iter().zip(together) {
        assert!(read.is_none_or(|read| read.bytes() == blob));
    }
}

/// What lies between is read with them as long as it is less than they are.
#[test]
fn no_more_is_read_in_vain_than_is_wanted() {
    let disk = SimStorage::new();
    let options = StoreOptions::new(Digest::of(b"genesis"));
    let store = PartStore::open(Arc::new(disk.clone()), options).unwrap();
    let blob = |n: u16| Bytes::from([n.to_le_bytes(); 500].concat());
    let all: Vec<Bytes> = (0..900).map(blob).collect();
    store.keep(checked(&all)).unwrap();
    // Which share is wanted, and how many reads that takes at most.
    for (step, reads_max) in [(1, 1), (2, 1), (3, 150), (30, 30), (100, 9)] {
        let wanted: Vec<Bytes> = all.iter().step_by(step).cloned().collect();
        let before = disk.counters();
        let read = store.read_parts(&digests(&wanted), u64::MAX);
        assert!(read.iter().flatten().map(Blob::bytes).eq(&wanted));
        let after = disk.counters();
        let (reads, bytes) = (
            after.reads - before.reads,
            after.read_bytes - before.read_bytes,
        );
        assert!(reads <= reads_max, "{reads} reads of every {step}th");
        let records = wanted.len() as u64 * 1060;
        assert!(bytes <= 2 * records, "{bytes} bytes of every {step}th");
    }
}

/// A page refers to some 32 parts, and pages are read by the hundred: by a transfer, a restart and a
/// collection.
#[test]
fn pages_lie_together_and_are_read_together() {
    let disk = SimStorage::new();
    let options = StoreOptions::new(Digest::of(b"genesis"));
    let store = PartStore::open(Arc::new(disk.clone()), options).unwrap();
    let part = |n: u32| Bytes::from([n.to_le_bytes(); 250].concat());
    let mut parts: Vec<Bytes> = (0..3000).map(part).collect();
    let reads = |act: &dyn Fn()| {
        let before = disk.counters().reads;
        act();
        disk.counters().reads - before
    };
    for seq in 1..=2 {
        let mut given = parts.iter().map(|part| (PartRef::of(part), part.clone()));
        let written = store.write(meta(seq), &mut given).unwrap();
        let pages = &written.stored.descriptor.pages;
        assert!(pages.len() > 60 && written.pages_written > 10);
        let pages: Vec<Digest> = pages.iter().map(|page| page.digest).collect();
        let together = reads(&|| {
            let read = store.read_parts(&pages, u64::MAX);
            assert!(read.iter().all(Result::is_ok));
        });
        assert!(together < 10, "{together} reads in checkpoint {seq}");
        let collected = reads(&|| store.collect().unwrap());
        assert!(collected < 20, "{collected} reads in collection {seq}");
        (0..3000)
            .step_by(100)
            .for_each(|n| parts[n] = part(n as u32 + 9000));
    }
}

#[test]
fn no_more_bytes_are_read_together_than_are_asked_for_but_one_blob() {
    let (_, store, wanted) = several_packs();
    let digests = digests(&wanted);
    for bytes_max in [0, 1, 99, 500, 2000] {
        let read = store.read_parts(&digests, bytes_max);
        let bytes: usize = read.iter().flatten().map(|blob| blob.bytes().len()).sum();
        assert!(!read.is_empty() && read.len() < digests.len());
        assert!(bytes as u64 <= bytes_max || read.len() == 1);
    }
    assert!(store.read_parts(&[], 0).is_empty());
}

#[test]
fn one_damaged_blob_does_not_spoil_those_read_with_it() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    let digests = digests(&blobs(1));
    let file = disk.list().unwrap().into_iter();
    let file = file.filter(|name| name.starts_with("pack-")).min().unwrap();
    assert!(disk.flip_bit(&file, 1000, 3));
    let read = store.read_parts(&digests, u64::MAX);
    let damaged = read.iter().filter(|read| match read {
        Ok(_) => false,
        Err(StoreError::Damaged(damage)) => damage.file == file,
        Err(error) => panic!("{error}"),
    });
    assert_eq!(damaged.count(), 1);
    assert_eq!(store.stats().damaged_blobs, 1);
}

#[test]
fn what_a_transfer_has_fetched_is_in_memory_until_somebody_takes_it() {
    let store = open(&SimStorage::new()).unwrap();
    let (own, other) = (blobs(9), blobs(1));
    // Nothing is being fetched.
    store.keep(checked(&other)).unwrap();
    assert!(store.take_fetched().is_empty());
    let target = cut(&state(9)).0;
    store.begin_transfer(&target).unwrap();
    store.keep(checked(&own)).unwrap();
    store.commit(meta(9), target.clone()).unwrap();
    let fetched = store.take_fetched();
    for blob in checked(&own) {
        assert_eq!(fetched.get(&blob.digest()), Some(&blob));
    }
    assert!(store.take_fetched().is_empty());
}

#[test]
fn what_is_fetched_of_a_state_that_is_given_up_does_not_stay_in_memory() {
    let store = open(&SimStorage::new()).unwrap();
    let (first, second) = (cut(&state(9)).0, cut(&state(10)).0);
    store.begin_transfer(&first).unwrap();
    store.keep(checked(&blobs(9))).unwrap();
    store.begin_transfer(&second).unwrap();
    assert!(store.take_fetched().is_empty());
    store.begin_transfer(&first).unwrap();
    store.keep(checked(&blobs(9))).unwrap();
    store.end_transfer().unwrap();
    assert!(store.take_fetched().is_empty());
}

#[test]
fn no_more_is_in_memory_than_the_state_that_is_fetched_has() {
    let store = open(&SimStorage::new()).unwrap();
    let (target, pages) = cut(&state(9)[..3]);
    store.begin_transfer(&target).unwrap();
    for seq in 1..9 {
        store.keep(checked(&blobs(seq))).unwrap();
    }
    let fetched = store.take_fetched();
    let all: Vec<Blob> = (1..9).flat_map(|seq| checked(&blobs(seq))).collect();
    let all: std::collections::BTreeMap<_, _> = all.iter().map(|b| (b.digest(), b)).collect();
    let there = all.keys().filter_map(|digest| fetched.get(digest));
    let bytes: usize = there.map(|blob| blob.bytes().len()).sum();
    let most: usize = pages.iter().map(Bytes::len).sum::<usize>() + target.total_bytes as usize;
    assert!(bytes <= most && !fetched.is_empty(), "{bytes} of {most}");
}

/// Each has a pack of its own, so that neither waits while the disk takes what the other one brings.
#[test]
fn blobs_are_kept_by_two_threads_at_a_time() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    let (target, _) = cut(&state(9));
    store.begin_transfer(&target).unwrap();
    let blobs = blobs(9);
    let (first, second) = blobs.split_at(blobs.len() / 2);
    // As if another thread were at it.
    let busy = store.inner.incoming[0].lock();
    store.keep(checked(second)).unwrap();
    drop(busy);
    store.keep(checked(first)).unwrap();
    let open_packs = |disk: &SimStorage| {
        let files = disk.list().unwrap().into_iter();
        files.filter(|file| file.starts_with("incoming")).count()
    };
    assert_eq!(open_packs(&disk), 2);
    let wanted = digests(&blobs);
    // Both are found again after the end of the process.
    let left = disk.duplicate();
    let restarted = open(&left).unwrap();
    assert_eq!((restarted.missing(&wanted), open_packs(&left)), (vec![], 0));
    // And both are durable with the checkpoint.
    store.commit(meta(9), target).unwrap();
    assert_eq!(open_packs(&disk), 0);
    let store = open(&disk.crash_losing_all()).unwrap();
    assert_eq!(store.verify(SeqNo(9)).unwrap(), []);
    assert_eq!(read(&store, 9).unwrap(), state(9));
}

#[test]
fn what_many_threads_keep_is_there_once() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    let (target, _) = cut(&state(9));
    store.begin_transfer(&target).unwrap();
    let all = blobs(9);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, all) = (&store, &all);
            scope.spawn(move || {
                let own = all.chunks(3).skip(thread).step_by(4);
                own.for_each(|some| store.keep(checked(some)).unwrap());
            });
        }
    });
    assert_eq!(store.missing(&digests(&all)), []);
    store.commit(meta(9), target).unwrap();
    let distinct: std::collections::BTreeSet<_> = digests(&all).into_iter().collect();
    assert_eq!(store.stats().blobs, distinct.len() as u64);
    let store = open(&disk.crash_losing_all()).unwrap();
    assert_eq!(read(&store, 9).unwrap(), state(9));
}
