use super::*;

/// A disk with checkpoints, a transfer under way, and garbage.
fn full() -> SimStorage {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    for seq in 1..=4 {
        write(&store, seq).unwrap();
        certify(&store, seq).unwrap();
    }
    store.remove(SeqNo(1)).unwrap();
    store.begin_transfer(&cut(&state(9)).0).unwrap();
    store.keep(checked(&blobs(9))).unwrap();
    disk.kill()
}

/// Places spread over all bytes of all files, the same share of each, and their bits.
fn places(disk: &SimStorage, wanted: u64) -> Vec<(String, u64, u8)> {
    let files = disk.list().unwrap();
    let length = |name: &String| disk.length(name).unwrap();
    let step = files.iter().map(length).sum::<u64>() / wanted;
    let mut rng = SeededRng::new(7);
    let mut places = Vec::new();
    for name in files {
        let mut at = rng.below(step.max(1));
        while at < length(&name) {
            places.push((name.clone(), at, rng.below(8) as u8));
            at += rng.between(1, step.max(1) * 2 - 1);
        }
    }
    places
}

/// Checkpoints are what they were, or say that they are not; blobs of peers heal them.
fn check(disk: &SimStorage, context: &str) -> bool {
    let store = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut found = store.damage_found().to_vec();
    for seq in 2..=4u64 {
        found.extend(store.verify(SeqNo(seq)).unwrap());
        let wanted = blobs(seq);
        for (blob, read) in wanted
            .iter()
            .zip(store.read_parts(&digests(&wanted), u64::MAX))
        {
            match read {
                Ok(read) => assert_eq!(read.bytes(), blob, "{context}: silently different"),
                Err(error) => assert!(!found.is_empty(), "{context}: {error}"),
            }
        }
        for (blob, read) in wanted
            .iter()
            .zip(store.read_for_peer(&digests(&wanted), u64::MAX))
        {
            match read {
                Ok(read) => assert_eq!(read, blob, "{context}: sent to a peer"),
                Err(error) => assert!(!found.is_empty(), "{context}: {error}"),
            }
        }
        match read(&store, seq) {
            Ok(parts) => assert_eq!(parts, state(seq), "{context}: silently different"),
            Err(error) => assert!(!found.is_empty(), "{context}: {error}"),
        }
        if let Ok(stored) = store.stored(SeqNo(seq)) {
            let mut expected = meta(seq);
            expected.certificate = Bytes::from_static(b"certified");
            assert_eq!(stored.meta, expected, "{context}");
        }
    }
    for damage in &found {
        assert!(
            context.starts_with(&damage.file) || damage.what == Damaged::Missing,
            "{damage}"
        );
    }
    heal(&store, context);
    // And it stays healed.
    let store = open(&disk.crash_losing_all()).unwrap();
    for seq in 2..=4 {
        assert_eq!(store.verify(SeqNo(seq)).unwrap(), [], "{context}");
        assert_eq!(read(&store, seq).unwrap(), state(seq), "{context}");
    }
    !found.is_empty()
}

fn heal(store: &PartStore, context: &str) {
    for seq in 2..=4 {
        let blobs = blobs(seq);
        let missing = store.missing(&digests(&blobs));
        assert!(missing.len() <= 1, "{context}: {missing:?}");
        let wanted = blobs
            .into_iter()
            .filter(|blob| missing.contains(&Digest::of(blob)));
        store.repair(wanted.map(Blob::of).collect()).unwrap();
        if store.stored(SeqNo(seq)).is_err() {
            // Its metadata are gone: a peer's offer brings them again, and the parts are here.
            let certified = CheckpointMeta {
                certificate: Bytes::from_static(b"certified"),
                ..meta(seq)
            };
            store.commit(certified, cut(&state(seq)).0).unwrap();
        }
    }
    store.collect().unwrap();
}

#[test]
fn a_flipped_bit_anywhere_is_named_or_harmless_and_healed() {
    let disk = full();
    let places = places(&disk, 700);
    assert!(places.len() >= 500, "{}", places.len());
    for kind in ["pack-", "checkpoint-", "incoming-", "transfer"] {
        assert!(
            places.iter().any(|(name, ..)| name.starts_with(kind)),
            "{kind}"
        );
    }
    let (mut detected, mut harmless) = (0, 0);
    for (name, byte, bit) in &places {
        let disk = disk.duplicate();
        assert!(disk.flip_bit(name, *byte, *bit));
        if check(&disk, &format!("{name} byte {byte} bit {bit}")) {
            detected += 1;
        } else {
            harmless += 1;
        }
    }
    println!(
        "{} flips: {detected} detected and healed, {harmless} harmless",
        places.len()
    );
    assert!(detected > places.len() / 2);
}

/// Damage while the store is open: reading and verifying find it, although the index is in memory.
#[test]
fn a_bit_that_flips_under_an_open_store_is_named_with_file_and_record() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    write(&store, 3).unwrap();
    let mut named = 0;
    for name in disk.list().unwrap() {
        for byte in 0..disk.length(&name).unwrap() {
            assert!(disk.flip_bit(&name, byte, 0));
            let found = store.verify(SeqNo(3)).unwrap();
            assert!(!found.is_empty(), "{name} byte {byte}");
            for damage in found {
                assert_eq!(damage.file, name);
                if let Some(digest) = damage.digest {
                    assert!(damage.offset <= byte, "{damage}");
                    assert_eq!(store.missing(&[digest]), [digest]);
                    named += 1;
                }
            }
            // It was the cable: the same bytes are whole again. What was noted is noted.
            assert!(disk.flip_bit(&name, byte, 0));
        }
    }
    assert!(named > 1000, "{named}");
    store.repair(checked(&blobs(3))).unwrap();
    assert_eq!(store.verify(SeqNo(3)).unwrap(), []);
    assert!(store.missing(&digests(&blobs(3))).is_empty());
}

#[test]
fn a_damaged_index_is_rebuilt_from_the_records_and_written_anew() {
    let disk = SimStorage::new();
    write(&open(&disk).unwrap(), 3).unwrap();
    for name in disk.list().unwrap() {
        if !name.starts_with("pack") {
            continue;
        }
        let length = disk.length(&name).unwrap();
        for (byte, what) in [
            (3, "header"),
            (length - 100, "index"),
            (length - 1, "footer"),
        ] {
            let disk = disk.duplicate();
            assert!(disk.flip_bit(&name, byte, 3));
            let store = open(&disk).unwrap();
            let found = store.damage_found();
            assert!(
                found.len() == 1 && found[0].what == Damaged::PackIndex,
                "{what}: {found:?}"
            );
            assert!(found[0].to_string().contains(&name));
            assert_eq!(read(&store, 3).unwrap(), state(3), "{what}");
            store.collect().unwrap();
            assert!(!disk.list().unwrap().contains(&name), "{what}");
            let store = open(&disk).unwrap();
            assert_eq!(
                (store.damage_found(), store.verify(SeqNo(3)).unwrap()),
                (&[][..], vec![])
            );
        }
    }
}

#[test]
fn a_pack_that_is_lost_or_cut_short_is_fetched_again() {
    let disk = SimStorage::new();
    write(&open(&disk).unwrap(), 3).unwrap();
    let packs: Vec<String> = disk.list().unwrap();
    for name in packs.iter().filter(|name| name.starts_with("pack")) {
        for length in [None, Some(0), Some(20), Some(700)] {
            let disk = disk.duplicate();
            disk.lose(name, length);
            let store = open(&disk).unwrap();
            let found = store.verify(SeqNo(3)).unwrap();
            assert!(found.iter().any(|damage| damage.what == Damaged::Missing));
            // Nothing is removed while it is not known what is needed.
            store.collect().unwrap();
            store.repair(checked(&blobs(3))).unwrap();
            assert_eq!(store.verify(SeqNo(3)).unwrap(), [], "{name} {length:?}");
            assert_eq!(read(&open(&disk).unwrap(), 3).unwrap(), state(3));
        }
    }
}

/// A record can be forged by whoever writes the disk: its lengths allocate nothing beyond their limits.
#[test]
fn row_22_hostile_lengths_are_refused_before_anything_is_allocated() {
    use super::super::record::{self, Encoding, Entry, HEAD_BYTES, Head, Place};
    let place = |stored, plain, encoding| Place {
        offset: 56,
        stored,
        plain,
        encoding,
    };
    let read = |place| {
        let entry = Entry {
            digest: Digest::of(b"x"),
            place,
        };
        let head = Head::of(entry, b"x");
        Head::read(1, 56, &head.encode(1)).map(|found| assert_eq!(found, head))
    };
    assert!(read(place(5, 5, Encoding::Plain)).is_some());
    assert!(read(place(5, 6, Encoding::Plain)).is_none());
    assert!(read(place(u32::MAX, u32::MAX, Encoding::Plain)).is_none());
    assert!(read(place(5, BLOB_BYTES_MAX as u32, Encoding::Zstd)).is_some());
    assert!(read(place(5, u32::MAX, Encoding::Zstd)).is_none());
    assert!(read(place(5, 5, Encoding::Zstd)).is_none());
    assert_eq!(Head::read(1, 56, &[0; HEAD_BYTES - 1]), None);
    // A head counts only in its own pack and place.
    let entry = Entry {
        digest: Digest::of(b"x"),
        place: place(5, 5, Encoding::Plain),
    };
    let head = Head::of(entry, b"x").encode(1);
    assert_eq!(Head::read(2, 56, &head), None);
    assert_eq!(Head::read(1, 57, &head), None);
    // A bomb: it decompresses to more than it states.
    let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 3).unwrap();
    let entry = Entry {
        digest: Digest::of(&vec![0; 1 << 20]),
        place: place(bomb.len() as u32, 1000, Encoding::Zstd),
    };
    assert_eq!(record::restore(&entry, bomb.into()), None);
    for footer in [[0xff; 56], [0; 56]] {
        assert!(record::read_footer(&footer, 1000).is_none());
    }
}
