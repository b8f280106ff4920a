//! The parts of a map by their first keys: a B+ tree whose nodes are shared between clones, and copied
//! by the first write behind a clone.
//!
//! A tree of its own, since each write looks for the part that its key is in, not for a key: one way
//! down, over keys that lie in the nodes themselves, where a general ordered map takes three and
//! follows a pointer for each comparison.

use super::part::Part;
use std::cmp::Ordering;
use std::sync::Arc;

/// Children of a node at most. More make the tree flatter, and the copy of a node behind a clone dearer.
const WIDTH: usize = 32;
/// Neighbours that have so many together become one.
const JOINED: usize = WIDTH / 2;
/// Bytes of a key that lie in a node.
const INLINE_BYTES: usize = 22;

/// A key, in the place where it is compared unless it is long.
#[derive(Clone, Debug)]
enum Key {
    Short(u8, [u8; INLINE_BYTES]),
    Long(Arc<[u8]>),
}

impl Key {
    fn new(key: &[u8]) -> Self {
        if key.len() > INLINE_BYTES {
            return Self::Long(key.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        Self::Short(key.len() as u8, bytes)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

/// What the children of a node are.
#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<(Key, Arc<Part>)>),
    /// Each child under the first key in it.
    Branch(Vec<(Key, Arc<Node>)>),
}

/// Where in a list of children a key belongs: behind the last first key that is not above it.
fn behind<T>(children: &[(Key, T)], key: &[u8]) -> usize {
    children.partition_point(|(first, _)| first.bytes() <= key)
}

/// A part is found at, or would go to, this place.
fn search<T>(children: &[(Key, T)], key: &[u8]) -> Result<usize, usize> {
    children.binary_search_by(|(first, _)| first.bytes().cmp(key))
}

/// Splits off the upper half of children that are too many; but where they grew at the end, only the
/// last, so that what is filled in order is full.
fn split<T>(children: &mut Vec<(Key, T)>, grown_at: usize) -> Option<Vec<(Key, T)>> {
    if children.len() <= WIDTH {
        return None;
    }
    let at = if grown_at + 1 == children.len() {
        WIDTH
    } else {
        children.len() / 2
    };
    Some(children.split_off(at))
}

impl Node {
    fn first(&self) -> Option<&Key> {
        match self {
            Self::Leaf(parts) => parts.first().map(|(key, _)| key),
            Self::Branch(nodes) => nodes.first().map(|(key, _)| key),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(parts) => parts.len(),
            Self::Branch(nodes) => nodes.len(),
        }
    }

    /// Puts a part in, in the place of one with the same first key. What has to go beside this node
    /// since it became too large, and whether there was no such part.
    fn insert(&mut self, part: Arc<Part>) -> (Option<Self>, bool) {
        match self {
            Self::Leaf(parts) => match search(parts, part.first_key()) {
                Ok(at) => {
                    parts[at].1 = part;
                    (None, false)
                }
                Err(at) => {
                    let key = Key::new(part.first_key());
                    parts.insert(at, (key, part));
                    (split(parts, at).map(Self::Leaf), true)
                }
            },
            Self::Branch(nodes) => {
                let at = behind(nodes, part.first_key()).saturating_sub(1);
                let (first, child) = &mut nodes[at];
                let (beside, new) = Arc::make_mut(child).insert(part);
                if let Some(smallest) = child.first()
                    && smallest.bytes() != first.bytes()
                {
                    *first = smallest.clone();
                }
                let Some(beside) = beside.and_then(under_its_key) else {
                    return (None, new);
                };
                nodes.insert(at + 1, beside);
                (split(nodes, at + 1).map(Self::Branch), new)
            }
        }
    }

    /// Takes a part out. Whether it was there.
    fn remove(&mut self, key: &[u8]) -> bool {
        match self {
            Self::Leaf(parts) => {
                let found = search(parts, key);
                found.is_ok_and(|at| {
                    parts.remove(at);
                    true
                })
            }
            Self::Branch(nodes) => {
                let Some(at) = behind(nodes, key).checked_sub(1) else {
                    return false;
                };
                let (first, child) = &mut nodes[at];
                let removed = Arc::make_mut(child).remove(key);
                match child.first() {
                    Some(smallest) if smallest.bytes() != first.bytes() => {
                        *first = smallest.clone();
                    }
                    Some(_) => {}
                    None => {
                        nodes.remove(at);
                        return removed;
                    }
                }
                join(nodes, at);
                removed
            }
        }
    }

    /// Adds a neighbour's children behind its own.
    fn append(&mut self, next: &mut Self) {
        match (self, next) {
            (Self::Leaf(own), Self::Leaf(next)) => own.append(next),
            (Self::Branch(own), Self::Branch(next)) => own.append(next),
            _ => debug_assert!(false, "neighbours are of one kind"),
        }
    }
}

fn under_its_key(node: Node) -> Option<(Key, Arc<Node>)> {
    let key = node.first()?.clone();
    Some((key, Arc::new(node)))
}

/// Joins a child that has become small with a neighbour.
fn join(nodes: &mut Vec<(Key, Arc<Node>)>, at: usize) {
    let few = |pair: &[(Key, Arc<Node>)]| pair[0].1.len() + pair[1].1.len() <= JOINED;
    let pairs = [at.checked_sub(1), Some(at)];
    let small = pairs.into_iter().flatten().find(|first| {
        let pair = nodes.get(*first..first + 2);
        pair.is_some_and(few)
    });
    if let Some(first) = small {
        let (_, mut next) = nodes.remove(first + 1);
        Arc::make_mut(&mut nodes[first].1).append(Arc::make_mut(&mut next));
    }
}

/// Parts by their first keys. A clone takes constant time and shares everything.
#[derive(Clone, Debug)]
pub(super) struct PartIndex {
    root: Arc<Node>,
    len: usize,
}

impl PartIndex {
    pub(super) fn new() -> Self {
        Self {
            root: Arc::new(Node::Leaf(Vec::new())),
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The part with the largest first key that is not above this one.
    pub(super) fn floor(&self, key: &[u8]) -> Option<&Arc<Part>> {
        let mut node = &*self.root;
        loop {
            node = match node {
                Node::Leaf(parts) => return Some(&parts[behind(parts, key).checked_sub(1)?].1),
                Node::Branch(nodes) => &nodes[behind(nodes, key).checked_sub(1)?].1,
            }
        }
    }

    /// As [`Self::floor`], to be changed in its place; its first key must stay.
    pub(super) fn floor_mut(&mut self, key: &[u8]) -> Option<&mut Arc<Part>> {
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            node = match node {
                Node::Leaf(parts) => {
                    let at = behind(parts, key).checked_sub(1)?;
                    return Some(&mut parts[at].1);
                }
                Node::Branch(nodes) => {
                    let at = behind(nodes, key).checked_sub(1)?;
                    Arc::make_mut(&mut nodes[at].1)
                }
            }
        }
    }

    /// Puts a part in, in the place of one with the same first key.
    pub(super) fn insert(&mut self, part: Arc<Part>) {
        let (beside, new) = Arc::make_mut(&mut self.root).insert(part);
        self.len += usize::from(new);
        if let Some(beside) = beside.and_then(under_its_key) {
            let below = Arc::clone(&self.root);
            let first = below.first().map_or_else(|| Key::new(&[]), Clone::clone);
            self.root = Arc::new(Node::Branch(vec![(first, below), beside]));
        }
    }

    /// Takes out the part with this first key.
    pub(super) fn remove(&mut self, first_key: &[u8]) {
        if Arc::make_mut(&mut self.root).remove(first_key) {
            self.len -= 1;
        }
        while let Node::Branch(nodes) = &*self.root {
            self.root = match nodes.as_slice() {
                [] => Arc::new(Node::Leaf(Vec::new())),
                [(_, only)] => Arc::clone(only),
                _ => return,
            };
        }
    }

    /// All parts, in order.
    pub(super) fn iter(&self) -> Parts<'_> {
        Parts::from(self, &[])
    }

    /// The parts from that on in which a key is, or would be.
    pub(super) fn iter_from(&self, key: &[u8]) -> Parts<'_> {
        Parts::from(self, key)
    }

    /// All parts, the last first.
    pub(super) fn iter_back(&self) -> PartsBack<'_> {
        PartsBack::from(self, None)
    }

    pub(super) fn first(&self) -> Option<&Arc<Part>> {
        self.iter().next()
    }

    pub(super) fn last(&self) -> Option<&Arc<Part>> {
        self.iter_back().next()
    }

    /// The part behind the one with this first key.
    pub(super) fn after(&self, first_key: &[u8]) -> Option<&Arc<Part>> {
        let mut parts = self.iter_from(first_key);
        parts.find(|part| part.first_key().cmp(first_key) == Ordering::Greater)
    }

    /// The part before the one with this first key.
    pub(super) fn before(&self, first_key: &[u8]) -> Option<&Arc<Part>> {
        let mut parts = PartsBack::from(self, Some(first_key));
        parts.find(|part| part.first_key().cmp(first_key) == Ordering::Less)
    }
}

/// Parts in order: what is still to come of the leaf, and of each level above it.
pub(super) struct Parts<'a> {
    leaf: &'a [(Key, Arc<Part>)],
    above: Vec<&'a [(Key, Arc<Node>)]>,
}

impl<'a> Parts<'a> {
    fn from(index: &'a PartIndex, key: &[u8]) -> Self {
        let (mut node, mut above) = (&*index.root, Vec::new());
        loop {
            match node {
                Node::Leaf(parts) => {
                    let leaf = &parts[behind(parts, key).saturating_sub(1)..];
                    return Self { leaf, above };
                }
                Node::Branch(nodes) => {
                    let at = behind(nodes, key).saturating_sub(1);
                    above.push(&nodes[at + 1..]);
                    node = &nodes[at].1;
                }
            }
        }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a Arc<Part>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(((_, part), rest)) = self.leaf.split_first() {
                self.leaf = rest;
                return Some(part);
            }
            if let Some(((_, node), rest)) = self.above.pop()?.split_first() {
                self.above.push(rest);
                match &**node {
                    Node::Leaf(parts) => self.leaf = parts,
                    Node::Branch(nodes) => self.above.push(nodes),
                }
            }
        }
    }
}

/// Parts, the last first: as [`Parts`].
pub(super) struct PartsBack<'a> {
    leaf: &'a [(Key, Arc<Part>)],
    above: Vec<&'a [(Key, Arc<Node>)]>,
}

impl<'a> PartsBack<'a> {
    fn from(index: &'a PartIndex, key: Option<&[u8]>) -> Self {
        let (mut node, mut above) = (&*index.root, Vec::new());
        loop {
            match node {
                Node::Leaf(parts) => {
                    let leaf = &parts[..key.map_or(parts.len(), |key| behind(parts, key))];
                    return Self { leaf, above };
                }
                Node::Branch(nodes) => {
                    let end = key.map_or(nodes.len(), |key| behind(nodes, key));
                    let Some(at) = end.checked_sub(1) else {
                        return Self { leaf: &[], above };
                    };
                    above.push(&nodes[..at]);
                    node = &nodes[at].1;
                }
            }
        }
    }
}

impl<'a> Iterator for PartsBack<'a> {
    type Item = &'a Arc<Part>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(((_, part), rest)) = self.leaf.split_last() {
                self.leaf = rest;
                return Some(part);
            }
            if let Some(((_, node), rest)) = self.above.pop()?.split_last() {
                self.above.push(rest);
                match &**node {
                    Node::Leaf(parts) => self.leaf = parts,
                    Node::Branch(nodes) => self.above.push(nodes),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
                        .iter()
                        .all(|(key, part)| key.bytes() == part.first_key())
                );
                1
            }
            Node::Branch(nodes) => {
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
            key.resize(INLINE_BYTES + 3, 1);
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
        assert_eq!(nodes.len(), 4096 / WIDTH / WIDTH);
    }
}
