//! What survives a crash.

use crate::message::{Said, Spread};
use atlas_common::{Digest, SeqNo};
use serde::{Deserialize, Serialize};

/// One record of the log. Each is durable before any message that depends on it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A batch, once for all later records that name its digest.
    Body(Spread),
    /// This replica says this in this slot, and will never say otherwise.
    Said {
        /// The slot.
        seq: SeqNo,
        /// What it says.
        said: Said,
    },
    /// The slot is decided.
    Decided {
        /// The slot.
        seq: SeqNo,
        /// The batch by its digest, or nothing.
        digest: Option<Digest>,
    },
    /// This replica takes no part in slots up to here (any more).
    Floor(SeqNo),
    /// This replica has lost its memory: it takes part in nothing until [`Record::Remembers`].
    Amnesiac,
    /// It takes part again, above the last [`Record::Floor`].
    Remembers,
}
