//! Retransmission and catching up. The network may lose, repeat and reorder what it likes.

use crate::message::{Item, Message, Round};
use crate::rabia::{Cx, Rabia, Timer};
use crate::slot::{Slot, Stage};
use crate::verify::{DECISIONS_MAX, ITEMS_MAX};
use atlas_common::{Digest, NodeId, ReplicaSet, SeqNo, Time};
use atlas_core::Recipients;
use std::time::Duration;

/// Slots that one resend covers.
const SLOTS_PER_RESEND: u64 = 32;
/// Phases of one slot that one answer covers.
const PHASES_PER_ANSWER: usize = 16;
/// So many decisions behind, log transfer is the faster help.
const FAR_BEHIND: u64 = 64;
/// Intervals grow up to this power of two while nothing comes of them.
const BACK_OFF_MAX: u32 = 3;

impl Rabia {
    /// Whether this replica waits for something that others could send.
    fn waits(&self) -> bool {
        self.heard > self.decided || self.own.is_some() || self.has_questions()
    }

    pub(crate) fn set_timers(&mut self, cx: &mut Cx<'_>) {
        if let Some((first, _)) = self.patient.first()
            && self.patience_timer.is_none_or(|set| *first < set)
        {
            self.patience_timer = Some(*first);
            cx.set_timer_at(Timer::Patience, *first);
        }
        if !self.resend_timer && self.waits() {
            self.resend_timer = true;
            let factor = 1 << self.fruitless.min(BACK_OFF_MAX);
            let delay = spread(self.config.resend * factor, cx);
            cx.set_timer(Timer::Resend, delay);
        }
    }

    pub(crate) fn set_status_timer(&self, cx: &mut Cx<'_>) {
        let delay = spread(self.config.status_interval, cx);
        cx.set_timer(Timer::Status, delay);
    }

    /// What may spare a null slot did not come in time.
    pub(crate) fn on_patience_timer(&mut self, cx: &mut Cx<'_>) {
        self.patience_timer = None;
        let now = cx.now();
        while let Some((until, seq)) = self.patient.first().copied().filter(|(t, _)| *t <= now) {
            self.patient.remove(&(until, seq));
            let Some(slot) = self.slots.get(&seq).filter(|slot| slot.is_undecided()) else {
                continue;
            };
            match slot.stage {
                Stage::Heard => {
                    let unknown = |(_, digest): &&(NodeId, Option<Digest>)| {
                        digest.is_some_and(|digest| self.queue.get(&digest).is_none())
                    };
                    if let Some((from, Some(digest))) = slot.proposals.iter().find(unknown) {
                        // It commits to nothing, so it need not wait for the disk.
                        cx.send_unguarded(Recipients::One(*from), Message::Ask(*digest));
                    }
                    self.join(seq, cx);
                }
                Stage::Exchange => {
                    for late in ReplicaSet::all(self.voters())
                        .without(slot.proposers())
                        .members()
                    {
                        self.absent.insert(late);
                    }
                    self.advance(seq, cx);
                }
                Stage::State | Stage::Vote => {}
            }
        }
    }

    pub(crate) fn on_ask(&mut self, from: NodeId, digest: &Digest, cx: &mut Cx<'_>) {
        if let Some(spread) = self.queue.get(digest).cloned()
            && self.may_send_batch(from, cx.now())
        {
            let batches = vec![spread];
            let round = Round {
                batches,
                ..self.standing()
            };
            // A batch is its maker's word, not this replica's: nothing of it has to be durable.
            cx.send_unguarded(Recipients::One(from), Message::Round(round));
        }
    }

    /// An interval has passed: what has not moved since is said again to those who have not answered,
    /// and slots that nobody has told this replica about are begun.
    pub(crate) fn on_resend_timer(&mut self, cx: &mut Cx<'_>) {
        self.resend_timer = false;
        self.fetch_asked = SeqNo::ZERO;
        let progress = self.decided > self.decided_at_resend;
        self.decided_at_resend = self.decided;
        self.fruitless = if progress { 0 } else { self.fruitless + 1 };
        if !self.waits() {
            return;
        }
        self.ask_again(cx);
        self.spread_again(cx);
        let (mut items, mut silent) = (Vec::new(), ReplicaSet::default());
        let last = self.heard.min(self.decided.plus(SLOTS_PER_RESEND));
        let mut seq = self.decided.next();
        while seq <= last {
            if self.slots.get(&seq).is_some_and(Slot::in_flight) {
                self.words_again(seq, cx.now(), &mut items, &mut silent);
            } else if self.may_begin(seq) {
                self.join(seq, cx);
            }
            seq = seq.next();
        }
        self.send_again(items, silent, cx);
    }

    /// What was said last in a slot that has not moved for a while, and who has not answered it.
    fn words_again(&self, seq: SeqNo, now: Time, items: &mut Vec<Item>, silent: &mut ReplicaSet) {
        let slot = self.slots.get(&seq);
        let old = |slot: &&Slot| slot.moved.after(self.config.resend / 2) <= now;
        if let Some(slot) = slot.filter(old) {
            *silent = silent.union(slot.missing(self.voters()));
            let said = slot.own_words(self.me, slot.phase, 1);
            items.extend(said.into_iter().map(|said| Item { seq, said }));
        }
    }

    fn send_again(&mut self, items: Vec<Item>, mut silent: ReplicaSet, cx: &mut Cx<'_>) {
        if self.heard <= self.decided {
            return;
        }
        self.counters.resends += 1;
        silent.remove(self.me);
        let round = Round {
            wants: true,
            items,
            ..self.standing()
        };
        let to_all = round.items.is_empty() || silent.len() + 1 >= self.voters();
        if to_all {
            return cx.broadcast(Message::Round(round));
        }
        for to in silent.members() {
            cx.send_to(to, Message::Round(round.clone()));
        }
    }

    /// The own batch goes to all again, less often each time.
    fn spread_again(&mut self, cx: &mut Cx<'_>) {
        let Some(own) = self.own.as_mut().filter(|own| own.again <= cx.now()) else {
            return;
        };
        own.times += 1;
        let factor = 1 << own.times.min(2 * BACK_OFF_MAX);
        own.again = cx.now().after(self.config.resend * factor);
        self.batches.extend(self.queue.get(&own.digest).cloned());
    }

    /// A peer waits: it is sent what it may lack.
    pub(crate) fn help(
        &mut self,
        to: NodeId,
        its_decided: SeqNo,
        its_items: &[Item],
        cx: &mut Cx<'_>,
    ) {
        if !self.may_answer(to, cx.now()) {
            return;
        }
        let (mut items, mut decisions) = (Vec::new(), Vec::new());
        let first = its_decided.max(self.low).next();
        let last = first.plus(DECISIONS_MAX as u64 - 1);
        for (seq, slot) in self.slots.range(first..=last) {
            if let Some(outcome) = slot.outcome {
                decisions.push((*seq, outcome.digest));
                continue;
            }
            let its = its_items.iter().filter(|item| item.seq == *seq);
            let phase = its.map(|item| item.said.phase()).max();
            let phase = phase.unwrap_or(slot.phase);
            let said = slot.own_words(self.me, phase, PHASES_PER_ANSWER);
            items.extend(said.into_iter().map(|said| Item { seq: *seq, said }));
        }
        if !decisions.is_empty() {
            cx.send_to(to, Message::Decisions(decisions));
        }
        items.truncate(ITEMS_MAX);
        if !items.is_empty() || its_decided < self.low {
            let round = Round {
                items,
                ..self.standing()
            };
            cx.send_to(to, Message::Round(round));
        }
    }

    /// One answer to a peer in a quarter of an interval: who asks more often gets no more.
    fn may_answer(&mut self, to: NodeId, now: Time) -> bool {
        let Some(peer) = self.peers.get_mut(to.index()) else {
            return false;
        };
        let rest = self.config.resend / 4;
        let may = peer.answered.is_none_or(|last| now >= last.after(rest));
        if may {
            peer.answered = Some(now);
        }
        may
    }

    /// Twice as many batches in a quarter of an interval as there are slots in flight: more than a peer
    /// in need can use, and a peer in a loop gets no more.
    fn may_send_batch(&mut self, to: NodeId, now: Time) -> bool {
        let Some(peer) = self.peers.get_mut(to.index()) else {
            return false;
        };
        let (count, since) = &mut peer.batches;
        if now >= since.after(self.config.resend / 4) {
            (*count, *since) = (0, now);
        }
        *count += 1;
        *count <= 2 * self.config.in_flight_max
    }

    /// What a peer has cut from its memory it cannot send again slot by slot.
    pub(crate) fn catch_up(&mut self, round: &Round, cx: &mut Cx<'_>) {
        let behind = round.decided.since(self.decided);
        if (round.low > self.decided || behind > FAR_BEHIND) && round.decided > self.fetch_asked {
            self.fetch_asked = round.decided;
            cx.fetch_state(round.decided);
        }
    }

    /// A rare word of an idle replica: who missed the last decisions hears of them.
    pub(crate) fn on_status_timer(&self, cx: &mut Cx<'_>) {
        // It says nothing in any slot, so it need not wait for the disk.
        cx.send_unguarded(Recipients::Others, Message::Round(self.standing()));
        self.set_status_timer(cx);
    }
}

/// This long, give or take a quarter, so that replicas do not march in step.
fn spread(interval: Duration, cx: &mut Cx<'_>) -> Duration {
    let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos - nanos / 4 + cx.rng().below(nanos / 2 + 1))
}
