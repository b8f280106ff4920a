//! What survives a crash.

use crate::message::{Prepared, Proof, SignedViewChange};
use atlas_common::{Digest, SeqNo, View};
use atlas_core::Batch;
use serde::{Deserialize, Serialize};

/// One record of the log. Each is durable before any message that depends on it leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// A batch, once for all later records that name its digest.
    Body {
        /// The slot it was proposed for.
        seq: SeqNo,
        /// The batch.
        batch: Batch,
    },
    /// This replica votes (or proposes) this in this view and slot: it will vote for no other.
    Prepare {
        /// The view.
        view: View,
        /// The slot.
        seq: SeqNo,
        /// The digest of the batch.
        digest: Digest,
    },
    /// A quorum has prepared: the commit vote follows, and every later view change carries it.
    Prepared(Prepared),
    /// The slot is decided.
    Committed {
        /// The slot.
        seq: SeqNo,
        /// The evidence.
        proof: Proof,
    },
    /// This replica has left all views below that of the change.
    ViewChange(SignedViewChange),
    /// This replica has entered a view.
    Entered(Entered),
    /// This replica has lost its memory: it has no vote until [`Record::VotesFrom`] says so.
    Amnesiac,
    /// This replica votes (again) in this view and later ones.
    VotesFrom(View),
    /// A certified checkpoint has taken the place of the records of the slots up to here, which may be
    /// gone.
    Cut(SeqNo),
}

/// A view as it was entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// The view.
    pub view: View,
    /// The checkpoint from which its slots count.
    pub low: SeqNo,
    /// What its first slots hold, by the view changes that began it.
    pub proposals: Vec<(SeqNo, Digest)>,
}
