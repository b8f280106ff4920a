use super::super::record::{HEAD_BYTES, HEADER_BYTES};
use super::*;
use std::collections::BTreeSet;

/// The bytes that all checkpoints together reach.
fn reached(store: &PartStore) -> u64 {
    let mut blobs = BTreeSet::new();
    for seq in store.list().unwrap() {
        let descriptor = &store.stored(seq).unwrap().descriptor;
        blobs.extend(descriptor.pages.iter().copied());
        for page in 0..descriptor.pages.len() {
            blobs.extend(store.page(descriptor, page).unwrap());
        }
    }
    blobs.iter().map(|blob| u64::from(blob.bytes) + 48).sum()
}

/// A day of checkpoints, one a minute: the disk holds at most three times what is reached, the indexes,
/// and what was written since the last collection.
#[test]
fn a_day_of_checkpoints_stays_within_the_bound_of_the_disk() {
    let disk = SimStorage::new();
    let options = StoreOptions {
        pack_bytes: 64 << 10,
        ..options()
    };
    let store = PartStore::open(Arc::new(disk.clone()), options.clone()).unwrap();
    let mut rng = SeededRng::new(11);
    let mut part = |seed: u64| {
        let mut bytes = vec![0; rng.between(50, 500) as usize];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Bytes::from(bytes)
    };
    let mut parts: Vec<Bytes> = (0..1000).map(&mut part).collect();
    let (mut worst, mut packs, mut written) = (0.0f64, 0, 0);
    for minute in 0..24 * 60u64 {
        // A few parts change often, all of them once in a while, and the state grows and shrinks.
        for change in 0..10 {
            let at = SeededRng::new(minute << 8 | change).below(if change < 5 { 50 } else { 1000 });
            parts[at as usize % 1000] = part(minute << 8 | change);
        }
        let mut each = parts.iter().map(|part| (PartRef::of(part), part.clone()));
        let result = store.write(meta(minute), &mut each).unwrap();
        written += result.bytes_written;
        certify(&store, minute).unwrap();
        store.retire(SeqNo(minute)).unwrap();
        let stats = store.stats();
        let (reached, index) = (reached(&store), 48 * stats.blobs + 200 * stats.packs);
        assert!(
            stats.pack_bytes + stats.spare_bytes <= 3 * reached + index,
            "minute {minute}: {stats:?} {reached}"
        );
        let on_disk: u64 = disk
            .list()
            .unwrap()
            .iter()
            .map(|f| disk.length(f).unwrap())
            .sum();
        assert!(on_disk < stats.pack_bytes + stats.spare_bytes + 20_000);
        worst = worst.max(stats.pack_bytes as f64 / reached as f64);
        packs = packs.max(stats.packs);
    }
    println!(
        "a day: {written} bytes of checkpoints, at most {worst:.2} times what was reached, {packs} packs"
    );
    assert!(packs < 100, "{packs} packs");
    let store = PartStore::open(Arc::new(disk), options).unwrap();
    assert_eq!(read(&store, 24 * 60 - 1).unwrap(), parts);
}

/// More than is copied at a time, in blobs and in bytes, and more pages than are read at a time.
#[test]
fn what_is_in_use_of_a_thin_pack_moves_and_the_pack_stays_while_some_of_it_is_damaged() {
    let part = |n: u32| Bytes::from([n.to_le_bytes(); 250].concat());
    let first: Vec<Bytes> = (0..20_000).map(part).collect();
    let changed = |n: u32| part(if n.is_multiple_of(4) { n } else { n + 20_000 });
    let second: Vec<Bytes> = (0..10_000).map(changed).collect();
    for damaged in [None, Some(400)] {
        let disk = SimStorage::new();
        let options = StoreOptions::new(Digest::of(b"genesis"));
        let store = PartStore::open(Arc::new(disk.clone()), options).unwrap();
        for (seq, parts) in [(1, &first), (2, &second)] {
            let mut each = parts.iter().map(|part| (PartRef::of(part), part.clone()));
            store.write(meta(seq), &mut each).unwrap();
        }
        let pack = disk.list().unwrap().into_iter();
        let pack = pack.filter(|name| name.starts_with("pack-")).min().unwrap();
        if let Some(number) = damaged {
            let place = HEADER_BYTES + number * (HEAD_BYTES + 1000) + HEAD_BYTES + 7;
            assert!(disk.flip_bit(&pack, place as u64, 1));
        }
        store.remove(SeqNo(1)).unwrap();
        assert_eq!(disk.length(&pack).is_ok(), damaged.is_some());
        let lost = store.missing(&digests(&second));
        let expected = damaged.map(|number| Digest::of(&second[number]));
        assert_eq!(lost, Vec::from_iter(expected));
        if damaged.is_none() {
            // What went is known to be gone: a state that has it again brings it again.
            let gone: Vec<Bytes> = (0..20_000).filter(|n| n % 4 > 0).map(part).collect();
            assert_eq!(store.missing(&digests(&gone)), digests(&gone));
        }
        let there = second
            .iter()
            .filter(|part| !lost.contains(&Digest::of(part)));
        for part in there {
            assert_eq!(store.read_part(&Digest::of(part)).unwrap().bytes(), part);
        }
    }
}
