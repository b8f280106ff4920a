//! The hand-over between callers and the client's task.
//!
//! A call costs its caller one short lock and, only when the queue was empty, one notification; the
//! task takes whole queues. So hundreds of callers wake the task once, not hundreds of times.

use crate::error::CallError;
use atlas_smr_core::client_message::{Consistency, StatusReport};
use bytes::Bytes;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Ordered,
    Read(Consistency),
}

/// A call on its way to the task.
#[derive(Debug)]
pub(crate) struct NewCall {
    pub(crate) kind: Kind,
    pub(crate) operation: Bytes,
    /// `None` is the client's usual one.
    pub(crate) timeout: Option<Duration>,
    pub(crate) reply: Answer,
}

/// Asks every replica how it is; each answers once at most.
pub(crate) type StatusAnswers = mpsc::Sender<StatusReport>;

/// Where a call's end is told.
pub(crate) type Answer = oneshot::Sender<Result<Bytes, CallError>>;

/// How far the client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening,
    Open,
    Closed,
}

/// What callers and the task share.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    calls_max: usize,
    work: Notify,
    pub(crate) phase: watch::Sender<Phase>,
}

#[derive(Debug, Default)]
struct Queue {
    calls: Vec<NewCall>,
    status: Vec<StatusAnswers>,
    session_wanted: bool,
    closed: bool,
}

impl Shared {
    pub(crate) fn new(calls_max: usize) -> Self {
        Self {
            queue: Mutex::default(),
            calls_max,
            work: Notify::new(),
            phase: watch::Sender::new(Phase::Opening),
        }
    }

    /// Hands a call over to the task.
    pub(crate) fn push(&self, call: NewCall) -> Result<(), CallError> {
        let mut queue = self.queue.lock();
        let waiting = queue.calls.len();
        if queue.closed {
            return Err(CallError::Closed);
        }
        if waiting >= self.calls_max {
            return Err(CallError::Busy { waiting });
        }
        queue.calls.push(call);
        drop(queue);
        if waiting == 0 {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Hands over the wish for the replicas' status.
    pub(crate) fn ask_status(&self, answers: StatusAnswers) {
        let mut queue = self.queue.lock();
        // Where it is dropped the asker sees the end of the answers.
        if !queue.closed && queue.status.len() < self.calls_max {
            queue.status.push(answers);
            self.work.notify_one();
        }
    }

    /// Somebody waits for a session though no call may.
    pub(crate) fn want_session(&self) {
        self.queue.lock().session_wanted = true;
        self.work.notify_one();
    }

    /// Whether somebody has waited for a session since this was asked last.
    pub(crate) fn take_session_wanted(&self) -> bool {
        std::mem::take(&mut self.queue.lock().session_wanted)
    }

    /// Takes the wishes for the replicas' status.
    pub(crate) fn take_status(&self) -> Vec<StatusAnswers> {
        std::mem::take(&mut self.queue.lock().status)
    }

    /// Takes no more calls, and has the task end.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.work.notify_one();
    }

    /// Waits for calls, or for the end.
    pub(crate) async fn work(&self) {
        self.work.notified().await;
    }

    /// Swaps the calls that came with the empty `into`. False when the client is to end.
    pub(crate) fn take(&self, into: &mut Vec<NewCall>) -> bool {
        let mut queue = self.queue.lock();
        std::mem::swap(&mut queue.calls, into);
        !queue.closed
    }

    /// How many calls wait to be taken.
    pub(crate) fn len(&self) -> usize {
        self.queue.lock().calls.len()
    }
}
