//! What goes out when: opening a session, forming bundles, sending again.

use super::ClientCore;
use crate::leader::Target;
use crate::votes::Tally;
use atlas_common::{ReplicaSet, SessionId, Time};
use atlas_smr_core::bundle::{RequestBundle, UnsignedBundle};
use atlas_smr_core::client_message::ClientMessage;
use bytes::Bytes;

impl ClientCore {
    /// Forms what can be sent now.
    pub(super) fn fill(&mut self, now: Time) {
        if let Some(session) = self.session.id() {
            if self.may_send() {
                self.send_bundle(now, session);
            }
        } else if self.session.is_none() && self.anybody_waits() {
            self.session
                .request_sent(now, now.after(self.timer.timeout()));
            let target = self.leader.target();
            self.send(target, ClientMessage::Bundle(self.session.request()));
        }
    }

    /// The policy that [`ClientCore`] describes. The span of operations in flight stays within what
    /// the replicas keep replies for, so that a lost reply can always be had again.
    fn may_send(&self) -> bool {
        let limits = &self.config.limits;
        let room = limits
            .session_replies_max
            .saturating_sub(self.bundles.span());
        let wanted = self.bundles.live().min(limits.bundle_operations_max);
        let full = self.waiting.bytes() >= limits.bundle_bytes_max;
        !self.waiting.is_empty()
            && room > 0
            && self.bundles.len() < self.config.bundles_in_flight_max
            && (full || self.waiting.len() >= wanted)
    }

    fn send_bundle(&mut self, now: Time, session: SessionId) {
        let limits = &self.config.limits;
        let room = limits
            .session_replies_max
            .saturating_sub(self.bundles.span());
        let count_max = limits.bundle_operations_max.min(room);
        let calls = self.waiting.take(count_max, limits.bundle_bytes_max);
        let operations: Vec<Bytes> = calls.iter().map(|call| call.operation.clone()).collect();
        let (needed, n) = (self.config.matching_ordered(), self.config.quorums.n());
        let target = self.leader.target();
        let says = UnsignedBundle {
            client: self.id,
            session,
            first: self.bundles.next(),
            acknowledged: self.bundles.acknowledged(),
            repliers: self.choose_repliers(now, target),
            operations: &operations,
        };
        let bundle = RequestBundle::new(&says, &self.config.genesis, self.signer.as_ref());
        let tally = Tally::new(calls.len(), needed, n);
        self.send(target, ClientMessage::Bundle(bundle.raw().clone()));
        let times = (now, now.after(self.timer.timeout()));
        self.bundles.push(bundle, &calls, tally, target, times);
    }

    /// Without a leader nobody knows an outcome first, and the first answer is worth more than the others
    /// cost.
    fn choose_repliers(&self, now: Time, target: Target) -> ReplicaSet {
        if self.leader.is_led() {
            self.repliers.choose(now, target, self.leader.ring())
        } else {
            ReplicaSet::default()
        }
    }

    pub(super) fn retransmit(&mut self, now: Time) {
        if self.session.resend_at().is_some_and(|at| at <= now) {
            self.timer.expired();
            self.session
                .request_sent(now, now.after(self.timer.timeout()));
            self.send(Target::All, ClientMessage::Bundle(self.session.request()));
        }
        // Several bundles lost together are one loss.
        if self.bundles.oldest_is_due(now) {
            self.timer.expired();
        }
        let mut again = Vec::new();
        let resend_at = now.after(self.timer.timeout());
        let let_down = self.bundles.resend(now, resend_at, &mut again);
        if let Some(replica) = let_down.target {
            self.leader.let_down_by(replica);
        }
        self.repliers.let_down_by(now, let_down.repliers);
        for bundle in again {
            self.send(Target::All, ClientMessage::Bundle(bundle));
        }
    }
}
