//! Whom to send to: the leader as the replicas' hints have it, as far as they deserve belief.

use atlas_common::quorum::Quorums;
use atlas_common::{NodeId, View};
use atlas_smr_core::client_message::LeaderHint;
use std::collections::BTreeMap;

/// Where a request goes the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    One(NodeId),
    All,
}

/// How often a request goes to all after the leader let one lie: doubled each time up to the maximum,
/// so that a leader that censors this client can cost it only so many time-outs.
const DISTRUST_MIN: u32 = 16;
const DISTRUST_MAX: u32 = 4096;

/// What the replicas say about the leader.
///
/// A hint is believed when as many replicas give it as are certain to include a correct one; among
/// several such, that of the highest view. A believed leader that lets a request lie until its
/// time-out is distrusted for a number of requests, or until there is another view: a hint, even a
/// true one, never traps the client.
#[derive(Debug)]
pub(crate) struct LeaderTracker {
    hints: Vec<Option<LeaderHint>>,
    needed: usize,
    believed: Option<LeaderHint>,
    /// The replica that gets requests in a cluster that knows no leader.
    home: usize,
    distrusted_view: Option<View>,
    distrusted_for: u32,
    distrust_next: u32,
    down: Vec<bool>,
}

impl LeaderTracker {
    pub(crate) fn new(quorums: &Quorums, instance: u64) -> Self {
        let n = quorums.n();
        Self {
            hints: vec![None; n],
            needed: quorums.one_correct(),
            believed: None,
            home: (instance % n as u64) as usize,
            distrusted_view: None,
            distrusted_for: 0,
            distrust_next: DISTRUST_MIN,
            down: vec![false; n],
        }
    }

    /// The last believed hint.
    pub(crate) fn believed(&self) -> Option<LeaderHint> {
        self.believed
    }

    /// Whether there is a leader, as far as is believed.
    pub(crate) fn is_led(&self) -> bool {
        self.believed.is_some_and(|hint| hint.leader.is_some())
    }

    /// A replica (the caller made sure that it is one) gave a hint.
    pub(crate) fn hint(&mut self, from: NodeId, hint: LeaderHint) {
        let slot = &mut self.hints[from.index()];
        if *slot == Some(hint) {
            return;
        }
        *slot = Some(hint);
        let mut counts: BTreeMap<(View, Option<NodeId>), usize> = BTreeMap::new();
        for hint in self.hints.iter().flatten() {
            *counts.entry((hint.view, hint.leader)).or_default() += 1;
        }
        let enough = counts
            .into_iter()
            .rev()
            .find(|(_, count)| *count >= self.needed);
        let Some(((view, leader), _)) = enough else {
            return;
        };
        let leader = leader.filter(|leader| leader.index() < self.hints.len());
        self.believed = Some(LeaderHint { view, leader });
        if self
            .distrusted_view
            .is_some_and(|distrusted| distrusted != view)
        {
            self.distrusted_view = None;
            self.distrusted_for = 0;
            self.distrust_next = DISTRUST_MIN;
        }
    }

    /// Where to send a request that is sent for the first time.
    pub(crate) fn target(&mut self) -> Target {
        if self.distrusted_for > 0 {
            self.distrusted_for -= 1;
            return Target::All;
        }
        self.read_target()
    }

    /// The replica that serves one who needs only one: the leader, or any where there is none.
    fn preferred(&self) -> Option<NodeId> {
        let home = NodeId(self.home as u32);
        Some(self.believed?.leader.unwrap_or(home))
    }

    /// A request that had been sent to this replica alone was not answered in time.
    pub(crate) fn let_down_by(&mut self, replica: NodeId) {
        if replica.index() == self.home {
            self.home = (self.home + 1) % self.hints.len();
        }
        let Some(LeaderHint {
            view,
            leader: Some(leader),
        }) = self.believed
        else {
            return;
        };
        if leader == replica && self.distrusted_for == 0 {
            self.distrusted_view = Some(view);
            self.distrusted_for = self.distrust_next;
            self.distrust_next = (self.distrust_next * 2).min(DISTRUST_MAX);
        }
    }

    /// Whether the connection to a replica stands, as far as the network says.
    pub(crate) fn set_down(&mut self, replica: NodeId, down: bool) {
        if let Some(slot) = self.down.get_mut(replica.index()) {
            *slot = down;
        }
        let n = self.down.len();
        let up = (0..n).map(|i| (self.home + i) % n).find(|i| !self.down[*i]);
        self.home = up.unwrap_or(self.home);
    }

    /// Where to send a read that the leader serves best.
    pub(crate) fn read_target(&self) -> Target {
        match self.preferred() {
            Some(replica) if !self.down[replica.index()] => Target::One(replica),
            _ => Target::All,
        }
    }

    /// The replicas that are connected, from the client's own on.
    pub(crate) fn ring(&self) -> impl Iterator<Item = NodeId> {
        self.those(false)
    }

    fn those(&self, down: bool) -> impl Iterator<Item = NodeId> {
        let n = self.down.len();
        let ring = (0..n).map(move |i| (self.home + i) % n);
        ring.filter(move |i| self.down[*i] == down)
            .map(|i| NodeId(i as u32))
    }

    /// `count` replicas for a read that any may answer, starting at the client's own and passing over
    /// those that are not connected, while there are others.
    pub(crate) fn readers(&self, count: usize) -> Vec<NodeId> {
        self.ring().chain(self.those(true)).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::quorum::FaultModel;

    fn tracker() -> LeaderTracker {
        LeaderTracker::new(&Quorums::new(FaultModel::Byzantine, 4).unwrap(), 6)
    }

    fn hint(view: u64, leader: u32) -> LeaderHint {
        LeaderHint {
            view: View(view),
            leader: Some(NodeId(leader)),
        }
    }

    #[test]
    fn a_liar_s_hint_alone_is_not_believed_however_high_its_view() {
        let mut leader = tracker();
        assert_eq!(leader.target(), Target::All);
        leader.hint(NodeId(3), hint(u64::MAX, 3));
        assert_eq!(leader.target(), Target::All);
        leader.hint(NodeId(0), hint(4, 0));
        leader.hint(NodeId(1), hint(4, 0));
        assert_eq!(leader.target(), Target::One(NodeId(0)));
        leader.hint(NodeId(0), hint(5, 1));
        assert_eq!(leader.target(), Target::One(NodeId(0)));
        leader.hint(NodeId(2), hint(5, 1));
        assert_eq!(leader.target(), Target::One(NodeId(1)));
    }

    #[test]
    fn a_leader_that_lets_requests_lie_is_passed_over_for_longer_each_time() {
        let mut leader = tracker();
        leader.hint(NodeId(0), hint(4, 0));
        leader.hint(NodeId(1), hint(4, 0));
        let mut broadcasts = [0; 2];
        for count in &mut broadcasts {
            leader.let_down_by(NodeId(0));
            while leader.target() == Target::All {
                *count += 1;
            }
        }
        assert_eq!(broadcasts, [DISTRUST_MIN, 2 * DISTRUST_MIN]);
        leader.let_down_by(NodeId(0));
        leader.hint(NodeId(0), hint(5, 1));
        leader.hint(NodeId(1), hint(5, 1));
        assert_eq!(leader.target(), Target::One(NodeId(1)));
    }

    #[test]
    fn without_a_leader_one_replica_is_home_until_it_fails() {
        let mut leader = tracker();
        let none = LeaderHint {
            view: View(0),
            leader: None,
        };
        leader.hint(NodeId(0), none);
        leader.hint(NodeId(1), none);
        assert_eq!(leader.target(), Target::One(NodeId(2)));
        leader.let_down_by(NodeId(2));
        assert_eq!(leader.target(), Target::One(NodeId(3)));
        leader.set_down(NodeId(3), true);
        assert_eq!(leader.target(), Target::One(NodeId(0)));
        assert_eq!(
            leader.readers(4),
            [NodeId(0), NodeId(1), NodeId(2), NodeId(3)]
        );
        leader.hint(NodeId(0), hint(1, 3));
        leader.hint(NodeId(1), hint(1, 3));
        assert_eq!(leader.target(), Target::All);
    }
}
