use super::*;
use std::collections::BTreeMap;

/// Packs are filled quickly, so that their files are written over.
fn open(disk: &SimStorage) -> Result<PartStore, StoreError> {
    let options = StoreOptions {
        pack_bytes: 700,
        ..options()
    };
    PartStore::open(Arc::new(disk.clone()), options)
}

/// What a run of a store has been told to be done.
#[derive(Default)]
struct Known {
    /// Checkpoints that were acknowledged, and whether their certificates were.
    stored: BTreeMap<u64, bool>,
    next: u64,
    /// How many had files to write over.
    over_spares: u64,
}

/// Writes, certificates, removals with their collections, and transfers.
fn live(disk: &SimStorage, known: &mut Known) -> Result<(), StoreError> {
    let store = open(disk)?;
    for _ in 0..8 {
        // A number that was begun may exist, acknowledged or not.
        known.next += 1;
        let seq = known.next;
        known.over_spares += u64::from(store.stats().spare_bytes > 0);
        if seq.is_multiple_of(3) {
            fetch(&store, seq)?;
        } else {
            write(&store, seq)?;
        }
        known.stored.insert(seq, false);
        certify(&store, seq)?;
        known.stored.insert(seq, true);
        // Before it is done: nobody may rely on what is being removed.
        let kept: Vec<u64> = known.stored.keys().rev().take(2).copied().collect();
        known.stored.retain(|seq, _| kept.contains(seq));
        store.retire(SeqNo(seq))?;
    }
    Ok(())
}

fn fetch(store: &PartStore, seq: u64) -> Result<(), StoreError> {
    let parts = state(seq);
    let (descriptor, pages) = cut(&parts);
    store.begin_transfer(&descriptor)?;
    for blobs in [pages, parts] {
        for some in blobs.chunks(8) {
            let missing = store.missing(&digests(some));
            let some = some
                .iter()
                .filter(|blob| missing.contains(&Digest::of(blob)));
            store.keep(some.cloned().map(Blob::of).collect())?;
        }
    }
    store.commit(meta(seq), descriptor).map(drop)
}

fn check(disk: &SimStorage, known: &Known, context: &str) {
    let store = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(store.damage_found(), [], "{context}");
    let list = store.list().unwrap();
    for seq in known.stored.keys() {
        assert!(list.contains(&SeqNo(*seq)), "{context}: lost {seq}");
    }
    for SeqNo(seq) in list {
        assert_eq!(store.verify(SeqNo(seq)).unwrap(), [], "{context}: {seq}");
        assert_eq!(read(&store, seq).unwrap(), state(seq), "{context}: {seq}");
        let found = &store.stored(SeqNo(seq)).unwrap().meta;
        let certified = found.certificate == Bytes::from_static(b"certified");
        let expected = known.stored.get(&seq).copied().unwrap_or(false);
        assert!(
            certified || !expected,
            "{context}: certificate of {seq} lost"
        );
    }
    for file in disk.list().unwrap() {
        assert!(
            !file.ends_with(".tmp") && !file.starts_with("incoming"),
            "{context}: {file}"
        );
    }
}

/// Row 43 and 44 for the checkpoint store: exhaustive over the storage operations of a run.
#[test]
fn a_fault_at_any_storage_operation_keeps_every_acknowledged_checkpoint() {
    let disk = SimStorage::new();
    let mut known = Known::default();
    live(&disk, &mut known).unwrap();
    assert!(known.over_spares > 2, "{}", known.over_spares);
    let operations = disk.counters().operations;
    assert!(operations > 200, "{operations}");
    let (mut cases, mut struck) = (0, 0);
    for at in 1..=operations {
        for seed in 0..9 {
            let faults = [Fault::PowerCut, Fault::DiskFull, Fault::SyncFails];
            let fault = faults[seed as usize % 3];
            let context = format!("{fault:?} at {at} seed {seed}");
            let disk = SimStorage::new();
            let mut known = Known::default();
            disk.inject(fault, at);
            let failed = live(&disk, &mut known).is_err();
            struck += u64::from(failed);
            let disk = match seed {
                0 => disk.crash_losing_all(),
                _ => disk.crash(&mut SeededRng::new(at << 8 | seed)),
            };
            disk.free_space();
            check(&disk, &known, &context);
            // Life goes on, and what was left behind is in nobody's way.
            live(&disk, &mut known).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&disk.crash_losing_all(), &known, &context);
            cases += 1;
        }
    }
    println!("{cases} cases over {operations} storage operations, {struck} of them failed the run");
    assert!(struck > cases / 2, "{struck} of {cases}");
}

/// A second crash, while the first is being cleaned up.
#[test]
fn a_power_cut_while_the_store_is_opened_costs_nothing() {
    let disk = SimStorage::new();
    let mut known = Known::default();
    live(&disk, &mut known).unwrap();
    let store = open(&disk).unwrap();
    store.begin_transfer(&cut(&state(100)).0).unwrap();
    store.keep(checked(&blobs(100))).unwrap();
    let mut writer = store.begin(SeqNo(200)).unwrap();
    for part in state(200) {
        writer.part(PartRef::of(&part), &part).unwrap();
    }
    let mut opened = false;
    for at in 1.. {
        for seed in 0..20 {
            let disk = disk.duplicate().kill();
            disk.inject(Fault::PowerCut, at);
            opened = open(&disk).is_ok();
            let disk = disk.crash(&mut SeededRng::new(seed));
            check(&disk, &known, &format!("cut at {at} seed {seed}"));
        }
        if opened {
            break;
        }
    }
    assert!(opened);
}

#[test]
fn row_42_after_a_failed_sync_nothing_is_written_any_more() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    disk.inject(Fault::SyncFails, 1);
    assert_eq!(
        write(&store, 2).unwrap_err().remedy(),
        crate::Remedy::ReplaceDisk
    );
    let failed = write(&store, 3).unwrap_err();
    assert!(matches!(failed, StoreError::Failed { .. }), "{failed}");
    assert_eq!(failed.remedy(), crate::Remedy::ReplaceDisk);
    assert!(matches!(certify(&store, 1), Err(StoreError::Failed { .. })));
    assert_eq!(read(&store, 1).unwrap(), state(1));
}

#[test]
fn row_44_a_full_disk_refuses_a_checkpoint_and_takes_it_when_there_is_room() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 1).unwrap();
    disk.inject(Fault::DiskFull, 1);
    assert_eq!(
        write(&store, 2).unwrap_err().remedy(),
        crate::Remedy::FreeSpace
    );
    let kept = store.keep(checked(&blobs(9)));
    assert_eq!(kept.unwrap_err().remedy(), crate::Remedy::FreeSpace);
    disk.free_space();
    write(&store, 2).unwrap();
    store.keep(checked(&blobs(9))).unwrap();
    assert_eq!(read(&open(&disk).unwrap(), 2).unwrap(), state(2));
}
