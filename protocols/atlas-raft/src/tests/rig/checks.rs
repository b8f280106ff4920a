//! What must hold in every run (figure 3.2 of the thesis, and persist-before-send).

use super::Rig;
use crate::message::{Body, Message};
use crate::record::Record;
use atlas_common::{NodeId, SeqNo, View};
use atlas_core::{Batch, ReadId, Recipients};
use std::collections::BTreeMap;

/// Whether the replicas of this thread have a deliberate defect: then the persistence of messages
/// is not looked at, so that it shows by its consequences.
pub(super) fn has_bug() -> bool {
    #[cfg(feature = "seeded-bugs")]
    return crate::tests::random::BUG.get().is_some();
    #[cfg(not(feature = "seeded-bugs"))]
    false
}

impl Rig {
    pub(super) fn check_message(&mut self, i: usize, to: Recipients, message: &Message) {
        let (from, term) = (self.nodes[i].id, message.term);
        match &message.body {
            Body::Append(_) => {
                // Election Safety: at most one leader in a term.
                let leader = *self.leaders.entry(term).or_insert(from);
                assert_eq!(leader, from, "two leaders in term {term}");
            }
            Body::Vote {
                pre: false,
                granted: true,
            } => {
                let Recipients::One(to) = to else {
                    panic!("a vote is for one candidate");
                };
                self.check_vote(i, term, to);
            }
            Body::RequestVote(request) if !request.pre => self.check_vote(i, term, from),
            Body::Accepted(accepted) if !has_bug() => {
                let durable = self.durable_up_to(i);
                assert!(
                    accepted.matched <= durable,
                    "{from} acknowledges {} with {durable} durable",
                    accepted.matched
                );
            }
            _ => {}
        }
    }

    /// One vote in a term, over all lives, and none before it is durable.
    fn check_vote(&mut self, i: usize, term: View, candidate: NodeId) {
        let node = &self.nodes[i];
        let earlier = *self.votes.entry((node.id, term)).or_insert(candidate);
        // One that lost its log may vote again where its vote can no longer matter.
        let excused = self.forgot.contains(&node.id);
        assert!(
            earlier == candidate || excused,
            "{} votes twice in {term}",
            node.id
        );
        if has_bug() {
            return;
        }
        let durable = node.log.range(..=node.durable).rev();
        let hard = durable.filter_map(|(_, record)| match record {
            Record::Hard(hard) => Some(*hard),
            _ => None,
        });
        // Later ones may have been written by now; the vote itself must be among them.
        let mut hard = hard.take_while(|hard| hard.term >= term);
        let kept = hard.any(|hard| (hard.term, hard.voted) == (term, Some(candidate)));
        let later = node
            .log
            .range(..=node.durable)
            .any(|(_, record)| match record {
                Record::Hard(hard) => hard.term > term,
                _ => false,
            });
        assert!(
            kept || later,
            "{} sends a vote that is not durable",
            node.id
        );
    }

    /// The last entry that the replica would have after a power cut now.
    fn durable_up_to(&self, i: usize) -> SeqNo {
        let node = &self.nodes[i];
        let mut last = SeqNo::ZERO;
        for (_, record) in node.log.range(..=node.durable) {
            if let Record::Entries { first, entries } = record {
                last = first.prev().plus(entries.len() as u64);
            }
        }
        let stored = node.checkpoint.as_ref().map_or(SeqNo::ZERO, |c| c.seq());
        last.max(stored)
    }

    /// State Machine Safety, and decisions in order.
    pub(super) fn check_decision(&mut self, i: usize, seq: SeqNo, batch: &Batch) {
        let node = &self.nodes[i];
        let last = node
            .decided
            .last_key_value()
            .map_or(SeqNo::ZERO, |(seq, _)| *seq);
        assert_eq!(seq, last.next(), "decisions come in order at {}", node.id);
        let known = *self.decisions.entry(seq).or_insert(batch.digest());
        assert_eq!(known, batch.digest(), "agreement in slot {seq}");
    }

    /// Bounded memory, and that the log covers what was decided.
    pub(super) fn check_log(&self, i: usize) {
        let Some(raft) = &self.nodes[i].protocol else {
            return;
        };
        // A log transfer brings a window at a time.
        let windows = 4 * self.limits.window + 16;
        let entries = raft.log.len_without_nulls() as u64;
        assert!(entries <= windows, "{entries} entries");
        assert!(raft.log.base().0 <= raft.commit && raft.commit <= raft.log.last());
        assert!(raft.durable <= raft.log.last() && raft.log.base().0 <= raft.low);
    }

    /// A read sees everything that anybody had decided when it was asked for.
    pub(super) fn answer_read(&mut self, i: usize, id: ReadId, at: Option<SeqNo>) {
        let read = self.reads.get_mut(&id).expect("a read that was asked for");
        assert_eq!(read.answer, None, "answered twice");
        read.answer = Some(at);
        if let Some(seq) = at {
            let least = read.least;
            assert!(
                seq >= least,
                "{i} reads at {seq} where {least} was decided before"
            );
        }
    }

    /// At the end: all logs of running replicas agree where they are committed.
    pub(in crate::tests) fn check_logs_match(&self) {
        let mut terms: BTreeMap<SeqNo, View> = BTreeMap::new();
        for i in self.alive() {
            let raft = self.raft(i);
            for seq in raft.log.base().0.0..=raft.commit.0 {
                let term = raft.log.term_at(SeqNo(seq)).unwrap();
                let known = *terms.entry(SeqNo(seq)).or_insert(term);
                assert_eq!(known, term, "entry {seq} at {i}");
            }
        }
    }
}
