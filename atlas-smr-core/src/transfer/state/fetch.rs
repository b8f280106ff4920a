//! Fetching a state: which one, and what is done with what comes.

use super::download::Download;
use super::plan::Plan;
use super::{FetchedState, LookedUp, Out, StateTransferEffect, StateTransferMessage};
use atlas_common::digest_map::MapKey;
use atlas_common::parts::Blob;
use atlas_common::{Digest, NodeId, SeqNo, Time};
use atlas_core::{CheckpointCertificate, Limits, Membership};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often peers are asked for their newest checkpoint while no good offer is there.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often the other peers are asked for offers while parts come in.
const MORE_SOURCES_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Fetch {
    membership: Arc<Membership>,
    part_bytes_max: u32,
    /// That of maps by digests.
    key: MapKey,
    pub(super) download: Download,
    /// Whether a state is wanted.
    active: bool,
    above: SeqNo,
    pub(super) plan: Option<Plan>,
    /// The number of the next question to the store.
    next_ticket: u64,
    ask_at: Time,
    /// Damaged blobs, with their sizes.
    pub(super) repairs: BTreeMap<Digest, u32>,
    pub(super) repair_at: Time,
}

impl Fetch {
    pub(super) fn new(
        membership: Arc<Membership>,
        download: Download,
        limits: &Limits,
        key: MapKey,
    ) -> Self {
        Self {
            membership,
            part_bytes_max: u32::try_from(limits.chunk_bytes).unwrap_or(u32::MAX),
            key,
            download,
            active: false,
            above: SeqNo::ZERO,
            plan: None,
            next_ticket: 0,
            ask_at: Time::ZERO,
            repairs: BTreeMap::new(),
            repair_at: Time::ZERO,
        }
    }

    pub(super) const fn is_active(&self) -> bool {
        self.active
    }

    pub(super) fn certificate(&self) -> Option<&CheckpointCertificate> {
        self.plan.as_ref().map(|plan| &plan.state.certificate)
    }

    pub(super) fn progress(&self) -> (u64, u64) {
        self.plan.as_ref().map_or((0, 0), Plan::progress)
    }

    pub(super) fn start(&mut self, now: Time, above: SeqNo, out: &mut Out) {
        self.above = self.above.max(above);
        if self.planned().is_some_and(|seq| seq <= self.above) {
            self.abandon_plan();
        }
        if !self.active {
            self.active = true;
            // Repairs wait meanwhile.
            self.download.clear();
            self.ask_at = now;
        }
        self.ask_for_offers(now, out);
    }

    fn planned(&self) -> Option<SeqNo> {
        self.certificate().map(|certificate| certificate.id.seq)
    }

    pub(super) fn on_progress(&mut self, decided: SeqNo, out: &mut Out) {
        // Without a plan, any progress shows that what was in the way is overcome.
        let seq = self.planned().unwrap_or_else(|| self.above.next());
        if self.active && seq <= decided {
            out.effects.push_back(StateTransferEffect::End);
            self.rest();
        }
        self.above = self.above.max(decided);
    }

    fn rest(&mut self) {
        self.active = false;
        self.abandon_plan();
        // Repairs go on as soon as somebody looks.
        self.repair_at = Time::ZERO;
    }

    fn abandon_plan(&mut self) {
        self.plan = None;
        self.download.clear();
    }

    fn ask_for_offers(&mut self, now: Time, out: &mut Out) {
        if self.ask_at > now {
            return;
        }
        // An offer of the state that is being fetched counts too.
        let wanted = self.planned().map_or(self.above, SeqNo::prev);
        let pause = if self.plan.is_some() {
            MORE_SOURCES_AFTER
        } else {
            ASK_AGAIN
        };
        self.ask_at = now.after(pause);
        let message = StateTransferMessage::RequestLatestState { above: wanted };
        for id in self.download.others(now) {
            out.send(id, message.clone());
        }
    }

    pub(super) fn on_offer(&mut self, now: Time, from: NodeId, state: FetchedState, out: &mut Out) {
        let id = state.certificate.id;
        if !self.active || id.seq <= self.above || !self.download.hears(from, now) {
            return;
        }
        let newer = |plan: &Plan| id.seq > plan.state.certificate.id.seq && !plan.begun;
        if let Some(plan) = self.plan.as_ref().filter(|plan| !newer(plan)) {
            // The same state, whoever voted for it: another source. Not one that has let go of it since,
            // whose offer came late: with nothing but such sources the transfer would wait for ever.
            if plan.state.certificate.id == id && !self.download.lacks_something(from) {
                self.download.add_source(from);
            }
        } else {
            if !self.holds(&state) {
                out.counters.offers_rejected += 1;
                self.download.blame(now, from, out);
                return self.run(now, out);
            }
            self.abandon_plan();
            self.download.add_source(from);
            let target = state.descriptor.clone();
            out.effects.push_back(StateTransferEffect::Begin(target));
            self.plan = Some(Plan::new(state, self.part_bytes_max, self.key));
        }
        self.run(now, out);
    }

    /// The cheap checks first; nothing was kept so far.
    fn holds(&self, state: &FetchedState) -> bool {
        state.descriptor.check().is_ok()
            && state.certificate.verify(&self.membership).is_ok()
            && state.descriptor.root() == state.certificate.id.state
    }

    /// Asks the store and the peers for what is next. When no source is left, the peers are asked for
    /// offers again.
    fn run(&mut self, now: Time, out: &mut Out) {
        let Some(plan) = &mut self.plan else {
            return;
        };
        if plan.is_complete() {
            return self.finish(now, out);
        }
        if let Some(question) = plan.question(self.next_ticket) {
            self.next_ticket += 1;
            out.effects.push_back(StateTransferEffect::Lookup(question));
        }
        self.download.ask(now, out);
        if !self.download.has_sources() {
            self.start_over(now, out);
        }
    }

    fn start_over(&mut self, now: Time, out: &mut Out) {
        self.abandon_plan();
        out.counters.restarts += 1;
        self.ask_at = self.ask_at.min(now);
        self.ask_for_offers(now, out);
    }

    fn finish(&mut self, now: Time, out: &mut Out) {
        if self.plan.as_ref().is_some_and(|plan| !plan.adds_up()) {
            return self.refuse_plan(now, out);
        }
        if let Some(plan) = self.plan.take() {
            out.effects
                .push_back(StateTransferEffect::Fetched(plan.state));
        }
        self.rest();
    }

    /// What is certified cannot be a state: as wrong as an offer can be.
    fn refuse_plan(&mut self, now: Time, out: &mut Out) {
        out.counters.offers_rejected += 1;
        for id in self.download.sources() {
            self.download.blame(now, id, out);
        }
        self.start_over(now, out);
    }

    pub(super) fn on_looked_up(&mut self, now: Time, found: LookedUp, out: &mut Out) {
        let Some(plan) = &mut self.plan else {
            return;
        };
        match plan.on_answer(found) {
            Err(_unfit) => return self.refuse_plan(now, out),
            Ok(None) => {}
            Ok(Some(findings)) => {
                out.counters.parts_reused += findings.parts_here;
                out.counters.bytes_reused += findings.bytes_here;
                // Pages first: they say what else is to be fetched.
                for page in findings.missing_pages.into_iter().rev() {
                    self.download.want(page, true);
                }
                for part in findings.missing_parts {
                    self.download.want(part, false);
                }
            }
        }
        self.run(now, out);
    }

    pub(super) fn on_parts(&mut self, now: Time, from: NodeId, blobs: Vec<Blob>, out: &mut Out) {
        let good = self.download.on_parts(now, from, blobs, out);
        if self.active {
            self.keep(now, good, out);
        } else {
            self.repair(now, good, out);
        }
    }

    fn keep(&mut self, now: Time, good: Vec<Blob>, out: &mut Out) {
        let Some(plan) = &mut self.plan else {
            return;
        };
        let fits = good.iter().map(|blob| plan.on_blob(blob));
        let fits = fits.collect::<Result<Vec<()>, _>>().is_ok();
        if !good.is_empty() {
            out.effects
                .push_back(StateTransferEffect::Keep { blobs: good });
        }
        if fits {
            self.run(now, out);
        } else {
            self.refuse_plan(now, out);
        }
    }

    pub(super) fn on_kept(&mut self, now: Time, bytes: u64, out: &mut Out) {
        self.download.kept(bytes);
        self.go_on(now, out);
    }

    pub(super) fn on_gone(&mut self, now: Time, from: NodeId, digests: &[Digest], out: &mut Out) {
        let gone = self.download.on_gone(from, digests);
        if self.active && !gone.is_empty() {
            // It has gone on to a newer checkpoint.
            self.download.drop_source(from);
        } else {
            self.on_lacking(&gone, out);
        }
        self.go_on(now, out);
    }

    fn go_on(&mut self, now: Time, out: &mut Out) {
        if self.active {
            self.run(now, out);
        } else {
            self.run_repairs(now, out);
        }
    }

    pub(super) fn on_deadline(&mut self, now: Time, out: &mut Out) {
        self.download.on_deadline(now, out);
        if self.active {
            self.ask_for_offers(now, out);
        }
        self.go_on(now, out);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let next = if self.active {
            self.ask_at
        } else if self.is_repairing() {
            self.repair_at
        } else {
            return None;
        };
        self.download.deadline().into_iter().chain([next]).min()
    }
}
