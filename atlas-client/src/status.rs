//! Asking replicas how they are: each speaks for itself, nothing has to match.

use crate::handover::StatusAnswers;
use atlas_common::NodeId;
use atlas_smr_core::client_message::StatusReport;
use std::collections::{BTreeMap, BTreeSet};

/// The questions whose answers somebody still waits for.
#[derive(Debug, Default)]
pub(crate) struct StatusRounds {
    last: u64,
    rounds: BTreeMap<u64, Round>,
}

#[derive(Debug)]
struct Round {
    answers: StatusAnswers,
    heard: BTreeSet<NodeId>,
}

impl StatusRounds {
    /// A new question's number.
    pub(crate) fn ask(&mut self, answers: StatusAnswers) -> u64 {
        self.rounds.retain(|_, round| !round.answers.is_closed());
        self.last += 1;
        self.rounds.insert(
            self.last,
            Round {
                answers,
                heard: BTreeSet::new(),
            },
        );
        self.last
    }

    /// Passes on a replica's first answer to a question, if it speaks for itself.
    pub(crate) fn answered(&mut self, from: NodeId, id: u64, report: StatusReport) {
        let Some(round) = self.rounds.get_mut(&id) else {
            return;
        };
        if report.replica == from && round.heard.insert(from) {
            // Whoever does not wait any longer does not mind.
            drop(round.answers.try_send(report));
        }
    }
}
