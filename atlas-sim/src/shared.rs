//! What all nodes and clients of a run share: time, the network, the checkers, the trace.

use crate::adversary::Packet;
use crate::checkers::Violation;
use crate::checkers::agreement::Agreement;
use crate::checkers::execution::Execution;
use crate::checkers::facts::Facts;
use crate::checkers::history::History;
use crate::checkers::validity::Validity;
use crate::checkers::votes::Votes;
use crate::events::Queue;
use crate::faults::FaultCounts;
use crate::network::Network;
use crate::plan::Plan;
use crate::protocol::SimProtocol;
use crate::trace::Trace;
use atlas_common::{ClientId, NodeId, Time, View};
use atlas_core::Membership;
use atlas_smr_core::client_message::{ClientMessage, ReplyMessage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Something that is to happen. What happens to a replica names its *life*: a crash ends one, and
/// what was meant for it happens no more.
#[derive(Debug)]
pub(crate) enum Event<P: SimProtocol> {
    /// A packet arrives at a replica.
    Packet {
        from: NodeId,
        to: NodeId,
        packet: Box<Packet<P>>,
    },
    /// A client's message arrives at a replica.
    Request {
        client: usize,
        id: ClientId,
        to: NodeId,
        message: ClientMessage,
    },
    /// A replica's message arrives at a client.
    Reply {
        client: usize,
        from: NodeId,
        reply: ReplyMessage,
    },
    /// A replica's timer may have run out.
    Timer { node: NodeId, life: u64 },
    /// A replica carries out what gathered.
    Flush { node: NodeId, life: u64 },
    /// A replica's disk has synced.
    Synced { node: NodeId, life: u64 },
    /// A replica's checkpoint store has done its next piece of work.
    Stored { node: NodeId, life: u64 },
    /// A replica's executor has done its next piece of work.
    Executed { node: NodeId, life: u64 },
    /// A read is answered.
    Answer {
        node: NodeId,
        life: u64,
        number: u64,
    },
    /// A client wants to act.
    Wake { client: usize },
    /// A Byzantine client acts.
    Mischief { index: usize },
    /// A Byzantine replica acts.
    Tick { node: NodeId },
    /// The next step of the schedule.
    Act { index: usize },
}

/// How a view began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ViewChange {
    /// A replica had slots in flight when it left the one before.
    pub(crate) in_flight: bool,
    /// Calls were outstanding then.
    pub(crate) under_load: bool,
}

/// What the oracles have seen.
#[derive(Debug)]
pub(crate) struct Oracles {
    pub(crate) agreement: Agreement,
    pub(crate) validity: Validity,
    pub(crate) execution: Execution,
    pub(crate) history: History,
    pub(crate) facts: Facts,
    pub(crate) votes: Votes,
    /// The views that correct replicas entered.
    pub(crate) views: BTreeMap<View, ViewChange>,
    /// The first thing that went wrong.
    pub(crate) violation: Option<Violation>,
}

/// Everything that nodes share.
#[derive(Debug)]
pub(crate) struct Shared<P: SimProtocol> {
    pub(crate) plan: Plan,
    pub(crate) queue: Queue<Event<P>>,
    pub(crate) network: Network,
    pub(crate) counts: FaultCounts,
    pub(crate) trace: Trace,
    pub(crate) oracles: Oracles,
    pub(crate) membership: Arc<Membership>,
    pub(crate) counters: BTreeMap<&'static str, u64>,
    /// By what its connection belongs to, where a client is: sessions of one that has gone on under
    /// another instance still lead to it.
    pub(crate) clients: BTreeMap<ClientId, usize>,
}

impl<P: SimProtocol> Shared<P> {
    pub(crate) fn now(&self) -> Time {
        self.queue.now()
    }

    /// Notes a verdict of an oracle; the first violation stays.
    pub(crate) fn note<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(violation) => {
                self.oracles.violation.get_or_insert(violation);
                None
            }
        }
    }

    pub(crate) fn count(&mut self, name: &'static str, times: u64) {
        if times > 0 {
            *self.counters.entry(name).or_default() += times;
        }
    }

    /// Sends over the network; `event` makes the event of an arrival.
    pub(crate) fn transmit(&mut self, from: usize, to: usize, mut event: impl FnMut() -> Event<P>) {
        let now = self.queue.now();
        let [first, second] = self.network.send(from, to, now, &mut self.counts);
        if let Some(at) = first {
            self.queue.at(at, event());
        }
        if let Some(at) = second {
            self.queue.at(at, event());
        }
    }

    pub(crate) fn line(&mut self, who: impl std::fmt::Display, what: std::fmt::Arguments<'_>) {
        let now = self.queue.now();
        self.trace.line(now, who, what);
    }
}
