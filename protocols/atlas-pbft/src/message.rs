//! What replicas say to each other, and what each signature covers.

use crate::sealed::Sealed;
use atlas_common::crypto::Signature;
use atlas_common::digest::DigestBuilder;
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::{Batch, CheckpointCertificate, Membership};
use serde::{Deserialize, Serialize};

/// A message between replicas.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    /// The leader's proposal for a slot (OSDI'99, section 4.2). Anybody may pass it on.
    PrePrepare(PrePrepare),
    /// A replica's own prepare or commit vote.
    Vote(Vote),
    /// A replica's own wish for a new view (section 4.4).
    ViewChange(SignedViewChange),
    /// The new leader's proof that its view has begun. Anybody may pass it on.
    NewView(NewView),
    /// Evidence that a slot is decided, for a replica that lags. Anybody may pass it on.
    Committed {
        /// The slot.
        seq: SeqNo,
        /// The evidence.
        proof: Proof,
    },
    /// Where the sender stands, so that others can send it what it lacks (TOCS 2002, section 5.2).
    Status(Status),
}

/// The leader's proposal. Its signature is also the leader's prepare vote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrePrepare {
    /// The view whose leader proposes.
    pub view: View,
    /// The slot.
    pub seq: SeqNo,
    /// What is proposed.
    pub batch: Batch,
    /// The leader's signature over [`prepare_digest`].
    pub signature: Signature,
}

/// The two rounds of votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// "I have accepted this proposal, and no other in this view and slot."
    Prepare,
    /// "I know that a quorum has prepared this proposal."
    Commit,
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Which round.
    pub phase: Phase,
    /// The view.
    pub view: View,
    /// The slot.
    pub seq: SeqNo,
    /// The digest of the batch.
    pub digest: Digest,
    /// The voter's signature over [`prepare_digest`] or [`commit_digest`].
    pub signature: Signature,
}

/// A quorum of prepare votes: no other batch can be prepared in this view and slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The slot.
    pub seq: SeqNo,
    /// The view.
    pub view: View,
    /// The digest of the batch.
    pub digest: Digest,
    /// Who voted.
    pub votes: Vec<(NodeId, Signature)>,
}

/// A quorum of commit votes: the batch is decided. Anyone who knows the membership can check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The view.
    pub view: View,
    /// The digest of the batch.
    pub digest: Digest,
    /// Who voted.
    pub votes: Vec<(NodeId, Signature)>,
}

/// What a replica takes with it into a new view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ViewChange {
    /// The view it wants to enter.
    pub view: View,
    /// The newest certified checkpoint that it knows of, its own or the one that its last view began at;
    /// `None` when there has been none.
    pub stable: Option<CheckpointCertificate>,
    /// For each slot above the checkpoint that it has prepared, the newest such certificate; slots
    /// ascend.
    pub prepared: Vec<Prepared>,
}

impl ViewChange {
    /// The sequence number of the checkpoint.
    #[must_use]
    pub fn low(&self) -> SeqNo {
        self.stable
            .as_ref()
            .map_or(SeqNo::ZERO, |certificate| certificate.id.seq)
    }
}

/// A view change with its sender's signature.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignedViewChange {
    /// The sender.
    pub from: NodeId,
    /// The content.
    pub change: Sealed<ViewChange>,
    /// Over [`view_change_digest`].
    pub signature: Signature,
}

/// A quorum of view changes for one view. What is proposed in the view follows from them, and every
/// replica works it out for itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewView {
    /// The view that begins.
    pub view: View,
    /// The view changes.
    pub changes: Vec<SignedViewChange>,
    /// The new leader's signature over [`new_view_digest`].
    pub signature: Signature,
}

/// Where a replica stands. Unsigned: it only asks for help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its view, or the one it wants to enter.
    pub view: View,
    /// Whether it waits for that view to begin.
    pub changing: bool,
    /// Its low watermark.
    pub low: SeqNo,
    /// The last slot it has decided.
    pub decided: SeqNo,
    /// Whether it waits for something, and wants an answer.
    pub wants_help: bool,
    /// It has lost its memory, and asks where others stand; they answer with this number, which it
    /// draws anew each time it starts.
    pub asks: Option<u64>,
    /// This is the answer to that question.
    pub answers: Option<u64>,
}

fn start(context: &str, membership: &Membership, view: View) -> DigestBuilder {
    let builder = DigestBuilder::new(context).digest(membership.genesis());
    builder.number(membership.epoch().0).number(view.0)
}

/// What a prepare vote (and the leader's proposal) signs.
#[must_use]
pub fn prepare_digest(m: &Membership, view: View, seq: SeqNo, batch: &Digest) -> Digest {
    start("atlas v1 pbft prepare", m, view)
        .number(seq.0)
        .digest(batch)
        .finish()
}

/// What a commit vote signs.
#[must_use]
pub fn commit_digest(m: &Membership, view: View, seq: SeqNo, batch: &Digest) -> Digest {
    start("atlas v1 pbft commit", m, view)
        .number(seq.0)
        .digest(batch)
        .finish()
}

/// What a view change signs.
#[must_use]
pub fn view_change_digest(m: &Membership, change: &Sealed<ViewChange>) -> Digest {
    let content = change.digest("atlas v1 pbft view change content");
    start("atlas v1 pbft view change", m, change.view)
        .digest(&content)
        .finish()
}

/// What a new view signs.
#[must_use]
pub fn new_view_digest(m: &Membership, view: View, changes: &[SignedViewChange]) -> Digest {
    let mut builder = start("atlas v1 pbft new view", m, view).number(changes.len() as u64);
    for signed in changes {
        builder = builder.number(u64::from(signed.from.0));
        builder = builder.digest(&view_change_digest(m, &signed.change));
    }
    builder.finish()
}

impl Vote {
    /// What this vote signs.
    #[must_use]
    pub fn signing_digest(&self, membership: &Membership) -> Digest {
        match self.phase {
            Phase::Prepare => prepare_digest(membership, self.view, self.seq, &self.digest),
            Phase::Commit => commit_digest(membership, self.view, self.seq, &self.digest),
        }
    }
}
