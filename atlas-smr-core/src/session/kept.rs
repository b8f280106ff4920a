//! The results kept for one session, and how much room they take.

use crate::client_message::OperationResult;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What keeping a result takes besides the bytes of the reply: its place in the queue and its
/// allocation.
const OVERHEAD_BYTES: usize = 64;

/// What a result counts.
pub(super) fn cost(result: &OperationResult) -> usize {
    let reply_bytes = match result {
        OperationResult::Ok(reply) => reply.len(),
        _ => 0,
    };
    reply_bytes.saturating_add(OVERHEAD_BYTES)
}

/// The results of a session's newest operations, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    results: VecDeque<OperationResult>,
    bytes: usize,
}

impl Kept {
    pub(super) fn len(&self) -> usize {
        self.results.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &OperationResult> {
        self.results.iter()
    }

    /// Adds one; gives what it counts.
    pub(super) fn push(&mut self, result: OperationResult) -> usize {
        let bytes = cost(&result);
        self.results.push_back(result);
        self.bytes += bytes;
        bytes
    }

    /// Gives up all but the newest `count`; gives the bytes that makes free.
    pub(super) fn keep_newest(&mut self, count: usize) -> usize {
        let excess = self.results.len().saturating_sub(count);
        let freed = self
            .results
            .drain(..excess)
            .map(|result| cost(&result))
            .sum();
        self.bytes -= freed;
        freed
    }

    /// Gives up the oldest until no more than `level` bytes are kept; gives the bytes that makes free.
    pub(super) fn shrink_to(&mut self, level: usize) -> usize {
        let before = self.bytes;
        while self.bytes > level
            && let Some(oldest) = self.results.pop_front()
        {
            self.bytes -= cost(&oldest);
        }
        if before != self.bytes {
            self.results.shrink_to_fit();
        }
        before - self.bytes
    }
}

/// The highest level with at most `goal` bytes in all when nobody keeps more than the level.
pub(super) fn level(sizes: impl Iterator<Item = usize>, goal: usize) -> usize {
    let mut sizes: Vec<usize> = sizes.collect();
    sizes.sort_unstable();
    let mut left = goal;
    for (index, &size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - index);
        if size > share {
            return share;
        }
        left -= size;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_takes_from_those_that_keep_the_most() {
        let level = |sizes: &[usize], goal| level(sizes.iter().copied(), goal);
        assert_eq!(level(&[10, 20, 30], 60), usize::MAX);
        assert_eq!(level(&[10, 20, 30], 50), 20);
        assert_eq!(level(&[30, 10, 30], 50), 20);
        assert_eq!(level(&[1000, 10, 1000, 0], 100), 45);
        assert_eq!(level(&[5, 5, 5], 3), 1);
        assert_eq!(level(&[], 3), usize::MAX);
    }
}
