//! Calls that wait to be put into a bundle.

use crate::core::CallId;
use atlas_common::Time;
use bytes::Bytes;
use std::collections::VecDeque;

/// A call that was not sent yet (or is a read, for which that makes no difference).
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) operation: Bytes,
    pub(crate) deadline: Time,
    /// It has no effect, so that its failure is never of unknown outcome.
    pub(crate) read: bool,
}

/// What an operation adds to an encoded bundle besides its bytes: its length.
const LENGTH_BYTES: usize = 9;
/// What a bundle has besides its operations, generously.
const ENVELOPE_BYTES: usize = 512;

/// The queue, oldest first.
#[derive(Debug)]
pub(crate) struct Waiting {
    calls: VecDeque<Call>,
    bytes: usize,
    /// No call's deadline is earlier.
    earliest: Time,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self {
            calls: VecDeque::new(),
            bytes: 0,
            earliest: Time::NEVER,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The earliest deadline, or an earlier moment.
    pub(crate) fn earliest(&self) -> Time {
        self.earliest
    }

    pub(crate) fn push(&mut self, call: Call) {
        self.bytes += call.operation.len();
        self.earliest = self.earliest.min(call.deadline);
        self.calls.push_back(call);
    }

    /// Puts a call in front, where it stood before.
    pub(crate) fn push_front(&mut self, call: Call) {
        self.bytes += call.operation.len();
        self.earliest = self.earliest.min(call.deadline);
        self.calls.push_front(call);
    }

    /// Takes the oldest calls: as many as one bundle holds, at least one if there is one.
    pub(crate) fn take(&mut self, operations_max: usize, bytes_max: usize) -> Vec<Call> {
        let mut count = 0;
        let mut bytes = ENVELOPE_BYTES;
        for call in self.calls.iter().take(operations_max) {
            bytes += call.operation.len() + LENGTH_BYTES;
            if bytes > bytes_max && count > 0 {
                break;
            }
            count += 1;
        }
        let taken: Vec<Call> = self.calls.drain(..count).collect();
        self.bytes -= taken.iter().map(|call| call.operation.len()).sum::<usize>();
        if self.calls.is_empty() {
            self.earliest = Time::NEVER;
        }
        taken
    }

    /// Takes the calls whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<CallId> {
        if self.earliest > now {
            return Vec::new();
        }
        let mut expired = Vec::new();
        self.calls.retain(|call| {
            let passed = call.deadline <= now;
            if passed {
                expired.push(call.id);
            }
            !passed
        });
        self.bytes = self.calls.iter().map(|call| call.operation.len()).sum();
        self.earliest = self
            .calls
            .iter()
            .map(|call| call.deadline)
            .min()
            .unwrap_or(Time::NEVER);
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: u64, size: usize, deadline: u64) -> Call {
        let deadline = Time::from_millis(deadline);
        Call {
            id: CallId(id),
            operation: Bytes::from(vec![0; size]),
            deadline,
            read: false,
        }
    }

    fn ids(calls: &[Call]) -> Vec<u64> {
        calls.iter().map(|call| call.id.0).collect()
    }

    #[test]
    fn takes_the_oldest_first_within_both_bounds() {
        let mut waiting = Waiting::new();
        (0..5).for_each(|id| waiting.push(call(id, 100, 10)));
        assert_eq!(ids(&waiting.take(2, 10_000)), [0, 1]);
        assert_eq!(ids(&waiting.take(9, ENVELOPE_BYTES + 250)), [2, 3]);
        assert_eq!(ids(&waiting.take(9, 1)), [4]);
        assert_eq!((waiting.len(), waiting.bytes()), (0, 0));
        assert_eq!(waiting.earliest(), Time::NEVER);
    }

    #[test]
    fn expires_whatever_its_place() {
        let mut waiting = Waiting::new();
        waiting.push(call(0, 1, 30));
        waiting.push(call(1, 1, 10));
        assert_eq!(waiting.expire(Time::from_millis(9)), []);
        assert_eq!(waiting.expire(Time::from_millis(10)), [CallId(1)]);
        assert_eq!(waiting.earliest(), Time::from_millis(30));
        assert_eq!(waiting.bytes(), 1);
    }
}
