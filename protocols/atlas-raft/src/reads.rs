//! Linearizable reads without the log (thesis, section 6.4): ReadIndex, leases, and reads at
//! followers.

use crate::message::Body;
use crate::raft::{Cx, Raft, Timer};
use atlas_common::{NodeId, SeqNo, Time};
use atlas_core::ReadId;
use std::collections::VecDeque;

/// Reads that wait at one replica, at most; more are refused.
const READS_MAX: usize = 1 << 16;

/// What waits to be read.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// At the leader, in the order of their rounds.
    waiting: VecDeque<WaitingRead>,
    /// At a follower: the question that is on its way.
    asked: Option<Asked>,
    /// At a follower: what the next question is for.
    next: Vec<ReadId>,
    /// The number of the last question. It starts at random, so that answers to an earlier life's
    /// questions are told apart.
    pub(crate) number: u64,
}

#[derive(Debug)]
struct WaitingRead {
    /// The round that must be confirmed.
    round: u64,
    /// What was committed when the read came.
    at: SeqNo,
    reader: Reader,
    since: Time,
}

#[derive(Clone, Copy, Debug)]
enum Reader {
    Own(ReadId),
    Peer(NodeId, u64),
}

#[derive(Debug)]
struct Asked {
    reads: Vec<ReadId>,
    since: Time,
}

impl Raft {
    pub(crate) fn on_read(&mut self, id: ReadId, cx: &mut Cx<'_>) {
        if self.leads() {
            return self.read_here(Reader::Own(id), cx);
        }
        let asked = self
            .reads
            .asked
            .as_ref()
            .map_or(0, |asked| asked.reads.len());
        if self.leader.is_none() || self.reads.next.len() + asked >= READS_MAX {
            return cx.read_refused(id);
        }
        self.reads.next.push(id);
        self.ask_leader(cx);
    }

    /// Section 6.4, steps 1 to 3. A leader that has committed nothing in its own term does not know
    /// what is committed; one that has asked nobody does not know whether it still leads.
    fn read_here(&mut self, reader: Reader, cx: &mut Cx<'_>) {
        if !self.knows_commit() || self.reads.waiting.len() >= READS_MAX {
            return self.answer_read(reader, None, cx);
        }
        if self.needs_no_round(cx.now()) {
            return self.answer_read(reader, Some(self.commit), cx);
        }
        // One round serves all reads that came before it began.
        let running = self.round > self.confirmed && !self.reads.waiting.is_empty();
        let (round, at, since) = (self.round + 1, self.commit, cx.now());
        self.reads.waiting.push_back(WaitingRead {
            round,
            at,
            reader,
            since,
        });
        if !running {
            self.begin_round(cx);
        }
    }

    fn knows_commit(&self) -> bool {
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::ReadBeforeOwnCommit) {
            return true;
        }
        self.commit >= self.own_first
    }

    fn needs_no_round(&self, now: Time) -> bool {
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::ReadWithoutRound) {
            return true;
        }
        // Section 6.4.1. Nobody helps another to be elected within `election_min` after it heard
        // this leader, unless this leader has asked for it.
        now < self.leased_until && !self.lease_void
    }

    fn answer_read(&self, reader: Reader, at: Option<SeqNo>, cx: &mut Cx<'_>) {
        match (reader, at) {
            (Reader::Own(id), Some(seq)) => cx.read_at(id, seq),
            (Reader::Own(id), None) => cx.read_refused(id),
            (Reader::Peer(to, number), at) => {
                let answer = self.message(Body::ReadAnswer { number, at });
                cx.send_to(to, answer);
            }
        }
    }

    /// Counts who has seen which round; what waited for one that a majority has seen may go on.
    pub(crate) fn confirm_rounds(&mut self, cx: &mut Cx<'_>) {
        if !self.leads() {
            return;
        }
        let round = |id: NodeId| match id == self.me {
            true => self.round,
            false => self.peers[id.index()].round,
        };
        let mut seen: Vec<u64> = self.membership.voters().map(round).collect();
        seen.sort_unstable_by(|a, b| b.cmp(a));
        let confirmed = seen.get(self.quorum() - 1).copied().unwrap_or(0);
        if confirmed <= self.confirmed {
            return;
        }
        self.confirmed = confirmed;
        while let Some((_, began)) = self.rounds.pop_front_if(|(round, _)| *round <= confirmed) {
            if let Some(lease) = self.config.settings.lease {
                self.leased_until = self.leased_until.max(began.after(lease));
            }
        }
        while let Some(read) = self.reads.waiting.pop_front_if(|r| r.round <= confirmed) {
            self.answer_read(read.reader, Some(read.at), cx);
        }
        let next = self.reads.waiting.front();
        if next.is_some_and(|read| read.round > self.round) {
            self.begin_round(cx);
        }
    }

    pub(crate) fn refuse_waiting_reads(&mut self, cx: &mut Cx<'_>) {
        for read in std::mem::take(&mut self.reads.waiting) {
            self.answer_read(read.reader, None, cx);
        }
    }

    /// Without check-quorum a leader may wait for its majority for ever; its readers do not.
    pub(crate) fn expire_waiting_reads(&mut self, cx: &mut Cx<'_>) {
        let (now, patience) = (cx.now(), self.config.settings.election_max);
        let late = |read: &mut WaitingRead| now.since(read.since) > patience;
        while let Some(read) = self.reads.waiting.pop_front_if(late) {
            self.answer_read(read.reader, None, cx);
        }
    }

    /// A follower asks the leader, once for all reads that have gathered.
    fn ask_leader(&mut self, cx: &mut Cx<'_>) {
        if self.reads.asked.is_some() || self.reads.next.is_empty() {
            return;
        }
        let (reads, since) = (std::mem::take(&mut self.reads.next), cx.now());
        self.reads.asked = Some(Asked { reads, since });
        self.reads.number = self.reads.number.wrapping_add(1);
        self.send_question(cx);
    }

    fn send_question(&self, cx: &mut Cx<'_>) {
        if let Some(leader) = self.leader {
            let number = self.reads.number;
            // A question promises nothing.
            let ask = self.message(Body::ReadAsk { number });
            cx.send_unguarded(atlas_core::Recipients::One(leader), ask);
            cx.set_timer(Timer::Heartbeat, self.config.settings.heartbeat);
        }
    }

    /// The question or its answer may be lost.
    pub(crate) fn ask_reads_again(&mut self, cx: &mut Cx<'_>) {
        self.expire_asked_reads(cx);
        if self.reads.asked.is_some() {
            self.send_question(cx);
        }
    }

    pub(crate) fn on_read_ask(&mut self, from: NodeId, number: u64, cx: &mut Cx<'_>) {
        let reader = Reader::Peer(from, number);
        if self.leads() {
            self.read_here(reader, cx);
        } else {
            self.answer_read(reader, None, cx);
        }
    }

    pub(crate) fn on_read_answer(&mut self, number: u64, at: Option<SeqNo>, cx: &mut Cx<'_>) {
        if number != self.reads.number {
            return;
        }
        let Some(asked) = self.reads.asked.take() else {
            return;
        };
        for id in asked.reads {
            self.answer_read(Reader::Own(id), at, cx);
        }
        self.ask_leader(cx);
    }

    pub(crate) fn expire_asked_reads(&mut self, cx: &mut Cx<'_>) {
        let patience = self.config.settings.election_max;
        let late = |asked: &Asked| cx.now().since(asked.since) > patience;
        if self.reads.asked.as_ref().is_some_and(late) {
            self.refuse_asked_reads(cx);
        }
    }

    /// The leader that was asked leads no more, or does not answer.
    pub(crate) fn refuse_asked_reads(&mut self, cx: &mut Cx<'_>) {
        let asked = self.reads.asked.take().map(|asked| asked.reads);
        let next = std::mem::take(&mut self.reads.next);
        for id in asked.into_iter().flatten().chain(next) {
            cx.read_refused(id);
        }
    }
}
