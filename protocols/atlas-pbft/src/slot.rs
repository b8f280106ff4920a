//! One slot between the watermarks.

use crate::message::{Phase, Prepared, Proof, Vote};
use atlas_common::crypto::Signature;
use atlas_common::{Digest, Lsn, NodeId, View};
use atlas_core::Batch;
use std::collections::BTreeMap;

/// What is known of a slot. Memory: two votes per member, and the bodies of the proposals of the
/// current view, of the prepared and of the decided batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    /// What this replica voted to prepare, in the newest view it voted in.
    pub(crate) voted: Option<(View, Digest)>,
    /// The proposal of the current view, voted for or waiting for its body.
    pub(crate) proposal: Option<Digest>,
    /// The leader's signature under the proposal, as evidence and to pass it on.
    pub(crate) proposal_signature: Option<(View, Digest, Signature)>,
    bodies: BTreeMap<Digest, Batch>,
    prepares: BTreeMap<NodeId, Vote>,
    commits: BTreeMap<NodeId, Vote>,
    /// The prepared certificate of the highest view.
    pub(crate) prepared: Option<Prepared>,
    pub(crate) proof: Option<Proof>,
    /// The own vote was needed for the proof: its record must be durable before the decision counts.
    pub(crate) guarded: bool,
    /// That the slot is decided is in the log since an earlier life.
    pub(crate) recorded: bool,
    /// The first record that concerns this slot.
    pub(crate) first_lsn: Option<Lsn>,
}

/// What became of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    New,
    Duplicate,
    /// Of a view below one in which the same replica has voted.
    Stale,
    /// The same replica voted for something else in the same view.
    Equivocation(Vote),
}

impl Slot {
    pub(crate) fn logged(&mut self, lsn: Lsn) {
        self.first_lsn.get_or_insert(lsn);
    }

    pub(crate) fn body(&self, digest: &Digest) -> Option<&Batch> {
        self.bodies.get(digest)
    }

    pub(crate) fn keep_body(&mut self, batch: Batch) {
        self.bodies.insert(batch.digest(), batch);
    }

    pub(crate) fn bodies(&self) -> impl Iterator<Item = &Batch> {
        self.bodies.values()
    }

    /// Drops the bodies that no longer matter.
    pub(crate) fn forget_other_bodies(&mut self) {
        let keep = [
            self.proposal,
            self.prepared.as_ref().map(|prepared| prepared.digest),
            self.proof.as_ref().map(|proof| proof.digest),
        ];
        self.bodies
            .retain(|digest, _| keep.contains(&Some(*digest)));
    }

    pub(crate) fn is_decided(&self) -> bool {
        self.proof.is_some()
    }

    /// Counts a vote: one per member and phase, that of the newest view.
    pub(crate) fn count(&mut self, from: NodeId, vote: Vote) -> Counted {
        let votes = match vote.phase {
            Phase::Prepare => &mut self.prepares,
            Phase::Commit => &mut self.commits,
        };
        match votes.get(&from) {
            Some(old) if old.view > vote.view => return Counted::Stale,
            Some(old) if old.view == vote.view && old.digest == vote.digest => {
                return Counted::Duplicate;
            }
            Some(old) if old.view == vote.view => return Counted::Equivocation(*old),
            _ => {}
        }
        votes.insert(from, vote);
        Counted::New
    }

    fn same(
        &self,
        phase: Phase,
        view: View,
        digest: Digest,
    ) -> impl Iterator<Item = (&NodeId, &Vote)> {
        let votes = match phase {
            Phase::Prepare => &self.prepares,
            Phase::Commit => &self.commits,
        };
        let same = move |(_, vote): &(&NodeId, &Vote)| vote.view == view && vote.digest == digest;
        votes.iter().filter(same)
    }

    /// Whether there are at least `enough` votes for exactly this.
    pub(crate) fn has_votes(
        &self,
        phase: Phase,
        view: View,
        digest: &Digest,
        enough: usize,
    ) -> bool {
        self.same(phase, view, *digest).nth(enough - 1).is_some()
    }

    /// The votes for exactly this, in the order of the voters.
    pub(crate) fn votes(
        &self,
        phase: Phase,
        view: View,
        digest: &Digest,
    ) -> Vec<(NodeId, Signature)> {
        let same = self.same(phase, view, *digest);
        same.map(|(id, vote)| (*id, vote.signature)).collect()
    }

    pub(crate) fn own_vote(&self, phase: Phase, me: NodeId, view: View) -> Option<Vote> {
        let votes = match phase {
            Phase::Prepare => &self.prepares,
            Phase::Commit => &self.commits,
        };
        votes.get(&me).filter(|vote| vote.view == view).copied()
    }

    /// A digest that at least `enough` members prepared in `view`, if there is one.
    pub(crate) fn vouched(&self, view: View, enough: usize) -> Option<Digest> {
        let in_view = || self.prepares.values().filter(|vote| vote.view == view);
        let count = |digest| in_view().filter(|vote| vote.digest == digest).count();
        in_view()
            .map(|vote| vote.digest)
            .find(|digest| count(*digest) >= enough)
    }

    /// The batch without which the slot does not go on.
    pub(crate) fn needed_body(&self) -> Option<Digest> {
        self.proof
            .as_ref()
            .map(|proof| proof.digest)
            .or(self.proposal)
    }

    /// Whether somebody has voted here in `view`.
    pub(crate) fn has_any_vote(&self, view: View) -> bool {
        self.prepares.values().any(|vote| vote.view == view)
    }

    /// Whether the slot is a proposal on its way.
    pub(crate) fn in_flight(&self) -> bool {
        !self.is_decided() && (self.proposal.is_some() || self.prepared.is_some())
    }
}
