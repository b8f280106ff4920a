//! The parts of a map by their first keys: a B+ tree whose nodes are shared between clones, and copied
//! by the first write behind a clone.
//!
//! A tree of its own, since each write looks for the part that its key is in, not for a key: one way
//! down, over keys that lie in the nodes themselves, where a general ordered map takes three and
//! follows a pointer for each comparison.

mod children;
#[cfg(test)]
mod tests;

use super::part::Part;
use children::{Children, Key};
use std::cmp::Ordering;
use std::sync::Arc;

/// Neighbours that have so many together become one.
const JOINED: usize = children::WIDTH / 2;

impl Children<Arc<Node>> {
    /// To be called when the first key in a child may be another one.
    fn note_first(&mut self, at: usize) {
        let (first, child) = &mut self.items[at];
        if let Some(smallest) = child.first()
            && smallest.bytes() != first.bytes()
        {
            *first = smallest.clone();
            self.note_keys();
        }
    }

    /// Joins a child that has become small with a neighbour.
    fn join(&mut self, at: usize) {
        let few = |pair: &[(Key, Arc<Node>)]| pair[0].1.len() + pair[1].1.len() <= JOINED;
        let pairs = [at.checked_sub(1), Some(at)];
        let small = pairs.into_iter().flatten().find(|first| {
            let pair = self.items.get(*first..first + 2);
            pair.is_some_and(few)
        });
        if let Some(first) = small {
            let mut next = self.remove(first + 1);
            let child = Arc::make_mut(&mut self.items[first].1);
            child.append(Arc::make_mut(&mut next));
        }
    }
}

/// What the children of a node are.
#[derive(Clone, Debug)]
enum Node {
    Leaf(Children<Arc<Part>>),
    Branch(Children<Arc<Node>>),
}

impl Node {
    fn first(&self) -> Option<&Key> {
        match self {
            Self::Leaf(parts) => parts.items.first().map(|(key, _)| key),
            Self::Branch(nodes) => nodes.items.first().map(|(key, _)| key),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(parts) => parts.items.len(),
            Self::Branch(nodes) => nodes.items.len(),
        }
    }

    /// Puts a part in, in the place of one with the same first key. What has to go beside this node
    /// since it became too large, and whether there was no such part.
    fn insert(&mut self, part: Arc<Part>) -> (Option<Self>, bool) {
        match self {
            Self::Leaf(parts) => match parts.search(part.first_key()) {
                Ok(at) => {
                    parts.items[at].1 = part;
                    (None, false)
                }
                Err(at) => {
                    let key = Key::new(part.first_key());
                    (parts.insert(at, key, part).map(Self::Leaf), true)
                }
            },
            Self::Branch(nodes) => {
                let at = nodes.behind(part.first_key()).saturating_sub(1);
                let (beside, new) = Arc::make_mut(&mut nodes.items[at].1).insert(part);
                nodes.note_first(at);
                let Some((key, beside)) = beside.and_then(under_its_key) else {
                    return (None, new);
                };
                (nodes.insert(at + 1, key, beside).map(Self::Branch), new)
            }
        }
    }

    /// Takes a part out. Whether it was there.
    fn remove(&mut self, key: &[u8]) -> bool {
        match self {
            Self::Leaf(parts) => match parts.search(key) {
                Ok(at) => {
                    parts.remove(at);
                    true
                }
                Err(_) => false,
            },
            Self::Branch(nodes) => {
                let Some(at) = nodes.behind(key).checked_sub(1) else {
                    return false;
                };
                let child = Arc::make_mut(&mut nodes.items[at].1);
                let removed = child.remove(key);
                if child.len() == 0 {
                    nodes.remove(at);
                } else {
                    nodes.note_first(at);
                    nodes.join(at);
                }
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

/// Parts by their first keys. A clone takes constant time and shares everything.
#[derive(Clone, Debug)]
pub(super) struct PartIndex {
    root: Arc<Node>,
    len: usize,
}

impl PartIndex {
    pub(super) fn new() -> Self {
        Self {
            root: Arc::new(Node::Leaf(Children::new(Vec::new()))),
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
                Node::Leaf(parts) => return parts.floor(key),
                Node::Branch(nodes) => nodes.floor(key)?,
            }
        }
    }

    /// As [`Self::floor`], to be changed in its place; its first key must stay.
    pub(super) fn floor_mut(&mut self, key: &[u8]) -> Option<&mut Arc<Part>> {
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            node = match node {
                Node::Leaf(parts) => return parts.floor_mut(key),
                Node::Branch(nodes) => Arc::make_mut(nodes.floor_mut(key)?),
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
            let children = Children::new(vec![(first, below), beside]);
            self.root = Arc::new(Node::Branch(children));
        }
    }

    /// Takes out the part with this first key.
    pub(super) fn remove(&mut self, first_key: &[u8]) {
        if Arc::make_mut(&mut self.root).remove(first_key) {
            self.len -= 1;
        }
        while let Node::Branch(nodes) = &*self.root {
            self.root = match nodes.items.as_slice() {
                [] => Self::new().root,
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

    /// The parts behind the one with this first key.
    pub(super) fn iter_behind(&self, first_key: &[u8]) -> Parts<'_> {
        let mut parts = self.iter_from(first_key);
        // At most one, since it begins with the part that the key would be in.
        if let Some(((first, _), rest)) = parts.leaf.split_first()
            && first.bytes() <= first_key
        {
            parts.leaf = rest;
        }
        parts
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
        self.iter_behind(first_key).next()
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
                    let leaf = &parts.items[parts.behind(key).saturating_sub(1)..];
                    return Self { leaf, above };
                }
                Node::Branch(nodes) => {
                    let at = nodes.behind(key).saturating_sub(1);
                    above.push(&nodes.items[at + 1..]);
                    node = &nodes.items[at].1;
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
                    Node::Leaf(parts) => self.leaf = &parts.items,
                    Node::Branch(nodes) => self.above.push(&nodes.items),
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
                    let end = key.map_or(parts.items.len(), |key| parts.behind(key));
                    let leaf = &parts.items[..end];
                    return Self { leaf, above };
                }
                Node::Branch(nodes) => {
                    let end = key.map_or(nodes.items.len(), |key| nodes.behind(key));
                    let Some(at) = end.checked_sub(1) else {
                        return Self { leaf: &[], above };
                    };
                    above.push(&nodes.items[..at]);
                    node = &nodes.items[at].1;
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
                    Node::Leaf(parts) => self.leaf = &parts.items,
                    Node::Branch(nodes) => self.above.push(&nodes.items),
                }
            }
        }
    }
}
