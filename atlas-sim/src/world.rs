//! A whole run: building the cluster, one event after the other, and the verdict.

mod actions;
mod callers;

use crate::checkers::agreement::Agreement;
use crate::checkers::execution::Execution;
use crate::checkers::facts::Facts;
use crate::checkers::history::History;
use crate::checkers::validity::Validity;
use crate::checkers::votes::Votes;
use crate::checkers::{Violation, limits};
use crate::clients::{BAD_PAUSE, BadActor, Client, Known};
use crate::crypto::Keys;
use crate::events::Queue;
use crate::faults::FaultCounts;
use crate::network::Network;
use crate::node::Node;
use crate::panics;
use crate::plan::Plan;
use crate::protocol::SimProtocol;
use crate::shared::{Event, Oracles, Shared};
use crate::trace::Trace;
use crate::verdict::{Report, Verdict};
use atlas_common::crypto::{Signer, Verifier};
use atlas_common::digest::DigestBuilder;
use atlas_common::rng::SeededRng;
use atlas_common::{Epoch, NodeId, SeqNo, Time};
use atlas_core::{Member, Membership, Role};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// More events than any good run has: what comes to that is going round in circles.
const EVENTS_MAX: u64 = 4_000_000;
/// More events than can be on their way at once.
const QUEUE_MAX: usize = 200_000;
/// How often the queues of all replicas are measured, in events.
const MEASURED_EVERY: u64 = 64;

/// Runs a plan to its end. With `transcript`, the report has what happened in lines.
#[must_use]
pub fn run<P: SimProtocol>(plan: &Plan, transcript: bool) -> Report {
    let run = || World::<P>::new(plan.clone(), transcript).map(World::run);
    match panics::catch(run) {
        Ok(Ok(report)) => report,
        Ok(Err(reason)) => failed(plan, Violation::Unplayable(reason)),
        Err(message) => failed(plan, Violation::Panic(message)),
    }
}

fn failed(plan: &Plan, violation: Violation) -> Report {
    Report {
        seed: plan.seed,
        plan: plan.to_string(),
        verdict: Verdict::Diverged(violation),
        trace_hash: 0,
        elapsed: Duration::ZERO,
        events: 0,
        operations: 0,
        faults: FaultCounts::default(),
        view_changes: 0,
        view_changes_in_flight: 0,
        view_changes_under_load: 0,
        counters: BTreeMap::new(),
        transcript: String::new(),
    }
}

/// A cluster with its clients.
#[derive(Debug)]
pub(crate) struct World<P: SimProtocol> {
    shared: Shared<P>,
    nodes: Vec<Node<P>>,
    clients: Vec<Client>,
    bad: Vec<BadActor>,
    /// When each client is woken next.
    wakes: Vec<Time>,
    events: u64,
}

impl<P: SimProtocol> World<P> {
    fn new(plan: Plan, transcript: bool) -> Result<Self, String> {
        let mut rng = SeededRng::new(plan.seed);
        let ends = plan.ends();
        let keys = Keys::new(ends, rng.next_u64(), plan.real_signatures);
        let membership = membership::<P>(&plan, &keys)?;
        let known = Known {
            genesis: *membership.genesis(),
            quorums: *membership.quorums(),
            limits: plan.limits.clone(),
            quorum_reads: plan.quorum_reads,
            banking: plan.banking,
            bug: plan.bug,
        };
        plan.limits.validate().map_err(|error| error.to_string())?;
        let network = Network::new(ends, plan.quality, rng.fork());
        let nodes = (0..plan.replicas)
            .map(|i| node(&plan, i, &keys, rng.fork()))
            .collect();
        let mut clients = Vec::new();
        for (i, client) in plan.clients.iter().enumerate() {
            let signer = keys.signer(plan.client_end(i));
            let client = Client::new(i, *client, plan.keys, &known, signer, rng.fork());
            clients.push(client.map_err(|error| error.to_string())?);
        }
        let first_bad = plan.clients.len();
        let bad: Vec<BadActor> = (first_bad..)
            .zip(&plan.bad_clients)
            .map(|(i, kind)| {
                let signer = keys.signer(plan.client_end(i));
                BadActor::new(i, *kind, known.clone(), signer, rng.fork())
            })
            .collect();
        let addresses = clients
            .iter()
            .map(Client::id)
            .chain(bad.iter().map(BadActor::id));
        let oracles = Oracles {
            agreement: Agreement::new(plan.replicas),
            validity: Validity::default(),
            execution: Execution::default(),
            history: History::default(),
            facts: Facts::default(),
            votes: Votes::default(),
            views: BTreeMap::new(),
            violation: None,
        };
        Ok(Self {
            wakes: vec![Time::NEVER; clients.len()],
            shared: Shared {
                queue: Queue::default(),
                network,
                counts: FaultCounts::default(),
                trace: Trace::new(transcript),
                oracles,
                membership: Arc::new(membership),
                counters: BTreeMap::new(),
                clients: addresses.enumerate().map(|(i, id)| (id, i)).collect(),
                plan,
            },
            nodes,
            clients,
            bad,
            events: 0,
        })
    }

    fn run(mut self) -> Report {
        self.begin();
        let verdict = loop {
            let Some(event) = self.shared.queue.pop() else {
                break self.no_progress();
            };
            self.events += 1;
            self.shared.trace.mix(self.shared.queue.now().as_nanos());
            self.dispatch(event);
            if self.events.is_multiple_of(MEASURED_EVERY) {
                self.measure();
            }
            if let Some(violation) = self.shared.oracles.violation.take() {
                break Verdict::Diverged(violation);
            }
            if self.is_done() {
                break self.judge();
            }
            if self.is_too_late() {
                break self.no_progress();
            }
        };
        self.report(verdict)
    }

    fn begin(&mut self) {
        let line = self.shared.plan.to_string();
        self.shared.line("", format_args!("{line}"));
        for node in &mut self.nodes {
            node.give_birth(&mut self.shared);
            node.start(&mut self.shared);
            node.count_skew(&mut self.shared);
            if !node.is_correct() {
                let id = node.id;
                self.shared.queue.at(Time::ZERO, Event::Tick { node: id });
            }
        }
        for index in 0..self.shared.plan.schedule.len() {
            let at = self.shared.plan.schedule[index].0;
            self.shared.queue.at(at, Event::Act { index });
        }
        for index in 0..self.bad.len() {
            self.shared
                .queue
                .after(BAD_PAUSE, Event::Mischief { index });
        }
        for client in 0..self.clients.len() {
            self.schedule_client(client);
        }
    }

    fn dispatch(&mut self, event: Event<P>) {
        match event {
            Event::Packet { to: node, .. }
            | Event::Request { to: node, .. }
            | Event::Flush { node, .. }
            | Event::Timer { node, .. }
            | Event::Synced { node, .. }
            | Event::Stored { node, .. }
            | Event::Executed { node, .. }
            | Event::Answer { node, .. }
            | Event::Tick { node } => {
                if let Some(node) = self.nodes.get_mut(node.index()) {
                    node.take(event, &mut self.shared);
                }
            }
            Event::Reply {
                client,
                from,
                reply,
            } => self.on_reply(client, from, reply),
            Event::Wake { client } => self.wake(client),
            Event::Mischief { index } => self.mischief(index),
            Event::Act { index } => self.act(index),
        }
    }

    fn measure(&mut self) {
        if self.shared.queue.len() > QUEUE_MAX {
            let found = self.shared.queue.len() as u64;
            self.shared.note::<()>(Err(Violation::Unbounded {
                replica: NodeId(0),
                what: "messages on their way",
                found,
                limit: QUEUE_MAX as u64,
            }));
        }
        let index = (self.events / MEASURED_EVERY) as usize % self.nodes.len();
        let node = &self.nodes[index];
        if let Some(status) = node.status().filter(|_| node.is_correct()) {
            let bounded = limits::check(node.id, &status, &self.shared.plan.limits);
            self.shared.note(bounded);
        }
    }

    /// All calls are answered, and all correct replicas have executed the same.
    fn is_done(&self) -> bool {
        self.shared.now() >= self.shared.plan.heal_at
            && self.clients.iter().all(Client::is_done)
            && self.lagging().is_none()
    }

    fn lagging(&self) -> Option<(NodeId, SeqNo)> {
        let highest = self.shared.oracles.agreement.highest();
        let mut correct = self.nodes.iter().filter(|node| node.is_correct());
        correct
            .find(|node| node.executed() < highest)
            .map(|node| (node.id, node.executed()))
    }

    fn is_too_late(&self) -> bool {
        let plan = &self.shared.plan;
        self.shared.now() > plan.heal_at.after(plan.answered_within) || self.events > EVENTS_MAX
    }

    fn no_progress(&self) -> Verdict {
        Verdict::NoProgress {
            answered: self.clients.iter().map(Client::answered).sum(),
            expected: self.shared.plan.operations(),
            lagging: self.lagging(),
        }
    }

    /// The oracles that look at a whole run.
    fn judge(&mut self) -> Verdict {
        let mut states = self.nodes.iter().filter(|node| node.is_correct());
        let all = states
            .by_ref()
            .filter_map(|node| Some((node.id, node.state_digest()?)));
        let all: Vec<_> = all.collect();
        if let Some((first, one)) = all.first()
            && let Some((second, other)) = all.iter().find(|(_, digest)| digest != one)
        {
            return Verdict::Diverged(Violation::State {
                seq: self.shared.oracles.agreement.highest(),
                first: *first,
                one: *one,
                second: *second,
                other: *other,
            });
        }
        let oracles = &self.shared.oracles;
        if let Err(violation) = oracles.history.check(&oracles.execution) {
            return Verdict::Diverged(violation);
        }
        let counts = &self.shared.counts;
        let never = self
            .shared
            .plan
            .must_happen
            .iter()
            .find(|kind| counts.get(**kind) == 0);
        never.map_or(Verdict::Pass, |kind| Verdict::Idle(kind.name().to_owned()))
    }

    fn report(mut self, verdict: Verdict) -> Report {
        for node in &mut self.nodes {
            node.finish(&mut self.shared);
        }
        let unknown = self.clients.iter().map(Client::unknown).sum();
        let failed = self.clients.iter().map(Client::failed).sum();
        self.shared.count("requests that failed", failed);
        self.shared
            .counters
            .insert("calls of unknown outcome", unknown);
        let votes = &self.shared.oracles.votes;
        let (votes, again) = (votes.len() as u64, votes.again());
        self.shared.count("votes", votes);
        self.shared.count("votes said again in a later life", again);
        self.shared.line("", format_args!("{verdict}"));
        let views = &self.shared.oracles.views;
        Report {
            seed: self.shared.plan.seed,
            plan: self.shared.plan.to_string(),
            verdict,
            trace_hash: self.shared.trace.hash(),
            elapsed: self.shared.queue.now().since(Time::ZERO),
            events: self.events,
            operations: self.clients.iter().map(Client::answered).sum(),
            view_changes: views.len() as u64,
            view_changes_in_flight: views.values().filter(|view| view.in_flight).count() as u64,
            view_changes_under_load: views.values().filter(|view| view.under_load).count() as u64,
            faults: self.shared.counts,
            counters: self.shared.counters,
            transcript: self.shared.trace.into_transcript(),
        }
    }
}

fn membership<P: SimProtocol>(plan: &Plan, keys: &Keys) -> Result<Membership, String> {
    let member = |i: usize| Member {
        id: NodeId(i as u32),
        key: keys.signer(i).public_key(),
        role: Role::Voter,
    };
    let members = (0..plan.replicas).map(member).collect();
    let genesis = DigestBuilder::new("atlas v1 sim cluster")
        .number(plan.seed)
        .finish();
    let verifier: Arc<dyn Verifier> = keys.verifier();
    Membership::new(genesis, Epoch(0), P::FAULT_MODEL, members, verifier)
        .map_err(|error| error.to_string())
}

fn node<P: SimProtocol>(plan: &Plan, index: usize, keys: &Keys, rng: SeededRng) -> Node<P> {
    let id = NodeId(index as u32);
    let mut under = plan.adversaries.iter();
    let adversary = under
        .find(|(replica, _)| *replica == id)
        .map(|(_, name)| *name);
    let clock = plan
        .clocks
        .get(index)
        .copied()
        .unwrap_or(crate::plan::Clock::TRUE);
    let signer: Arc<dyn Signer> = keys.signer(index);
    Node::new(id, clock, adversary, signer, rng)
}

#[cfg(test)]
mod tests;
