//! Agreement on one slot: weak multi-valued consensus (the paper's Weak-MVC).

use crate::coin;
use crate::message::{Item, Message, Round, Said, Spread, Vote};
use crate::queue::Insertion;
use crate::rabia::{Cx, Flip, OwnBatch, Rabia};
use crate::record::Record;
use crate::slot::{Heard, Outcome, Slot, Stage};
use atlas_common::{Digest, NodeId, ReplicaSet, SeqNo, Time};
use atlas_core::{Batch, Reject};

/// Stamps in a millisecond.
const STAMPS_PER_MS: u64 = 1024;

/// What an exchange of proposals has come to.
enum Exchange {
    Wait,
    WaitUntil(Time),
    Done(Option<Digest>),
}

impl Rabia {
    /// The requests of this replica's clients become a batch, with its place in everybody's queue. One
    /// at a time: the next one waits until this one is decided, so that bundles of one session never
    /// overtake each other, and a batch grows with the load.
    pub(crate) fn on_propose(&mut self, batch: Batch, cx: &mut Cx<'_>) {
        self.asked_for_batch = false;
        let digest = batch.digest();
        if self.own.is_some() {
            return cx.stopped(vec![batch]);
        }
        let done = self.done.get(&digest);
        if done.is_some_and(|seq| *seq <= self.decided) {
            // A peer's client has sent the same, and it is decided: the driver will hear of it.
            return;
        }
        let by_clock = cx.wall().unix_millis.saturating_mul(STAMPS_PER_MS);
        self.stamp = by_clock
            .max(self.stamp.saturating_add(1))
            .min(crate::verify::STAMP_MAX - 1);
        let spread = Spread {
            stamp: self.stamp,
            origin: self.me,
            batch,
        };
        if let Some(known) = self.queue.get(&digest) {
            // Another replica was asked the same, and was first.
            self.batches.push(known.clone());
        } else {
            if !self.done.contains_key(&digest) {
                self.queue.insert_own(spread.clone());
            }
            self.batches.push(spread);
        }
        self.own = Some(OwnBatch {
            digest,
            again: cx.now().after(2 * self.config.resend),
            times: 1,
        });
    }

    pub(crate) fn on_round(&mut self, from: NodeId, round: Round, cx: &mut Cx<'_>) {
        self.absent.remove(from);
        let heard = round.heard.max(round.decided).min(self.high());
        self.heard = self.heard.max(heard);
        self.catch_up(&round, cx);
        for spread in round.batches {
            self.on_spread(from, spread, cx);
        }
        for item in &round.items {
            self.on_item(from, *item, cx);
        }
        if round.wants {
            self.help(from, round.decided, &round.items, cx);
        }
    }

    fn on_spread(&mut self, from: NodeId, spread: Spread, cx: &mut Cx<'_>) {
        let digest = spread.batch.digest();
        self.stamp = self.stamp.max(spread.stamp);
        if self.done.contains_key(&digest) {
            return self.supply(spread.batch, cx);
        }
        match self.queue.insert(spread, self.own.map(|own| own.digest)) {
            Insertion::Known => {}
            // Its place has to be the same everywhere, or queues never have the same head.
            Insertion::Later => self.on_ask(from, &digest, cx),
            Insertion::Full => cx.reject(from, Reject::OutOfWindow),
            Insertion::Queued => {
                // Slots that waited for it.
                for seq in self.queue.proposed_in(&digest) {
                    if self
                        .slots
                        .get(&seq)
                        .is_some_and(|slot| slot.stage == Stage::Heard)
                    {
                        self.join(seq, cx);
                    }
                }
            }
        }
    }

    fn on_item(&mut self, from: NodeId, Item { seq, said }: Item, cx: &mut Cx<'_>) {
        if seq <= self.low {
            return;
        }
        if seq > self.high() {
            return cx.reject(from, Reject::OutOfWindow);
        }
        self.heard = self.heard.max(seq);
        let slot = self.slots.entry(seq).or_default();
        if let Some(outcome) = slot.outcome {
            // Who is in a later phase has not seen the votes that decided.
            if said.phase() > outcome.phase {
                cx.send_to(from, Message::Decisions(vec![(seq, outcome.digest)]));
            }
            return;
        }
        match slot.hear(from, said) {
            Heard::Conflict => return cx.reject(from, Reject::Equivocation),
            Heard::Useless => return,
            Heard::New => {}
        }
        if let Said::Proposal(Some(digest)) = said {
            self.queue.name(digest, seq);
        }
        if let Said::Vote { phase, .. } = said {
            self.count_votes(seq, phase, cx);
        }
        match self.slots.get(&seq).map(|slot| slot.stage) {
            Some(Stage::Heard) => self.consider(seq, said, cx),
            _ => self.advance(seq, cx),
        }
    }

    /// A replica joins a slot on any message of it, whether it has something to propose or not. Only
    /// for a batch that is on its way here it waits a little.
    fn consider(&mut self, seq: SeqNo, said: Said, cx: &mut Cx<'_>) {
        let Some(slot) = self.slots.get_mut(&seq).filter(|slot| slot.is_undecided()) else {
            return;
        };
        if let Said::Proposal(Some(digest)) = said
            && self.queue.get(&digest).is_none()
            && !self.done.contains_key(&digest)
            && !self.config.patience.is_zero()
        {
            let until = *slot
                .patience
                .get_or_insert(cx.now().after(self.config.patience));
            self.patient.insert((until, seq));
            return;
        }
        self.join(seq, cx);
    }

    /// Slots for what waits and is proposed nowhere yet.
    pub(crate) fn begin_slots(&mut self, cx: &mut Cx<'_>) {
        let mut seq = self.decided.max(self.floor).next();
        while self.may_begin(seq) && self.queue.head().is_some() {
            // One that others have begun is joined when what they propose is here.
            if !self.slots.contains_key(&seq) {
                self.join(seq, cx);
            }
            seq = seq.next();
        }
    }

    /// Exchange stage: this replica proposes what somebody else proposes in the slot, or the head of
    /// its queue, or nothing. Never what it proposes in another slot that is in flight.
    pub(crate) fn join(&mut self, seq: SeqNo, cx: &mut Cx<'_>) {
        if !self.may_join(seq) || self.slots.get(&seq).is_some_and(|slot| !is_open(slot)) {
            return;
        }
        let digest = self.choose(seq);
        #[cfg(feature = "seeded-bugs")]
        if digest.is_none() && self.has_bug(crate::bugs::SeededBug::JoinOnlyWithBatch) {
            return;
        }
        if let Some(digest) = digest {
            self.log_body(&digest, cx);
            self.proposed.insert(digest, seq);
            self.queue.name(digest, seq);
        }
        self.heard = self.heard.max(seq);
        self.reached = self.reached.max(seq);
        self.in_flight += 1;
        self.say(seq, Said::Proposal(digest), cx);
        if let Some(slot) = self.slots.get_mut(&seq) {
            slot.patience = Some(cx.now().after(self.config.patience));
        }
        self.advance(seq, cx);
    }

    fn choose(&self, seq: SeqNo) -> Option<Digest> {
        let proposals = self.slots.get(&seq).map(|slot| slot.proposals.iter());
        let mut named = proposals.into_iter().flatten().filter_map(|(_, d)| *d);
        let usable = |digest: &Digest| {
            self.queue.get(digest).is_some() && !self.proposed.contains_key(digest)
        };
        named.find(usable).or_else(|| self.queue.head())
    }

    /// A batch is in the log before it is proposed: a majority that proposes it can always tell what
    /// it is.
    fn log_body(&mut self, digest: &Digest, cx: &mut Cx<'_>) {
        if let Some(spread) = self.queue.get(digest)
            && !self.bodies.contains_key(digest)
        {
            let lsn = cx.persist(Record::Body(spread.clone()));
            self.bodies.insert(*digest, lsn);
        }
    }

    /// Says something new in a slot: on record first, counted here, and sent to all at the end of the
    /// step, once the record is durable.
    fn say(&mut self, seq: SeqNo, said: Said, cx: &mut Cx<'_>) {
        let lsn = cx.persist(Record::Said { seq, said });
        let slot = self.slots.entry(seq).or_default();
        slot.first_lsn.get_or_insert(lsn);
        slot.moved = cx.now();
        slot.say(self.me, said);
        self.items.push(Item { seq, said });
        if let Said::Vote { phase, .. } = said {
            self.count_votes(seq, phase, cx);
        }
    }

    /// Goes on in a slot as far as what has been heard allows.
    pub(crate) fn advance(&mut self, seq: SeqNo, cx: &mut Cx<'_>) {
        while let Some(slot) = self.slots.get(&seq).filter(|slot| slot.is_undecided()) {
            let said = match slot.stage {
                Stage::Heard => return,
                Stage::Exchange => match self.exchanged(slot, cx.now()) {
                    Exchange::Wait => return,
                    Exchange::WaitUntil(until) => {
                        self.patient.insert((until, seq));
                        return;
                    }
                    Exchange::Done(state) => Said::State { phase: 1, state },
                },
                Stage::State => match self.vote(slot) {
                    None => return,
                    Some(vote) => Said::Vote {
                        phase: slot.phase,
                        vote,
                    },
                },
                Stage::Vote => match self.next_state(seq, cx) {
                    None => return,
                    Some((phase, state)) => Said::State { phase, state },
                },
            };
            self.say(seq, said, cx);
        }
    }

    /// The end of the exchange stage. With n − f proposals the state is known; where one more could still
    /// make a majority, those who are alive are given a moment.
    fn exchanged(&self, slot: &Slot, now: Time) -> Exchange {
        let (quorum, proposers) = (self.quorum(), slot.proposers());
        let most = slot.most_proposed();
        #[cfg(feature = "seeded-bugs")]
        if self.has_bug(crate::bugs::SeededBug::SkipExchange) {
            return Exchange::Done(most.map(|(digest, _)| digest));
        }
        if proposers.len() < quorum {
            return Exchange::Wait;
        }
        let Some((digest, count)) = most else {
            return Exchange::Done(None);
        };
        if count >= quorum {
            return Exchange::Done(Some(digest));
        }
        let all = ReplicaSet::all(self.voters());
        let to_come = all.without(proposers).without(self.absent).len();
        match slot.patience {
            Some(until) if until > now && count + to_come >= quorum => Exchange::WaitUntil(until),
            _ => Exchange::Done(None),
        }
    }

    /// Round 1: a majority of equal states is voted for.
    fn vote(&self, slot: &Slot) -> Option<Vote> {
        let tally = slot.tally(slot.phase);
        let (states, ones) = (tally.states.len(), tally.ones.len());
        if states < self.quorum() {
            return None;
        }
        Some(match slot.candidate {
            Some(digest) if ones >= self.quorum() => Vote::Batch(digest),
            Some(digest) if states - ones < self.quorum() => Vote::Unsure(digest),
            _ => Vote::Null,
        })
    }

    /// Round 2: who sees a vote takes it as its state, who sees none flips the coin. A
    /// replica that is unsure has seen states of both kinds, so it knows the batch.
    fn next_state(&mut self, seq: SeqNo, cx: &mut Cx<'_>) -> Option<(u32, Option<Digest>)> {
        let slot = self.slots.get(&seq)?;
        let (tally, phase) = (slot.tally(slot.phase), slot.phase);
        if tally.votes.len() < self.quorum() {
            return None;
        }
        let candidate = slot.candidate;
        let one = if !tally.vote_ones.is_empty() {
            true
        } else if !tally.vote_nulls.is_empty() {
            false
        } else {
            self.flip(seq, phase, cx)
        };
        debug_assert!(!one || candidate.is_some(), "a state of 1 names its batch");
        Some((phase.saturating_add(1), candidate.filter(|_| one)))
    }

    #[cfg_attr(not(feature = "seeded-bugs"), expect(unused_variables))]
    fn flip(&mut self, seq: SeqNo, phase: u32, cx: &mut Cx<'_>) -> bool {
        let one = coin::flip(&self.membership, seq, phase);
        #[cfg(feature = "seeded-bugs")]
        let one = if self.has_bug(crate::bugs::SeededBug::PrivateCoin) {
            cx.rng().chance(0.5)
        } else {
            one
        };
        self.remember_flip(Flip { seq, phase, one });
        one
    }

    /// Round 2: f + 1 equal votes decide, in whatever phase they were given.
    pub(crate) fn count_votes(&mut self, seq: SeqNo, phase: u32, cx: &mut Cx<'_>) {
        let Some(slot) = self.slots.get(&seq).filter(|slot| slot.is_undecided()) else {
            return;
        };
        let (tally, deciding) = (slot.tally(phase), self.deciding());
        let digest = if tally.vote_ones.len() >= deciding {
            slot.candidate
        } else if tally.vote_nulls.len() >= deciding {
            None
        } else {
            return;
        };
        self.settle(seq, Outcome { digest, phase }, cx);
    }
}

fn is_open(slot: &Slot) -> bool {
    slot.is_undecided() && slot.stage == Stage::Heard
}
