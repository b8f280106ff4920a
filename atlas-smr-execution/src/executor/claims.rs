//! Replies that clients have asked this replica itself for.

use atlas_common::{OpNumber, SessionId};
use std::collections::BTreeMap;

/// Up to which operation the client of a session has asked this replica for replies, while that is not
/// executed. Not part of the replicated state. One entry for an open session at most.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<SessionId, OpNumber>);

impl Claims {
    pub(super) fn note(&mut self, session: SessionId, last: OpNumber) {
        let up_to = self.0.entry(session).or_default();
        *up_to = last.max(*up_to);
    }

    /// Whether these operations, now executed, were asked for.
    pub(super) fn take(&mut self, session: SessionId, first: OpNumber, last: OpNumber) -> bool {
        let Some(up_to) = self.0.get(&session).copied() else {
            return false;
        };
        if up_to <= last {
            self.0.remove(&session);
        }
        first <= up_to
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.0.remove(&session);
    }
}
