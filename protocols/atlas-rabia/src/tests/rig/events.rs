//! Virtual time: what happens when, and the transfers that a driver does.

use super::{Event, Out, Rig, request_of};
use crate::Rabia;
use crate::message::Message;
use atlas_common::{Digest, NodeId, SeqNo, Time};
use atlas_core::{Batch, Input, Installed, OrderingProtocol, Reject, Verified};
use bytes::Bytes;
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
            let same = alive
                .iter()
                .all(|i| rig.decided(*i) == rig.decided(alive[0]));
            let last = |i: &usize| rig.nodes[*i].decided.len() as u64;
            let same = same && alive.iter().all(|i| last(i) == rig.decided(*i));
            same && alive.iter().all(|i| rig.nodes[*i].pool.is_empty())
        });
    }

    pub(in crate::tests) fn describe(&self) -> String {
        let status = |i: &usize| {
            let (rabia, node) = (self.rabia(*i), &self.nodes[*i]);
            let waiting = (
                rabia.own,
                node.pool.len(),
                node.decided.len(),
                node.wants_batch,
            );
            format!("\n{i}: {:?} {waiting:?}", rabia.status())
        };
        self.alive().iter().map(status).collect()
    }

    fn advance_until(&mut self, end: Time) -> bool {
        let timers = self.nodes.iter().enumerate();
        let timer = timers
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
            Event::Deliver { from, to, message } => {
                if self.nodes[to.index()].protocol.is_some() {
                    let verdict = self.inject(from.index(), to.index(), message);
                    assert_eq!(verdict, Ok(()), "a correct replica's message");
                }
            }
            Event::Durable { at, life, lsn } => self.on_durable(at.index(), life, lsn),
            Event::Body { at, digest } => self.fetch_body(at.index(), digest),
            Event::Fetch { at, at_least } => self.fetch_state(at.index(), at_least),
        }
    }

    fn on_durable(&mut self, at: usize, life: u32, lsn: atlas_common::Lsn) {
        let node = &mut self.nodes[at];
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
            self.leave(at, out);
        }
        self.step(at, Input::Durable(lsn));
    }

    /// A message from one replica to another, checked as in production, stepped at once.
    pub(in crate::tests) fn inject(
        &mut self,
        from: usize,
        to: usize,
        message: Message,
    ) -> Result<(), Reject> {
        let (from, config) = (NodeId(from as u32), self.config());
        let mut any = |_: &Batch| Ok(());
        let message = Verified::check::<Rabia>(&config, &self.membership, from, message, &mut any)?;
        self.step(to, Input::Message { from, message });
        Ok(())
    }

    pub(super) fn hears(&self, a: usize, b: usize) -> bool {
        let (a, b) = (NodeId(a as u32), NodeId(b as u32));
        self.groups.iter().all(|g| g.contains(&a) == g.contains(&b))
    }

    fn fetch_body(&mut self, i: usize, digest: Digest) {
        if !self.nodes[i].fetching.contains(&digest) {
            return;
        }
        let peers = self.alive().into_iter();
        let mut peers = peers.filter(|p| *p != i && self.hears(i, *p));
        let held = |p: usize| {
            let decided = &self.nodes[p].decided;
            let kept = decided.values().find(|batch| batch.digest() == digest);
            self.rabia(p).body(&digest).or_else(|| kept.cloned())
        };
        if !self.withheld.contains(&digest)
            && let Some(batch) = peers.find_map(held)
        {
            self.step(i, Input::Body(batch));
        }
        let again = self.now.after(Duration::from_millis(50));
        let at = NodeId(i as u32);
        self.schedule(again, Event::Body { at, digest });
    }

    fn fetch_state(&mut self, i: usize, at_least: SeqNo) {
        self.nodes[i].fetching_state = false;
        if self.nodes[i].protocol.is_none() {
            return;
        }
        let own = self.decided(i);
        let peers = self.alive().into_iter();
        let peers = peers.filter(|p| *p != i && self.hears(i, *p) && self.decided(*p) > own);
        let Some(peer) = peers.max_by_key(|p| self.decided(*p)) else {
            self.nodes[i].fetching_state = true;
            let at = NodeId(i as u32);
            self.schedule_soon(Event::Fetch { at, at_least });
            return;
        };
        let checkpoint = self.nodes[peer].checkpoint.clone();
        let decided = self.nodes[peer].decided.clone();
        if let Some(certificate) = checkpoint.filter(|c| c.id.seq.0 > own) {
            let low = certificate.id.seq;
            let node = &mut self.nodes[i];
            let history = decided.range(..=low);
            node.decided = history.map(|(s, batch)| (*s, batch.clone())).collect();
            let known = node.decided.values().flat_map(Batch::bundles);
            let known: BTreeSet<u64> = known.map(request_of).collect();
            node.pool.retain(|number, _| !known.contains(number));
            node.checkpoint = Some(Arc::clone(&certificate));
            let frontier = Bytes::new();
            let installed = Installed {
                certificate,
                frontier,
            };
            self.step(i, Input::StateInstalled(installed));
        }
        for (seq, batch) in decided {
            let proof = ();
            self.step(i, Input::Decided { seq, batch, proof });
        }
    }
}
