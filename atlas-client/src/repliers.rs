//! Whom to ask for an answer: as many replicas as have to agree, and no more while they all do.
//!
//! Every replica executes every operation, and could answer it; but the answers of those beyond the first
//! that agree are read for nothing, and at one operation a bundle they are a good part of its price. So a
//! bundle names its repliers. When one of them is not connected, is late, or contradicts another, the bundle
//! is sent again, to all replicas, and all of them answer; whoever let the client down is passed over for a
//! while. A liar among the replicas can so cost a client a retransmission's time-out now and then, more
//! and more rarely, and nothing else.

use crate::leader::Target;
use atlas_common::{NodeId, ReplicaSet, Time};
use std::time::Duration;

/// How long a replica is passed over: doubled each time up to the maximum.
const PASSED_OVER_MIN: Duration = Duration::from_secs(1);
const PASSED_OVER_MAX: Duration = Duration::from_secs(64);

/// After this long without a reproach the next one counts as the first.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, Default)]
struct Reproach {
    until: Time,
    length: Duration,
}

/// Which replicas answered as they should lately.
#[derive(Debug)]
pub(crate) struct Repliers {
    needed: usize,
    reproaches: Vec<Reproach>,
}

impl Repliers {
    /// For `n` replicas, of which `needed` have to agree.
    pub(crate) fn new(n: usize, needed: usize) -> Self {
        Self {
            needed,
            reproaches: vec![Reproach::default(); n],
        }
    }

    /// Who is to answer a bundle that is sent to `target`; empty for all. The replica that gets it comes
    /// first: nobody knows its outcome earlier. `others` are those to choose from.
    pub(crate) fn choose(
        &self,
        now: Time,
        target: Target,
        others: impl Iterator<Item = NodeId>,
    ) -> ReplicaSet {
        let Target::One(first) = target else {
            return ReplicaSet::default();
        };
        let mut chosen = ReplicaSet::default();
        for replica in [first].into_iter().chain(others) {
            if chosen.len() < self.needed && self.is_trusted(now, replica) {
                chosen.insert(replica);
            }
        }
        if chosen.len() < self.needed {
            return ReplicaSet::default();
        }
        chosen
    }

    fn is_trusted(&self, now: Time, replica: NodeId) -> bool {
        let reproach = self.reproaches.get(replica.index());
        reproach.is_some_and(|reproach| reproach.until <= now)
    }

    /// These kept the client waiting.
    pub(crate) fn let_down_by(&mut self, now: Time, replicas: ReplicaSet) {
        for replica in replicas.members() {
            let Some(reproach) = self.reproaches.get_mut(replica.index()) else {
                continue;
            };
            let forgiven = now.since(reproach.until) >= FORGIVEN_AFTER;
            let length = if forgiven || reproach.length.is_zero() {
                PASSED_OVER_MIN
            } else {
                (reproach.length * 2).min(PASSED_OVER_MAX)
            };
            *reproach = Reproach {
                until: now.after(length),
                length,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: &[u32]) -> ReplicaSet {
        replicas.iter().copied().map(NodeId).collect()
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    fn choose(repliers: &Repliers, now: Time) -> ReplicaSet {
        let ring = [2, 3, 0, 1].into_iter().map(NodeId);
        repliers.choose(now, Target::One(NodeId(0)), ring)
    }

    #[test]
    fn as_many_are_named_as_have_to_agree_the_one_that_gets_the_bundle_first() {
        let repliers = Repliers::new(4, 2);
        assert_eq!(choose(&repliers, at(0)), set(&[0, 2]));
        let crash = Repliers::new(3, 1);
        assert_eq!(choose(&crash, at(0)), set(&[0]));
        let all = [0, 1, 2, 3].into_iter().map(NodeId);
        assert!(repliers.choose(at(0), Target::All, all).is_empty());
    }

    #[test]
    fn who_let_the_client_down_is_passed_over_for_longer_each_time() {
        let mut repliers = Repliers::new(4, 2);
        repliers.let_down_by(at(10), set(&[2]));
        assert_eq!(choose(&repliers, at(10)), set(&[0, 3]));
        assert_eq!(choose(&repliers, at(11)), set(&[0, 2]));
        repliers.let_down_by(at(11), set(&[2]));
        assert_eq!(choose(&repliers, at(12)), set(&[0, 3]));
        assert_eq!(choose(&repliers, at(13)), set(&[0, 2]));
        for _ in 0..20 {
            repliers.let_down_by(at(20), set(&[2]));
        }
        assert_eq!(choose(&repliers, at(83)), set(&[0, 3]));
        assert_eq!(choose(&repliers, at(84)), set(&[0, 2]));
        // It is forgiven in the end.
        repliers.let_down_by(at(684), set(&[2]));
        assert_eq!(choose(&repliers, at(685)), set(&[0, 2]));
    }

    #[test]
    fn all_are_asked_when_too_few_are_trusted_or_connected() {
        let mut repliers = Repliers::new(4, 2);
        let connected = [3].into_iter().map(NodeId);
        repliers.let_down_by(at(0), set(&[0]));
        let chosen = repliers.choose(at(0), Target::One(NodeId(0)), connected);
        assert!(chosen.is_empty());
        repliers.let_down_by(at(0), set(&[1, 2, 3]));
        assert!(choose(&repliers, at(0)).is_empty());
    }
}
