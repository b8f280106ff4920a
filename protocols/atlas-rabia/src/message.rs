//! What replicas say to each other.

use atlas_common::{Digest, NodeId, SeqNo};
use atlas_core::Batch;
use serde::{Deserialize, Serialize};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// What a replica has to say about all slots, gathered in one step.
    Round(Round),
    /// Slots that are decided: a batch by its digest, or nothing.
    Decisions(Vec<(SeqNo, Option<Digest>)>),
    /// Send me the batch with this digest, which you proposed.
    Ask(Digest),
    /// What is the highest slot that you have taken part in?
    Question {
        /// Names the question, so that answers from before it are told apart.
        nonce: u64,
    },
    /// The answer to [`Message::Question`].
    Answer {
        /// The question.
        nonce: u64,
        /// No slot above has seen this replica take part, in any of its lives.
        reached: SeqNo,
    },
}

/// New batches, and proposals, states and votes of any number of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The sender has decided everything up to here.
    pub decided: SeqNo,
    /// The sender has cut its memory up to here.
    pub low: SeqNo,
    /// The highest slot that the sender knows to be under way, or decided.
    pub heard: SeqNo,
    /// Whether the sender waits, and wants to be sent what it lacks.
    pub wants: bool,
    /// Batches for everybody's queue.
    pub batches: Vec<Spread>,
    /// What the sender says in its slots, each in the order in which it was said.
    pub items: Vec<Item>,
}

/// A batch for everybody's queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Its place in the queue: its maker's hybrid clock.
    pub stamp: u64,
    /// Who made it.
    pub origin: NodeId,
    /// The batch.
    pub batch: Batch,
}

/// Something that a replica says in a slot, once and for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The slot.
    pub seq: SeqNo,
    /// What it says.
    pub said: Said,
}

/// The three kinds of messages of weak multi-valued consensus (the paper's Weak-MVC).
///
/// Where the paper sends 1, the digest of the only batch that a majority can have proposed is sent;
/// where it sends 0, nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// Exchange stage: this batch, or none.
    Proposal(Option<Digest>),
    /// First round of a phase.
    State {
        /// The phase, from 1.
        phase: u32,
        /// 1 with its batch, or 0.
        state: Option<Digest>,
    },
    /// Second round of a phase.
    Vote {
        /// The phase, from 1.
        phase: u32,
        /// The vote.
        vote: Vote,
    },
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vote {
    /// No majority of states was seen, so some were 1, with this batch: `?` in the paper. It is named
    /// so that the voter still knows it after a crash, should the coin fall on 1.
    Unsure(Digest),
    /// A majority of states was 0: the slot stays empty.
    Null,
    /// A majority of states was 1: the slot holds this batch.
    Batch(Digest),
}

impl Said {
    /// The phase, 0 for a proposal.
    #[must_use]
    pub const fn phase(&self) -> u32 {
        match self {
            Self::Proposal(_) => 0,
            Self::State { phase, .. } | Self::Vote { phase, .. } => *phase,
        }
    }

    /// The batch that it names, if any.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        match self {
            Self::Proposal(digest) | Self::State { state: digest, .. } => *digest,
            Self::Vote { vote, .. } => match vote {
                Vote::Batch(digest) | Vote::Unsure(digest) => Some(*digest),
                Vote::Null => None,
            },
        }
    }
}
