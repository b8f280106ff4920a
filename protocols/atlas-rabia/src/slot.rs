//! One slot: what has been said in it, and how far this replica has come.

use crate::message::{Said, Vote};
use atlas_common::{Digest, Lsn, NodeId, ReplicaSet, Time};
use atlas_core::Batch;
use std::collections::VecDeque;

/// Phases above the own one whose messages are kept; later ones are sent again when they are needed.
const PHASES_AHEAD_MAX: u32 = 64;

/// How far this replica has come in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    /// Others have begun; this replica has said nothing yet.
    #[default]
    Heard,
    /// It has proposed and waits for proposals.
    Exchange,
    /// It has sent its state of the phase and waits for states.
    State,
    /// It has sent its vote of the phase and waits for votes.
    Vote,
}

/// What a slot came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) digest: Option<Digest>,
    /// The phase in which this replica saw it; the highest number when it was told.
    pub(crate) phase: u32,
}

/// What became of something heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    New,
    /// Known, of a phase that is over, or of one too far ahead.
    Useless,
    /// The sender, or somebody before, has said otherwise.
    Conflict,
}

/// Who has said what in one phase; a bit for each voter, of which there are at most 100.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) states: ReplicaSet,
    pub(crate) ones: ReplicaSet,
    pub(crate) votes: ReplicaSet,
    pub(crate) vote_nulls: ReplicaSet,
    pub(crate) vote_ones: ReplicaSet,
}

/// What this replica has said in one phase: a byte or two, so that even a slot that a hostile network
/// keeps open for ever costs little.
#[derive(Clone, Copy, Debug)]
struct Own {
    state: bool,
    vote: Option<OwnVote>,
}

#[derive(Clone, Copy, Debug)]
enum OwnVote {
    Unsure,
    Null,
    Batch,
}

/// One slot.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) stage: Stage,
    /// The own phase; 0 up to the exchange.
    pub(crate) phase: u32,
    /// In the order in which they came.
    pub(crate) proposals: Vec<(NodeId, Option<Digest>)>,
    /// The only batch that the slot can come to hold: a majority has proposed it.
    pub(crate) candidate: Option<Digest>,
    /// Of the phases from `first_phase` on.
    tallies: VecDeque<Tally>,
    first_phase: u32,
    own: Vec<Own>,
    pub(crate) outcome: Option<Outcome>,
    /// The decided batch.
    pub(crate) body: Option<Batch>,
    /// Whether the decision is in the log.
    pub(crate) logged: bool,
    pub(crate) first_lsn: Option<Lsn>,
    /// Until when this replica waits for what may spare a null slot.
    pub(crate) patience: Option<Time>,
    /// When this replica last said something new here.
    pub(crate) moved: Time,
}

impl Slot {
    /// Counts what a voter says, this replica included.
    pub(crate) fn hear(&mut self, from: NodeId, said: Said) -> Heard {
        if let Said::Proposal(digest) = said {
            return match self.proposals.iter().find(|(id, _)| *id == from) {
                Some((_, known)) if *known == digest => Heard::Useless,
                Some(_) => Heard::Conflict,
                None => {
                    self.proposals.push((from, digest));
                    Heard::New
                }
            };
        }
        if let Some(digest) = said.digest()
            && *self.candidate.get_or_insert(digest) != digest
        {
            return Heard::Conflict;
        }
        let Some(tally) = self.tally_mut(said.phase()) else {
            return Heard::Useless;
        };
        let known = match said {
            Said::State { state, .. } if !tally.states.contains(from) => {
                tally.states.insert(from);
                if state.is_some() {
                    tally.ones.insert(from);
                }
                return Heard::New;
            }
            Said::Vote { vote, .. } if !tally.votes.contains(from) => {
                tally.votes.insert(from);
                match vote {
                    Vote::Unsure(_) => {}
                    Vote::Null => tally.vote_nulls.insert(from),
                    Vote::Batch(_) => tally.vote_ones.insert(from),
                }
                return Heard::New;
            }
            Said::State { state, .. } => tally.ones.contains(from) == state.is_some(),
            Said::Vote { vote, .. } => {
                tally.vote_ones.contains(from) == matches!(vote, Vote::Batch(_))
                    && tally.vote_nulls.contains(from) == (vote == Vote::Null)
            }
            Said::Proposal(_) => true,
        };
        if known {
            Heard::Useless
        } else {
            Heard::Conflict
        }
    }

    /// This replica says it: it counts itself.
    pub(crate) fn say(&mut self, me: NodeId, said: Said) {
        match said {
            Said::Proposal(_) => self.stage = Stage::Exchange,
            Said::State { phase, state } => {
                (self.stage, self.phase) = (Stage::State, phase);
                // Late votes of the phase before may still decide.
                while self.first_phase + 1 < phase {
                    self.tallies.pop_front();
                    self.first_phase += 1;
                }
                self.own.push(Own {
                    state: state.is_some(),
                    vote: None,
                });
            }
            Said::Vote { vote, .. } => {
                self.stage = Stage::Vote;
                if let Some(own) = self.own.last_mut() {
                    own.vote = Some(match vote {
                        Vote::Unsure(_) => OwnVote::Unsure,
                        Vote::Null => OwnVote::Null,
                        Vote::Batch(_) => OwnVote::Batch,
                    });
                }
            }
        }
        let heard = self.hear(me, said);
        debug_assert_ne!(heard, Heard::Conflict, "{said:?}");
    }

    fn tally_mut(&mut self, phase: u32) -> Option<&mut Tally> {
        let first = *[self.first_phase, 1].iter().max()?;
        self.first_phase = first;
        let ahead = phase
            .checked_sub(first)
            .filter(|ahead| *ahead < PHASES_AHEAD_MAX)? as usize;
        if self.tallies.len() <= ahead {
            self.tallies.resize(ahead + 1, Tally::default());
        }
        self.tallies.get_mut(ahead)
    }

    pub(crate) fn tally(&self, phase: u32) -> Tally {
        let ahead = phase.checked_sub(self.first_phase.max(1));
        let tally = ahead.and_then(|ahead| self.tallies.get(ahead as usize));
        tally.copied().unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn kept_tallies(&self) -> usize {
        self.tallies.len()
    }

    /// Whose proposals are here.
    pub(crate) fn proposers(&self) -> ReplicaSet {
        let mut voters = ReplicaSet::default();
        for (id, _) in &self.proposals {
            voters.insert(*id);
        }
        voters
    }

    /// The batch that most have proposed, and how many. Quadratic in the different batches, which are
    /// few.
    pub(crate) fn most_proposed(&self) -> Option<(Digest, usize)> {
        let named = || self.proposals.iter().filter_map(|(_, digest)| *digest);
        let count = |digest| named().filter(|other| *other == digest).count();
        named()
            .map(|digest| (digest, count(digest)))
            .max_by_key(|(digest, count)| (*count, *digest))
    }

    pub(crate) fn own_proposal(&self, me: NodeId) -> Option<Option<Digest>> {
        let own = self.proposals.iter().find(|(id, _)| *id == me);
        own.map(|(_, digest)| *digest)
    }

    pub(crate) fn is_undecided(&self) -> bool {
        self.outcome.is_none()
    }

    /// Whether this replica takes part, and the slot is still open.
    pub(crate) fn in_flight(&self) -> bool {
        self.is_undecided() && self.stage != Stage::Heard
    }

    /// Whose message of the own stage is not here.
    pub(crate) fn missing(&self, voters: usize) -> ReplicaSet {
        let tally = self.tally(self.phase);
        let here = match self.stage {
            Stage::Heard => ReplicaSet::default(),
            Stage::Exchange => self.proposers(),
            Stage::State => tally.states,
            Stage::Vote => tally.votes,
        };
        ReplicaSet::all(voters).without(here)
    }

    /// What this replica has said here: its proposal, and its states and votes from this phase on, of
    /// so many phases at most.
    pub(crate) fn own_words(&self, me: NodeId, from_phase: u32, phases_max: usize) -> Vec<Said> {
        let proposal = self.own_proposal(me).map(Said::Proposal);
        let skip = from_phase.saturating_sub(1);
        let phases = (1u32..).zip(&self.own).skip(skip as usize).take(phases_max);
        let later = phases.flat_map(|(phase, own)| {
            let state = self.candidate.filter(|_| own.state);
            let vote = own.vote.map(|vote| match (vote, self.candidate) {
                (OwnVote::Batch, Some(digest)) => Vote::Batch(digest),
                (OwnVote::Unsure, Some(digest)) => Vote::Unsure(digest),
                // Whoever says another vote knows the batch.
                (_, _) => Vote::Null,
            });
            let vote = vote.map(|vote| Said::Vote { phase, vote });
            [Some(Said::State { phase, state }), vote]
        });
        proposal.into_iter().chain(later.flatten()).collect()
    }

    /// The slot is over: only what it came to stays.
    pub(crate) fn close(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        self.tallies = VecDeque::new();
        self.own = Vec::new();
        self.patience = None;
    }
}
