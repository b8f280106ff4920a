//! Reads that are not ordered.

use crate::core::CallId;
use crate::votes::Vote;
use crate::waiting::Call;
use atlas_common::{NodeId, ReplicaSet, Time};
use atlas_smr_core::client_message::{Consistency, OperationResult, ReadRequest};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// One read that was sent.
#[derive(Debug)]
struct Read {
    operation: Bytes,
    consistency: Consistency,
    deadline: Time,
    needed: usize,
    /// The latest answer of each replica.
    votes: BTreeMap<NodeId, Vote>,
    refused: ReplicaSet,
    /// How many replicas were asked.
    asked: usize,
    resend_at: Time,
}

/// What comes next for a read.
#[derive(Debug)]
pub(crate) enum ReadStep {
    /// Wait for more answers.
    Wait,
    /// Enough replicas agree.
    Done(CallId, OperationResult),
    /// Those asked do not agree, or do not answer: ask all.
    AskAll(ReadRequest),
    /// All were asked, to no avail: have it ordered.
    Order(Call),
}

/// The reads in flight.
#[derive(Debug)]
pub(crate) struct Reads {
    replicas: usize,
    reads: BTreeMap<CallId, Read>,
    /// When each is due: its deadline, or when it is taken a step further.
    due: BTreeSet<(Time, CallId)>,
}

impl Reads {
    pub(crate) fn new(replicas: usize) -> Self {
        Self {
            replicas,
            reads: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.reads.len()
    }

    /// Takes in a read that is sent to `asked` replicas, `needed` of which have to agree.
    pub(crate) fn start(
        &mut self,
        call: Call,
        consistency: Consistency,
        needed: usize,
        asked: usize,
        resend_at: Time,
    ) -> ReadRequest {
        let read = Read {
            operation: call.operation,
            consistency,
            deadline: call.deadline,
            needed,
            votes: BTreeMap::new(),
            refused: ReplicaSet::default(),
            asked,
            resend_at,
        };
        let request = read.request(call.id);
        self.due.insert((read.due(), call.id));
        self.reads.insert(call.id, read);
        request
    }

    /// A replica's answer; `None` when it refuses.
    pub(crate) fn answer(
        &mut self,
        from: NodeId,
        id: CallId,
        result: Option<OperationResult>,
    ) -> ReadStep {
        let Some(read) = self.reads.get_mut(&id) else {
            return ReadStep::Wait;
        };
        match result {
            None => {
                read.votes.remove(&from);
                read.refused.insert(from);
            }
            Some(result) if read.needed == 1 => {
                self.remove(id);
                return ReadStep::Done(id, result);
            }
            Some(result) => {
                let vote = Vote::of(&result);
                read.refused.remove(from);
                read.votes.insert(from, vote);
                if read.agreeing(vote) >= read.needed {
                    self.remove(id);
                    return ReadStep::Done(id, result);
                }
            }
        }
        if read.is_hopeless() {
            self.further(id, None)
        } else {
            ReadStep::Wait
        }
    }

    /// Takes a read a step further: from those asked first to all, from all to the order.
    fn further(&mut self, id: CallId, resend_at: Option<Time>) -> ReadStep {
        let Some(read) = self.reads.get_mut(&id) else {
            return ReadStep::Wait;
        };
        if read.asked >= self.replicas {
            let Some(read) = self.remove(id) else {
                return ReadStep::Wait;
            };
            let (operation, deadline) = (read.operation, read.deadline);
            return ReadStep::Order(Call {
                id,
                operation,
                deadline,
                read: true,
            });
        }
        self.due.remove(&(read.due(), id));
        read.asked = self.replicas;
        read.resend_at = resend_at.unwrap_or(read.resend_at);
        self.due.insert((read.due(), id));
        ReadStep::AskAll(read.request(id))
    }

    /// The reads that are due: those whose deadline passed, and what comes next for the others.
    pub(crate) fn on_timeout(
        &mut self,
        now: Time,
        resend_at: Time,
    ) -> (Vec<CallId>, Vec<ReadStep>) {
        let (mut expired, mut steps) = (Vec::new(), Vec::new());
        let due: Vec<CallId> = self
            .due
            .range(..=(now, CallId(u64::MAX)))
            .map(|(_, id)| *id)
            .collect();
        for id in due {
            if self.reads.get(&id).is_some_and(|read| read.deadline <= now) {
                self.remove(id);
                expired.push(id);
            } else {
                steps.push(self.further(id, Some(resend_at)));
            }
        }
        (expired, steps)
    }

    /// When something is due.
    pub(crate) fn next_deadline(&self) -> Time {
        self.due.first().map_or(Time::NEVER, |(time, _)| *time)
    }

    /// Gives up all of them.
    pub(crate) fn clear(&mut self) -> Vec<CallId> {
        self.due.clear();
        std::mem::take(&mut self.reads).into_keys().collect()
    }

    fn remove(&mut self, id: CallId) -> Option<Read> {
        let read = self.reads.remove(&id)?;
        self.due.remove(&(read.due(), id));
        Some(read)
    }
}

impl Read {
    fn request(&self, id: CallId) -> ReadRequest {
        let (consistency, operation) = (self.consistency, self.operation.clone());
        ReadRequest {
            id: id.0,
            consistency,
            operation,
        }
    }

    fn due(&self) -> Time {
        self.deadline.min(self.resend_at)
    }

    fn agreeing(&self, vote: Vote) -> usize {
        self.votes.values().filter(|other| **other == vote).count()
    }

    /// Whether too few of those asked are left to bring any answer to what it needs.
    fn is_hopeless(&self) -> bool {
        let best = self
            .votes
            .values()
            .map(|vote| self.agreeing(*vote))
            .max()
            .unwrap_or(0);
        let answered = self.votes.len() + self.refused.len();
        best + self.asked.saturating_sub(answered) < self.needed
    }
}
