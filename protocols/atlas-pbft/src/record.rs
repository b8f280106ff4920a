//! What survives a crash.

use crate::message::{Prepared, Proof, SignedViewChange};
use atlas_common::{Digest, SeqNo, View};
use atlas_core::{Batch, CheckpointCertificate};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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
    /// The checkpoint from which its slots count, which this replica need not have: the newest among the
    /// view changes that began it. `None`: from the first slot.
    pub stable: Option<Arc<CheckpointCertificate>>,
    /// What its first slots hold, by the same view changes.
    pub proposals: Vec<(SeqNo, Digest)>,
}

impl Entered {
    /// The view that every replica is in at first.
    pub(crate) const FIRST: Self = Self {
        view: View::ZERO,
        stable: None,
        proposals: Vec::new(),
    };

    /// The sequence number of the checkpoint.
    #[must_use]
    pub fn low(&self) -> SeqNo {
        self.stable
            .as_ref()
            .map_or(SeqNo::ZERO, |certificate| certificate.id.seq)
    }
}
