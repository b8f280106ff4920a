//! Fetching a state.

use super::{FetchedState, StateTransferCounters, StateTransferEffect, StateTransferMessage};
use crate::manifest::Manifest;
use crate::transfer::patience::Patience;
use atlas_common::{Digest, NodeId, SeqNo, Time};
use atlas_core::{CheckpointCertificate, Limits, Membership};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Chunks asked of one peer at a time, and of all together.
const CHUNKS_PER_PEER: usize = 4;
const CHUNKS_IN_FLIGHT_MAX: usize = 16;
/// A peer that was too slow this often in a row is left alone for a while.
const STRIKES_MAX: u32 = 3;
/// How often peers are asked for their newest checkpoint while no good offer is there.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often the other peers are asked for offers while chunks come in.
const MORE_SOURCES_AFTER: Duration = Duration::from_secs(2);

/// Where counts and effects go.
pub(super) struct Out<'a> {
    pub(super) counters: &'a mut StateTransferCounters,
    pub(super) effects: &'a mut VecDeque<StateTransferEffect>,
}

impl Out<'_> {
    fn send(&mut self, to: NodeId, message: StateTransferMessage) {
        self.effects
            .push_back(StateTransferEffect::Send { to, message });
    }
}

#[derive(Debug, Default)]
struct Peer {
    patience: Patience,
    strikes: u32,
    /// It offers the state that is being fetched.
    source: bool,
    /// Chunks that it was asked for, each with its deadline.
    asked: BTreeMap<u32, Time>,
}

#[derive(Debug)]
struct Plan {
    certificate: CheckpointCertificate,
    frontier: Bytes,
    manifest: Manifest,
    chunks: Vec<Option<Bytes>>,
    /// How many chunks are here.
    present: usize,
    /// Chunks neither here nor asked for.
    missing: BTreeSet<u32>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Fetching,
}

#[derive(Debug)]
pub(super) struct Fetch {
    membership: Arc<Membership>,
    chunk_bytes_max: usize,
    peers: BTreeMap<NodeId, Peer>,
    phase: Phase,
    above: SeqNo,
    plan: Option<Plan>,
    /// Chunks of an abandoned plan, by their digests.
    salvage: BTreeMap<Digest, Bytes>,
    ask_at: Time,
}

impl Fetch {
    pub(super) fn new(membership: Arc<Membership>, peers: Vec<NodeId>, limits: &Limits) -> Self {
        Self {
            membership,
            chunk_bytes_max: limits.chunk_bytes,
            peers: peers.into_iter().map(|id| (id, Peer::default())).collect(),
            phase: Phase::Idle,
            above: SeqNo::ZERO,
            plan: None,
            salvage: BTreeMap::new(),
            ask_at: Time::ZERO,
        }
    }

    pub(super) const fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Fetching)
    }

    pub(super) fn certificate(&self) -> Option<&CheckpointCertificate> {
        self.plan.as_ref().map(|plan| &plan.certificate)
    }

    pub(super) fn progress(&self) -> (usize, usize) {
        self.plan
            .as_ref()
            .map_or((0, 0), |plan| (plan.present, plan.chunks.len()))
    }

    pub(super) fn start(&mut self, now: Time, above: SeqNo, out: &mut Out<'_>) {
        self.above = self.above.max(above);
        if self
            .plan
            .as_ref()
            .is_some_and(|plan| plan.certificate.id.seq <= self.above)
        {
            self.abandon_plan();
        }
        if !self.is_active() {
            self.phase = Phase::Fetching;
            self.ask_at = now;
        }
        self.ask_for_offers(now, out);
    }

    pub(super) fn on_progress(&mut self, decided: SeqNo) {
        // Without a plan, any progress shows that what was in the way is overcome.
        let seq = match &self.plan {
            Some(plan) => plan.certificate.id.seq,
            None => self.above.next(),
        };
        if seq <= decided {
            self.cancel();
        }
        self.above = self.above.max(decided);
    }

    pub(super) fn cancel(&mut self) {
        self.phase = Phase::Idle;
        self.plan = None;
        self.salvage.clear();
        for peer in self.peers.values_mut() {
            peer.source = false;
            peer.asked.clear();
            peer.strikes = 0;
        }
    }

    /// Keeps the chunks that are here for the next plan.
    fn abandon_plan(&mut self) {
        let Some(plan) = self.plan.take() else { return };
        let chunks = plan.manifest.chunks.into_iter().zip(plan.chunks);
        self.salvage
            .extend(chunks.filter_map(|(digest, chunk)| Some((digest, chunk?))));
        for peer in self.peers.values_mut() {
            peer.source = false;
            peer.asked.clear();
        }
    }

    fn ask_for_offers(&mut self, now: Time, out: &mut Out<'_>) {
        if self.ask_at > now {
            return;
        }
        // An offer of the state that is being fetched counts too.
        let wanted = self
            .plan
            .as_ref()
            .map_or(self.above, |plan| plan.certificate.id.seq.prev());
        let pause = if self.plan.is_some() {
            MORE_SOURCES_AFTER
        } else {
            ASK_AGAIN
        };
        self.ask_at = now.after(pause);
        let message = StateTransferMessage::RequestLatestState { above: wanted };
        for (id, peer) in &self.peers {
            if !peer.source && peer.patience.shunned(now).is_none() {
                out.send(*id, message.clone());
            }
        }
    }

    pub(super) fn on_offer(
        &mut self,
        now: Time,
        from: NodeId,
        certificate: CheckpointCertificate,
        frontier: Bytes,
        manifest: Manifest,
        out: &mut Out<'_>,
    ) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if !matches!(self.phase, Phase::Fetching)
            || certificate.id.seq <= self.above
            || peer.patience.shunned(now).is_some()
        {
            return;
        }
        let newer = |plan: &Plan| certificate.id.seq > plan.certificate.id.seq && plan.present == 0;
        if let Some(plan) = self.plan.as_ref().filter(|plan| !newer(plan)) {
            // The same state, whoever voted for it: another source. Its manifest has the same root.
            peer.source |= plan.certificate.id == certificate.id;
        } else {
            let good = manifest.check().is_ok()
                && manifest.chunk_bytes as usize <= self.chunk_bytes_max
                && manifest.root() == certificate.id.state
                && certificate.verify(&self.membership).is_ok();
            if !good {
                out.counters.offers_rejected += 1;
                self.blame(now, from, out);
                return;
            }
            self.abandon_plan();
            if let Some(peer) = self.peers.get_mut(&from) {
                peer.source = true;
            }
            self.plan(certificate, frontier, manifest, out);
        }
        self.ask_for_chunks(now, out);
    }

    fn plan(
        &mut self,
        certificate: CheckpointCertificate,
        frontier: Bytes,
        manifest: Manifest,
        out: &mut Out<'_>,
    ) {
        let salvage = std::mem::take(&mut self.salvage);
        let chunks: Vec<Option<Bytes>> = manifest
            .chunks
            .iter()
            .map(|digest| salvage.get(digest).cloned())
            .collect();
        let missing: BTreeSet<u32> = (0..)
            .zip(&chunks)
            .filter(|(_, chunk)| chunk.is_none())
            .map(|(i, _)| i)
            .collect();
        out.counters.chunks_reused += (chunks.len() - missing.len()) as u64;
        self.plan = Some(Plan {
            certificate,
            frontier,
            manifest,
            present: chunks.len() - missing.len(),
            chunks,
            missing,
        });
    }

    /// Chunks that were asked for and are not here.
    pub(super) fn in_flight(&self) -> usize {
        self.peers.values().map(|peer| peer.asked.len()).sum()
    }

    /// Spreads the missing chunks over the sources. When no source is left, the peers are asked for
    /// offers again, and what is here is kept for the next plan.
    fn ask_for_chunks(&mut self, now: Time, out: &mut Out<'_>) {
        let mut in_flight = self.in_flight();
        let Some(plan) = &mut self.plan else { return };
        if plan.present == plan.chunks.len() {
            self.finish(out);
            return;
        }
        let seq = plan.certificate.id.seq;
        while in_flight < CHUNKS_IN_FLIGHT_MAX {
            // The least busy source first; of equals, the lowest number.
            let source = self
                .peers
                .iter_mut()
                .filter(|(_, peer)| peer.source && peer.asked.len() < CHUNKS_PER_PEER)
                .min_by_key(|(_, peer)| peer.asked.len());
            let Some((id, peer)) = source else { break };
            let Some(index) = plan.missing.pop_first() else {
                break;
            };
            peer.asked.insert(index, peer.patience.deadline(now));
            in_flight += 1;
            out.send(*id, StateTransferMessage::RequestChunk { seq, index });
        }
        if !self.peers.values().any(|peer| peer.source) {
            self.abandon_plan();
            out.counters.restarts += 1;
            self.ask_at = self.ask_at.min(now);
            self.ask_for_offers(now, out);
        }
    }

    fn finish(&mut self, out: &mut Out<'_>) {
        if let Some(plan) = self.plan.take() {
            out.effects
                .push_back(StateTransferEffect::Fetched(FetchedState {
                    certificate: plan.certificate,
                    frontier: plan.frontier,
                    manifest: plan.manifest,
                    chunks: plan.chunks.into_iter().flatten().collect(),
                }));
        }
        self.cancel();
    }

    pub(super) fn on_chunk(
        &mut self,
        now: Time,
        from: NodeId,
        seq: SeqNo,
        index: u32,
        bytes: Bytes,
        out: &mut Out<'_>,
    ) {
        let (Some(plan), Some(peer)) = (&mut self.plan, self.peers.get_mut(&from)) else {
            return;
        };
        // A late chunk is as good as one in time, but only a source is listened to.
        if !peer.source || plan.certificate.id.seq != seq {
            return;
        }
        let asked = peer.asked.remove(&index).is_some();
        if plan.chunks.get(index as usize).is_some_and(Option::is_some) {
            return; // another peer was faster
        }
        if plan.manifest.verify_chunk(index, &bytes).is_err() {
            if asked {
                plan.missing.insert(index);
            }
            out.counters.chunks_rejected += 1;
            self.blame(now, from, out);
            return;
        }
        peer.strikes = 0;
        peer.patience.served();
        plan.chunks[index as usize] = Some(bytes);
        plan.present += 1;
        plan.missing.remove(&index);
        out.counters.chunks_fetched += 1;
        self.ask_for_chunks(now, out);
    }

    pub(super) fn on_gone(&mut self, now: Time, from: NodeId, seq: SeqNo, out: &mut Out<'_>) {
        let Some(plan) = &self.plan else { return };
        if plan.certificate.id.seq == seq {
            self.drop_source(from);
            self.ask_for_chunks(now, out);
        }
    }

    fn drop_source(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.source = false;
        peer.strikes = 0;
        let asked = std::mem::take(&mut peer.asked);
        if let Some(plan) = &mut self.plan {
            let open = |index: &u32| plan.chunks[*index as usize].is_none();
            plan.missing.extend(asked.into_keys().filter(open));
        }
    }

    fn blame(&mut self, now: Time, id: NodeId, out: &mut Out<'_>) {
        self.drop_source(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.patience.shun(now);
        }
        out.counters.peers_blamed += 1;
        self.ask_for_chunks(now, out);
    }

    pub(super) fn on_deadline(&mut self, now: Time, out: &mut Out<'_>) {
        if !self.is_active() {
            return;
        }
        let mut hopeless = Vec::new();
        for (id, peer) in &mut self.peers {
            let overdue: Vec<u32> = peer
                .asked
                .iter()
                .filter(|(_, at)| **at <= now)
                .map(|(index, _)| *index)
                .collect();
            if overdue.is_empty() {
                continue;
            }
            peer.patience.too_slow();
            peer.strikes += 1;
            if peer.strikes >= STRIKES_MAX {
                hopeless.push(*id);
            }
            for index in overdue {
                peer.asked.remove(&index);
                if let Some(plan) = &mut self.plan
                    && plan.chunks[index as usize].is_none()
                {
                    plan.missing.insert(index);
                }
            }
        }
        for id in hopeless {
            self.blame(now, id, out);
        }
        self.ask_for_offers(now, out);
        self.ask_for_chunks(now, out);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let asked = self
            .peers
            .values()
            .flat_map(|peer| peer.asked.values().copied());
        self.is_active()
            .then(|| asked.chain([self.ask_at]).min())
            .flatten()
    }
}
