//! What the replicas ask for, carried out.

use super::{Event, HOP_NANOS, Out, Rig, request_of};
use crate::Raft;
use crate::message::{Body, Message, Proof};
use atlas_common::{Digest, Lsn, NodeId, SeqNo};
use atlas_core::{
    Batch, CheckpointCertificate, CheckpointId, Context, Effect, Input, Installed,
    OrderingProtocol, Recipients, Waiting,
};
use std::sync::Arc;
use std::time::Duration;

impl Rig {
    /// One input for one replica, and everything that follows from it at once.
    pub(in crate::tests) fn step(&mut self, i: usize, input: Input<Raft>) {
        let wall = self.now_wall();
        let node = &mut self.nodes[i];
        let Some(protocol) = node.protocol.as_mut() else {
            return;
        };
        let mut effects = Vec::new();
        let (rng, lsn) = (&mut node.rng, &mut node.last_lsn);
        protocol.step(
            input,
            &mut Context::new(self.now, wall, rng, lsn, &mut effects),
        );
        let before = node
            .log
            .last_key_value()
            .map_or(node.durable, |(lsn, _)| *lsn);
        for effect in effects {
            self.carry_out(i, effect);
        }
        let (node, last) = (&self.nodes[i], self.nodes[i].last_lsn);
        if last > before {
            let at = self.now.after(node.sync);
            let (life, lsn) = (node.life, last);
            let at_node = node.id;
            self.schedule(
                at,
                Event::Durable {
                    at: at_node,
                    life,
                    lsn,
                },
            );
        }
        self.check_log(i);
        self.offer(i);
    }

    fn carry_out(&mut self, i: usize, effect: Effect<Raft>) {
        let node = &mut self.nodes[i];
        match effect {
            Effect::Persist { lsn, record } => {
                node.log.insert(lsn, record);
            }
            Effect::Send { to, message, after } => {
                let may_overtake = matches!(
                    message.body,
                    Body::Append(_) | Body::Heard { .. } | Body::ReadAsk { .. }
                );
                let nothing_yet = node.last_lsn == Lsn::ZERO;
                assert!(
                    after > Lsn::ZERO || may_overtake || nothing_yet || super::checks::has_bug(),
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
            Effect::SetTimer { timer, at } => node.timers.set(timer, at),
            Effect::CancelTimer(timer) => node.timers.cancel(timer),
            Effect::WantBatch => node.wants_batch = true,
            Effect::Fetch(_) | Effect::Release(_) => panic!("Raft fetches no bodies"),
            Effect::Leader { leader, .. } => {
                node.leader = leader;
                node.wants_batch = false;
                node.taken.clear();
            }
            Effect::Stopped(batches) => {
                for bundle in batches.iter().flat_map(Batch::bundles) {
                    node.taken.remove(&request_of(bundle));
                }
            }
            Effect::FetchState { .. } => {
                if self.transfers && !std::mem::replace(&mut node.fetching_state, true) {
                    let (at, life) = (node.id, node.life);
                    self.schedule_soon(Event::Fetch { at, life });
                }
            }
            Effect::Compact { below } => {
                assert!(below <= node.last_lsn.next());
                // A compaction comes after the records that were queued before it.
                node.compactions.push((node.last_lsn, below));
            }
            Effect::Rejected { reason, .. } => self.rejected.push((self.nodes[i].id, reason)),
            Effect::Evidence { .. } => panic!("nobody lies here"),
            Effect::ReadAt { id, seq } => self.answer_read(i, id, Some(seq)),
            Effect::ReadRefused(id) => self.answer_read(i, id, None),
        }
    }

    pub(super) fn leave(&mut self, i: usize, out: Out) {
        match out {
            Out::Send(to, message) => self.send(i, to, message),
            Out::Decide(seq, batch, proof) => self.decided(i, seq, batch, proof),
        }
    }

    fn send(&mut self, i: usize, to: Recipients, message: Message) {
        self.check_message(i, to, &message);
        *self.sent.entry(kind(&message.body)).or_default() += 1;
        let from = self.nodes[i].id;
        let others: Vec<NodeId> = match to {
            Recipients::One(to) => vec![to],
            Recipients::Others => {
                let all = self.nodes.iter().map(|node| node.id);
                all.filter(|id| *id != from).collect()
            }
        };
        for to in others {
            assert_ne!(to, from, "a message to oneself");
            let cut = self.cuts.contains(&(from.index(), to.index()));
            if cut || !(self.filter)(from, to, &message) || self.rng.chance(self.loss) {
                continue;
            }
            let copies = if self.rng.chance(self.loss) { 2 } else { 1 };
            for _ in 0..copies {
                let delay = self.rng.between(HOP_NANOS.0, HOP_NANOS.1);
                let at = self.now.after(Duration::from_nanos(delay));
                let message = message.clone();
                self.schedule(at, Event::Deliver { from, to, message });
            }
        }
    }

    fn decided(&mut self, i: usize, seq: SeqNo, batch: Batch, proof: Proof) {
        self.check_decision(i, seq, &batch);
        let node = &mut self.nodes[i];
        for bundle in batch.bundles() {
            node.pool.remove(&request_of(bundle));
        }
        node.decided.insert(seq, (batch, proof));
        if self.checkpoints && seq.0.is_multiple_of(self.limits.checkpoint_interval) {
            self.take_checkpoint(i, seq);
        }
        self.watch_oldest(i);
    }

    pub(in crate::tests) fn certificate(&self, seq: SeqNo) -> Arc<CheckpointCertificate> {
        let digests = self.decisions.range(..=seq).flat_map(|(_, d)| d.0);
        let state = Digest::of(&digests.collect::<Vec<u8>>());
        let epoch = self.membership.epoch();
        let id = CheckpointId { epoch, seq, state };
        Arc::new(CheckpointCertificate::unsigned(id))
    }

    /// The checkpoint is stored a little later than it is taken.
    fn take_checkpoint(&mut self, i: usize, seq: SeqNo) {
        let certificate = self.certificate(seq);
        let frontier = self.raft(i).frontier(seq);
        assert!(!frontier.is_empty(), "{i} does not know the term of {seq}");
        let checkpoint = Installed {
            certificate,
            frontier,
        };
        let (at, life) = (self.nodes[i].id, self.nodes[i].life);
        let event = Event::Stored {
            at,
            life,
            checkpoint,
        };
        self.schedule_soon(event);
    }

    pub(super) fn watch_oldest(&mut self, i: usize) {
        let node = &self.nodes[i];
        let oldest = node
            .pool
            .iter()
            .min_by_key(|(number, (_, since))| (*since, **number));
        let waiting = oldest.map(|(_, (bytes, since))| Waiting {
            oldest: Digest::of(bytes),
            since: *since,
        });
        if waiting != node.waiting && node.protocol.is_some() {
            self.nodes[i].waiting = waiting;
            self.step(i, Input::Waiting(waiting));
        }
    }

    /// Hands a waiting request to a replica that asked for one.
    pub(super) fn offer(&mut self, i: usize) {
        loop {
            let node = &self.nodes[i];
            let next = node
                .pool
                .iter()
                .find(|(number, _)| !node.taken.contains(number));
            let Some((number, (bytes, _))) = next.filter(|_| node.wants_batch && !node.paused)
            else {
                return;
            };
            let batch = Batch::new(self.now_wall(), std::slice::from_ref(bytes));
            let (number, node) = (*number, &mut self.nodes[i]);
            node.taken.insert(number);
            node.wants_batch = false;
            self.step(i, Input::Propose(batch));
        }
    }
}

fn kind(body: &Body) -> &'static str {
    match body {
        Body::Append(append) if append.entries.is_empty() => "empty append",
        Body::Append(_) => "append",
        Body::Accepted(_) => "accepted",
        Body::Rejected(_) => "rejected",
        Body::Heard { .. } => "heard",
        Body::Behind { .. } => "behind",
        Body::RequestVote(request) if request.pre => "pre-vote",
        Body::RequestVote(_) => "request",
        Body::Vote { .. } => "vote",
        Body::TimeoutNow => "timeout now",
        Body::ReadAsk { .. } => "read ask",
        Body::ReadAnswer { .. } => "read answer",
        Body::Recall { .. } => "recall",
        Body::Recalled { .. } => "recalled",
        Body::Renew => "renew",
        Body::Outdated => "outdated",
    }
}
