//! What replicas say to each other.

use atlas_common::{Epoch, SeqNo, View};
use atlas_core::{Batch, Membership};
use serde::{Deserialize, Serialize};

/// Entries in one message, at most.
pub const ENTRIES_PER_APPEND_MAX: usize = 128;

/// A message between replicas. Unsigned: in a crash cluster nobody lies, and the connection names
/// the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The epoch: votes of another one count nothing here.
    pub epoch: Epoch,
    /// The sender's term.
    pub term: View,
    /// What it says.
    pub body: Body,
}

/// An entry's place and term: with these two equal, two logs are equal up to there (thesis,
/// section 3.5, the Log Matching Property).
pub type EntryId = (SeqNo, View);

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term of the leader that appended it.
    pub term: View,
    /// What it holds; null for the entry that a leader begins its term with.
    pub batch: Batch,
}

/// What travels with a decision: no evidence, for nobody lies, but the term of its entry, which a
/// replica that learns the decision from others needs for its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The term of the leader that appended the entry.
    pub term: View,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// The leader's entries, or a heartbeat without any (section 3.5).
    Append(Append),
    /// The sender's log is the leader's, durably, up to here.
    Accepted(Accepted),
    /// The sender's log does not hold `previous` of an append.
    Rejected(Rejected),
    /// The sender has seen this round of the leader, in the leader's term; what it appended need not
    /// be durable (section 6.4).
    Heard {
        /// The newest round it has seen.
        round: u64,
        /// As in [`Accepted::counts`].
        counts: bool,
    },
    /// The leader no longer has the entries that the receiver lacks: it must fetch decisions.
    Behind {
        /// The leader's last decision.
        decided: SeqNo,
    },
    /// The receiver's message was of a term that is over; the newer one is in the header.
    Outdated,
    /// A candidate wants the receiver's vote.
    RequestVote(RequestVote),
    /// The answer.
    Vote {
        /// Whether it answers a pre-vote.
        pre: bool,
        /// Whether the vote is given.
        granted: bool,
    },
    /// The leader asks the receiver to take over at once (section 3.10).
    TimeoutNow,
    /// A follower asks at which decision its readers may read (section 6.4).
    ReadAsk {
        /// Names the question, over all lives of the asker.
        number: u64,
    },
    /// The leader's answer.
    ReadAnswer {
        /// The question.
        number: u64,
        /// The decision to wait for; `None`: the leader cannot say.
        at: Option<SeqNo>,
    },
    /// The sender has lost its log, and asks for the receiver's term.
    Recall {
        /// Drawn anew each time it starts.
        nonce: u64,
    },
    /// The answer; the term is in the header.
    Recalled {
        /// The question's.
        nonce: u64,
    },
    /// The sender has lost its log, and votes again only when a new term has begun: would the leader
    /// please begin one.
    Renew,
}

/// The leader's entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The entry before the first of these.
    pub previous: EntryId,
    /// The entries; none in a heartbeat.
    pub entries: Vec<Entry>,
    /// The last entry that is committed.
    pub commit: SeqNo,
    /// The leader's current round, counted within its term. The receiver answers each round once.
    pub round: u64,
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Up to where the sender's durable log is the leader's.
    pub matched: SeqNo,
    /// Up to where it has room for entries.
    pub room: SeqNo,
    /// The newest round it has seen.
    pub round: u64,
    /// Whether the sender counts in majorities: a learner does not, nor one that has lost its log.
    pub counts: bool,
}

/// A refusal, with a hint at where the two logs may meet (section 3.5, on optimizing rejections).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The place of the `previous` that was refused.
    pub previous: SeqNo,
    /// The sender's last entry before it whose term is not above that of `previous`.
    pub hint: EntryId,
    /// The newest round it has seen.
    pub round: u64,
    /// As in [`Accepted::counts`].
    pub counts: bool,
}

/// What a candidate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVote {
    /// Its last entry.
    pub last: EntryId,
    /// It only wants to know whether it would be elected in the next term (section 9.6).
    pub pre: bool,
    /// The leader itself wants the election: the receiver need not stick to it (section 4.2.3).
    pub forced: bool,
}

impl Message {
    /// A message of this epoch.
    #[must_use]
    pub fn new(membership: &Membership, term: View, body: Body) -> Self {
        let epoch = membership.epoch();
        Self { epoch, term, body }
    }

    /// In a few words, for transcripts.
    #[must_use]
    pub fn describe(&self) -> String {
        let what = match &self.body {
            Body::Append(append) => append.describe(),
            Body::Accepted(accepted) => {
                let mute = if accepted.counts {
                    ""
                } else {
                    " (does not count)"
                };
                format!(
                    "accepted up to #{} room #{}{mute}",
                    accepted.matched, accepted.room
                )
            }
            Body::Rejected(rejected) => format!(
                "rejected after #{}, hint #{} of term {}",
                rejected.previous, rejected.hint.0, rejected.hint.1
            ),
            Body::RequestVote(request) => format!(
                "wants {}{}votes, last entry #{} of term {}",
                if request.forced { "forced " } else { "" },
                if request.pre { "pre-" } else { "" },
                request.last.0,
                request.last.1
            ),
            other => format!("{other:?}"),
        };
        format!("[term {}] {what}", self.term)
    }
}

impl Append {
    fn describe(&self) -> String {
        let Self {
            previous: (seq, term),
            entries,
            commit,
            round,
        } = self;
        let count = entries.len();
        format!("{count} entries after #{seq} of term {term}, commit #{commit}, round {round}")
    }
}

/// Whether `one` is at least as up-to-date as `other` (section 3.6.1): the later term wins, then the
/// longer log.
pub(crate) fn at_least_as_up_to_date(one: EntryId, other: EntryId) -> bool {
    (one.1, one.0) >= (other.1, other.0)
}
