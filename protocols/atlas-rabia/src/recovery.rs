//! What survives: rebuilding a replica from its records, and letting go of them at checkpoints.

use crate::config::RabiaConfig;
use crate::decisions::TOLD;
use crate::message::Spread;
use crate::questions::{Amnesia, Reads};
use crate::queue::Queue;
use crate::rabia::{Counters, Cx, Peer, Rabia};
use crate::record::Record;
use crate::slot::{Outcome, Stage};
use atlas_common::{Digest, Lsn, NodeId, ReplicaSet, SeqNo, View};
use atlas_core::{Batch, Installed, Membership, Origin, RecoverError, Recovery};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

type Bodies = BTreeMap<Digest, (Spread, Lsn)>;

impl Rabia {
    pub(crate) fn rebuild(
        config: RabiaConfig,
        membership: Arc<Membership>,
        recovery: Recovery<Self>,
    ) -> Result<Self, RecoverError> {
        let me = recovery.me;
        membership.member(me).ok_or(RecoverError::NotAMember(me))?;
        let low = recovery
            .installed
            .as_ref()
            .map_or(SeqNo::ZERO, Installed::seq);
        let mut rabia = Self::empty(me, config, membership, low);
        if recovery.origin == Origin::Amnesiac && rabia.membership.is_voter(me) {
            rabia.amnesia = Some(Amnesia::default());
        }
        let mut bodies = Bodies::new();
        for (lsn, record) in recovery.records {
            rabia.replay(lsn, record, &mut bodies);
        }
        rabia.floor = rabia.floor.max(low);
        rabia.reached = rabia.reached.max(rabia.floor);
        rabia.heard = rabia.heard.max(rabia.floor.min(rabia.high()));
        rabia.take_up(&bodies);
        #[cfg(feature = "seeded-bugs")]
        if rabia.has_bug(crate::bugs::SeededBug::ForgetAmnesia) {
            rabia.amnesia = None;
        }
        Ok(rabia)
    }

    fn empty(me: NodeId, config: RabiaConfig, membership: Arc<Membership>, low: SeqNo) -> Self {
        let members = membership.members().len();
        Self {
            me,
            queue: Queue::new(config.queue_bytes_max, members),
            config,
            membership,
            low,
            floor: SeqNo::ZERO,
            decided: low,
            heard: SeqNo::ZERO,
            reached: SeqNo::ZERO,
            slots: BTreeMap::new(),
            proposed: BTreeMap::new(),
            done: BTreeMap::new(),
            wanted: BTreeSet::new(),
            bodies: BTreeMap::new(),
            unlogged: Vec::new(),
            own: None,
            asked_for_batch: false,
            stamp: 0,
            peers: vec![Peer::default(); members],
            absent: ReplicaSet::default(),
            patient: BTreeSet::new(),
            patience_timer: None,
            resend_timer: false,
            fruitless: 0,
            decided_at_resend: SeqNo::ZERO,
            fetch_asked: SeqNo::ZERO,
            amnesia: None,
            reads: Reads::default(),
            hard_state_lsn: Lsn::ZERO,
            items: Vec::new(),
            batches: Vec::new(),
            in_flight: 0,
            null: Batch::null(),
            counters: Counters::default(),
            flips: VecDeque::new(),
        }
    }

    fn replay(&mut self, lsn: Lsn, record: Record, bodies: &mut Bodies) {
        match record {
            Record::Body(spread) => {
                self.stamp = self.stamp.max(spread.stamp);
                bodies.insert(spread.batch.digest(), (spread, lsn));
            }
            Record::Said { seq, said } => {
                self.reached = self.reached.max(seq);
                self.heard = self.heard.max(seq);
                if seq > self.low {
                    let slot = self.slots.entry(seq).or_default();
                    slot.first_lsn.get_or_insert(lsn);
                    if slot.is_undecided() {
                        slot.say(self.me, said);
                    }
                }
            }
            Record::Decided { seq, digest } => {
                self.heard = self.heard.max(seq);
                if seq > self.low {
                    let slot = self.slots.entry(seq).or_default();
                    slot.first_lsn.get_or_insert(lsn);
                    slot.logged = true;
                    slot.close(Outcome {
                        digest,
                        phase: TOLD,
                    });
                }
            }
            Record::Floor(seq) => {
                self.floor = self.floor.max(seq);
                self.hard_state_lsn = lsn;
            }
            Record::Amnesiac => self.amnesia = Some(Amnesia::default()),
            Record::Remembers => self.amnesia = None,
        }
    }

    /// Puts batches where the slots want them. Others are of no use: their slots are history.
    fn take_up(&mut self, bodies: &Bodies) {
        for (seq, slot) in &mut self.slots {
            if let Some(outcome) = slot.outcome {
                slot.proposals.clear();
                if let Some(digest) = outcome.digest {
                    self.done.insert(digest, *seq);
                    if let Some((spread, lsn)) = bodies.get(&digest) {
                        slot.body = Some(spread.batch.clone());
                        self.bodies.insert(digest, *lsn);
                    }
                }
                continue;
            }
            self.in_flight += usize::from(slot.stage != Stage::Heard);
            let Some(digest) = slot.own_proposal(self.me).flatten() else {
                continue;
            };
            self.queue.name(digest, *seq);
            self.proposed.insert(digest, *seq);
            // One that was decided in an earlier slot, below the checkpoint, is gone: it cannot be
            // decided again.
            if let Some((spread, lsn)) = bodies.get(&digest) {
                self.bodies.insert(digest, *lsn);
                self.queue.insert_own(spread.clone());
            }
        }
        // A batch decided since it was proposed elsewhere waits no more.
        for digest in self.done.keys() {
            self.queue.remove(digest);
        }
    }

    pub(crate) fn on_start(&mut self, cx: &mut Cx<'_>) {
        // There is none, and never will be: every replica proposes what its own clients send.
        cx.leader(View::ZERO, None);
        self.start_asking(cx);
        let missing: Vec<Digest> = self
            .slots
            .values()
            .filter(|slot| slot.body.is_none())
            .filter_map(|slot| slot.outcome?.digest)
            .collect();
        for digest in missing {
            self.search(digest, cx);
        }
        self.set_status_timer(cx);
        self.go_on(cx);
    }

    /// What this replica had said itself may be all that the next step needs: alone, nobody will send
    /// it anything.
    fn go_on(&mut self, cx: &mut Cx<'_>) {
        if self.amnesia.is_some() {
            return;
        }
        let in_flight = self.slots.iter().filter(|(_, slot)| slot.in_flight());
        let open: Vec<_> = in_flight.map(|(seq, slot)| (*seq, slot.phase)).collect();
        for (seq, phase) in open {
            self.count_votes(seq, phase, cx);
            self.advance(seq, cx);
        }
    }

    /// The own state up to here is durable: what lies below is history.
    pub(crate) fn on_checkpointed(&mut self, seq: SeqNo, cx: &mut Cx<'_>) {
        if seq > self.decided {
            // Not this replica's own checkpoint, whatever the driver says: it has to be fetched.
            return cx.fetch_state(seq);
        }
        if seq > self.low {
            self.low = seq;
            self.collect(cx);
        }
    }

    pub(crate) fn on_installed(&mut self, seq: SeqNo, cx: &mut Cx<'_>) {
        if seq > self.low {
            self.low = seq;
            self.decided = self.decided.max(seq);
            self.heard = self.heard.max(seq);
            self.reached = self.reached.max(seq);
            self.collect(cx);
        }
    }

    fn collect(&mut self, cx: &mut Cx<'_>) {
        let low = self.low;
        let kept = self.slots.split_off(&low.next());
        for (seq, slot) in std::mem::replace(&mut self.slots, kept) {
            self.in_flight -= usize::from(slot.in_flight());
            for digest in slot.proposals.iter().filter_map(|(_, digest)| *digest) {
                self.queue.unname(&digest, seq);
            }
        }
        self.proposed.retain(|_, seq| *seq > low);
        // An installed state may hold the own batch, in a slot that is never handed over.
        let history = |digest: &Digest| self.done.get(digest).is_some_and(|seq| *seq <= low);
        if self.own.is_some_and(|own| history(&own.digest)) {
            self.own = None;
        }
        let window = self.config.window;
        let done = &mut self.done;
        for digest in self
            .wanted
            .extract_if(.., |d| done.get(d).is_none_or(|seq| *seq <= low))
        {
            cx.release(digest);
        }
        done.retain(|_, seq| seq.plus(window) > low);
        self.unlogged.retain(|seq| *seq > low);
        self.patient.retain(|(_, seq)| *seq > low);
        self.floor = self.floor.max(low);
        self.heard = self.heard.max(self.floor.min(self.high()));
        self.compact(cx);
    }

    /// Writes again what the log must still tell, and lets go of the rest.
    fn compact(&mut self, cx: &mut Cx<'_>) {
        self.hard_state_lsn = cx.persist(Record::Floor(self.floor));
        if self.amnesia.is_some() {
            cx.persist(Record::Amnesiac);
        }
        let slots = self.slots.values().filter_map(|slot| slot.first_lsn).min();
        let below = slots
            .unwrap_or(self.hard_state_lsn)
            .min(self.hard_state_lsn);
        let (done, proposed, low) = (&self.done, &self.proposed, self.low);
        let needed = |digest: &Digest| {
            proposed.contains_key(digest) || done.get(digest).is_some_and(|seq| *seq > low)
        };
        self.bodies.retain(|digest, _| needed(digest));
        // A batch may have been logged long before the slot that it is now needed for.
        let old = self.bodies.iter().filter(|(_, lsn)| **lsn < below);
        let old: Vec<Digest> = old.map(|(digest, _)| *digest).collect();
        for digest in old {
            let queued = self.queue.get(&digest).cloned();
            let decided = || {
                let batch = self.slots.get(self.done.get(&digest)?)?.body.clone()?;
                let (stamp, origin) = (0, self.me);
                Some(Spread {
                    stamp,
                    origin,
                    batch,
                })
            };
            if let Some(spread) = queued.or_else(decided) {
                let lsn = cx.persist(Record::Body(spread));
                self.bodies.insert(digest, lsn);
            }
        }
        cx.compact(below);
    }
}
