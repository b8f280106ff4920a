//! Bundles that were sent and not wholly answered.

use crate::core::CallId;
use crate::leader::Target;
use crate::votes::{Accepted, Tally};
use crate::waiting::Call;
use atlas_common::{NodeId, OpNumber, ReplicaSet, Time};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::OperationResult;
use bytes::Bytes;
use std::collections::VecDeque;

/// A call that waits for its reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) id: CallId,
    pub(crate) deadline: Time,
    pub(crate) read: bool,
}

#[derive(Debug)]
struct InFlight {
    bundle: RequestBundle,
    /// One for each operation, until it is answered or given up.
    waiters: Vec<Option<Waiter>>,
    /// Operations without an accepted result, whether or not anybody waits for it.
    unresolved: usize,
    tally: Tally,
    sent_at: Time,
    /// How often it was sent, and where the first time.
    attempts: u32,
    target: Target,
    resend_at: Time,
    /// No waiter's deadline is earlier.
    earliest: Time,
}

/// What became of operations in flight.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// The calls that got their result.
    pub(crate) calls: Vec<(CallId, OperationResult)>,
    /// The calls whose operation was executed without that anybody still has the result.
    pub(crate) forgotten: Vec<GivenUp>,
    /// When a bundle was sent that is now answered and was sent once only.
    pub(crate) sent_once_at: Option<Time>,
}

/// Who is to blame that something had to be sent again.
#[derive(Debug, Default)]
pub(crate) struct LetDown {
    /// The replica that it was sent to alone, unless that answered.
    pub(crate) target: Option<NodeId>,
    /// Those that were named to answer and did not, or contradicted each other.
    pub(crate) repliers: ReplicaSet,
}

/// A call that is given up.
#[derive(Debug)]
pub(crate) struct GivenUp {
    pub(crate) waiter: Waiter,
    pub(crate) number: OpNumber,
    /// Its operation.
    pub(crate) operation: Bytes,
}

/// The bundles of one session in flight, by their numbers.
#[derive(Debug)]
pub(crate) struct Bundles {
    queue: VecDeque<InFlight>,
    /// The number of the session's next operation.
    next: OpNumber,
    /// Calls that wait for a reply.
    live: usize,
}

impl Bundles {
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            next: OpNumber(1),
            live: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many calls wait for a reply.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// The number that the next operation gets.
    pub(crate) fn next(&self) -> OpNumber {
        self.next
    }

    /// All operations up to here are answered, or known to be executed and given up.
    pub(crate) fn acknowledged(&self) -> OpNumber {
        self.queue
            .front()
            .map_or(self.next, |oldest| oldest.bundle.first())
            .prev()
    }

    /// Operations from the oldest unanswered one to the newest.
    pub(crate) fn span(&self) -> usize {
        self.next.prev().since(self.acknowledged()) as usize
    }

    /// Takes in a bundle that was just made of these calls.
    pub(crate) fn push(
        &mut self,
        bundle: RequestBundle,
        calls: &[Call],
        tally: Tally,
        target: Target,
        (sent_at, resend_at): (Time, Time),
    ) {
        debug_assert_eq!(bundle.first(), self.next);
        let waiter = |call: &Call| {
            Some(Waiter {
                id: call.id,
                deadline: call.deadline,
                read: call.read,
            })
        };
        let waiters: Vec<Option<Waiter>> = calls.iter().map(waiter).collect();
        let earliest = calls
            .iter()
            .map(|call| call.deadline)
            .min()
            .unwrap_or(Time::NEVER);
        self.next = bundle.last().next();
        self.live += calls.len();
        let unresolved = calls.len();
        self.queue.push_back(InFlight {
            bundle,
            waiters,
            unresolved,
            tally,
            sent_at,
            attempts: 1,
            target,
            resend_at,
            earliest,
        });
    }

    /// Counts a replica's results for consecutive operations from `first` on.
    pub(crate) fn results(
        &mut self,
        from: NodeId,
        first: OpNumber,
        results: Vec<OperationResult>,
    ) -> Answered {
        let mut answered = Answered::default();
        let last = first.plus(results.len() as u64).prev();
        let exact = |b: &InFlight| b.bundle.first() == first && b.bundle.last() == last;
        if let Some(one) = self.queue.iter_mut().find(|b| exact(b)) {
            let accepted = one.tally.whole(from, results);
            one.accept(accepted, &mut answered);
        } else {
            for one in &mut self.queue {
                let (start, end) = (one.bundle.first(), one.bundle.last());
                if last < start || first > end {
                    continue;
                }
                let offset = first.since(start) as usize;
                let skipped = start.since(first) as usize;
                let accepted = one.tally.part(from, offset, &results[skipped..]);
                one.accept(accepted, &mut answered);
            }
        }
        self.live -= answered.calls.len() + answered.forgotten.len();
        self.retire();
        answered
    }

    /// Lets go of what needs no more: bundles with all results, and those that nobody waits for and
    /// that were certainly executed, because a later operation of the session was.
    fn retire(&mut self) {
        let newest = self
            .queue
            .iter()
            .rposition(|one| one.unresolved < one.waiters.len());
        let mut position = 0;
        self.queue.retain(|one| {
            let executed = newest.is_some_and(|newest| position < newest);
            position += 1;
            let abandoned = one.waiters.iter().all(Option::is_none);
            !(one.unresolved == 0 || abandoned && executed)
        });
    }

    /// Gives up the calls whose deadline has passed. Their bundles stay: the operations behind them
    /// in the session cannot be executed before them.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<GivenUp> {
        let mut expired = Vec::new();
        for one in &mut self.queue {
            if one.earliest <= now {
                one.give_up(|waiter| waiter.deadline <= now, &mut expired);
                let deadlines = one.waiters.iter().flatten().map(|waiter| waiter.deadline);
                one.earliest = deadlines.min().unwrap_or(Time::NEVER);
            }
        }
        self.live -= expired.len();
        expired
    }

    /// Gives up all calls, and forgets the session.
    pub(crate) fn reset(&mut self) -> Vec<GivenUp> {
        let mut given_up = Vec::new();
        for one in &mut self.queue {
            one.give_up(|_| true, &mut given_up);
        }
        *self = Self::new();
        given_up
    }

    /// When something is due: a deadline, or a retransmission while anybody waits.
    pub(crate) fn next_deadline(&self, retransmitting: bool) -> Time {
        let due = |one: &InFlight| {
            if retransmitting {
                one.earliest.min(one.resend_at)
            } else {
                one.earliest
            }
        };
        self.queue.iter().map(due).min().unwrap_or(Time::NEVER)
    }

    /// Whether the oldest bundle is to be sent again.
    pub(crate) fn oldest_is_due(&self, now: Time) -> bool {
        self.queue
            .front()
            .is_some_and(|oldest| oldest.resend_at <= now)
    }

    /// The bundles to be sent again now, the same bytes as ever, and who is to blame.
    pub(crate) fn resend(&mut self, now: Time, resend_at: Time, again: &mut Vec<Bytes>) -> LetDown {
        let mut let_down = LetDown::default();
        for one in self.queue.iter_mut().filter(|one| one.resend_at <= now) {
            if let (Target::One(replica), 1) = (one.target, one.attempts) {
                let repliers = one.bundle.repliers();
                let in_doubt = one.tally.in_doubt(repliers);
                let_down.repliers = let_down.repliers.union(in_doubt);
                // It may have done its part, and another is late with its answer.
                if in_doubt.contains(replica) || !repliers.contains(replica) {
                    let_down.target = Some(replica);
                }
            }
            one.attempts += 1;
            one.resend_at = resend_at;
            again.push(one.bundle.raw().clone());
        }
        let_down
    }

    /// The bundles that went to this replica alone, or count on its answer, and it is gone: the others
    /// have to be asked.
    pub(crate) fn redirect(&mut self, gone: NodeId) -> Vec<Bytes> {
        let mut again = Vec::new();
        let concerned = |one: &&mut InFlight| {
            let named = one.bundle.repliers().contains(gone);
            one.target == Target::One(gone) || named && one.target != Target::All
        };
        for one in self.queue.iter_mut().filter(concerned) {
            one.target = Target::All;
            // No round trip is measured on it: which of the two was answered?
            one.attempts += 1;
            again.push(one.bundle.raw().clone());
        }
        again
    }
}

impl InFlight {
    fn accept(&mut self, accepted: Accepted, answered: &mut Answered) {
        let before = self.unresolved;
        match accepted {
            Accepted::None => return,
            Accepted::All(results) => {
                self.unresolved = 0;
                for (position, result) in results.into_iter().enumerate() {
                    self.answer(position, result, answered);
                }
            }
            Accepted::Some(results) => {
                self.unresolved -= results.len();
                for (position, result) in results {
                    self.answer(position, result, answered);
                }
            }
        }
        if before > 0 && self.unresolved == 0 && self.attempts == 1 {
            answered.sent_once_at = Some(self.sent_at);
        }
    }

    fn answer(&mut self, position: usize, result: OperationResult, answered: &mut Answered) {
        let Some(waiter) = self.waiters.get_mut(position).and_then(Option::take) else {
            return;
        };
        match (result, self.bundle.operations().get(position)) {
            (OperationResult::Forgotten, Some(operation)) => answered.forgotten.push(GivenUp {
                waiter,
                number: self.bundle.first().plus(position as u64),
                operation: operation.clone(),
            }),
            (result, _) => answered.calls.push((waiter.id, result)),
        }
    }

    fn give_up(&mut self, which: impl Fn(&Waiter) -> bool, given_up: &mut Vec<GivenUp>) {
        let numbered = self.bundle.numbered();
        for ((number, operation), slot) in numbered.zip(&mut self.waiters) {
            if let Some(waiter) = slot.take_if(|waiter| which(waiter)) {
                given_up.push(GivenUp {
                    waiter,
                    number,
                    operation: operation.clone(),
                });
            }
        }
    }
}
