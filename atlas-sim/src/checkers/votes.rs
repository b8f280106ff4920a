//! Votes: what a correct replica has said where it may say one thing only, it says again or not at all,
//! in all its lives.

use super::Violation;
use crate::protocol::Vote;
use atlas_common::NodeId;
use std::collections::BTreeMap;

/// A voter, and where it voted.
type Place = (NodeId, (&'static str, u64, u64));

/// The votes that left correct replicas.
#[derive(Debug, Default)]
pub struct Votes {
    /// What each voter said first in each place, and in which of its lives.
    said: BTreeMap<Place, (u64, u64)>,
    /// Votes that were said again in a later life.
    again: u64,
}

impl Votes {
    /// A vote leaves a correct replica.
    ///
    /// # Errors
    /// When the replica has voted otherwise there.
    pub fn said(&mut self, replica: NodeId, life: u64, vote: Vote) -> Result<(), Violation> {
        let entry = self.said.entry((replica, vote.at));
        let (one, first) = *entry.or_insert((vote.value, life));
        if one == vote.value {
            self.again += u64::from(life > first);
            return Ok(());
        }
        let (kind, major, minor) = vote.at;
        Err(Violation::VotedTwice {
            replica,
            place: format!("{kind} {major}.{minor}"),
            one,
            other: vote.value,
        })
    }

    /// How many votes there were, each counted once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.said.len()
    }

    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// How often a vote was said again in a later life.
    #[must_use]
    pub const fn again(&self) -> u64 {
        self.again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_may_be_said_again_but_not_changed() {
        let vote = |minor, value| Vote {
            at: ("prepare", 3, minor),
            value,
        };
        let mut votes = Votes::default();
        assert_eq!(votes.said(NodeId(0), 1, vote(1, 7)), Ok(()));
        assert_eq!(votes.said(NodeId(0), 2, vote(1, 7)), Ok(()));
        assert_eq!(votes.said(NodeId(0), 2, vote(2, 8)), Ok(()));
        assert_eq!(votes.said(NodeId(1), 1, vote(1, 9)), Ok(()));
        assert_eq!((votes.len(), votes.again()), (3, 1));
        let changed = votes.said(NodeId(0), 2, vote(1, 8));
        assert!(matches!(changed, Err(Violation::VotedTwice { .. })));
    }
}
