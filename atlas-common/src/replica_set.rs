//! Sets of replicas.

use crate::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A set of replicas, 16 bytes large. A replica whose number is above 127 is never in it; a cluster has
/// at most 100 ([`Quorums::REPLICAS_MAX`](crate::quorum::Quorums::REPLICAS_MAX)).
///
/// ```
/// use atlas_common::{NodeId, ReplicaSet};
///
/// let heard: ReplicaSet = [NodeId(0), NodeId(2)].into_iter().collect();
/// let silent = ReplicaSet::all(4).without(heard);
/// assert_eq!(silent.members().collect::<Vec<_>>(), [NodeId(1), NodeId(3)]);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaSet(u128);

impl ReplicaSet {
    /// The replicas `0..n`.
    #[must_use]
    pub const fn all(n: usize) -> Self {
        if n >= u128::BITS as usize {
            Self(u128::MAX)
        } else {
            Self((1 << n) - 1)
        }
    }

    /// One replica.
    #[must_use]
    pub const fn only(replica: NodeId) -> Self {
        Self(Self::bit(replica))
    }

    const fn bit(replica: NodeId) -> u128 {
        match 1_u128.checked_shl(replica.0) {
            Some(bit) => bit,
            None => 0,
        }
    }

    /// Puts a replica in.
    pub const fn insert(&mut self, replica: NodeId) {
        self.0 |= Self::bit(replica);
    }

    /// Takes a replica out.
    pub const fn remove(&mut self, replica: NodeId) {
        self.0 &= !Self::bit(replica);
    }

    /// Whether a replica is in it.
    #[must_use]
    pub const fn contains(self, replica: NodeId) -> bool {
        self.0 & Self::bit(replica) != 0
    }

    /// How many are in it.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether none is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of this set that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The replicas in it, by their numbers.
    pub fn members(self) -> impl Iterator<Item = NodeId> {
        (0..u128::BITS)
            .map(NodeId)
            .filter(move |replica| self.contains(*replica))
    }
}

impl FromIterator<NodeId> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(replicas: I) -> Self {
        let mut set = Self::default();
        replicas.into_iter().for_each(|replica| set.insert(replica));
        set
    }
}

impl fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.members()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_the_set_are_never_in_it() {
        let mut set = ReplicaSet::all(200);
        assert_eq!(set.len(), 128);
        for outside in [NodeId(128), NodeId(u32::MAX)] {
            set.insert(outside);
            assert!(!set.contains(outside));
            set.remove(outside);
        }
        assert_eq!(set, ReplicaSet::all(128));
        assert!(ReplicaSet::only(NodeId(128)).is_empty());
    }
}
