use super::*;
use std::sync::atomic::Ordering;
use std::thread;

/// The bytes of all files.
fn on_disk(disk: &SimStorage) -> u64 {
    let files = disk.list().unwrap();
    files.iter().map(|file| disk.length(file).unwrap()).sum()
}

/// A store with checkpoints from 1 to here, all but the last of them removed, collected by nobody yet.
fn left(disk: &SimStorage, last: u64) -> PartStore {
    let store = open(disk).unwrap();
    store.leave_collections(true);
    for seq in 1..=last {
        write(&store, seq).unwrap();
    }
    store.prune(1).unwrap();
    store
}

/// What is left to somebody else goes when that one does it, and not before: the same as at once.
#[test]
fn a_collection_that_is_left_to_another_removes_the_same_in_steps() {
    let (disk, at_once) = (SimStorage::new(), SimStorage::new());
    let store = left(&disk, 12);
    let all = on_disk(&disk);
    assert_eq!(store.collections(), (0, false));
    let mut collection = store.wait_for_collection().unwrap();
    assert_eq!(store.collections(), (0, true));
    let mut steps = 0;
    while collection.step().unwrap() > 0 {
        steps += 1;
        assert_eq!(read(&store, 12).unwrap(), state(12));
    }
    assert!(steps > 5, "{steps}");
    drop(collection);
    assert_eq!(store.collections(), (1, false));
    let other = open(&at_once).unwrap();
    (1..=12).for_each(|seq| drop(write(&other, seq).unwrap()));
    other.prune(1).unwrap();
    assert_eq!(store.stats(), other.stats());
    assert!(on_disk(&disk) < all / 2);
    for disk in [disk.duplicate(), disk.crash_losing_all()] {
        let store = open(&disk).unwrap();
        assert_eq!(store.verify(SeqNo(12)).unwrap(), []);
        assert_eq!(read(&store, 12).unwrap(), state(12));
    }
}

#[test]
fn who_writes_waits_for_a_collection_and_makes_it_urgent() {
    let store = left(&SimStorage::new(), 5);
    let mut collection = store.wait_for_collection().unwrap();
    let urgent = collection.urgent();
    assert!(!urgent.load(Ordering::Relaxed));
    let writing = store.clone();
    let writer = thread::spawn(move || write(&writing, 6).unwrap());
    while !urgent.load(Ordering::Relaxed) {
        thread::yield_now();
    }
    assert_eq!(store.list().unwrap(), [SeqNo(5)]);
    while collection.step().unwrap() > 0 {}
    drop(collection);
    writer.join().unwrap();
    assert!(!urgent.load(Ordering::Relaxed));
    assert_eq!(read(&store, 6).unwrap(), state(6));
}

#[test]
fn a_collection_waits_until_nobody_writes() {
    let store = open(&SimStorage::new()).unwrap();
    store.leave_collections(true);
    (1..=5).for_each(|seq| drop(write(&store, seq).unwrap()));
    let writer = store.begin(SeqNo(6)).unwrap();
    store.prune(1).unwrap();
    // Who writes already does not wait, and others may join.
    write(&store, 7).unwrap();
    let waiting = store.clone();
    let waits = thread::spawn(move || waiting.wait_for_collection().is_some());
    assert!(!waits.is_finished());
    drop(writer);
    assert!(waits.join().unwrap());
}

/// Who writes one checkpoint after the other leaves room for collections.
#[test]
fn a_collection_that_is_due_goes_before_the_next_who_writes() {
    let store = left(&SimStorage::new(), 5);
    let mut collection = store.wait_for_collection().unwrap();
    while collection.step().unwrap() > 0 {}
    let urgent = collection.urgent();
    drop(collection);
    write(&store, 6).unwrap();
    store.prune(1).unwrap();
    let writing = store.clone();
    let writer = thread::spawn(move || write(&writing, 7).unwrap());
    while !urgent.load(Ordering::Relaxed) {
        assert!(!writer.is_finished());
        thread::yield_now();
    }
    assert_eq!(store.list().unwrap(), [SeqNo(6)]);
    drop(store.wait_for_collection().unwrap());
    writer.join().unwrap();
    assert_eq!(store.list().unwrap(), [6, 7].map(SeqNo));
}

/// One that is no longer wanted ends, whatever it has done, and the next one does the rest.
#[test]
fn a_collection_that_is_broken_off_leaves_garbage_and_nothing_else() {
    for steps in 0.. {
        let disk = SimStorage::new();
        let store = left(&disk, 8);
        let mut collection = store.wait_for_collection().unwrap();
        let is_done = (0..steps).any(|_| collection.step().unwrap() == 0);
        store.leave_collections(false);
        assert!(collection.urgent().load(Ordering::Relaxed));
        assert_eq!(collection.step().unwrap(), 0);
        drop(collection);
        assert!(store.wait_for_collection().is_none());
        assert_eq!(read(&store, 8).unwrap(), state(8), "{steps} steps");
        let store = open(&disk).unwrap();
        assert_eq!(store.verify(SeqNo(8)).unwrap(), [], "{steps} steps");
        store.collect().unwrap();
        write(&store, 9).unwrap();
        assert_eq!(read(&store, 9).unwrap(), state(9), "{steps} steps");
        if is_done {
            return;
        }
    }
}

/// Rosenblum and Ousterhout, SOSP'91, section 3.5: what is left alone becomes thinner by itself.
#[test]
fn thin_packs_stay_while_there_is_room_and_the_thinnest_go_first() {
    let disk = SimStorage::new();
    let options = StoreOptions {
        pack_bytes: 100_000,
        ..options()
    };
    let store = PartStore::open(Arc::new(disk.clone()), options).unwrap();
    let part = |n: u32| Bytes::from([n.to_le_bytes(); 250].concat());
    let write = |seq, parts: &mut dyn Iterator<Item = u32>| {
        let mut each = parts.map(|n| (PartRef::of(&part(n)), part(n)));
        store.write(meta(seq), &mut each).unwrap();
        let files = disk.list().unwrap().into_iter();
        files.filter(|name| name.starts_with("pack")).collect()
    };
    // A pack of 90 parts, of which a fifth is in use later, and one of which a tenth is.
    let first: Vec<String> = write(1, &mut (0..90));
    let second: Vec<String> = write(2, &mut (100..190));
    assert_eq!((first.len(), second.len()), (1, 2));
    let there = || {
        first
            .iter()
            .chain(&second[1..])
            .map(|name| disk.length(name).is_ok())
    };
    // 330 parts, where those of 177 are in use: no more than twice as many.
    let used = || (0..18).chain(100..109);
    write(3, &mut used().chain(1000..1150));
    store.remove(SeqNo(2)).unwrap();
    store.remove(SeqNo(1)).unwrap();
    assert!(there().eq([true, true]));
    // 290, where those of 137 are in use; without the thinner pack there are 209.
    write(4, &mut used().chain(2000..2110));
    store.remove(SeqNo(3)).unwrap();
    assert!(there().eq([true, false]));
    let parts: Vec<Bytes> = used().chain(2000..2110).map(part).collect();
    assert_eq!(read(&store, 4).unwrap(), parts);
    assert_eq!(store.verify(SeqNo(4)).unwrap(), []);
}

/// A replica's core asks for figures, while a thread that seldom runs marks.
#[test]
fn who_asks_for_figures_need_not_wait() {
    let store = left(&SimStorage::new(), 5);
    assert_eq!(store.try_stats(), Some(store.stats()));
    let collection = store.wait_for_collection().unwrap();
    let marking = store.inner.index.write();
    assert_eq!((store.try_stats(), store.collections()), (None, (0, true)));
    drop((marking, collection));
    assert_eq!(store.try_stats(), Some(store.stats()));
}
