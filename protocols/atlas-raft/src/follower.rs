//! Following: taking the leader's entries (thesis, section 3.5).

use crate::message::{Accepted, Append, Body, Entry, EntryId, Proof, Rejected};
use crate::raft::{Cx, Raft};
use crate::record::Record;
use atlas_common::{NodeId, SeqNo};
use atlas_core::{Batch, Recipients, Reject};

/// What became of an append.
enum Taken {
    /// The log is the leader's up to here.
    UpTo(SeqNo),
    /// It does not hold the entry before the first one.
    Missing,
    /// It contradicts what is committed: no leader of this cluster can have sent it.
    Impossible,
}

impl Raft {
    pub(crate) fn on_append(&mut self, from: NodeId, append: Append, cx: &mut Cx<'_>) {
        if self.leads() {
            return cx.reject(from, Reject::Equivocation); // a term has one leader
        }
        self.heard_leader(from, cx);
        let Append {
            previous,
            entries,
            commit,
            round,
        } = append;
        let (heartbeat, new_round) = (entries.is_empty(), self.note_round(from, round, cx));
        match self.take_entries(previous, entries, cx) {
            Taken::Impossible => cx.reject(from, Reject::Equivocation),
            Taken::Missing => {
                let refused = self.refusal(previous);
                cx.send_to(from, refused);
            }
            Taken::UpTo(matched) => {
                self.verified = self.verified.max(matched);
                self.commit_to(commit.min(self.verified), cx);
                if !heartbeat || new_round {
                    self.acknowledge(from, cx);
                }
            }
        }
    }

    /// A round is answered once. The answer says nothing about what is durable here, so it need not
    /// wait for the disk: by the leader's election a majority has the term on its disks, and a
    /// crash of this replica takes nothing back from that.
    fn note_round(&mut self, from: NodeId, round: u64, cx: &mut Cx<'_>) -> bool {
        let new = round > self.round_seen;
        self.round_seen = self.round_seen.max(round);
        // With a disk that is up to date the acknowledgement is just as fast.
        if new && cx.last_lsn() > self.durable_lsn {
            let counts = self.counts();
            let heard = self.message(Body::Heard { round, counts });
            cx.send_unguarded(Recipients::One(from), heard);
        }
        new
    }

    /// Leaves once everything appended is durable: that is what it says.
    fn acknowledge(&self, to: NodeId, cx: &mut Cx<'_>) {
        let accepted = self.message(Body::Accepted(Accepted {
            matched: self.verified,
            room: self.room(),
            round: self.round_seen,
            counts: self.counts(),
        }));
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::AckBeforeDurable) {
            // The defect: a crash now forgets what a majority counted on.
            return cx.send_unguarded(Recipients::One(to), accepted);
        }
        cx.send_to(to, accepted);
    }

    fn refusal(&self, (previous, term): EntryId) -> crate::message::Message {
        let before = previous.prev().min(self.log.last());
        // What is committed is in the leader's log as well.
        let meets = self.log.last_not_above(before, term).max(self.commit);
        let term = self.log.term_at(meets).unwrap_or_default();
        self.message(Body::Rejected(Rejected {
            previous,
            hint: (meets, term),
            round: self.round_seen,
            counts: self.counts(),
        }))
    }

    fn take_entries(
        &mut self,
        previous: EntryId,
        mut entries: Vec<Entry>,
        cx: &mut Cx<'_>,
    ) -> Taken {
        let before = previous.0;
        if !self.log.holds(previous) {
            if before > self.commit {
                return Taken::Missing;
            }
            // Below the base nothing is known but that it is committed.
            if before >= self.log.base().0 {
                return Taken::Impossible;
            }
        }
        let up_to = before.plus(entries.len() as u64);
        let place = |i: usize| before.plus(i as u64 + 1);
        let known = |i: usize, entry: &Entry| {
            place(i) <= self.log.base().0 || self.log.holds((place(i), entry.term))
        };
        let new = (0..).zip(&entries).find(|(i, entry)| !known(*i, entry));
        let Some(new) = new.map(|(i, _)| i) else {
            #[cfg(feature = "seeded-bugs")]
            self.erase_above(up_to);
            return Taken::UpTo(up_to);
        };
        let first = place(new);
        if first <= self.commit {
            return Taken::Impossible;
        }
        // What there is no room for is left out, and said so. Empty entries need none: if the one
        // that a leader begins its term with did, a log that had filled up with those of leaders that
        // came to nothing would never be committed, nor any room made.
        let room = self.room();
        let needs_room = |i: usize| place(i) > room && !entries[i].batch.is_null();
        let fits = (new..entries.len()).find(|i| needs_room(*i));
        self.cramped = fits.is_some();
        entries.truncate(fits.unwrap_or(entries.len()));
        let fresh = entries.split_off(new);
        let matched = first.prev().plus(fresh.len() as u64);
        self.append(first, fresh, cx);
        Taken::UpTo(matched)
    }

    /// The defect: whatever follows the entries of an append is taken for a leftover.
    #[cfg(feature = "seeded-bugs")]
    fn erase_above(&mut self, seq: SeqNo) {
        let stale = self.has_bug(crate::bugs::SeededBug::StaleAppendErases);
        if stale && seq >= self.commit && seq > self.log.base().0 {
            self.log.truncate_from(seq.next());
            self.durable = self.durable.min(seq);
            self.verified = self.verified.min(seq);
        }
    }

    /// Puts entries in the place of whatever the log has from `first` on.
    fn append(&mut self, first: SeqNo, entries: Vec<Entry>, cx: &mut Cx<'_>) {
        if entries.is_empty() {
            return;
        }
        self.log.truncate_from(first);
        self.durable = self.durable.min(first.prev());
        let copy = entries.clone();
        let lsn = cx.persist(Record::Entries {
            first,
            entries: copy,
        });
        for entry in entries {
            self.log.append(entry, lsn);
        }
    }

    /// The leader has dropped what this replica lacks.
    pub(crate) fn on_behind(&mut self, from: NodeId, decided: SeqNo, cx: &mut Cx<'_>) {
        if self.leads() {
            return cx.reject(from, Reject::Equivocation);
        }
        self.heard_leader(from, cx);
        if decided > self.commit {
            cx.fetch_state(decided);
        }
    }

    /// A decision that log transfer brought: committed, whoever leads.
    pub(crate) fn on_learnt(&mut self, seq: SeqNo, batch: Batch, proof: Proof, cx: &mut Cx<'_>) {
        let term = proof.term;
        let falls = self
            .log
            .term_at(self.commit)
            .is_some_and(|last| term < last);
        if seq != self.commit.next() || falls {
            return;
        }
        if term > self.term {
            // A log never holds entries of a term that its replica has not entered.
            self.enter_term(term, cx);
        }
        if !self.log.holds((seq, term)) {
            if self.leads() {
                return; // a leader has all that is committed (section 3.6.3)
            }
            self.append(seq, vec![Entry { term, batch }], cx);
        }
        self.verified = self.verified.max(seq);
        self.commit_to(seq, cx);
    }

    /// There is room again: the leader is told at once.
    pub(crate) fn tell_room(&mut self, cx: &mut Cx<'_>) {
        let leader = self.leader.filter(|leader| *leader != self.me);
        if let Some(leader) = leader.filter(|_| self.cramped) {
            self.cramped = false;
            self.acknowledge(leader, cx);
        }
    }
}
