//! What survives: rebuilding a replica from its records, and letting go of them at checkpoints.

use crate::amnesia::Amnesia;
use crate::config::PbftConfig;
use crate::message::{Message, Phase, Vote, prepare_digest};
use crate::pbft::{Cx, Pbft};
use crate::record::{Entered, Record};
use crate::slot::Slot;
use atlas_common::crypto::Signature;
use atlas_common::{Lsn, SeqNo, Time, View};
use atlas_core::{CheckpointCertificate, Installed, Membership, Origin, RecoverError, Recovery};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Pbft {
    pub(crate) fn rebuild(
        config: PbftConfig,
        membership: Arc<Membership>,
        recovery: Recovery<Self>,
    ) -> Result<Self, RecoverError> {
        let me = recovery.me;
        let member = membership.member(me).ok_or(RecoverError::NotAMember(me))?;
        if member.key != config.signer.public_key() {
            let found = config.signer.public_key();
            return Err(RecoverError::Config(format!(
                "replica {me} is to sign with key {found}, but is listed with key {}",
                member.key
            )));
        }
        let stable = recovery.installed.map(|installed| installed.certificate);
        let decided = stable
            .as_ref()
            .map_or(SeqNo::ZERO, |certificate| certificate.id.seq);
        let mut pbft = Self {
            me,
            config,
            membership,
            view: View::ZERO,
            changing: false,
            entered: Entered::FIRST,
            new_view: None,
            stable,
            decided,
            next: decided.next(),
            slots: BTreeMap::new(),
            wanted: BTreeSet::new(),
            changes: BTreeMap::new(),
            waiting: None,
            stalled: None,
            view_since: Time::ZERO,
            decided_before: SeqNo::ZERO,
            fruitless: 0,
            view_changes: 0,
            peers: BTreeMap::new(),
            amnesia: None,
            votes_from: View::ZERO,
            cut: SeqNo::ZERO,
            highest: SeqNo::ZERO,
            heard: SeqNo::ZERO,
            bodies: BTreeMap::new(),
            leader_timer: None,
            hard_state_lsn: Lsn::ZERO,
            change_sent: Time::ZERO,
            new_view_timer: None,
            hurried: false,
            decided_at_status: SeqNo::ZERO,
        };
        if recovery.origin == Origin::Amnesiac && pbft.membership.is_voter(me) {
            pbft.amnesia = Some(Amnesia::default());
        }
        for (lsn, record) in recovery.records {
            pbft.replay(lsn, record);
        }
        pbft.leave_slots_behind();
        pbft.count_own_votes();
        Ok(pbft)
    }

    fn replay(&mut self, lsn: Lsn, record: Record) {
        let seq = match &record {
            Record::Body { seq, .. }
            | Record::Prepare { seq, .. }
            | Record::Committed { seq, .. } => Some(*seq),
            Record::Prepared(prepared) => Some(prepared.seq),
            Record::ViewChange(_)
            | Record::Entered(_)
            | Record::Amnesiac
            | Record::VotesFrom(_)
            | Record::Cut(_) => None,
        };
        // Slots below the checkpoint are history.
        if seq.is_some_and(|seq| seq <= self.low()) {
            return;
        }
        if let Some(seq) = seq {
            self.slot(seq).logged(lsn);
        }
        match record {
            Record::Body { seq, batch } => self.hold_body(seq, batch),
            Record::Prepare { view, seq, digest } => self.slot(seq).voted = Some((view, digest)),
            Record::Prepared(prepared) => {
                let seq = prepared.seq;
                self.slot(seq).prepared = Some(prepared);
            }
            Record::Committed { seq, proof } => {
                let slot = self.slot(seq);
                slot.proof = Some(proof);
                slot.recorded = true;
            }
            Record::ViewChange(signed) => {
                self.view = signed.change.view;
                self.changing = true;
                self.hard_state_lsn = lsn;
                self.changes.insert(self.me, signed);
            }
            Record::Entered(entered) => {
                self.view = entered.view;
                self.changing = false;
                self.entered = entered;
                self.hard_state_lsn = lsn;
            }
            Record::Amnesiac => self.amnesia = Some(Amnesia::default()),
            Record::VotesFrom(view) => {
                self.amnesia = None;
                self.votes_from = view;
            }
            Record::Cut(seq) => self.cut = self.cut.max(seq),
        }
    }

    /// Signs again what was voted for in the current view: the same signatures as before.
    fn count_own_votes(&mut self) {
        let (me, view, leads) = (self.me, self.view, self.leader() == self.me);
        if self.changing {
            return;
        }
        let begun: BTreeSet<SeqNo> = self.entered.proposals.iter().map(|(seq, _)| *seq).collect();
        let signer = Arc::clone(&self.config.signer);
        let membership = Arc::clone(&self.membership);
        for (seq, slot) in &mut self.slots {
            let sign = |phase, digest| {
                let signature = Signature([0; 64]);
                let mut vote = Vote {
                    phase,
                    view,
                    seq: *seq,
                    digest,
                    signature,
                };
                vote.signature = signer.sign(&vote.signing_digest(&membership));
                vote
            };
            if let Some((_, digest)) = slot.voted.filter(|(voted, _)| *voted == view) {
                slot.proposal = Some(digest);
                slot.count(me, sign(Phase::Prepare, digest));
                if leads && !begun.contains(seq) {
                    let signing = prepare_digest(&membership, view, *seq, &digest);
                    slot.proposal_signature = Some((view, digest, signer.sign(&signing)));
                }
            }
            if let Some(prepared) = slot.prepared.as_ref().filter(|p| p.view == view) {
                let digest = prepared.digest;
                slot.count(me, sign(Phase::Commit, digest));
            }
        }
    }

    pub(crate) fn on_start(&mut self, cx: &mut Cx<'_>) {
        self.view_since = cx.now();
        // A leader goes on after the last slot that it proposed in this view.
        let view = self.view;
        let own = |slot: &Slot| slot.voted.is_some_and(|(voted, _)| voted == view);
        let last = self.slots.iter().rev().find(|(_, slot)| own(slot));
        let next = last.map_or(SeqNo::ZERO, |(seq, _)| *seq);
        self.start_asking(cx);
        if self.changing {
            cx.leader(self.view, None);
            if let Some(own) = self.changes.get(&self.me).cloned() {
                cx.broadcast(Message::ViewChange(own));
            }
        } else {
            cx.leader(self.view, Some(self.leader()));
            self.propose_again(cx);
        }
        self.next = self.next.max(next.next());
        self.hurried = true;
        self.set_status_timer(cx);
        self.advance(cx);
        self.note_in_flight(cx);
        self.check_quorum(cx);
        self.ask_for_batch(cx);
    }

    /// Section 4.3: below a certified checkpoint everything is let go.
    pub(crate) fn on_checkpointed(
        &mut self,
        certificate: Arc<CheckpointCertificate>,
        cx: &mut Cx<'_>,
    ) {
        if certificate.id.seq <= self.low() {
            return;
        }
        if certificate.id.seq > self.decided {
            // Not this replica's own checkpoint, whatever the driver says: it has to be fetched.
            return cx.fetch_state(certificate.id.seq);
        }
        self.stable = Some(certificate);
        self.collect(cx);
        self.watch_leader(cx);
        self.ask_for_batch(cx);
    }

    pub(crate) fn on_installed(&mut self, installed: &Installed, cx: &mut Cx<'_>) {
        let seq = installed.seq();
        if seq <= self.low() {
            return;
        }
        self.stable = Some(Arc::clone(&installed.certificate));
        self.decided = self.decided.max(seq);
        self.next = self.next.max(self.decided.next());
        self.collect(cx);
        self.stalled = self.pending().then(|| cx.now());
        self.advance(cx);
        self.watch_leader(cx);
        self.ask_for_batch(cx);
    }

    fn collect(&mut self, cx: &mut Cx<'_>) {
        let low = self.low();
        self.cut = self.cut.max(low);
        self.slots = self.slots.split_off(&low.next());
        self.unwant_needless(cx);
        self.tidy_bodies();
        self.try_to_vote_again(cx);
        self.keep_hard_state(cx);
        let slots = self.slots.values().filter_map(|slot| slot.first_lsn).min();
        cx.compact(
            slots
                .unwrap_or(self.hard_state_lsn)
                .min(self.hard_state_lsn),
        );
    }

    /// Writes view and start of the view again, so that what came before can go.
    fn keep_hard_state(&mut self, cx: &mut Cx<'_>) {
        let low = self.low();
        self.entered.proposals.retain(|(seq, _)| *seq > low);
        let lsn = cx.persist(Record::Entered(self.entered.clone()));
        if self.changing
            && let Some(own) = self.changes.get(&self.me).cloned()
        {
            cx.persist(Record::ViewChange(own));
        }
        if self.amnesia.is_some() {
            cx.persist(Record::Amnesiac);
        } else if self.votes_from > View::ZERO {
            cx.persist(Record::VotesFrom(self.votes_from));
        }
        cx.persist(Record::Cut(self.cut));
        self.hard_state_lsn = lsn;
    }
}
