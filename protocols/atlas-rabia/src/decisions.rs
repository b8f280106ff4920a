//! What a decided slot leads to.

use crate::message::{Message, Spread};
use crate::rabia::{Cx, Rabia};
use crate::record::Record;
use crate::slot::{Outcome, Stage};
use atlas_common::{Digest, SeqNo};
use atlas_core::{Batch, Recipients};

/// The phase of a decision that this replica was told of.
pub(crate) const TOLD: u32 = u32::MAX;

impl Rabia {
    /// The slot is decided. What it holds is known by its digest; the batch itself may yet have to be
    /// fetched. Other batches proposed in it return to the queue.
    pub(crate) fn settle(&mut self, seq: SeqNo, outcome: Outcome, cx: &mut Cx<'_>) {
        let Some(slot) = self.slots.get_mut(&seq).filter(|slot| slot.is_undecided()) else {
            return;
        };
        #[cfg(feature = "seeded-bugs")]
        let outcome = if self.config.bug == Some(crate::bugs::SeededBug::DecideOwnProposal) {
            let own = slot.own_proposal(self.me).flatten();
            Outcome {
                digest: outcome.digest.map(|digest| own.unwrap_or(digest)),
                ..outcome
            }
        } else {
            outcome
        };
        if slot.stage != Stage::Heard {
            self.in_flight -= 1;
        }
        let mut asks = Vec::new();
        slot.close(outcome);
        self.counters.null_slots += u64::from(outcome.digest.is_none());
        self.counters.second_phases += u64::from(outcome.phase > 1 && outcome.phase < TOLD);
        let body = outcome.digest.and_then(|digest| self.queue.remove(&digest));
        for (from, digest) in std::mem::take(&mut slot.proposals) {
            if let Some(digest) = digest {
                // What others propose and this replica does not even know keeps them apart.
                if outcome.digest != Some(digest)
                    && from != self.me
                    && self.queue.get(&digest).is_none()
                    && !self.done.contains_key(&digest)
                {
                    asks.push((from, digest));
                }
                self.queue.unname(&digest, seq);
                if self.proposed.get(&digest) == Some(&seq) {
                    self.proposed.remove(&digest);
                }
            }
        }
        if body.is_some() {
            slot.body = body;
        }
        let missing = slot.body.is_none();
        self.unlogged.push(seq);
        for (from, digest) in asks {
            // It commits to nothing, so it need not wait for the disk.
            cx.send_unguarded(Recipients::One(from), Message::Ask(digest));
        }
        if let Some(digest) = outcome.digest {
            self.done.insert(digest, seq);
            if missing {
                self.search(digest, cx);
            }
        }
    }

    /// Decided without the batch in hand: the driver asks the others until it comes.
    pub(crate) fn search(&mut self, digest: Digest, cx: &mut Cx<'_>) {
        if self.wanted.insert(digest) {
            self.counters.fetched += 1;
            cx.fetch(digest);
        }
    }

    pub(crate) fn on_body(&mut self, batch: Batch, cx: &mut Cx<'_>) {
        self.supply(batch, cx);
    }

    /// A decided batch has come, however.
    pub(crate) fn supply(&mut self, batch: Batch, cx: &mut Cx<'_>) {
        let digest = batch.digest();
        if self.wanted.remove(&digest) {
            cx.release(digest);
        }
        if let Some(seq) = self.done.get(&digest)
            && let Some(slot) = self.slots.get_mut(seq)
            && slot.body.is_none()
        {
            slot.body = Some(batch);
        }
    }

    /// Hands over decisions in order, as far as they and their batches are known.
    pub(crate) fn deliver(&mut self, cx: &mut Cx<'_>) {
        loop {
            let seq = self.decided.next();
            let Some(slot) = self.slots.get(&seq) else {
                return;
            };
            let batch = match (slot.outcome, &slot.body) {
                (Some(Outcome { digest: None, .. }), _) => self.null.clone(),
                (Some(_), Some(body)) => body.clone(),
                _ => return,
            };
            self.decided = seq;
            let digest = slot.outcome.and_then(|outcome| outcome.digest);
            if self.own.is_some_and(|own| Some(own.digest) == digest) {
                self.own = None;
            }
            cx.decide(seq, batch, ());
        }
    }

    /// Writes decisions and their batches to the log, so that a restart need not ask for them.
    pub(crate) fn log_decisions(&mut self, cx: &mut Cx<'_>) {
        for seq in std::mem::take(&mut self.unlogged) {
            let Some(slot) = self.slots.get_mut(&seq) else {
                continue;
            };
            let Some(outcome) = slot.outcome else {
                continue;
            };
            if let Some(digest) = outcome.digest
                && !self.bodies.contains_key(&digest)
            {
                let Some(batch) = slot.body.clone() else {
                    // It is written together with its batch.
                    self.unlogged.push(seq);
                    continue;
                };
                let (stamp, origin) = (0, self.me);
                let lsn = cx.persist(Record::Body(Spread {
                    stamp,
                    origin,
                    batch,
                }));
                self.bodies.insert(digest, lsn);
            }
            if !slot.logged {
                slot.logged = true;
                let digest = outcome.digest;
                let lsn = cx.persist(Record::Decided { seq, digest });
                slot.first_lsn.get_or_insert(lsn);
            }
        }
    }

    /// Peers say what slots came to.
    pub(crate) fn on_decisions(&mut self, decisions: &[(SeqNo, Option<Digest>)], cx: &mut Cx<'_>) {
        for (seq, digest) in decisions {
            if *seq > self.decided && *seq <= self.high() {
                self.told(*seq, *digest, cx);
            }
        }
    }

    fn told(&mut self, seq: SeqNo, digest: Option<Digest>, cx: &mut Cx<'_>) {
        self.heard = self.heard.max(seq);
        self.slots.entry(seq).or_default();
        let phase = TOLD;
        self.settle(seq, Outcome { digest, phase }, cx);
    }

    /// A decision learnt by log transfer.
    pub(crate) fn on_learnt(&mut self, seq: SeqNo, batch: Batch, cx: &mut Cx<'_>) {
        if seq != self.decided.next() {
            return;
        }
        let digest = (!batch.is_null()).then(|| batch.digest());
        if digest.is_some_and(|digest| self.queue.get(&digest).is_none()) {
            // In hand before the slot is settled, so that nothing is fetched.
            self.slots.entry(seq).or_default().body = Some(batch.clone());
        }
        self.told(seq, digest, cx);
        self.supply(batch, cx);
    }
}
