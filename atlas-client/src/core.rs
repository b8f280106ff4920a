//! The client as a state machine without I/O.

#[cfg(test)]
mod random_tests;
mod reading;
mod sending;
#[cfg(test)]
mod tests;

use crate::bundles::{Bundles, GivenUp};
use crate::config::{ConfigError, CoreConfig};
use crate::error::{CallError, Doubt, RequestId, outcome};
use crate::leader::{LeaderTracker, Target};
use crate::reads::Reads;
use crate::repliers::Repliers;
use crate::retransmit::RetransmitTimer;
use crate::session::Session;
use crate::waiting::{Call, Waiting};
use atlas_common::crypto::Signer;
use atlas_common::{ClientId, NodeId, SessionId, Time};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{
    ClientMessage, Consistency, LeaderHint, OperationResult, Reply, ReplyMessage,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// Names a call among those of one [`ClientCore`]. They count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What a [`ClientCore`] wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to one replica.
    Send {
        /// The replica.
        to: NodeId,
        /// What to send.
        message: ClientMessage,
    },
    /// Send this to all voting replicas.
    SendAll {
        /// What to send.
        message: ClientMessage,
    },
    /// A call came to its end. There is exactly one of these for each call.
    Completed {
        /// The call.
        call: CallId,
        /// Its reply, or why there is none.
        result: Result<Bytes, CallError>,
    },
}

/// A client without I/O: inputs go in by its methods, outputs come out of [`ClientCore::poll`].
///
/// The driver's duties: after any inputs, poll until nothing comes; call
/// [`ClientCore::on_timeout`] at [`ClientCore::next_deadline`] or later. Everything that is put in
/// between two rounds of polling shares a bundle, as far as bundles go; so a driver puts in all that
/// waits before it polls.
///
/// A bundle goes out when none is in flight, and otherwise only when as many calls wait as are in
/// flight already (or fill a bundle). A lone call so goes out at once, a second one beside it too, and
/// hundreds of callers who call again as soon as they are answered end up sharing one signature.
#[derive(Debug)]
pub struct ClientCore {
    config: CoreConfig,
    id: ClientId,
    signer: Arc<dyn Signer>,
    session: Session,
    waiting: Waiting,
    bundles: Bundles,
    reads: Reads,
    leader: LeaderTracker,
    repliers: Repliers,
    timer: RetransmitTimer,
    calls: u64,
    /// A session is wanted though no call waits.
    eager: bool,
    closed: bool,
    out: VecDeque<Output>,
}

impl ClientCore {
    /// A client that signs with `signer`; its identity is the signer's key and the configuration's
    /// `instance`.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: CoreConfig, signer: Arc<dyn Signer>) -> Result<Self, ConfigError> {
        config.validate()?;
        let id = ClientId {
            key: signer.public_key(),
            instance: config.instance,
        };
        let open = RequestBundle::open(id, &config.genesis, signer.as_ref());
        Ok(Self {
            id,
            session: Session::new(config.quorums.one_correct(), open.raw().clone()),
            waiting: Waiting::new(),
            bundles: Bundles::new(),
            reads: Reads::new(config.quorums.n()),
            leader: LeaderTracker::new(&config.quorums, config.instance),
            repliers: Repliers::new(config.quorums.n(), config.matching_ordered()),
            timer: RetransmitTimer::new(&config),
            calls: 0,
            eager: false,
            closed: false,
            out: VecDeque::new(),
            signer,
            config,
        })
    }

    /// Who this client is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// The session, while one is open.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.session.id()
    }

    /// The view and leader that enough replicas agree on, if any do.
    #[must_use]
    pub fn leader(&self) -> Option<LeaderHint> {
        self.leader.believed()
    }

    /// How many calls and reads have not come to their end.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.waiting.len() + self.bundles.live() + self.reads.len()
    }

    /// Opens a session now, if none is open, rather than when the first call needs one.
    pub fn connect(&mut self) {
        self.eager = self.session.id().is_none() && !self.closed;
    }

    /// Calls an operation, within the configuration's `call_timeout`.
    pub fn call(&mut self, now: Time, operation: Bytes) -> CallId {
        self.call_until(now.after(self.config.call_timeout), operation)
    }

    /// Calls an operation. It is given up at `deadline`.
    pub fn call_until(&mut self, deadline: Time, operation: Bytes) -> CallId {
        let id = self.next_id();
        self.enqueue(Call {
            id,
            operation,
            deadline,
            read: false,
        });
        id
    }

    /// Reads, within the configuration's `call_timeout`. `operation` must be one that the application
    /// can also execute in order, without an effect: that is what becomes of a read that the replicas
    /// cannot agree on, and of linearizable ones where the cluster has no unordered reads.
    pub fn read(&mut self, now: Time, operation: Bytes, consistency: Consistency) -> CallId {
        self.read_until(
            now,
            now.after(self.config.call_timeout),
            operation,
            consistency,
        )
    }

    /// As [`ClientCore::read`]. It is given up at `deadline`.
    pub fn read_until(
        &mut self,
        now: Time,
        deadline: Time,
        operation: Bytes,
        consistency: Consistency,
    ) -> CallId {
        let id = self.next_id();
        let call = Call {
            id,
            operation,
            deadline,
            read: true,
        };
        if consistency == Consistency::Linearizable && !self.config.unordered_reads {
            self.enqueue(call);
        } else if self.admit(&call, self.reads.len(), self.config.reads_in_flight_max) {
            self.start_read(now, call, consistency);
        }
        id
    }

    /// A replica's message arrived on the connection that belongs to `from`.
    pub fn on_message(&mut self, now: Time, from: NodeId, message: ReplyMessage) {
        if from.index() >= self.config.quorums.n() {
            return;
        }
        self.leader.hint(from, message.hint);
        match message.reply {
            Reply::Opened(session) => {
                if let Some(opened) = self.session.opened(from, session) {
                    self.measure(now, opened.asked_once_at);
                    self.eager = false;
                }
            }
            Reply::SessionExpired(session) => {
                if self.session.expired(from, session) {
                    self.session_expired(session);
                }
            }
            Reply::Results {
                session,
                first,
                results,
            } => {
                if self.session.id() == Some(session) && !results.is_empty() {
                    let answered = self.bundles.results(from, first, results);
                    self.measure(now, answered.sent_once_at);
                    for (call, result) in answered.calls {
                        self.answered(call, result);
                    }
                    let doubt = Doubt::Forgotten;
                    self.call_again_or_give_up(session, answered.forgotten, doubt);
                }
            }
            Reply::Read { id, result, .. } => self.read_answered(from, id, Some(result)),
            Reply::ReadRefused(id) => self.read_answered(from, id, None),
            // One replica's word about itself: the core neither asks for it nor relies on it.
            Reply::Status { .. } => {}
        }
    }

    /// The connection to a replica is lost: what went to it alone, or counts on its answer, goes to all.
    pub fn disconnected(&mut self, replica: NodeId) {
        self.leader.set_down(replica, true);
        for bundle in self.bundles.redirect(replica) {
            self.send(Target::All, ClientMessage::Bundle(bundle));
        }
    }

    /// The connection to a replica stands (again).
    pub fn connected(&mut self, replica: NodeId) {
        self.leader.set_down(replica, false);
    }

    /// Ends all calls: those that may have had an effect as [`CallError::UnknownOutcome`], the others
    /// as [`CallError::Closed`], as all that come later.
    pub fn close(&mut self) {
        self.closed = true;
        self.eager = false;
        let waiting = self.waiting.expire(Time::NEVER);
        let reads = self.reads.clear();
        for call in waiting.into_iter().chain(reads) {
            self.complete(call, Err(CallError::Closed));
        }
        let session = self.session.id().unwrap_or_default();
        for given_up in self.bundles.reset() {
            self.give_up(session, &given_up, Doubt::Closed, CallError::Closed);
        }
    }

    /// When [`ClientCore::on_timeout`] is due next; [`Time::NEVER`] when nothing is outstanding.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        let retransmitting = self.anybody_waits();
        let opening = self.session.resend_at().filter(|_| retransmitting);
        self.waiting
            .earliest()
            .min(self.reads.next_deadline())
            .min(self.bundles.next_deadline(retransmitting))
            .min(opening.unwrap_or(Time::NEVER))
    }

    /// Gives up what is past its deadline, and sends again what is unanswered.
    pub fn on_timeout(&mut self, now: Time) {
        for call in self.waiting.expire(now) {
            self.complete(call, Err(CallError::TimedOut));
        }
        let session = self.session.id().unwrap_or_default();
        for given_up in self.bundles.expire(now) {
            self.give_up(session, &given_up, Doubt::Deadline, CallError::TimedOut);
        }
        let resend_at = now.after(self.timer.timeout());
        let (expired, steps) = self.reads.on_timeout(now, resend_at);
        for call in expired {
            self.complete(call, Err(CallError::TimedOut));
        }
        for step in steps {
            self.read_step(step);
        }
        // Nobody is served by what nobody waits for: a client without callers is silent.
        if self.anybody_waits() {
            self.retransmit(now);
        }
    }

    /// The next thing to do, or `None` when all is done for now. What waits is put into bundles and
    /// signed here.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        if self.out.is_empty() {
            self.fill(now);
        }
        self.next_output()
    }

    /// As [`ClientCore::poll`], but leaves what waits where it is: for a driver that hands out
    /// replies first, to let those who get them call again.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }
}

// The parts of the above.
impl ClientCore {
    fn next_id(&mut self) -> CallId {
        self.calls += 1;
        CallId(self.calls)
    }

    fn anybody_waits(&self) -> bool {
        self.eager || !self.waiting.is_empty() || self.bundles.live() > 0
    }

    fn measure(&mut self, now: Time, sent_once_at: Option<Time>) {
        if let Some(sent_at) = sent_once_at {
            self.timer.measured(now.since(sent_at));
        }
    }

    fn complete(&mut self, call: CallId, result: Result<Bytes, CallError>) {
        self.out.push_back(Output::Completed { call, result });
    }

    fn answered(&mut self, call: CallId, result: OperationResult) {
        if let Some(result) = outcome(result) {
            self.complete(call, result);
        }
    }

    fn send(&mut self, target: Target, message: ClientMessage) {
        self.out.push_back(match target {
            Target::One(to) => Output::Send { to, message },
            Target::All => Output::SendAll { message },
        });
    }

    /// Whether a call may be taken in; it is completed with the reason when not.
    fn admit(&mut self, call: &Call, waiting: usize, waiting_max: usize) -> bool {
        let limit_bytes = self.config.limits.operation_bytes_max;
        let found_bytes = call.operation.len();
        let bytes_free = self
            .config
            .bytes_waiting_max
            .saturating_sub(self.waiting.bytes());
        let error = if self.closed {
            CallError::Closed
        } else if found_bytes > limit_bytes {
            CallError::TooLarge {
                found_bytes,
                limit_bytes,
            }
        } else if waiting >= waiting_max || found_bytes > bytes_free {
            CallError::Busy { waiting }
        } else {
            return true;
        };
        self.complete(call.id, Err(error));
        false
    }

    fn enqueue(&mut self, call: Call) {
        if self.admit(&call, self.waiting.len(), self.config.calls_waiting_max) {
            self.waiting.push(call);
        }
    }

    fn give_up(&mut self, session: SessionId, call: &GivenUp, doubt: Doubt, of_read: CallError) {
        let request = RequestId {
            client: self.id,
            session,
            operation: call.number,
        };
        let unknown = CallError::UnknownOutcome { request, doubt };
        let error = if call.waiter.read { of_read } else { unknown };
        self.complete(call.waiter.id, Err(error));
    }

    /// What was in flight is not sent again under another session: it may have been executed.
    fn session_expired(&mut self, session: SessionId) {
        let given_up = self.bundles.reset();
        self.call_again_or_give_up(session, given_up, Doubt::SessionExpired);
    }

    /// Operations that may have been executed, or were, and have no result: reads are called again.
    fn call_again_or_give_up(&mut self, session: SessionId, calls: Vec<GivenUp>, doubt: Doubt) {
        let (reads, others): (Vec<_>, Vec<_>) = calls.into_iter().partition(|one| one.waiter.read);
        for given_up in others {
            self.give_up(session, &given_up, doubt, CallError::TimedOut);
        }
        for read in reads.into_iter().rev() {
            let (id, deadline) = (read.waiter.id, read.waiter.deadline);
            let operation = read.operation;
            self.waiting.push_front(Call {
                id,
                operation,
                deadline,
                read: true,
            });
        }
    }
}
