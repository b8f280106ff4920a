//! Serving states to peers.

use super::StateTransferEffect;
use super::fetch::Out;
use atlas_common::{NodeId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Requests of one peer that are being answered at most.
pub(super) const OUTSTANDING_MAX: usize = 16;
/// A request that the driver has not answered by then counts no more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// What each peer is being sent. Bounded by the number of members.
#[derive(Debug, Default)]
pub(super) struct Serving {
    outstanding: BTreeMap<NodeId, VecDeque<Time>>,
}

impl Serving {
    pub(super) fn admit(
        &mut self,
        now: Time,
        from: NodeId,
        effect: StateTransferEffect,
        out: &mut Out<'_>,
    ) {
        let outstanding = self.outstanding.entry(from).or_default();
        while outstanding
            .front()
            .is_some_and(|since| since.after(FORGOTTEN_AFTER) <= now)
        {
            outstanding.pop_front();
        }
        if outstanding.len() >= OUTSTANDING_MAX {
            out.counters.requests_dropped += 1;
            return;
        }
        outstanding.push_back(now);
        out.effects.push_back(effect);
    }

    pub(super) fn served(&mut self, to: NodeId) {
        if let Some(outstanding) = self.outstanding.get_mut(&to) {
            outstanding.pop_front();
        }
    }
}
