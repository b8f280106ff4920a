//! Whom to ask for what, and when to give up.

use super::{
    Asked, BUFFERED_RESPONSES_MAX, LogTransfer, LogTransferEffect, LogTransferMessage, Peer,
    RANGE_SLOTS, STUCK_AFTER, WINDOW_SLOTS,
};
use atlas_common::{SeqNo, Time};
use atlas_core::CheckpointCertificate;
use serde::Serialize;

impl<Proof: Clone + Serialize> LogTransfer<Proof> {
    /// When a peer that was not asked may be asked again.
    pub(super) fn again(&self, peer: &Peer) -> Time {
        let from = self.delivered.next();
        let until = |word: Option<(SeqNo, Time)>, binding: bool| {
            word.filter(|_| binding)
                .map_or(Time::ZERO, |(_, until)| until)
        };
        let short = until(
            peer.decided,
            peer.decided.is_some_and(|(last, _)| last < from),
        );
        let cut = until(peer.cut, peer.cut.is_some_and(|(oldest, _)| oldest > from));
        let shunned = peer.patience.shunned(Time::ZERO).unwrap_or(Time::ZERO);
        match short.max(cut).max(shunned) {
            // It could be asked and was not: others are being asked for all that is wanted.
            Time::ZERO => Time::NEVER,
            again => again,
        }
    }

    pub(super) fn rest(&mut self) {
        self.buffer.clear();
        self.buffered_bytes = 0;
        self.paused_until = None;
        self.checkpoint = None;
        for peer in &mut self.peers {
            peer.asked = None;
            peer.decided = None;
            peer.cut = None;
            peer.tip = SeqNo::ZERO;
        }
    }

    pub(super) fn run(&mut self, now: Time) {
        for peer in &mut self.peers {
            peer.forget_expired(now);
        }
        self.extend_target();
        if !self.is_active() {
            self.rest();
        }
        if !self.is_active() || self.paused_until.is_some() {
            return;
        }
        while let Some((from, to)) = self.next_gap() {
            let Some(index) = self.choose(from, now) else {
                break;
            };
            let peer = &mut self.peers[index];
            peer.asked = Some(Asked {
                from,
                to,
                deadline: peer.patience.deadline(now),
            });
            let message = LogTransferMessage::Request { from, to };
            self.effects.push(LogTransferEffect::Send {
                to: peer.id,
                message,
            });
        }
        self.give_up_on_the_log(now);
    }

    /// While the wanted decisions were fetched, others were made: those are fetched too, until so few
    /// are left that the ordering protocol gets them by itself. Only peers that have delivered count,
    /// and only until they stall.
    fn extend_target(&mut self) {
        const FEW: u64 = 16;
        let tip = self
            .peers
            .iter()
            .map(|peer| peer.tip)
            .max()
            .unwrap_or_default();
        self.extended = self.extended.min(tip);
        if self.delivered >= self.target() && tip.since(self.delivered) > FEW {
            self.extended = tip;
        }
    }

    /// The first wanted range that is neither here nor asked for.
    fn next_gap(&self) -> Option<(SeqNo, SeqNo)> {
        let end = self.target().min(self.delivered.plus(WINDOW_SLOTS));
        let full = self.buffered_bytes >= BUFFERED_RESPONSES_MAX * self.response_bytes_max / 2;
        let mut covered: Vec<(SeqNo, SeqNo)> = self
            .buffer
            .iter()
            .map(|(first, got)| (*first, first.plus(got.decisions.len() as u64).prev()))
            .chain(
                self.peers
                    .iter()
                    .filter_map(|peer| peer.asked.map(|a| (a.from, a.to))),
            )
            .collect();
        covered.sort_unstable();
        let mut from = self.delivered.next();
        let mut to = end;
        for (first, last) in covered {
            if first > from {
                to = to.min(first.prev());
                break;
            }
            from = from.max(last.next());
        }
        if full && from > self.delivered.next() {
            return None;
        }
        (from <= to).then(|| (from, to.min(from.plus(RANGE_SLOTS - 1))))
    }

    /// The next peer in turn that may have decisions from `from` on and is not busy.
    fn choose(&mut self, from: SeqNo, now: Time) -> Option<usize> {
        let count = self.peers.len();
        let index = (0..count)
            .map(|i| (self.next_peer + i) % count)
            .find(|index| {
                let peer = &self.peers[*index];
                peer.asked.is_none() && peer.may_have(from, now)
            })?;
        self.next_peer = index + 1;
        Some(index)
    }

    fn give_up_on_the_log(&mut self, now: Time) {
        if self.delivered >= self.target() {
            return;
        }
        let from = self.delivered.next();
        // Less than a third of a Byzantine cluster lies: more than half include a correct replica.
        let enough = self.peers.len() / 2 + 1;
        let cut = self
            .peers
            .iter()
            .filter(|peer| peer.has_cut(from, now))
            .count();
        let hope = self
            .peers
            .iter()
            .any(|peer| peer.asked.is_some_and(|a| a.from == from) || peer.may_have(from, now));
        if cut >= enough || !hope {
            let newer = |c: &CheckpointCertificate| c.id.seq > self.delivered;
            let Some(certificate) = self.checkpoint.clone().filter(newer) else {
                return;
            };
            self.paused_until = Some(now.after(STUCK_AFTER));
            self.effects
                .push(LogTransferEffect::NeedState { certificate });
        }
    }
}
