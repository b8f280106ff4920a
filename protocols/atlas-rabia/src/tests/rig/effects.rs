//! What the replicas ask for, carried out; and what must hold whenever they do.

use super::{Event, FSYNC_NANOS, HOP_NANOS, Out, Rig, request_of};
use crate::Rabia;
use crate::message::{Item, Message, Said};
use crate::record::Record;
use atlas_common::{Digest, Lsn, NodeId, SeqNo};
use atlas_core::{
    Batch, CheckpointCertificate, CheckpointId, Context, Effect, Input, OrderingProtocol,
    Recipients,
};
use std::sync::Arc;
use std::time::Duration;

impl Rig {
    /// One input for one replica, and everything that follows from it at once.
    pub(in crate::tests) fn step(&mut self, i: usize, input: Input<Rabia>) {
        let wall = self.wall(i);
        let node = &mut self.nodes[i];
        let Some(protocol) = node.protocol.as_mut() else {
            return;
        };
        let mut effects = Vec::new();
        let (rng, lsn) = (&mut node.rng, &mut node.last_lsn);
        let before = *lsn;
        let mut cx = Context::new(self.now, wall, rng, lsn, &mut effects);
        protocol.step(input, &mut cx);
        for flip in protocol.flips() {
            let known = *self.coins.entry((flip.seq, flip.phase)).or_insert(flip.one);
            assert_eq!(known, flip.one, "a coin of its own: {flip:?}");
        }
        for effect in effects {
            self.carry_out(i, effect);
        }
        let (node, last) = (&self.nodes[i], self.nodes[i].last_lsn);
        if last > before {
            let at = self.now.after(Duration::from_nanos(FSYNC_NANOS));
            let event = Event::Durable {
                at: node.id,
                life: node.life,
                lsn: last,
            };
            self.schedule(at, event);
        }
        self.offer(i);
    }

    fn carry_out(&mut self, i: usize, effect: Effect<Rabia>) {
        let node = &mut self.nodes[i];
        match effect {
            Effect::Persist { lsn, record } => {
                node.log.insert(lsn, record);
            }
            Effect::Send { to, message, after } => {
                if let Some(out) = node.outbox.push(after, Out::Send(to, message)) {
                    self.leave(i, out);
                }
            }
            Effect::Decide {
                seq, batch, after, ..
            } => {
                node.decides_after = node.decides_after.max(after);
                let after = node.decides_after;
                if let Some(out) = node.decides.push(after, Out::Decide(seq, batch)) {
                    self.leave(i, out);
                }
            }
            Effect::SetTimer { timer, at } => node.timers.set(timer, at),
            Effect::CancelTimer(timer) => node.timers.cancel(timer),
            Effect::WantBatch => node.wants_batch = true,
            Effect::Fetch(digest) => {
                node.fetching.insert(digest);
                let at = node.id;
                self.fetches += 1;
                self.schedule_soon(Event::Body { at, digest });
            }
            Effect::Release(digest) => {
                assert!(
                    node.fetching.remove(&digest),
                    "released what was not fetched"
                );
            }
            Effect::Leader { leader, .. } => assert_eq!(leader, None),
            Effect::Stopped(batches) => {
                for bundle in batches.iter().flat_map(Batch::bundles) {
                    node.taken.remove(&request_of(bundle));
                }
            }
            Effect::FetchState { at_least } => {
                self.state_fetches += 1;
                if !std::mem::replace(&mut node.fetching_state, true) {
                    let at = node.id;
                    self.schedule_soon(Event::Fetch { at, at_least });
                }
            }
            Effect::Compact { below } => {
                assert!(below <= node.last_lsn.next());
                // A compaction comes after the records that were queued before it.
                node.compactions.push((node.last_lsn, below));
            }
            Effect::Rejected { reason, .. } => self.rejected.push((self.nodes[i].id, reason)),
            Effect::ReadAt { id, seq } => {
                node.reads.insert(id, Some(seq));
            }
            Effect::ReadRefused(id) => {
                node.reads.insert(id, None);
            }
            Effect::Evidence { .. } => panic!("nobody lies in a crash cluster"),
        }
    }

    pub(super) fn leave(&mut self, i: usize, out: Out) {
        match out {
            Out::Send(to, message) => self.send(i, to, message),
            Out::Decide(seq, batch) => self.on_decision(i, seq, batch),
        }
    }

    fn send(&mut self, i: usize, to: Recipients, message: Message) {
        self.sent += 1;
        if let Message::Round(round) = &message {
            for item in &round.items {
                self.check_word(i, *item);
            }
        }
        let from = self.nodes[i].id;
        let others: Vec<NodeId> = match to {
            Recipients::One(to) => vec![to],
            Recipients::Others => {
                let all = self.nodes.iter().map(|node| node.id);
                all.filter(|id| *id != from).collect()
            }
        };
        for to in others {
            let hears = self.hears(from.index(), to.index());
            if !hears || !(self.filter)(from, to, &message) || self.rng.chance(self.loss) {
                continue;
            }
            let delay = self.rng.between(HOP_NANOS.0, HOP_NANOS.1);
            let at = self.now.after(Duration::from_nanos(delay));
            let message = message.clone();
            self.schedule(at, Event::Deliver { from, to, message });
        }
    }

    /// No replica says two things in one place, in all its lives, and nothing leaves before it is
    /// durable.
    fn check_word(&mut self, i: usize, Item { seq, said }: Item) {
        let node = &self.nodes[i];
        let place = (
            node.id,
            seq,
            said.phase(),
            matches!(said, Said::Vote { .. }),
        );
        let earlier = *self.words.entry(place).or_insert(said);
        assert_eq!(earlier, said, "{} said two things in {seq}", node.id);
        let durable = node.log.range(..=node.durable);
        let same = Record::Said { seq, said };
        let logged = durable.rev().any(|(_, record)| *record == same);
        let low = node.checkpoint.as_ref().map_or(SeqNo::ZERO, |c| c.id.seq);
        assert!(
            logged || seq <= low,
            "{} sent {said:?} of {seq}, which is not durable",
            node.id
        );
    }

    fn on_decision(&mut self, i: usize, seq: SeqNo, batch: Batch) {
        let node = &mut self.nodes[i];
        let last = node.decided.last_key_value().map(|(seq, _)| *seq);
        let last = last.unwrap_or_default();
        if seq <= last {
            return; // it waited for the disk while a state came
        }
        assert_eq!(seq, last.next(), "decisions come in order at {}", node.id);
        let known = *self.decisions.entry(seq).or_insert(batch.digest());
        assert_eq!(known, batch.digest(), "agreement in slot {seq}");
        for bundle in batch.bundles() {
            node.pool.remove(&request_of(bundle));
        }
        node.decided.insert(seq, batch);
        if self.checkpoints && seq.0.is_multiple_of(self.limits.checkpoint_interval) {
            let certificate = Arc::new(self.certificate(seq));
            let node = &mut self.nodes[i];
            node.checkpoint = Some(Arc::clone(&certificate));
            self.step(i, Input::Checkpointed(certificate));
        }
    }

    pub(in crate::tests) fn certificate(&self, seq: SeqNo) -> CheckpointCertificate {
        let digests = self.decisions.range(..=seq);
        let digests: Vec<u8> = digests.flat_map(|(_, digest)| digest.0).collect();
        let (epoch, state) = (self.membership.epoch(), Digest::of(&digests));
        CheckpointCertificate::unsigned(CheckpointId { epoch, seq, state })
    }

    pub(in crate::tests) fn durable_words(&self, i: usize) -> usize {
        let node = &self.nodes[i];
        let durable = node.log.range(..=node.durable);
        let said = |(_, record): &(&Lsn, &Record)| matches!(record, Record::Said { .. });
        durable.filter(said).count()
    }
}
