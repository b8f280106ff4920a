//! What the replicas ask for, carried out; and what must hold whenever they do.

use super::{Event, FSYNC_NANOS, HOP_NANOS, Out, Rig, request_of};
use crate::Pbft;
use crate::message::{Message, Phase, Proof};
use crate::record::Record;
use atlas_common::{Digest, Lsn, NodeId, SeqNo};
use atlas_core::{
    Batch, CheckpointCertificate, CheckpointId, Context, Effect, Input, OrderingProtocol,
    Recipients,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl Rig {
    /// One input for one replica, and everything that follows from it at once.
    pub(in crate::tests) fn step(&mut self, i: usize, input: Input<Pbft>) {
        let wall = self.now_wall();
        let node = &mut self.nodes[i];
        let Some(protocol) = node.protocol.as_mut() else {
            return;
        };
        let mut effects = Vec::new();
        let mut cx = Context::new(
            self.now,
            wall,
            &mut node.rng,
            &mut node.last_lsn,
            &mut effects,
        );
        protocol.step(input, &mut cx);
        let before = node
            .log
            .last_key_value()
            .map_or(node.durable, |(lsn, _)| *lsn);
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

    pub(super) fn carry_out(&mut self, i: usize, effect: Effect<Pbft>) {
        let node = &mut self.nodes[i];
        match effect {
            Effect::Persist { lsn, record } => {
                node.log.insert(lsn, record);
            }
            Effect::Send { to, message, after } => {
                assert!(
                    after > Lsn::ZERO
                        || matches!(message, Message::Status(_))
                        || node.last_lsn == Lsn::ZERO,
                    "{message:?} overtakes the log"
                );
                if let Some(out) = node.outbox.push(after, Out::Send(to, message)) {
                    self.leave(i, out);
                }
            }
            Effect::Decide {
                seq,
                batch,
                proof,
                after,
            } => {
                node.decides_after = node.decides_after.max(after);
                let after = node.decides_after;
                if let Some(out) = node.decides.push(after, Out::Decide(seq, batch, proof)) {
                    self.leave(i, out);
                }
            }
            Effect::SetTimer { timer, at } => {
                node.timer_effects += 1;
                let delay = at.since(self.now) * node.slowness;
                node.timers.set(timer, self.now.after(delay));
            }
            Effect::CancelTimer(timer) => {
                node.timer_effects += 1;
                node.timers.cancel(timer);
            }
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
            Effect::Leader { .. } => {
                node.wants_batch = false;
                node.taken.clear();
            }
            Effect::Stopped(batches) => {
                node.stopped += batches.len();
                for bundle in batches.iter().flat_map(Batch::bundles) {
                    node.taken.remove(&request_of(bundle));
                }
            }
            Effect::FetchState { at_least } => {
                if !std::mem::replace(&mut node.fetching_state, true) {
                    let at = node.id;
                    let when = self.now.after(self.state_delay);
                    self.schedule(when, Event::Fetch { at, at_least });
                }
            }
            Effect::Compact { below } => {
                assert!(below <= node.last_lsn.next());
                // A compaction comes after the records that were queued before it.
                node.compactions.push((node.last_lsn, below));
            }
            Effect::Rejected { reason, .. } => self.rejected.push((self.nodes[i].id, reason)),
            Effect::Evidence { culprit, messages } => {
                self.evidence.push((culprit, messages.0, messages.1));
            }
            Effect::ReadAt { .. } => panic!("PBFT orders reads"),
            Effect::ReadRefused(_) => {}
        }
    }

    pub(super) fn leave(&mut self, i: usize, out: Out) {
        match out {
            Out::Send(to, message) => self.send(i, to, message),
            Out::Decide(seq, batch, proof) => self.decided(i, seq, batch, proof),
        }
    }

    pub(super) fn send(&mut self, i: usize, to: Recipients, message: Message) {
        self.check_vote(i, &message);
        let from = self.nodes[i].id;
        let others: Vec<NodeId> = match to {
            Recipients::One(to) => vec![to],
            Recipients::Others => {
                let all = self.nodes.iter().map(|node| node.id);
                all.filter(|id| *id != from).collect()
            }
        };
        for to in others {
            let apart = self
                .groups
                .iter()
                .any(|g| g.contains(&from) != g.contains(&to));
            if apart || !(self.filter)(from, to, &message) || self.rng.chance(self.loss) {
                continue;
            }
            let delay = self.rng.between(HOP_NANOS.0, HOP_NANOS.1);
            let at = self.now.after(Duration::from_nanos(delay));
            self.schedule(
                at,
                Event::Deliver {
                    from,
                    to,
                    message: message.clone(),
                },
            );
        }
    }

    /// No replica votes for two things in one view and slot, in all its lives, and no vote leaves
    /// before its record is durable.
    pub(super) fn check_vote(&mut self, i: usize, message: &Message) {
        let node = &self.nodes[i];
        let (phase, view, seq, digest) = match message {
            Message::Vote(v) => (v.phase, v.view, v.seq, v.digest),
            Message::PrePrepare(p) if p.view.0 % self.nodes.len() as u64 == i as u64 => {
                (Phase::Prepare, p.view, p.seq, p.batch.digest())
            }
            _ => return,
        };
        let earlier = *self
            .votes
            .entry((node.id, phase, view, seq))
            .or_insert(digest);
        assert_eq!(earlier, digest, "{} voted twice in {view} {seq}", node.id);
        let mut durable = node.log.range(..=node.durable).map(|(_, record)| record);
        let low = node.checkpoint.as_ref().map_or(SeqNo::ZERO, |c| c.id.seq);
        let logged = durable.any(|record| match record {
            Record::Prepare {
                view: v,
                seq: s,
                digest: d,
            } => phase == Phase::Prepare && (*v, *s, *d) == (view, seq, digest),
            Record::Prepared(p) => {
                phase == Phase::Commit && (p.view, p.seq, p.digest) == (view, seq, digest)
            }
            _ => false,
        });
        assert!(
            logged || seq <= low,
            "{} sent a vote that is not durable",
            node.id
        );
    }

    pub(super) fn decided(&mut self, i: usize, seq: SeqNo, batch: Batch, proof: Proof) {
        let node = &mut self.nodes[i];
        let last = node
            .decided
            .last_key_value()
            .map_or(SeqNo::ZERO, |(seq, _)| *seq);
        assert_eq!(seq, last.next(), "decisions come in order at {}", node.id);
        if self.durable_decisions {
            let mut durable = node.log.range(..=node.durable).map(|(_, record)| record);
            let recorded =
                durable.any(|r| matches!(r, Record::Committed { seq: s, .. } if *s == seq));
            assert!(recorded, "{} knows of {seq} on its disk", node.id);
        }
        let known = *self.decisions.entry(seq).or_insert(batch.digest());
        assert_eq!(known, batch.digest(), "agreement in slot {seq}");
        assert_eq!(proof.digest, batch.digest());
        for bundle in batch.bundles() {
            node.pool.remove(&request_of(bundle));
        }
        node.decided.insert(seq, (batch, proof));
        if self.checkpoints && seq.0.is_multiple_of(self.limits.checkpoint_interval) {
            self.vote_checkpoint(i, seq);
        }
        self.watch_oldest(i);
    }

    pub(in crate::tests) fn checkpoint_id(&self, seq: SeqNo) -> CheckpointId {
        let digests: Vec<u8> = self
            .decisions
            .range(..=seq)
            .flat_map(|(_, digest)| digest.0)
            .collect();
        let (epoch, state) = (self.membership.epoch(), Digest::of(&digests));
        CheckpointId { epoch, seq, state }
    }

    pub(in crate::tests) fn certificate(
        &self,
        seq: SeqNo,
        by: &BTreeSet<NodeId>,
    ) -> CheckpointCertificate {
        let id = self.checkpoint_id(seq);
        let genesis = self.membership.genesis();
        let vote = |voter: &NodeId| (*voter, id.sign(genesis, self.key(voter.index())));
        CheckpointCertificate {
            id,
            votes: by.iter().map(vote).collect(),
        }
    }

    pub(super) fn vote_checkpoint(&mut self, i: usize, seq: SeqNo) {
        let id = self.checkpoint_id(seq);
        let voters = self.checkpoint_votes.entry(id).or_default();
        voters.insert(NodeId(i as u32));
        let quorum = self.membership.quorums().quorum();
        let voters = voters.clone();
        if voters.len() < quorum {
            return;
        }
        let certificate = Arc::new(self.certificate(seq, &voters));
        for voter in voters {
            self.certify(voter.index(), &certificate);
        }
    }

    /// The certificate reaches a replica that has the checkpoint.
    pub(in crate::tests) fn certify(&mut self, i: usize, certificate: &Arc<CheckpointCertificate>) {
        let node = &mut self.nodes[i];
        let newer = node
            .checkpoint
            .as_ref()
            .is_none_or(|c| c.id.seq < certificate.id.seq);
        let has_it = node.decided.contains_key(&certificate.id.seq);
        if newer && has_it && node.protocol.is_some() {
            node.checkpoint = Some(Arc::clone(certificate));
            self.step(i, Input::Checkpointed(Arc::clone(certificate)));
        }
    }
}
