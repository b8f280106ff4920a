//! Leading: proposals, replication, commitment (thesis, sections 3.5, 3.6.2, 10.2.1).

use crate::message::{Accepted, Append, Body, Entry, Rejected};
use crate::peer::{Flow, Peer};
use crate::raft::{Cx, Raft, Timer};
use crate::record::Record;
use atlas_common::{NodeId, SeqNo};
use atlas_core::{Batch, Recipients, Reject};
use std::collections::VecDeque;

impl Raft {
    pub(crate) fn begin_leading(&mut self, cx: &mut Cx<'_>) {
        let next = self.log.last().next();
        let members = self.membership.members().len();
        self.peers = vec![Peer::new(next, cx.now()); members];
        self.own_first = next;
        self.round = 0;
        self.rounds = VecDeque::new();
        self.confirmed = 0;
        self.leased_until = cx.now();
        self.lease_void = false;
        self.transfer = None;
        cx.set_timer(Timer::Heartbeat, self.config.settings.heartbeat);
    }

    /// It no longer leads: whoever waits for it is told.
    pub(crate) fn step_down(&mut self, cx: &mut Cx<'_>) {
        self.transfer = None;
        self.refuse_waiting_reads(cx);
        self.peers.clear();
        cx.cancel_timer(Timer::Heartbeat);
    }

    /// The empty entry that a term begins with. It needs no room in the window: without it nothing
    /// would be committed, and no room ever made.
    pub(crate) fn propose_first(&mut self, cx: &mut Cx<'_>) {
        self.append_own(Batch::null(), cx);
        self.replicate_to_all(cx);
        self.advance_commit(cx);
        self.ask_for_batch(cx);
    }

    pub(crate) fn on_propose(&mut self, batch: Batch, cx: &mut Cx<'_>) {
        if !self.can_propose() {
            return cx.stopped(vec![batch]);
        }
        self.append_own(batch, cx);
        self.replicate_to_all(cx);
        self.ask_for_batch(cx);
    }

    fn can_propose(&self) -> bool {
        let last = self.log.last();
        self.leads()
            && self.transfer.is_none()
            && last < self.high()
            && last.since(self.commit) < self.config.in_flight_max
    }

    pub(crate) fn ask_for_batch(&self, cx: &mut Cx<'_>) {
        if self.can_propose() {
            cx.want_batch();
        }
    }

    fn append_own(&mut self, batch: Batch, cx: &mut Cx<'_>) {
        let term = self.term;
        let entry = Entry { term, batch };
        let (first, entries) = (self.log.last().next(), vec![entry.clone()]);
        let lsn = cx.persist(Record::Entries { first, entries });
        self.log.append(entry, lsn);
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me.index();
        (0..self.peers.len()).filter(move |i| *i != me)
    }

    /// Sends everybody what it may be sent: one message for all, where all stand at the same place.
    pub(crate) fn replicate_to_all(&mut self, cx: &mut Cx<'_>) {
        let first = self.others().next();
        let next = first.map(|i| self.peers[i].next);
        let alike = |i: usize| {
            let peer = &self.peers[i];
            peer.flow == Flow::Pipeline && Some(peer.next) == next && self.may_send(i)
        };
        if let Some(first) = first
            && self.others().all(alike)
        {
            let to = self.others().map(|i| self.limit(i)).min();
            let append = self.append_for(first, to.unwrap_or_default());
            for i in self.others() {
                self.note_sent(i, &append);
            }
            self.send_append(Recipients::Others, append, cx);
        }
        for i in self.others() {
            self.replicate_to(i, cx);
        }
    }

    /// The last entry that a peer may be sent now.
    fn limit(&self, i: usize) -> SeqNo {
        let peer = &self.peers[i];
        let in_flight = peer
            .matched
            .max(self.log.base().0)
            .plus(self.config.settings.entries_in_flight_max);
        self.log.last().min(self.fits(peer.room)).min(in_flight)
    }

    /// Empty entries need no room.
    fn fits(&self, room: SeqNo) -> SeqNo {
        let mut last = room;
        while self.log.batch(last.next()).is_some_and(Batch::is_null) {
            last = last.next();
        }
        last
    }

    fn may_send(&self, i: usize) -> bool {
        let peer = &self.peers[i];
        let sent = peer.next.prev();
        let bytes = self.log.bytes_between(peer.matched, sent);
        peer.next <= self.limit(i)
            && peer.next > self.log.base().0
            && match peer.flow {
                Flow::Probe { waiting } => !waiting,
                Flow::Pipeline => bytes < self.config.settings.bytes_in_flight_max,
            }
    }

    fn append_for(&self, i: usize, to: SeqNo) -> Append {
        let next = self.peers[i].next;
        let bytes_max = self.config.settings.append_bytes_max;
        Append {
            entries: self.log.entries(next, to, bytes_max),
            ..self.empty_append(next)
        }
    }

    /// An append of nothing after the entry before `next`, which the log holds.
    fn empty_append(&self, next: SeqNo) -> Append {
        let before = next.prev();
        Append {
            previous: (before, self.log.term_at(before).unwrap_or_default()),
            entries: Vec::new(),
            commit: self.commit,
            round: self.round,
        }
    }

    fn note_sent(&mut self, i: usize, append: &Append) {
        let peer = &mut self.peers[i];
        peer.told = append.commit;
        match &mut peer.flow {
            Flow::Pipeline => peer.next = peer.next.plus(append.entries.len() as u64),
            Flow::Probe { waiting } => *waiting |= !append.entries.is_empty(),
        }
    }

    /// Section 10.2.1: the leader sends entries while its own disk still writes them. A crash in
    /// between loses nothing that anybody relies on: the leader counts itself towards a majority
    /// only when its record is durable, and whether its log or another's is the one that lives on is
    /// decided by votes, which are durable.
    fn send_append(&self, to: Recipients, append: Append, cx: &mut Cx<'_>) {
        cx.send_unguarded(to, self.message(Body::Append(append)));
    }

    /// Sends one member what it may be sent, in as many messages as the bounds allow.
    fn replicate_to(&mut self, i: usize, cx: &mut Cx<'_>) {
        while self.may_send(i) {
            let append = self.append_for(i, self.limit(i));
            self.note_sent(i, &append);
            self.send_append(Recipients::One(NodeId(i as u32)), append, cx);
        }
    }

    /// Sends everybody an append without entries: a heartbeat, a round for reads, news of a commit.
    fn send_empty_to_all(&mut self, cx: &mut Cx<'_>) {
        let next = self.others().next().map(|i| self.peers[i].next);
        let alike = |i: usize| Some(self.peers[i].next) == next;
        if let Some(next) = next
            && self.others().all(alike)
        {
            let append = self.empty_append(next);
            for i in self.others() {
                self.note_sent(i, &append);
            }
            return self.send_append(Recipients::Others, append, cx);
        }
        for i in self.others() {
            let append = self.empty_append(self.peers[i].next);
            self.note_sent(i, &append);
            self.send_append(Recipients::One(NodeId(i as u32)), append, cx);
        }
    }

    /// Begins a round: whoever answers it has seen this leader lead since.
    pub(crate) fn begin_round(&mut self, cx: &mut Cx<'_>) {
        self.round += 1;
        if self.config.settings.lease.is_some() {
            /// More rounds than are ever on their way at once.
            const ROUNDS_MAX: usize = 64;
            if self.rounds.len() == ROUNDS_MAX {
                self.rounds.pop_front();
            }
            self.rounds.push_back((self.round, cx.now()));
        }
        self.send_empty_to_all(cx);
        self.confirm_rounds(cx);
    }

    pub(crate) fn on_heartbeat_timeout(&mut self, cx: &mut Cx<'_>) {
        use crate::election::Role;
        match self.role {
            Role::Leader => self.on_heartbeat(cx),
            Role::PreCandidate | Role::Candidate => self.request_votes(cx),
            Role::Follower => self.ask_reads_again(cx),
        }
    }

    fn on_heartbeat(&mut self, cx: &mut Cx<'_>) {
        if self.config.settings.check_quorum && self.voters_heard(cx) < self.quorum() {
            // Section 6.2: without its majority it decides nothing, and only keeps clients waiting.
            return self.follow(None, cx);
        }
        cx.set_timer(Timer::Heartbeat, self.config.settings.heartbeat);
        self.expire_waiting_reads(cx);
        self.watch_transfer(cx);
        self.begin_round(cx);
    }

    /// How many voters, this one included, were heard within an election time-out.
    fn voters_heard(&self, cx: &Cx<'_>) -> usize {
        let since = |id: &NodeId| cx.now().since(self.peers[id.index()].heard);
        let recent = |id: &NodeId| since(id) <= self.config.settings.election_max;
        let voters = self.membership.voters();
        voters.filter(|id| *id == self.me || recent(id)).count()
    }

    /// A message from a member in the own term, when this replica leads.
    fn peer(&mut self, from: NodeId) -> Option<&mut Peer> {
        let other = self.leads() && from != self.me;
        self.peers.get_mut(from.index()).filter(|_| other)
    }

    pub(crate) fn on_accepted(&mut self, from: NodeId, accepted: Accepted, cx: &mut Cx<'_>) {
        let (base, last) = (self.log.base().0, self.log.last());
        let Some(peer) = self.peer(from) else {
            return cx.reject(from, Reject::Stale);
        };
        let Accepted {
            matched,
            room,
            round,
            counts,
        } = accepted;
        peer.hear(cx.now(), round, counts);
        let matched = matched.min(last);
        peer.matched = peer.matched.max(matched);
        if counts {
            peer.durable = peer.durable.max(matched);
        }
        peer.room = room;
        peer.next = peer.next.max(peer.matched.next());
        // What it has turned away for want of room goes out again when there is some; if it is there then.
        if room.next() < peer.next {
            peer.next = room.max(peer.matched).max(base).next();
        }
        peer.flow = Flow::Pipeline;
        self.advance_commit(cx);
        self.confirm_rounds(cx);
        if self.leads() {
            self.replicate_to(from.index(), cx);
            self.hand_over_when_ready(cx);
        }
    }

    pub(crate) fn on_heard(&mut self, from: NodeId, round: u64, counts: bool, cx: &mut Cx<'_>) {
        if let Some(peer) = self.peer(from) {
            peer.hear(cx.now(), round, counts);
            self.confirm_rounds(cx);
        }
    }

    /// Goes back to where the logs may meet (section 3.5), or says that this log does not reach back
    /// so far.
    pub(crate) fn on_rejected(&mut self, from: NodeId, rejected: Rejected, cx: &mut Cx<'_>) {
        let Rejected {
            previous,
            hint,
            round,
            counts,
        } = rejected;
        let (base, now) = (self.log.base().0, cx.now());
        let meets = self.log.last_not_above(hint.0, hint.1);
        let Some(peer) = self.peer(from) else {
            return cx.reject(from, Reject::Stale);
        };
        peer.hear(now, round, counts);
        if !counts {
            // It may have lost what it once had.
            peer.matched = peer.matched.min(hint.0);
        }
        let probing = matches!(peer.flow, Flow::Probe { .. });
        let stale = previous <= peer.matched || (probing && previous != peer.next.prev());
        if !stale {
            let next = meets.next().min(previous).max(peer.matched.next());
            peer.probe_from(next);
            if next <= base || hint.0 < base {
                peer.next = base.next();
                peer.flow = Flow::Probe { waiting: true };
                let decided = self.commit;
                let behind = self.message(Body::Behind { decided });
                cx.send_to(from, behind);
            }
            self.replicate_to(from.index(), cx);
        }
        self.confirm_rounds(cx);
    }

    /// What a majority of disks has is committed, if it is of the own term; everything before it
    /// with it (section 3.6.2).
    pub(crate) fn advance_commit(&mut self, cx: &mut Cx<'_>) {
        let me = self.me;
        let durable = |id: NodeId| match id == me {
            true => self.durable,
            false => self.peers[id.index()].durable,
        };
        let mut places: Vec<SeqNo> = self.membership.voters().map(durable).collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&majority) = places.get(self.quorum() - 1) else {
            return;
        };
        if majority <= self.commit || !self.is_own(majority) {
            return;
        }
        self.commit_to(majority, cx);
        self.ask_for_batch(cx);
        // While entries are on their way the next of them brings the news.
        if self.log.last() == self.commit {
            self.tell_commit(cx);
        }
        self.hand_over_when_ready(cx);
    }

    /// Figure 3.7: an entry of an earlier term may be on a majority of disks and yet be replaced.
    fn is_own(&self, seq: SeqNo) -> bool {
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::CommitOldTerm) {
            return true;
        }
        seq >= self.own_first
    }

    fn tell_commit(&mut self, cx: &mut Cx<'_>) {
        let commit = self.commit;
        if self.others().any(|i| self.peers[i].told < commit) {
            self.send_empty_to_all(cx);
        }
    }

    /// Entries that are kept for members that are alive and not far behind: no more than a window
    /// of them below the checkpoint.
    pub(crate) fn still_needed(&self, checkpoint: SeqNo, cx: &Cx<'_>) -> SeqNo {
        let alive = |peer: &Peer| {
            cx.now().since(peer.alive) <= self.config.settings.election_max
                && peer.matched.plus(self.config.window) >= checkpoint
        };
        let others = self.others().map(|i| &self.peers[i]);
        let slowest = others.filter(|p| alive(p)).map(|p| p.matched).min();
        slowest.map_or(checkpoint, |slowest| slowest.min(checkpoint))
    }

    /// The log begins above its base now: so does what can be sent.
    pub(crate) fn raise_peers_to_base(&mut self) {
        let base = self.log.base().0;
        for peer in &mut self.peers {
            if peer.next <= base {
                peer.probe_from(base.next());
            }
        }
    }
}
