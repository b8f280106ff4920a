//! What a run came to.

use crate::checkers::Violation;
use crate::faults::FaultCounts;
use atlas_common::{NodeId, SeqNo};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The verdict over a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything held.
    Pass,
    /// Nothing wrong was done, but some time after the faults had healed not all calls were answered,
    /// or a correct replica had still not caught up.
    NoProgress {
        /// How many calls were answered.
        answered: u64,
        /// How many there were (or were still to come).
        expected: u64,
        /// A correct replica that is behind the others, and the last decision it has executed.
        lagging: Option<(NodeId, SeqNo)>,
    },
    /// A property did not hold.
    Diverged(Violation),
    /// A fault that the scenario is about never happened: the run shows nothing.
    Idle(String),
}

impl Verdict {
    /// Whether the run is a good one.
    #[must_use]
    pub const fn is_pass(&self) -> bool {
        matches!(self, Self::Pass)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::NoProgress {
                answered,
                expected,
                lagging,
            } => {
                write!(f, "no progress: {answered} of {expected} calls answered")?;
                match lagging {
                    Some((replica, at)) => write!(f, ", replica {replica} is behind at {at}"),
                    None => Ok(()),
                }
            }
            Self::Diverged(violation) => write!(f, "diverged: {violation}"),
            Self::Idle(what) => write!(f, "idle: the fault never happened: {what}"),
        }
    }
}

/// Everything there is to say about a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was run, in a line.
    pub plan: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Equal for runs that went the same way.
    pub trace_hash: u64,
    /// How much virtual time passed.
    pub elapsed: Duration,
    /// How many events there were.
    pub events: u64,
    /// Calls answered.
    pub operations: u64,
    /// The faults that really happened.
    pub faults: FaultCounts,
    /// Views entered by correct replicas after the first.
    pub view_changes: u64,
    /// Those of them that some correct replica entered with slots in flight.
    pub view_changes_in_flight: u64,
    /// Those that a correct replica looked for while clients' calls were outstanding.
    pub view_changes_under_load: u64,
    /// What correct replicas counted, summed up: dropped messages by reason, transfers and the like.
    pub counters: BTreeMap<&'static str, u64>,
    /// What happened, in lines, if it was asked for.
    pub transcript: String,
}

/// How many operations a run must complete to count.
pub const OPERATIONS_MIN: u64 = 200;

impl Report {
    /// Whether the run counts: enough operations, and a fault really happened.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.operations >= OPERATIONS_MIN && self.faults.total() > 0
    }

    /// A counter of the correct replicas.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }
}
