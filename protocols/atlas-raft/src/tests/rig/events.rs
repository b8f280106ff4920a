//! Virtual time: what happens when, and the transfers that a driver does.

use super::{Event, Out, Rig, request_of};
use crate::Raft;
use crate::message::Message;
use atlas_common::{NodeId, SeqNo, Time};
use atlas_core::{Input, Installed, OrderingProtocol, Reject, Verified};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl Rig {
    pub(super) fn schedule(&mut self, at: Time, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    pub(super) fn schedule_soon(&mut self, event: Event) {
        self.schedule(self.now.after(Duration::from_millis(4)), event);
    }

    /// Runs for this long.
    pub(in crate::tests) fn run(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while self.advance_until(end) {}
        self.now = end;
    }

    pub(in crate::tests) fn run_millis(&mut self, millis: u64) {
        self.run(Duration::from_millis(millis));
    }

    /// Runs until the condition holds. Fails after a virtual minute.
    pub(in crate::tests) fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.now.after(Duration::from_secs(60));
        while !condition(self) {
            assert!(
                self.advance_until(end),
                "no progress: {what}: {}",
                self.describe()
            );
        }
    }

    /// Runs until every running replica has decided every request that it knows of.
    pub(in crate::tests) fn settle(&mut self) {
        self.run_until("requests wait", |rig| {
            let alive = rig.alive();
            let last = |i: &usize| rig.raft(*i).status().decided;
            let first = last(&alive[0]);
            let same = alive.iter().all(|i| last(i) == first);
            same && alive.iter().all(|i| rig.nodes[*i].pool.is_empty())
        });
        self.check_logs_match();
    }

    pub(in crate::tests) fn describe(&self) -> String {
        let status = |i: &usize| {
            let (status, last) = (self.raft(*i).status(), self.raft(*i).log.last_id());
            let pool = self.nodes[*i].pool.len();
            let (raft, durable) = (self.raft(*i), self.raft(*i).durable);
            let (memory, peers) = (&raft.amnesia, &raft.peers);
            format!(
                "\n{i}: {status:?} last {last:?} durable {durable:?} pool {pool} {memory:?} {peers:?}"
            )
        };
        self.alive().iter().map(status).collect()
    }

    fn advance_until(&mut self, end: Time) -> bool {
        let running = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| !node.paused);
        let timer = running
            .filter_map(|(i, node)| Some((node.timers.next_deadline()?, i)))
            .min();
        let event = self.events.first_key_value().map(|(key, _)| *key);
        let timer_first = match (timer, event) {
            (Some((at, _)), Some((other, _))) => at < other,
            (timer, _) => timer.is_some(),
        };
        if timer_first {
            let Some((at, i)) = timer.filter(|(at, _)| *at <= end) else {
                return false;
            };
            self.now = self.now.max(at);
            if let Some(name) = self.nodes[i].timers.pop_due(self.now) {
                self.step(i, Input::Timeout(name));
            }
            return true;
        }
        let Some(key) = event.filter(|(at, _)| *at <= end) else {
            return false;
        };
        self.now = self.now.max(key.0);
        if let Some(event) = self.events.remove(&key) {
            self.happen(event);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Durable { at, life, lsn } => {
                let node = &mut self.nodes[at.index()];
                if node.life != life || node.protocol.is_none() {
                    return;
                }
                node.durable = node.durable.max(lsn);
                for (_, below) in node.compactions.extract_if(.., |(after, _)| *after <= lsn) {
                    node.log = node.log.split_off(&below);
                }
                let mut out: Vec<Out> = node.outbox.durable(lsn).collect();
                out.extend(node.decides.durable(lsn));
                for out in out {
                    self.leave(at.index(), out);
                }
                self.step(at.index(), Input::Durable(lsn));
            }
            Event::Stored {
                at,
                life,
                checkpoint,
            } => self.stored(at.index(), life, checkpoint),
            Event::Fetch { at, life } => self.fetch_state(at.index(), life),
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        // What is on its way when a link is cut is lost with it.
        if self.cuts.contains(&(from.index(), to.index())) {
            return;
        }
        let node = &mut self.nodes[to.index()];
        if node.paused {
            node.backlog.push((from, message));
        } else if node.protocol.is_some() {
            let sent = format!("{message:?}");
            let verdict = self.inject(from.index(), to.index(), message);
            assert_eq!(verdict, Ok(()), "a correct replica's message: {sent}");
        }
    }

    /// A message from one replica to another, checked as in production, stepped at once.
    pub(in crate::tests) fn inject(
        &mut self,
        from: usize,
        to: usize,
        message: Message,
    ) -> Result<(), Reject> {
        let from = NodeId(from as u32);
        let config = self.config();
        let any = &mut |_: &atlas_core::Batch| Ok(());
        let message = Verified::check::<Raft>(&config, &self.membership, from, message, any)?;
        self.step(to, Input::Message { from, message });
        Ok(())
    }

    /// The replica's own checkpoint is durable.
    fn stored(&mut self, i: usize, life: u32, checkpoint: Installed) {
        let node = &mut self.nodes[i];
        let newer = node
            .checkpoint
            .as_ref()
            .is_none_or(|c| c.seq() < checkpoint.seq());
        if newer && node.life == life && node.protocol.is_some() {
            let certificate = Arc::clone(&checkpoint.certificate);
            node.checkpoint = Some(checkpoint);
            self.step(i, Input::Checkpointed(certificate));
        }
    }

    fn fetch_state(&mut self, i: usize, life: u32) {
        if self.nodes[i].life != life || self.nodes[i].protocol.is_none() {
            return;
        }
        self.nodes[i].fetching_state = false;
        let own = self.raft(i).status().decided;
        let hears = |p: &usize| {
            let (there, back) = (self.cuts.contains(&(*p, i)), self.cuts.contains(&(i, *p)));
            *p != i && !there && !back
        };
        let ahead = |p: &usize| self.raft(*p).status().decided;
        let peers = self.alive().into_iter().filter(hears);
        let Some(peer) = peers.filter(|p| ahead(p) > own).max_by_key(ahead) else {
            return; // whoever told it so will say it again
        };
        let decided = self.nodes[peer].decided.clone();
        let checkpoint = self.nodes[peer].checkpoint.clone();
        // Half the time what is a little behind is brought by decisions alone.
        let skip = self.rng.chance(0.5) && decided.contains_key(&own.next());
        if let Some(installed) = checkpoint.filter(|c| c.seq() > own && !skip) {
            self.install(i, installed, &decided);
        }
        let to = self.raft(i).status().decided.plus(self.limits.window);
        for (seq, (batch, proof)) in decided {
            if seq > self.raft(i).status().decided && seq <= to {
                self.transferred += 1;
                self.step(i, Input::Decided { seq, batch, proof });
            }
        }
    }

    /// A state is stored, given to the application, and reported.
    pub(in crate::tests) fn install(
        &mut self,
        i: usize,
        installed: Installed,
        decided: &std::collections::BTreeMap<SeqNo, (atlas_core::Batch, crate::message::Proof)>,
    ) {
        self.installs += 1;
        let low = installed.seq();
        let node = &mut self.nodes[i];
        node.decided = decided
            .range(..=low)
            .map(|(s, d)| (*s, d.clone()))
            .collect();
        let bundles = node.decided.values().flat_map(|(batch, _)| batch.bundles());
        let known: BTreeSet<u64> = bundles.map(request_of).collect();
        node.pool.retain(|number, _| !known.contains(number));
        node.checkpoint = Some(installed.clone());
        self.step(i, Input::StateInstalled(installed));
        self.watch_oldest(i);
    }
}
