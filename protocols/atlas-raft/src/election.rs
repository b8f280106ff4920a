//! Elections (thesis, sections 3.4, 3.6, 4.2.3, 6.2, 9.6).

use crate::message::{Body, EntryId, RequestVote, at_least_as_up_to_date};
use crate::raft::{Cx, Raft, Timer};
use atlas_common::{Lsn, NodeId, Time, View};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a replica is at the moment. (The thesis says "state", which here means the application's.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It follows the term's leader, if there is one.
    Follower,
    /// It asks whether it would be elected (section 9.6).
    PreCandidate,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

/// Who is for this replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ballot {
    votes: BTreeSet<NodeId>,
    forced: bool,
    /// The record of the own vote, which counts when it is durable.
    own_vote: Lsn,
}

impl Raft {
    /// Enters a later term.
    pub(crate) fn enter_term(&mut self, term: View, cx: &mut Cx<'_>) {
        self.set_term(term);
        self.keep_hard_state(cx);
        self.follow(None, cx);
    }

    fn set_term(&mut self, term: View) {
        self.term = term;
        self.voted = None;
        self.suspects = false;
        self.round_seen = 0;
        // What is committed is in every later leader's log (section 3.6.3).
        self.verified = self.commit;
    }

    /// Becomes a follower in the current term.
    pub(crate) fn follow(&mut self, leader: Option<NodeId>, cx: &mut Cx<'_>) {
        let role = std::mem::replace(&mut self.role, Role::Follower);
        if role == Role::Leader {
            self.step_down(cx);
        }
        if self.leader != leader {
            self.refuse_asked_reads(cx);
        }
        self.leader = leader;
        self.count_term();
        self.tell_leader(cx);
        if role != Role::Follower {
            self.wait_for_leader(cx);
        }
    }

    fn count_term(&mut self) {
        if self.leader.is_some() && self.last_led < self.term {
            self.last_led = self.term;
            self.terms_led += 1;
        }
    }

    /// Draws a time-out and lets it run from now (section 3.4).
    pub(crate) fn wait_for_leader(&mut self, cx: &mut Cx<'_>) {
        let (min, max) = (
            self.config.settings.election_min,
            self.config.settings.election_max,
        );
        let spread = u64::try_from((max - min).as_nanos()).unwrap_or(u64::MAX);
        self.patience = min + Duration::from_nanos(cx.rng().below(spread));
        self.waits_since = cx.now();
        cx.set_timer(Timer::Election, self.patience);
    }

    /// Whether a leader was heard recently enough for no other to be helped (section 4.2.3). A leader
    /// sticks to itself: it steps down when it has lost its majority, not before.
    fn sticks(&self, now: Time) -> bool {
        self.leads() || (now < self.sticks_until && !self.suspects)
    }

    pub(crate) fn on_election_timeout(&mut self, cx: &mut Cx<'_>) {
        self.expire_asked_reads(cx);
        if !self.counts() {
            self.ask_again(cx);
            return self.wait_for_leader(cx);
        }
        // The timer is not moved with every message of the leader: it looks when it runs out.
        let due = self.waits_since.after(self.patience);
        let content = cx.now() < due && !self.is_stalled(cx.now());
        match self.role {
            Role::Leader => {}
            Role::Follower if content => cx.set_timer_at(Timer::Election, due),
            // With a disk that slow, a further vote would only be later.
            _ if self.hard_lsn > self.durable_lsn => self.wait_for_leader(cx),
            Role::Follower | Role::PreCandidate | Role::Candidate => self.ask_for_pre_votes(cx),
        }
    }

    /// A request has waited long, and nothing at all was decided meanwhile, though the leader is
    /// heard: whatever it is that keeps it from deciding, another may do better.
    fn is_stalled(&mut self, now: Time) -> bool {
        let stall = self.config.stall();
        let long_ago = |since: Time| now.since(since) > stall;
        let waits = self.waiting.is_some_and(|waiting| long_ago(waiting.since));
        // Where the window has ended, a checkpoint is what is missing.
        let room = self.log.last() < self.high();
        let stalled = waits && room && long_ago(self.decided_at) && self.leader.is_some();
        if stalled {
            self.decided_at = now; // not again at once
            self.distrust();
        }
        stalled
    }

    /// No longer sticks to the leader, unless leases rest on that.
    fn distrust(&mut self) {
        self.suspects = self.config.settings.lease.is_none();
    }

    /// An operator or monitor distrusts the leader: a leader hands over; others see whether a
    /// majority agrees.
    pub(crate) fn on_suspect(&mut self, cx: &mut Cx<'_>) {
        match self.role {
            _ if !self.counts() => {}
            Role::Leader => self.transfer_to_best(cx),
            Role::Follower => {
                self.distrust();
                self.ask_for_pre_votes(cx);
            }
            Role::PreCandidate | Role::Candidate => {}
        }
    }

    fn last_id(&self) -> EntryId {
        self.log.last_id()
    }

    /// Section 9.6: no term begins before a majority would elect this replica in it.
    fn ask_for_pre_votes(&mut self, cx: &mut Cx<'_>) {
        self.role = Role::PreCandidate;
        self.refuse_asked_reads(cx);
        self.leader = None;
        self.tell_leader(cx);
        self.ballot = Ballot {
            votes: [self.me].into(),
            ..Ballot::default()
        };
        self.wait_for_leader(cx);
        self.request_votes(cx);
        self.count_votes(cx);
    }

    /// Section 3.4: a new term, the own vote, and everybody else's please.
    pub(crate) fn stand(&mut self, forced: bool, cx: &mut Cx<'_>) {
        if self.leads() {
            self.step_down(cx);
        }
        self.refuse_asked_reads(cx);
        self.set_term(self.term.next());
        self.role = Role::Candidate;
        self.leader = None;
        self.voted = Some(self.me);
        self.keep_vote(cx);
        self.ballot = Ballot {
            votes: BTreeSet::new(),
            forced,
            own_vote: cx.last_lsn(),
        };
        self.tell_leader(cx);
        self.wait_for_leader(cx);
        self.request_votes(cx);
        self.count_votes(cx);
    }

    /// Persists a vote that is about to be given.
    fn keep_vote(&mut self, cx: &mut Cx<'_>) {
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::VoteNotPersisted) {
            return; // the defect: a restart forgets whom it voted for
        }
        self.keep_hard_state(cx);
    }

    /// Asks those who have not answered, again and again until the time-out.
    pub(crate) fn request_votes(&mut self, cx: &mut Cx<'_>) {
        let pre = self.role == Role::PreCandidate;
        let (last, forced) = (self.last_id(), self.ballot.forced);
        let request = self.message(Body::RequestVote(RequestVote { last, pre, forced }));
        let voters: Vec<NodeId> = self.membership.voters().collect();
        for voter in voters {
            if voter != self.me && !self.ballot.votes.contains(&voter) {
                cx.send_to(voter, request.clone());
            }
        }
        cx.set_timer(Timer::Heartbeat, self.config.settings.heartbeat);
    }

    pub(crate) fn on_request_vote(
        &mut self,
        from: NodeId,
        term: View,
        request: RequestVote,
        cx: &mut Cx<'_>,
    ) {
        if !self.counts() {
            return;
        }
        let pre = request.pre;
        // A majority has an entry of every term that committed anything: who has less is not elected
        // by it (section 3.6.1).
        let mut granted = term >= self.term && at_least_as_up_to_date(request.last, self.last_id());
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::VoteForOldLogs) {
            granted = term >= self.term;
        }
        if pre {
            // A refusal tells a candidate of an earlier term the present one.
            granted &= !self.sticks(cx.now());
            let answer = self.message(Body::Vote { pre, granted });
            return cx.send_to(from, answer);
        }
        if term > self.term {
            if self.sticks(cx.now()) && !request.forced {
                return; // section 4.2.3: not even the term is taken over
            }
            self.set_term(term);
            if !granted {
                self.keep_hard_state(cx);
            }
            self.follow(None, cx);
        }
        granted &= self.voted.is_none_or(|voted| voted == from);
        if granted {
            self.waits_since = cx.now();
            if self.voted.is_none() {
                self.voted = Some(from);
                self.keep_vote(cx);
            }
        }
        let answer = self.message(Body::Vote { pre, granted });
        cx.send_to(from, answer);
    }

    pub(crate) fn on_vote(&mut self, from: NodeId, pre: bool, granted: bool, cx: &mut Cx<'_>) {
        let asked = match self.role {
            Role::PreCandidate => pre,
            Role::Candidate => !pre,
            Role::Follower | Role::Leader => false,
        };
        if asked && granted {
            self.ballot.votes.insert(from);
            self.count_votes(cx);
        }
    }

    fn own_vote_is_durable(&self) -> bool {
        self.ballot.own_vote <= self.durable_lsn
    }

    pub(crate) fn count_votes(&mut self, cx: &mut Cx<'_>) {
        // The own vote is given when it is durable, like any other: in a cluster of one, too.
        if self.role == Role::Candidate && self.own_vote_is_durable() {
            self.cast_own_vote(cx);
        }
        if self.ballot.votes.len() < self.quorum() {
            return;
        }
        match self.role {
            Role::PreCandidate => self.stand(false, cx),
            Role::Candidate => self.lead(cx),
            Role::Follower | Role::Leader => {}
        }
    }

    /// The others' votes are not asked for before, and take as long again.
    fn cast_own_vote(&mut self, cx: &mut Cx<'_>) {
        if self.ballot.votes.insert(self.me) {
            let took = cx.now().since(self.waits_since);
            self.wait_for_leader(cx);
            self.patience += took;
            cx.set_timer(Timer::Election, self.patience);
        }
    }

    /// Section 6.4: a leader begins its term with an empty entry, and thereby learns what is
    /// committed.
    fn lead(&mut self, cx: &mut Cx<'_>) {
        self.role = Role::Leader;
        self.leader = Some(self.me);
        self.count_term();
        self.begin_leading(cx);
        self.tell_leader(cx);
        cx.cancel_timer(Timer::Election);
        self.propose_first(cx);
    }

    /// When this replica hears its leader.
    pub(crate) fn heard_leader(&mut self, from: NodeId, cx: &mut Cx<'_>) {
        if self.role != Role::Follower || self.leader != Some(from) {
            self.follow(Some(from), cx);
        }
        self.waits_since = cx.now();
        self.sticks_until = cx.now().after(self.config.settings.election_min);
    }
}
