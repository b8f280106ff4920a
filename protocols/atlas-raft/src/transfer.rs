//! Handing over leadership (thesis, section 3.10).

use crate::message::Body;
use crate::raft::{Cx, Raft};
use atlas_common::{NodeId, Time};

/// To whom, and since when. Until it is over nothing is proposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    to: NodeId,
    since: Time,
    told: bool,
}

impl Raft {
    /// An operator wants another leader. Only the leader itself can bring that about.
    pub(crate) fn transfer_to(&mut self, to: NodeId, cx: &mut Cx<'_>) {
        let able = self.membership.is_voter(to) && to != self.me;
        if self.leads() && able && self.transfer.is_none() {
            let (since, told) = (cx.now(), false);
            self.transfer = Some(Transfer { to, since, told });
            self.hand_over_when_ready(cx);
        }
    }

    /// Hands over to the voter that lacks least, of those that are alive.
    pub(crate) fn transfer_to_best(&mut self, cx: &mut Cx<'_>) {
        let (me, n) = (self.me.index(), self.membership.quorums().n());
        let recent =
            |i: &usize| cx.now().since(self.peers[*i].heard) <= self.config.settings.election_max;
        // Of equals the next by number, so that suspicion takes turns.
        let others = (1..n).map(|i| (me + i) % n).rev();
        let best = others.filter(recent).max_by_key(|i| self.peers[*i].durable);
        if let Some(best) = best {
            self.transfer_to(NodeId(best as u32), cx);
        }
    }

    /// Once the heir has the whole log it may stand at once.
    pub(crate) fn hand_over_when_ready(&mut self, cx: &mut Cx<'_>) {
        let last = self.log.last();
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let ready = self.peers[transfer.to.index()].durable == last;
        if ready && !transfer.told {
            transfer.told = true;
            // The heir may be elected at any time from now on, in spite of any lease.
            self.lease_void = true;
            let (to, message) = (transfer.to, self.message(Body::TimeoutNow));
            cx.send_to(to, message);
        }
    }

    /// The heir did not manage in the time of an election: this leader goes on.
    pub(crate) fn watch_transfer(&mut self, cx: &mut Cx<'_>) {
        let patience = self.config.settings.election_max;
        let late = |transfer: &Transfer| cx.now().since(transfer.since) > patience;
        if self.transfer.as_ref().is_some_and(late) {
            self.transfer = None;
            self.ask_for_batch(cx);
        }
    }

    /// The leader wants this replica to take over.
    pub(crate) fn on_timeout_now(&mut self, from: NodeId, cx: &mut Cx<'_>) {
        let by_leader = self.leader.is_none_or(|leader| leader == from);
        if by_leader && !self.leads() && self.counts() {
            self.stand(true, cx);
        }
    }
}
