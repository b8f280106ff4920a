use super::part::Part;
use super::*;
use crate::pool::ExecutionPool;
use crate::state::{CheckedParts, FrozenState, PartError, PartWriter};
use atlas_common::Digest;
use atlas_common::parts::{PartRef, StateDescriptor};
use atlas_common::rng::SeededRng;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const CHUNK: usize = 1 << 20;

fn cut(map: &DivisibleMap, chunk_bytes: usize) -> (Vec<PartRef>, Vec<Bytes>) {
    cut_frozen(&map.freeze(), chunk_bytes)
}

fn cut_frozen(frozen: &FrozenMap, chunk_bytes: usize) -> (Vec<PartRef>, Vec<Bytes>) {
    let mut writer = PartWriter::keeping(chunk_bytes);
    frozen.write_parts(&mut writer).unwrap();
    writer.finish()
}

fn root(map: &DivisibleMap) -> Digest {
    root_of(&map.freeze())
}

fn root_of(frozen: &FrozenMap) -> Digest {
    let (refs, parts) = cut_frozen(frozen, CHUNK);
    assert!(
        refs.iter()
            .zip(&parts)
            .all(|(part, bytes)| part.matches(bytes))
    );
    StateDescriptor::cut(&refs).unwrap().0.root()
}

/// What was removed since is nobody's but the frozen map's: each group of parts is freed behind the next.
#[test]
fn a_frozen_map_lets_go_of_each_group_of_parts_that_it_has_handed_over() {
    let mut map = filled(2000, 3);
    let expected = cut(&map, CHUNK);
    let mut frozen = map.freeze();
    let parts: Vec<_> = map.tree.parts().map(Arc::downgrade).collect();
    for n in 0..2000 {
        map.remove(&number(n)).unwrap();
    }
    let held = move || parts.iter().filter(|part| part.strong_count() > 0).count();
    let (total, handed) = (held(), Arc::new(Mutex::new(Vec::new())));
    assert!(total > 100);
    let (seen, held) = (Arc::clone(&handed), Arc::new(held));
    let counts = Arc::clone(&held);
    let take = move |part, bytes| {
        let mut seen = seen.lock();
        // The head comes first, and is no part of the map's.
        let behind = seen.len().saturating_sub(1) / 64 * 64;
        assert!(counts() <= total - behind, "behind {behind} parts");
        seen.push((part, bytes));
        Ok(())
    };
    let mut writer = PartWriter::handing_over(CHUNK, Box::new(take));
    while frozen.write_some(&mut writer).unwrap() > 0 {}
    assert_eq!(held(), 0);
    let (refs, bytes): (Vec<_>, Vec<_>) = std::mem::take(&mut *handed.lock()).into_iter().unzip();
    assert_eq!((refs, bytes), expected);
}

/// So many parts that they are gathered in several steps.
#[test]
fn the_steps_of_a_large_map_hand_over_what_is_written_in_one() {
    let mut map = DivisibleMap::with_part_bytes(PART_BYTES_MIN);
    for n in 0..30_000 {
        map.insert(&number(n * 7919 % 30_000), &[n as u8; 20])
            .unwrap();
    }
    let (expected, mut frozen) = (cut(&map, CHUNK), map.freeze());
    map.insert(&number(5), b"later").unwrap();
    let mut writer = PartWriter::keeping(CHUNK);
    let mut left = Vec::new();
    while left.last() != Some(&0) {
        left.push(frozen.write_some(&mut writer).unwrap());
        assert!(left.len() < 30_000, "it comes to no end");
    }
    let all = expected.0.len() - 1;
    assert!(all > 10_000, "{all} parts");
    assert!(left.is_sorted_by(|one, next| one >= next));
    assert_eq!(
        left.iter().filter(|left| **left == all).count(),
        all.div_ceil(4096)
    );
    assert_eq!(writer.finish(), expected);
}

#[test]
fn an_empty_map_is_written_in_steps_too() {
    let map = DivisibleMap::new();
    let mut writer = PartWriter::keeping(CHUNK);
    assert_eq!(map.freeze().write_some(&mut writer), Ok(0));
    assert_eq!(writer.finish(), cut(&map, CHUNK));
}

/// What comes of thawing these parts, all of them used.
fn thaw(parts: &[Bytes]) -> Result<DivisibleMap, ThawError> {
    thaw_with(&ExecutionPool::sequential(), parts)
}

fn thaw_with(pool: &ExecutionPool, parts: &[Bytes]) -> Result<DivisibleMap, ThawError> {
    let refs: Vec<_> = parts.iter().map(|part| PartRef::of(part)).collect();
    let (descriptor, pages) = StateDescriptor::cut(&refs).unwrap();
    let blobs = pages.iter().chain(parts);
    let source: BTreeMap<_, _> = blobs.map(|blob| (Digest::of(blob), blob.clone())).collect();
    let mut reader = CheckedParts::new(&descriptor, &source, usize::MAX, pool)?;
    let map = DivisibleMap::thaw(&mut reader)?;
    match reader.bytes_left() {
        0 => Ok(map),
        bytes => Err(ThawError::LeftOver { bytes }),
    }
}

/// Checks what must hold of the parts of a map, besides what thawing checks.
fn check(map: &DivisibleMap) {
    let total: usize = map.tree.parts().map(|part| part.len()).sum();
    assert_eq!(total as u64, map.tree.len());
    for part in map.tree.parts() {
        assert!(part.size() <= map.tree.part_bytes() || part.len() == 1);
        assert_eq!(part.digest(), Digest::of(&part.bytes()));
        Part::check(part.bytes(), None).unwrap();
    }
}

fn entries(map: &DivisibleMap) -> Model {
    map.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}

fn number(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

/// Keys of 16 bytes with values of 240, in a random order.
fn filled(count: u64, seed: u64) -> DivisibleMap {
    let mut order: Vec<u64> = (0..count).collect();
    let mut random = SeededRng::new(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    let mut map = DivisibleMap::new();
    for n in order {
        map.insert(&number(n), &[n as u8; 240]).unwrap();
    }
    map
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Vec<u8>, usize),
    Remove(Vec<u8>),
    /// A clone is made and lives on.
    Clone,
    Freeze,
    Thaw,
    /// The following operations go to a fork, until it is merged or dropped.
    Fork,
    Merge,
    Drop,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0u8..4, 0..4)
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![4 => 0usize..20, 1 => 40usize..100];
    prop_oneof![
        12 => (key(), size).prop_map(|(key, size)| Op::Insert(key, size)),
        8 => key().prop_map(Op::Remove),
        1 => Just(Op::Clone),
        1 => Just(Op::Freeze),
        1 => Just(Op::Thaw),
        2 => Just(Op::Fork),
        2 => Just(Op::Merge),
        1 => Just(Op::Drop),
    ]
}

fn write(map: &mut DivisibleMap, model: &mut Model, op: &Op) {
    match op {
        Op::Insert(key, size) => {
            let value = vec![*size as u8; *size];
            let found = map.insert(key, &value).unwrap();
            assert_eq!(found.map(Vec::from), model.insert(key.clone(), value));
        }
        Op::Remove(key) => {
            let found = map.remove(key);
            assert_eq!(found.map(Vec::from), model.remove(key));
        }
        _ => {}
    }
}

/// A map and its model, and forks of it, each of the one before.
struct Run {
    levels: Vec<(DivisibleMap, Model, Vec<Op>)>,
    /// Clones and frozen maps, which nothing that is done later may change.
    held: Vec<(DivisibleMap, Model)>,
    frozen: Vec<(FrozenMap, Digest)>,
}

impl Run {
    fn step(&mut self, op: &Op) {
        let forks = self.levels.len() - 1;
        let (map, model, done) = self.levels.last_mut().unwrap();
        write(map, model, op);
        match op {
            Op::Insert(..) | Op::Remove(_) => done.push(op.clone()),
            Op::Clone => self.held.push((map.clone(), model.clone())),
            Op::Freeze => self.frozen.push((map.freeze(), root(map))),
            Op::Thaw if forks == 0 => {
                *map = thaw(&cut(map, CHUNK).1).unwrap();
            }
            Op::Fork => {
                let level = (map.fork().unwrap(), model.clone(), Vec::new());
                self.levels.push(level);
            }
            Op::Merge if forks > 0 => {
                let (fork, model, more) = self.levels.pop().unwrap();
                let (below, below_model, done) = self.levels.last_mut().unwrap();
                below.merge(fork);
                *below_model = model;
                done.extend(more);
            }
            Op::Drop if forks > 0 => drop(self.levels.pop()),
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn a_map_is_a_btree_map_however_it_is_forked_cloned_and_thawed(
        ops in proptest::collection::vec(op(), 0..300),
        bounds in (key(), key()),
    ) {
        let fresh = || DivisibleMap::with_part_bytes(64);
        let mut run = Run { levels: vec![(fresh(), Model::new(), Vec::new())], held: Vec::new(), frozen: Vec::new() };
        for op in &ops {
            run.step(op);
        }
        let (low, high) = (&bounds.0[..], &bounds.1[..]);
        for (map, model, _) in &run.levels {
            prop_assert_eq!(&entries(map), model);
            prop_assert_eq!(map.len(), model.len() as u64);
            let owned = |(k, v): (&[u8], &[u8])| (k.to_vec(), v.to_vec());
            prop_assert_eq!(map.first().map(owned), model.first_key_value().map(|(k, v)| (k.clone(), v.clone())));
            prop_assert_eq!(map.last().map(owned), model.last_key_value().map(|(k, v)| (k.clone(), v.clone())));
            for (key, value) in model {
                prop_assert_eq!(map.get(key), Some(&value[..]));
            }
            let starts = [Bound::Included(low), Bound::Excluded(low), Bound::Unbounded];
            let ends = [Bound::Included(high), Bound::Excluded(high), Bound::Unbounded];
            for (start, end) in starts.iter().flat_map(|start| ends.iter().map(move |end| (*start, *end))) {
                let inside = |key: &&Vec<u8>| RangeBounds::<[u8]>::contains(&(start, end), &key[..]);
                let found = map.range((start, end)).map(|(key, _)| key);
                let expected = model.keys().filter(inside).map(|key| &key[..]);
                prop_assert!(found.eq(expected), "{:?}", (start, end));
            }
        }
        for (map, model) in &run.held {
            prop_assert_eq!(&entries(map), model);
        }
        for (frozen, before) in &run.frozen {
            prop_assert_eq!(root_of(frozen), *before);
        }
        // The same writes without any clone, fork or thaw in between.
        let (map, _, done) = &run.levels[0];
        check(map);
        let (mut plain, mut model) = (fresh(), Model::new());
        for op in done {
            write(&mut plain, &mut model, op);
        }
        prop_assert_eq!(root(map), root(&plain));
        // A fork's checkpoint has the fork's entries.
        let (top, _, _) = run.levels.last().unwrap();
        prop_assert_eq!(&thaw(&cut(top, CHUNK).1).unwrap(), top);
    }

    #[test]
    fn a_thawed_map_is_the_frozen_one(
        ops in proptest::collection::vec(op(), 0..100),
        chunk_bytes in prop_oneof![1usize..200, Just(CHUNK)],
    ) {
        let (mut map, mut model) = (DivisibleMap::with_part_bytes(64), Model::new());
        for op in &ops {
            write(&mut map, &mut model, op);
        }
        let (refs, parts) = cut(&map, chunk_bytes);
        prop_assert!(parts.iter().all(|part| part.len() <= chunk_bytes));
        let thawed = thaw(&parts).unwrap();
        prop_assert_eq!(&thawed, &map);
        prop_assert_eq!(entries(&thawed), model);
        prop_assert_eq!(cut(&thawed, chunk_bytes).0, refs);
    }

    #[test]
    fn damaged_parts_are_refused_or_make_another_map(
        flips in proptest::collection::vec((any::<usize>(), any::<usize>()), 0..4),
        cuts in proptest::collection::vec((any::<usize>(), any::<usize>()), 0..3),
        swap in any::<(usize, usize)>(),
    ) {
        let mut map = DivisibleMap::with_part_bytes(64);
        for n in 0..40u8 {
            map.insert(&[n; 5], &vec![n; usize::from(n)]).unwrap();
        }
        let (_, whole) = cut(&map, CHUNK);
        let mut parts: Vec<Vec<u8>> = whole.iter().map(|part| part.to_vec()).collect();
        for (part, bit) in flips {
            let part = part % parts.len();
            let bit = bit % (parts[part].len() * 8);
            parts[part][bit / 8] ^= 1 << (bit % 8);
        }
        for (part, length) in cuts {
            let part = part % parts.len();
            let length = 1 + length % parts[part].len();
            parts[part].truncate(length);
        }
        let (one, other) = (swap.0 % parts.len(), swap.1 % parts.len());
        parts.swap(one, other);
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        if let Ok(thawed) = thaw(&parts) {
            // What passes is a map in every respect.
            check(&thawed);
            prop_assert_eq!(thawed.iter().count() as u64, thawed.len());
            prop_assert!(thawed == map || parts != whole);
        }
    }

    #[test]
    fn arbitrary_parts_never_panic(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 0..6)) {
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        prop_assert!(thaw(&parts).is_err());
        for part in parts {
            drop(Part::check(part, None));
        }
    }
}

#[test]
fn an_empty_map_is_one_head() {
    let map = DivisibleMap::new();
    let (_, parts) = cut(&map, CHUNK);
    assert_eq!(parts.len(), 1);
    let thawed = thaw(&parts).unwrap();
    assert!(thawed.is_empty());
    assert_eq!((thawed.first(), thawed.last()), (None, None));
    let mut emptied = filled(100, 1);
    for n in 0..100 {
        assert!(emptied.remove(&number(n)).is_some());
    }
    assert_eq!(root(&emptied), root(&map));
}

#[test]
fn ascending_inserts_leave_full_parts_behind() {
    let mut map = DivisibleMap::new();
    for n in 0..5000 {
        map.insert(&number(n), &[1; 240]).unwrap();
    }
    check(&map);
    let entries_max = (PART_BYTES - part::HEADER_BYTES) / (part::ENTRY_BYTES + 256);
    assert_eq!(map.tree.parts_len(), 5000usize.div_ceil(entries_max));
}

#[test]
fn random_inserts_fill_parts_well_and_removals_join_them() {
    let mut map = filled(5000, 2);
    check(&map);
    let bytes: usize = map.tree.parts().map(|part| part.size()).sum();
    let fill = bytes as f64 / (map.tree.parts_len() * PART_BYTES) as f64;
    assert!((0.6..=1.0).contains(&fill), "{fill}");
    for n in (0..5000).filter(|n| n % 10 != 0) {
        map.remove(&number(n));
    }
    check(&map);
    let bytes: usize = map.tree.parts().map(|part| part.size()).sum();
    let fill = bytes as f64 / (map.tree.parts_len() * PART_BYTES) as f64;
    assert!(fill > 0.25, "{fill}");
}

#[test]
fn a_value_larger_than_a_part_is_a_part_of_its_own() {
    let mut map = filled(100, 3);
    let large = vec![7; 5 * PART_BYTES];
    map.insert(&number(50), &large).unwrap();
    check(&map);
    assert_eq!(map.get(&number(50)), Some(&large[..]));
    let alone = map.tree.parts().filter(|part| part.size() > PART_BYTES);
    assert_eq!(alone.count(), 1);
    // In pieces where a checkpoint's parts must be smaller, and with none lost.
    let (_, parts) = cut(&map, 1000);
    assert!(parts.iter().all(|part| part.len() <= 1000));
    assert_eq!(thaw(&parts), Ok(map));
}

#[test]
fn what_is_too_large_is_refused_and_changes_nothing() {
    let mut map = filled(10, 4);
    let before = root(&map);
    let bytes = KEY_BYTES_MAX + 1;
    let long = map.insert(&vec![0; bytes], b"");
    assert_eq!(long, Err(MapError::KeyTooLong { bytes }));
    let bytes = VALUE_BYTES_MAX + 1;
    let large = map.insert(b"", &vec![0; bytes]);
    assert_eq!(large, Err(MapError::ValueTooLarge { bytes }));
    assert_eq!(root(&map), before);
    let longest = vec![0; KEY_BYTES_MAX];
    map.insert(&longest, b"x").unwrap();
    assert_eq!(thaw(&cut(&map, CHUNK).1), Ok(map));
}

#[test]
fn values_of_types_are_kept_in_the_codec() {
    let mut map = DivisibleMap::new();
    map.put_as(b"k", &(7u64, "text".to_owned())).unwrap();
    assert_eq!(map.get_as(b"k"), Ok(Some((7u64, "text".to_owned()))));
    assert_eq!(map.get_as::<u8>(b"absent"), Ok(None));
    assert!(map.get_as::<[u64; 4]>(b"k").is_err());
}

#[test]
fn a_damaged_part_is_refused_with_what_is_wrong_with_it() {
    let mut map = DivisibleMap::with_part_bytes(64);
    for n in 0..8u8 {
        map.insert(&[n; 4], &[n; 10]).unwrap();
    }
    let (_, good) = cut(&map, CHUNK);
    let refuse = |change: &dyn Fn(&mut Vec<Vec<u8>>), part: u64, expected: MapFault| {
        let mut parts: Vec<Vec<u8>> = good.iter().map(|part| part.to_vec()).collect();
        change(&mut parts);
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        let fault = expected.to_string();
        assert_eq!(thaw(&parts), Err(ThawError::Malformed { part, fault }));
    };
    refuse(&|parts| parts[0][0] = 9, 0, MapFault::Head);
    refuse(&|parts| parts[0][4] = 1, 0, MapFault::Head);
    refuse(&|parts| parts[0].push(0), 0, MapFault::Length);
    refuse(&|parts| parts[1].push(0), 1, MapFault::Length);
    refuse(&|parts| parts[1][3] = 0xff, 1, MapFault::Length);
    refuse(&|parts| parts[1][4..8].fill(0xff), 1, MapFault::Count);
    refuse(&|parts| parts[1][4..8].fill(0), 1, MapFault::Count);
    refuse(&|parts| parts[1][8..12].fill(0xff), 1, MapFault::Offset);
    refuse(&|parts| parts[1][8..12].fill(0), 1, MapFault::Offset);
    let entries = HEADER + 4 * usize::from(good[1][4]);
    refuse(&|parts| parts[1][entries + 1] = 1, 1, MapFault::Key);
    refuse(&|parts| parts[1][entries + 2] = 9, 1, MapFault::Order);
    refuse(&|parts| parts.swap(1, 2), 2, MapFault::Order);
    refuse(
        &|parts| parts[0][16] += 1,
        good.len() as u64 - 1,
        MapFault::Count,
    );
    let mut short = good.clone();
    short.pop();
    let ended = ThawError::Part(crate::state::PartError::Ended);
    assert_eq!(thaw(&short), Err(ended));
}

const HEADER: usize = part::HEADER_BYTES;

/// The bytes of parts that `after` has and `before` has not.
fn changed_bytes(before: &DivisibleMap, after: &DivisibleMap) -> u64 {
    let old: BTreeSet<_> = cut(before, CHUNK).0.into_iter().collect();
    let new = cut(after, CHUNK).0;
    let fresh = new.iter().filter(|part| !old.contains(part));
    fresh.map(|part| u64::from(part.bytes)).sum()
}

#[test]
fn a_checkpoint_has_only_the_parts_that_were_written() {
    let before = filled(40_000, 5);
    let total: u64 = cut(&before, CHUNK)
        .0
        .iter()
        .map(|part| u64::from(part.bytes))
        .sum();
    let percent =
        |after: &DivisibleMap| changed_bytes(&before, after) as f64 * 100.0 / total as f64;

    let mut one_part_in_a_hundred = before.clone();
    let firsts: Vec<Vec<u8>> = before
        .tree
        .parts()
        .step_by(100)
        .map(|part| part.first_key().to_vec())
        .collect();
    for key in firsts {
        one_part_in_a_hundred.insert(&key, &[0xee; 240]).unwrap();
    }
    let parts = percent(&one_part_in_a_hundred);

    let mut one_key_in_a_hundred = before.clone();
    let mut random = SeededRng::new(6);
    for _ in 0..400 {
        let key = number(random.below(40_000));
        one_key_in_a_hundred.insert(&key, &[0xee; 240]).unwrap();
    }
    let keys = percent(&one_key_in_a_hundred);
    println!("of {total} bytes, 1% of the parts: {parts:.2}%, 1% of the keys: {keys:.2}%");
    assert!((0.5..1.5).contains(&parts), "{parts}");
    // A part has some eleven entries.
    assert!((5.0..13.0).contains(&keys), "{keys}");
}

#[test]
fn a_part_that_did_not_change_is_not_hashed_again() {
    let mut map = filled(1000, 7);
    drop(cut(&map, CHUNK));
    let hashed = |map: &DivisibleMap| map.tree.parts().filter(|part| part.is_hashed()).count();
    let parts = map.tree.parts_len();
    assert_eq!(hashed(&map), parts);
    map.insert(&number(500), b"changed").unwrap();
    assert_eq!(hashed(&map), parts - 1);
}

#[test]
fn threads_thaw_what_one_thread_thaws_and_hash_nothing_again() {
    let mut map = DivisibleMap::new();
    let mut rng = SeededRng::new(7);
    for n in 0..20_000 {
        let value = vec![rng.next_u64() as u8; rng.between(100, 400) as usize];
        map.insert(&number(n), &value).unwrap();
    }
    let (_, parts) = cut(&map, CHUNK);
    for pool in [
        ExecutionPool::sequential(),
        ExecutionPool::eager(3).unwrap(),
        ExecutionPool::shuffled(7),
    ] {
        let thawed = thaw_with(&pool, &parts).unwrap();
        assert_eq!(thawed.tree.parts_len() + 1, parts.len());
        assert!(thawed.tree.parts().all(|part| part.is_hashed()));
        check(&thawed);
        assert_eq!(root(&thawed), root(&map));
        assert_eq!(thawed, map);
    }
}

#[test]
fn a_part_that_the_source_has_wrong_or_not_is_named() {
    let mut map = DivisibleMap::new();
    for n in 0..2000 {
        map.insert(&number(n), &[7; 240]).unwrap();
    }
    let (refs, parts) = cut(&map, CHUNK);
    let (descriptor, pages) = StateDescriptor::cut(&refs).unwrap();
    let pool = ExecutionPool::eager(2).unwrap();
    let digest = refs[refs.len() / 2].digest;
    for instead in [Some(Bytes::from_static(b"something else")), None] {
        let blobs = pages.iter().chain(&parts);
        let mut source: BTreeMap<_, _> = blobs.map(|b| (Digest::of(b), b.clone())).collect();
        source.remove(&digest);
        let is_there = instead.is_some();
        source.extend(instead.map(|bytes| (digest, bytes)));
        let mut reader = CheckedParts::new(&descriptor, &source, CHUNK, &pool).unwrap();
        let error = DivisibleMap::thaw(&mut reader).unwrap_err();
        let names = match error {
            ThawError::Part(PartError::Digest { digest: named }) => is_there && named == digest,
            ThawError::Part(PartError::Unavailable { digest: named, .. }) => {
                !is_there && named == digest
            }
            other => panic!("{other}"),
        };
        assert!(names);
    }
}
