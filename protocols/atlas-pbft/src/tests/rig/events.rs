//! Virtual time: what happens when, and the transfers that a driver does.

use super::{Event, Out, Rig, request_of};
use crate::Pbft;
use crate::message::Message;
use atlas_common::{Digest, NodeId, SeqNo, Time};
use atlas_core::{Input, Installed, OrderingProtocol, Reject, Verified};
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

    /// Runs until the condition holds. Fails after ten virtual minutes.
    pub(in crate::tests) fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.now.after(Duration::from_secs(600));
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
            let last = |i: &usize| rig.pbft(*i).status().decided;
            let first = last(&alive[0]);
            let same = alive.iter().all(|i| last(i) == first);
            same && alive.iter().all(|i| rig.nodes[*i].pool.is_empty())
        });
    }

    pub(in crate::tests) fn describe(&self) -> String {
        let status = |i: &usize| format!("\n{i}: {:?}", self.pbft(*i).status());
        self.alive().iter().map(status).collect()
    }

    pub(super) fn advance_until(&mut self, end: Time) -> bool {
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

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => {
                if self.nodes[to.index()].protocol.is_some() {
                    let sent = format!("{message:?}");
                    let verdict = self.inject(from.index(), to.index(), message);
                    assert_eq!(verdict, Ok(()), "a correct replica's message: {sent}");
                }
            }
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
            Event::Body { at, digest } => self.fetch_body(at.index(), digest),
            Event::Fetch { at, at_least } => self.fetch_state(at.index(), at_least),
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
        let config = self.config(to);
        let checked =
            Verified::check::<Pbft>(&config, &self.membership, from, message, &mut |_| Ok(()))?;
        self.step(
            to,
            Input::Message {
                from,
                message: checked,
            },
        );
        Ok(())
    }

    pub(super) fn hears(&self, a: usize, b: usize) -> bool {
        let (a, b) = (NodeId(a as u32), NodeId(b as u32));
        self.groups.iter().all(|g| g.contains(&a) == g.contains(&b))
    }

    pub(super) fn fetch_body(&mut self, i: usize, digest: Digest) {
        if !self.nodes[i].fetching.contains(&digest) {
            return;
        }
        let peers = self
            .alive()
            .into_iter()
            .filter(|p| *p != i && self.hears(i, *p));
        let held = |p: usize| {
            let kept = self.nodes[p]
                .decided
                .values()
                .find(|(b, _)| b.digest() == digest);
            self.pbft(p)
                .body(&digest)
                .or_else(|| kept.map(|(batch, _)| batch.clone()))
        };
        if let Some(batch) = peers.filter_map(held).next() {
            self.step(i, Input::Body(batch));
        }
        let again = self.now.after(Duration::from_millis(50));
        self.schedule(
            again,
            Event::Body {
                at: NodeId(i as u32),
                digest,
            },
        );
    }

    pub(super) fn fetch_state(&mut self, i: usize, at_least: SeqNo) {
        self.nodes[i].fetching_state = false;
        let Some(own) = self.nodes[i].protocol.as_ref().map(|p| p.status().decided) else {
            return;
        };
        let alive = self.alive();
        let peer = alive.into_iter().filter(|p| *p != i && self.hears(i, *p));
        let ahead = |p: &usize| self.pbft(*p).status().decided;
        let Some(peer) = peer.filter(|p| ahead(p) > own).max_by_key(|p| ahead(p)) else {
            self.nodes[i].fetching_state = true;
            self.schedule_soon(Event::Fetch {
                at: NodeId(i as u32),
                at_least,
            });
            return;
        };
        let (checkpoint, decided) = (
            self.nodes[peer].checkpoint.clone(),
            self.nodes[peer].decided.clone(),
        );
        if let Some(certificate) = checkpoint.filter(|c| c.id.seq > own) {
            let low = certificate.id.seq;
            let node = &mut self.nodes[i];
            node.decided = decided
                .range(..=low)
                .map(|(s, d)| (*s, d.clone()))
                .collect();
            let known: BTreeSet<u64> = node
                .decided
                .values()
                .flat_map(|(batch, _)| batch.bundles().iter().map(request_of))
                .collect();
            node.pool.retain(|number, _| !known.contains(number));
            node.checkpoint = Some(Arc::clone(&certificate));
            let installed = Installed {
                certificate,
                frontier: Bytes::new(),
            };
            self.step(i, Input::StateInstalled(installed));
            self.watch_oldest(i);
        }
        for (seq, (batch, proof)) in decided {
            let (config, digest) = (self.config(i), batch.digest());
            let verdict = Pbft::verify_decision(&config, &self.membership, seq, &digest, &proof);
            assert_eq!(verdict, Ok(()));
            self.step(i, Input::Decided { seq, batch, proof });
        }
    }
}
