//! Quorum arithmetic: the one place where fault tolerance is counted.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// What a faulty replica may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultModel {
    /// It stops, and may come back with what it had made durable.
    Crash,
    /// It does anything: lies, equivocates, colludes with the other faulty ones.
    Byzantine,
}

impl fmt::Display for FaultModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::Byzantine => "byzantine",
        })
    }
}

/// The sizes that follow from a fault model and a number of voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quorums {
    model: FaultModel,
    n: usize,
}

/// No cluster of this size is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a cluster has between 1 and {max} replicas, found {found}", max = Quorums::REPLICAS_MAX)]
pub struct ClusterSizeError {
    /// How many replicas were asked for.
    pub found: usize,
}

impl Quorums {
    /// The largest cluster.
    pub const REPLICAS_MAX: usize = 100;

    /// The sizes for `n` voters.
    ///
    /// # Errors
    /// When `n` is 0 or above [`Self::REPLICAS_MAX`].
    pub const fn new(model: FaultModel, n: usize) -> Result<Self, ClusterSizeError> {
        if n == 0 || n > Self::REPLICAS_MAX {
            return Err(ClusterSizeError { found: n });
        }
        Ok(Self { model, n })
    }

    /// The fault model.
    #[must_use]
    pub const fn model(&self) -> FaultModel {
        self.model
    }

    /// n: how many voters there are.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.n
    }

    /// f: how many faulty voters are survived. Byzantine ⌊(n−1)/3⌋, crash ⌊(n−1)/2⌋.
    #[must_use]
    pub const fn faults(&self) -> usize {
        match self.model {
            FaultModel::Byzantine => (self.n - 1) / 3,
            FaultModel::Crash => (self.n - 1) / 2,
        }
    }

    /// How many votes decide. Byzantine ⌈(n+f+1)/2⌉, so that any two quorums share a correct
    /// replica; crash ⌊n/2⌋+1, so that any two share a replica. (2f+1 is right only for n = 3f+1:
    /// with n = 6 two such quorums of 3 need not meet at all.)
    #[must_use]
    pub const fn quorum(&self) -> usize {
        match self.model {
            FaultModel::Byzantine => (self.n + self.faults() + 1).div_ceil(2),
            FaultModel::Crash => self.n / 2 + 1,
        }
    }

    /// How many replicas are certain to include a correct one: f+1 (Byzantine), 1 (crash).
    #[must_use]
    pub const fn one_correct(&self) -> usize {
        match self.model {
            FaultModel::Byzantine => self.faults() + 1,
            FaultModel::Crash => 1,
        }
    }

    /// How many matching replies a client accepts a result on.
    #[must_use]
    pub const fn matching_replies(&self) -> usize {
        self.one_correct()
    }

    /// Whether messages between replicas must carry signatures.
    #[must_use]
    pub const fn signed(&self) -> bool {
        matches!(self.model, FaultModel::Byzantine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(model: FaultModel) -> impl Iterator<Item = Quorums> {
        (1..=Quorums::REPLICAS_MAX).map(move |n| Quorums::new(model, n).unwrap())
    }

    /// Two quorums of q voters out of n share at least 2q − n.
    fn overlap(q: &Quorums) -> usize {
        (2 * q.quorum()).saturating_sub(q.n())
    }

    #[test]
    fn byzantine_quorums_intersect_in_a_correct_replica_for_every_n() {
        for q in all(FaultModel::Byzantine) {
            assert!(overlap(&q) > q.faults(), "{q:?}");
        }
    }

    #[test]
    fn crash_quorums_intersect_for_every_n() {
        for q in all(FaultModel::Crash) {
            assert!(overlap(&q) >= 1, "{q:?}");
        }
    }

    #[test]
    fn the_correct_replicas_alone_form_a_quorum_for_every_n() {
        for q in all(FaultModel::Byzantine).chain(all(FaultModel::Crash)) {
            assert!(q.n() - q.faults() >= q.quorum(), "{q:?}");
            assert!(q.one_correct() <= q.quorum(), "{q:?}");
        }
    }

    #[test]
    fn quorums_are_no_larger_than_they_need_be() {
        for q in all(FaultModel::Byzantine) {
            assert!(2 * (q.quorum() - 1) <= q.n() + q.faults(), "{q:?}");
        }
    }

    #[test]
    fn known_sizes() {
        let byzantine =
            |n| Quorums::new(FaultModel::Byzantine, n).map(|q| (q.faults(), q.quorum()));
        assert_eq!(byzantine(4), Ok((1, 3)));
        assert_eq!(byzantine(5), Ok((1, 4)));
        assert_eq!(byzantine(6), Ok((1, 4)));
        assert_eq!(byzantine(7), Ok((2, 5)));
        assert_eq!(byzantine(10), Ok((3, 7)));
        assert_eq!(byzantine(0), Err(ClusterSizeError { found: 0 }));
        assert_eq!(byzantine(101), Err(ClusterSizeError { found: 101 }));
    }
}
