//! A replica that lost its log: what it may have promised, and when that no longer matters. The rule
//! and its argument stand on the front page.

use crate::message::Body;
use crate::raft::{Cx, Raft};
use atlas_common::{NodeId, View};
use std::collections::BTreeMap;

/// What the others said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Amnesia {
    /// Drawn at each start, so that answers from before it are told apart.
    nonce: u64,
    /// The term of each voter, by its first answer.
    terms: BTreeMap<NodeId, View>,
}

impl Raft {
    /// The loss is on record before anything else is: a crash must not look like a restart.
    pub(crate) fn start_asking(&mut self, cx: &mut Cx<'_>) {
        if let Some(amnesia) = &mut self.amnesia {
            amnesia.nonce = cx.rng().next_u64();
            self.keep_hard_state(cx);
            self.ask_again(cx);
        }
    }

    /// Asks those who have not answered; then, the leader for a new term.
    pub(crate) fn ask_again(&mut self, cx: &mut Cx<'_>) {
        let Some(amnesia) = &self.amnesia else {
            return;
        };
        let nonce = amnesia.nonce;
        let open = |id: &NodeId| *id != self.me && !amnesia.terms.contains_key(id);
        let open: Vec<NodeId> = self.membership.voters().filter(open).collect();
        for voter in open {
            cx.send_to(voter, self.message(Body::Recall { nonce }));
        }
        if self.forgotten().is_some_and(|last| self.term <= last)
            && let Some(leader) = self.leader
        {
            cx.send_to(leader, self.message(Body::Renew));
        }
    }

    /// Tells a replica without memory the own term. One without memory itself cannot.
    pub(crate) fn on_recall(&mut self, from: NodeId, nonce: u64, cx: &mut Cx<'_>) {
        if self.counts() {
            let answer = self.message(Body::Recalled { nonce });
            cx.send_to(from, answer);
        }
    }

    pub(crate) fn on_recalled(&mut self, from: NodeId, nonce: u64, term: View, cx: &mut Cx<'_>) {
        if let Some(amnesia) = &mut self.amnesia
            && amnesia.nonce == nonce
        {
            amnesia.terms.entry(from).or_insert(term);
            self.try_to_vote_again(cx);
        }
    }

    /// A term that no leader elected before this replica asked is above: the highest that some
    /// majority of the others answered with.
    fn forgotten(&self) -> Option<View> {
        let quorums = self.membership.quorums();
        // One less would do where n is even: any set that meets every majority.
        let enough = quorums.quorum().min(quorums.n() - 1).checked_sub(1)?;
        let mut terms: Vec<View> = self.amnesia.as_ref()?.terms.values().copied().collect();
        terms.sort_unstable();
        terms.get(enough).copied()
    }

    /// Votes again once an entry of a later term is committed here.
    pub(crate) fn try_to_vote_again(&mut self, cx: &mut Cx<'_>) {
        let (Some(last), Some(term)) = (self.forgotten(), self.log.term_at(self.commit)) else {
            return;
        };
        if term <= last {
            return;
        }
        self.amnesia = None;
        if self.term == term {
            // It may have voted in this term: not again.
            self.voted = Some(self.me);
        }
        self.keep_hard_state(cx);
        self.wait_for_leader(cx);
    }

    /// A replica without memory waits for a new term: the leader begins one, and wins it.
    pub(crate) fn on_renew(&mut self, cx: &mut Cx<'_>) {
        if self.leads() && self.commit >= self.own_first && self.transfer.is_none() {
            self.stand(true, cx);
        }
    }
}
