//! A replica that lost its log, or a part of it: it may have voted for things that it does not remember.
//!
//! # All of it
//!
//! It asks the others where they stand, and takes the answers of a quorum that does not count itself,
//! all given after it started (each carries the number that it drew then). From these follow two
//! bounds on what it may have forgotten:
//!
//! - **Slots.** Whatever it voted for lay within the window above some checkpoint that was certified
//!   by then. The quorum that vouched for that checkpoint and the quorum that answers share a correct
//!   replica other than this one, which had decided so far. So no slot above the highest `decided` of
//!   the answers plus the window holds a vote of this replica, or a prepared certificate that it owes
//!   to a view change. When its own certified checkpoint has reached that, all of it is history.
//! - **Views.** It may have left a view by a view change that it does not remember, and that may yet
//!   help a new view to begin: it must not vote in an earlier one. It left for `w` only after it had
//!   entered `w − 1` (by a quorum of view changes), or seen a quorum go to `w − 1`, or f+1 go to `w`;
//!   each time a correct replica among those that answer is at `w − 1` or above. So it votes only in
//!   views above the highest of the answers. Until one begins it follows the present view silently.
//!
//! Any quorum of answers will do, so it takes the one with the lowest figures: liars who inflate
//! theirs cannot keep it mute while a quorum of the others is correct.
//!
//! # What a checkpoint had replaced
//!
//! At a checkpoint the records of the slots up to it go, and `Record::Cut` says so before they do. When that
//! checkpoint cannot be read any more, the replica starts from an earlier one, or from nothing, and lacks
//! its votes and prepared certificates between the two: it might vote there again, or leave them out of a
//! view change. So it says nothing until a certified checkpoint of its own has reached the cut: then all
//! of that is history, as it was before. Nothing else is forgotten, view and votes above the cut least of
//! all, so it goes on in the view that it was in and has no question to ask.

use crate::message::{Message, Status};
use crate::pbft::{Cx, Pbft};
use crate::record::Record;
use atlas_common::{NodeId, SeqNo, View};
use std::collections::BTreeMap;

/// What the others said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Amnesia {
    /// Drawn at each start, so that answers from before it are told apart.
    nonce: u64,
    /// Last decision and view of each, by its first answer.
    answers: BTreeMap<NodeId, (SeqNo, View)>,
}

impl Pbft {
    /// Whether this replica knows of everything that it has said and that is not history.
    pub(crate) fn remembers(&self) -> bool {
        self.amnesia.is_none() && self.low() >= self.cut
    }

    /// The loss is on record before anything else is: a crash must not look like a restart.
    pub(crate) fn start_asking(&mut self, cx: &mut Cx<'_>) {
        if let Some(amnesia) = &mut self.amnesia {
            amnesia.nonce = cx.rng().next_u64();
            cx.persist(Record::Amnesiac);
        }
    }

    /// What to ask the others: nothing, once all have answered.
    pub(crate) fn question(&self) -> Option<u64> {
        let others = self.membership.quorums().n() - 1;
        let open = |amnesia: &&Amnesia| amnesia.answers.len() < others;
        self.amnesia
            .as_ref()
            .filter(open)
            .map(|amnesia| amnesia.nonce)
    }

    /// Tells a replica without memory where this one stands. One that has forgotten something itself cannot.
    pub(crate) fn answer(&self, to: NodeId, status: Status, cx: &mut Cx<'_>) {
        if status.asks.is_some() && self.remembers() {
            let answers = status.asks;
            cx.send_to(
                to,
                Message::Status(Status {
                    answers,
                    ..self.standing()
                }),
            );
        }
    }

    pub(crate) fn learn_of_votes(&mut self, from: NodeId, status: Status, cx: &mut Cx<'_>) {
        if let Some(amnesia) = &mut self.amnesia
            && status.answers == Some(amnesia.nonce)
        {
            amnesia
                .answers
                .entry(from)
                .or_insert((status.decided, status.view));
            self.try_to_vote_again(cx);
        }
    }

    /// Below which slot and up to which view there may be votes of this replica.
    fn forgotten(&self) -> Option<(SeqNo, View)> {
        let quorums = self.membership.quorums();
        let enough = quorums.quorum().min(quorums.n() - 1).checked_sub(1)?;
        let answers = &self.amnesia.as_ref()?.answers;
        let mut decided: Vec<SeqNo> = answers.values().map(|(decided, _)| *decided).collect();
        let mut views: Vec<View> = answers.values().map(|(_, view)| *view).collect();
        decided.sort_unstable();
        views.sort_unstable();
        let last = decided.get(enough)?.plus(self.config.window);
        Some((last, *views.get(enough)?))
    }

    /// Votes again once everything that it may have forgotten is history.
    pub(crate) fn try_to_vote_again(&mut self, cx: &mut Cx<'_>) {
        let Some((_, view)) = self.forgotten().filter(|(seq, _)| *seq <= self.low()) else {
            return;
        };
        self.amnesia = None;
        self.votes_from = view.next();
        cx.persist(Record::VotesFrom(self.votes_from));
        self.view_since = cx.now();
        self.watch_leader(cx);
        self.ask_for_batch(cx);
    }
}
