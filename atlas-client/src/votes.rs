//! Counting matching results: one vote per replica and operation at a time, in bounded memory.

use atlas_common::{Digest, NodeId, ReplicaSet};
use atlas_smr_core::client_message::OperationResult;

/// What one replica says one result is: enough to compare, small whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    Ok(Digest),
    InvalidRequest,
    ApplicationFailed,
    ReplyTooLarge,
    Forgotten,
}

impl Vote {
    pub(crate) fn of(result: &OperationResult) -> Self {
        match result {
            OperationResult::Ok(reply) => Self::Ok(Digest::of(reply)),
            OperationResult::InvalidRequest => Self::InvalidRequest,
            OperationResult::ApplicationFailed => Self::ApplicationFailed,
            OperationResult::ReplyTooLarge => Self::ReplyTooLarge,
            OperationResult::Forgotten => Self::Forgotten,
        }
    }
}

/// Results that enough replicas agree on, by their position in the bundle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    None,
    /// All of them, in order.
    All(Vec<OperationResult>),
    Some(Vec<(usize, OperationResult)>),
}

/// The votes on the results of one bundle.
///
/// As long as the replicas give equal runs that cover the whole bundle, which is the rule, one run is
/// kept and the others are compared with it. The first that differs turns the tally to counting each
/// operation by digest: 33 bytes for each replica and operation, however large the lies.
#[derive(Debug)]
pub(crate) struct Tally {
    needed: usize,
    replicas: usize,
    count: usize,
    votes: Votes,
}

#[derive(Debug)]
enum Votes {
    None,
    Whole {
        run: Vec<OperationResult>,
        voters: ReplicaSet,
    },
    Each(Vec<OperationVotes>),
}

#[derive(Debug, Clone)]
enum OperationVotes {
    Open(Vec<Option<Vote>>),
    Resolved,
}

impl Tally {
    /// For a bundle of `count` operations; `needed` of the `replicas` have to agree.
    pub(crate) fn new(count: usize, needed: usize, replicas: usize) -> Self {
        Self {
            needed,
            replicas,
            count,
            votes: Votes::None,
        }
    }

    /// Those of these replicas whose word is what keeps the results from being accepted: the ones that
    /// said nothing, or all of them when they contradict each other.
    pub(crate) fn in_doubt(&self, of: ReplicaSet) -> ReplicaSet {
        match &self.votes {
            Votes::Whole { voters, .. } => of.without(*voters),
            Votes::None | Votes::Each(_) => of,
        }
    }

    /// A replica's results for all operations of the bundle.
    pub(crate) fn whole(&mut self, from: NodeId, results: Vec<OperationResult>) -> Accepted {
        debug_assert_eq!(results.len(), self.count);
        match &mut self.votes {
            Votes::None => {
                self.votes = Votes::Whole {
                    run: results,
                    voters: ReplicaSet::only(from),
                }
            }
            Votes::Whole { run, voters } if *run == results => voters.insert(from),
            Votes::Whole { run, voters } if *voters == ReplicaSet::only(from) => *run = results,
            _ => return self.part(from, 0, &results),
        }
        match &mut self.votes {
            Votes::Whole { run, voters } if voters.len() >= self.needed => {
                Accepted::All(std::mem::take(run))
            }
            _ => Accepted::None,
        }
    }

    /// A replica's results for the operations from position `offset` on, as many as there are.
    pub(crate) fn part(
        &mut self,
        from: NodeId,
        offset: usize,
        results: &[OperationResult],
    ) -> Accepted {
        let needed = self.needed;
        let mut accepted = Vec::new();
        for ((position, votes), result) in
            self.each().iter_mut().enumerate().skip(offset).zip(results)
        {
            if votes.add(from, Vote::of(result), needed) {
                *votes = OperationVotes::Resolved;
                accepted.push((position, result.clone()));
            }
        }
        if accepted.is_empty() {
            Accepted::None
        } else {
            Accepted::Some(accepted)
        }
    }

    /// Goes over to counting each operation.
    fn each(&mut self) -> &mut Vec<OperationVotes> {
        if !matches!(self.votes, Votes::Each(_)) {
            let open = OperationVotes::Open(vec![None; self.replicas]);
            let mut each = vec![open; self.count];
            if let Votes::Whole { run, voters } = &self.votes {
                for (votes, result) in each.iter_mut().zip(run) {
                    let vote = Vote::of(result);
                    for voter in voters.members() {
                        votes.add(voter, vote, self.needed);
                    }
                }
            }
            self.votes = Votes::Each(each);
        }
        match &mut self.votes {
            Votes::Each(each) => each,
            Votes::None | Votes::Whole { .. } => unreachable!("they were just replaced"),
        }
    }
}

impl OperationVotes {
    /// Replaces the replica's vote. Whether enough agree with it now.
    fn add(&mut self, from: NodeId, vote: Vote, needed: usize) -> bool {
        let Self::Open(votes) = self else {
            return false;
        };
        votes[from.index()] = Some(vote);
        votes.iter().filter(|other| **other == Some(vote)).count() >= needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn ok(text: &str) -> OperationResult {
        OperationResult::Ok(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn run(texts: &[&str]) -> Vec<OperationResult> {
        texts.iter().map(|text| ok(text)).collect()
    }

    #[test]
    fn equal_runs_of_enough_replicas_are_accepted_whole() {
        let mut tally = Tally::new(2, 2, 4);
        assert_eq!(tally.whole(NodeId(1), run(&["a", "b"])), Accepted::None);
        assert_eq!(
            tally.whole(NodeId(3), run(&["a", "b"])),
            Accepted::All(run(&["a", "b"]))
        );
    }

    #[test]
    fn a_replica_has_one_vote_however_often_it_speaks() {
        let mut tally = Tally::new(1, 2, 4);
        for _ in 0..5 {
            assert_eq!(tally.whole(NodeId(1), run(&["a"])), Accepted::None);
            assert_eq!(tally.part(NodeId(1), 0, &run(&["a"])), Accepted::None);
        }
        // Its vote moves with it: "a" has lost it, "b" has one.
        assert_eq!(tally.part(NodeId(1), 0, &run(&["b"])), Accepted::None);
        assert_eq!(tally.part(NodeId(2), 0, &run(&["a"])), Accepted::None);
        assert_eq!(
            tally.part(NodeId(3), 0, &run(&["a"])),
            Accepted::Some(vec![(0, ok("a"))])
        );
    }

    #[test]
    fn a_replica_may_revise_a_whole_run_before_others_join_it() {
        let mut tally = Tally::new(1, 2, 4);
        assert_eq!(tally.whole(NodeId(1), run(&["a"])), Accepted::None);
        assert_eq!(tally.whole(NodeId(1), run(&["b"])), Accepted::None);
        assert_eq!(tally.whole(NodeId(2), run(&["a"])), Accepted::None);
        assert_eq!(
            tally.whole(NodeId(3), run(&["b"])),
            Accepted::Some(vec![(0, ok("b"))])
        );
    }

    #[test]
    fn a_lie_in_one_operation_delays_only_that_one() {
        let mut tally = Tally::new(3, 2, 4);
        assert_eq!(
            tally.whole(NodeId(0), run(&["a", "LIE", "c"])),
            Accepted::None
        );
        let accepted = tally.whole(NodeId(1), run(&["a", "b", "c"]));
        assert_eq!(accepted, Accepted::Some(vec![(0, ok("a")), (2, ok("c"))]));
        let accepted = tally.whole(NodeId(2), run(&["a", "b", "c"]));
        assert_eq!(accepted, Accepted::Some(vec![(1, ok("b"))]));
    }

    #[test]
    fn partial_runs_count_where_they_lie() {
        let mut tally = Tally::new(3, 2, 4);
        assert_eq!(tally.part(NodeId(0), 1, &run(&["b", "c"])), Accepted::None);
        let accepted = tally.whole(NodeId(1), run(&["a", "b", "c"]));
        assert_eq!(accepted, Accepted::Some(vec![(1, ok("b")), (2, ok("c"))]));
        // More results than the bundle has operations fall off the end.
        let accepted = tally.part(NodeId(2), 0, &run(&["a", "x", "y", "z", "z"]));
        assert_eq!(accepted, Accepted::Some(vec![(0, ok("a"))]));
    }
}
