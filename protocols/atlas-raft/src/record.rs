//! What survives a crash.

use crate::message::Entry;
use atlas_common::{NodeId, SeqNo, View};
use serde::{Deserialize, Serialize};

/// One record of the log. Each is durable before any message that depends on it leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// Term and vote (thesis, figure 3.1), and whether the replica counts in majorities.
    Hard(Hard),
    /// Entries. They take the place of whatever was recorded in `first` and above: a truncation and
    /// what follows it are one record.
    Entries {
        /// The place of the first.
        first: SeqNo,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// A state from peers has taken the place of the log up to `seq`; if the log did not hold this
    /// entry, of the whole log.
    Installed {
        /// The last entry that the state holds.
        seq: SeqNo,
        /// Its term.
        term: View,
    },
}

/// Term and vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hard {
    /// The term.
    pub term: View,
    /// Whom the replica has voted for in it.
    pub voted: Option<NodeId>,
    /// It has lost its log, and must neither vote nor be counted.
    pub mute: bool,
}
