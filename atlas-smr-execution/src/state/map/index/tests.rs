use super::children::{INLINE_BYTES, WIDTH};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, Arc<Part>>;

fn part(key: &[u8]) -> Arc<Part> {
    Arc::new(Part::of((key, b"value")))
}

fn check(index: &PartIndex, model: &Model) {
    let same = |(one, other): (&Arc<Part>, &Arc<Part>)| Arc::ptr_eq(one, other);
    assert_eq!(
        (index.len(), index.iter().count()),
        (model.len(), model.len())
    );
    assert!(index.iter().zip(model.values()).all(same));
    assert_eq!(index.iter_back().count(), model.len());
    assert!(index.iter_back().zip(model.values().rev()).all(same));
    check_node(&index.root, true);
}

/// Each child's key is the first in it; nodes are neither empty nor too large, and all leaves are
/// equally deep.
fn check_node(node: &Node, root: bool) -> usize {
    assert!(node.len() <= WIDTH && (root || node.len() > 0));
    match node {
        Node::Leaf(parts) => {
            assert!(
                parts
                    .items
                    .iter()
                    .all(|(key, part)| key.bytes() == part.first_key())
            );
            1
        }
        Node::Branch(nodes) => {
            let nodes = &nodes.items;
            assert!(nodes.len() > 1 || !root);
            let depths = nodes.iter().map(|(key, child)| {
                assert_eq!(key.bytes(), child.first().unwrap().bytes());
                check_node(child, false)
            });
            let depths: Vec<usize> = depths.collect();
            assert!(depths.iter().all(|depth| *depth == depths[0]));
            depths[0] + 1
        }
    }
}

fn check_around(index: &PartIndex, model: &Model, key: &[u8]) {
    let is = |found: Option<&Arc<Part>>, expected: Option<(&Vec<u8>, &Arc<Part>)>| {
        let same = match (found, expected) {
            (Some(found), Some((_, expected))) => Arc::ptr_eq(found, expected),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(same, "{key:?}: {found:?}, {expected:?}");
    };
    let key = key.to_vec();
    is(index.floor(&key), model.range(..=key.clone()).next_back());
    is(index.first(), model.first_key_value());
    is(index.last(), model.last_key_value());
    if model.contains_key(&key) {
        is(index.before(&key), model.range(..key.clone()).next_back());
        let behind = (
            std::ops::Bound::Excluded(key.clone()),
            std::ops::Bound::Unbounded,
        );
        is(index.after(&key), model.range(behind).next());
    }
    let from = model.range(..=key.clone()).next_back().map(|(key, _)| key);
    let from = from.cloned().unwrap_or_default();
    assert!(
        index
            .iter_from(&key)
            .zip(model.range(from..))
            .all(|(found, (_, part))| Arc::ptr_eq(found, part))
    );
}

/// Short keys and long ones, near each other.
fn key(number: u16, long: bool) -> Vec<u8> {
    let mut key = number.to_be_bytes().to_vec();
    if long {
        // Zeros behind a key are in no head, which has them behind short keys.
        key.resize(INLINE_BYTES + 3, (number % 2) as u8);
    }
    key
}

proptest! {
    #[test]
    fn an_index_is_a_btree_map_and_clones_keep_what_they_had(
        ops in proptest::collection::vec((0u8..20, 0u16..3000, any::<bool>(), 1u16..200), 0..60),
    ) {
        let (mut index, mut model) = (PartIndex::new(), Model::new());
        let mut held = Vec::new();
        for (op, number, long, count) in ops {
            // Runs of keys, so that nodes fill and empty.
            for number in number..number.saturating_add(count) {
                let key = key(number, long);
                match op {
                    0..10 => {
                        let part = part(&key);
                        index.insert(Arc::clone(&part));
                        model.insert(key, part);
                    }
                    10..18 => {
                        index.remove(&key);
                        model.remove(&key);
                    }
                    _ => {
                        let found = index.floor_mut(&key);
                        let expected = model.range_mut(..=key.clone()).next_back();
                        prop_assert_eq!(found.is_some(), expected.is_some());
                        if let (Some(found), Some((first, expected))) = (found, expected) {
                            prop_assert!(Arc::ptr_eq(found, expected));
                            *found = part(first);
                            *expected = Arc::clone(found);
                        }
                    }
                }
            }
            check(&index, &model);
            check_around(&index, &model, &key(number, long));
            check_around(&index, &model, &key(number.saturating_add(count), !long));
            if op % 5 == 0 {
                held.push((index.clone(), model.clone()));
            }
        }
        for (index, model) in &held {
            check(index, model);
        }
    }
}

#[test]
fn what_is_filled_in_order_fills_its_nodes() {
    let mut index = PartIndex::new();
    for number in 0..4096 {
        index.insert(part(&key(number, false)));
    }
    assert_eq!(check_node(&index.root, true), 3);
    let Node::Branch(nodes) = &*index.root else {
        panic!("4096 parts in one leaf");
    };
    assert_eq!(nodes.items.len(), 4096 / WIDTH / WIDTH);
}
