//! A network that decides who hears what, and when: the scheduler of the paper's liveness argument.

use super::rig::membership;
use crate::message::{Item, Message, Round, Said, Vote};
use crate::slot::Stage;
use crate::{Rabia, RabiaConfig, coin};
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Digest, Lsn, NodeId, SeqNo, Time};
use atlas_core::{
    Batch, Context, Effect, Input, Limits, Membership, OrderingProtocol, Origin, Recovery, Verified,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SLOT: SeqNo = SeqNo(1);

/// Three replicas; nothing moves by itself.
struct Trio {
    membership: Arc<Membership>,
    config: RabiaConfig,
    replicas: Vec<(Rabia, SeededRng, Lsn)>,
    /// What each has said in the slot, by phase and whether it is a vote.
    said: BTreeMap<(usize, u32, bool), Said>,
    decided: [Option<Digest>; 3],
}

impl Trio {
    /// Replicas 0 and 1 propose one batch, replica 2 another.
    fn new() -> Self {
        let membership = membership(3, 0);
        let (none, long) = (Duration::ZERO, Duration::from_secs(1));
        let config = RabiaConfig::new(&Limits::default(), none, long, long).unwrap();
        let replica = |i: u32| {
            let recovery = Recovery {
                me: NodeId(i),
                origin: Origin::Genesis,
                installed: None,
                records: Vec::new(),
            };
            let rabia = Rabia::recover(config.clone(), Arc::clone(&membership), recovery);
            (rabia.unwrap(), SeededRng::new(u64::from(i)), Lsn::ZERO)
        };
        let mut trio = Self {
            replicas: (0..3).map(replica).collect(),
            membership,
            config,
            said: BTreeMap::new(),
            decided: [None; 3],
        };
        let batch = |text: &'static str| Batch::new(AgreedTime::default(), &[text.into()]);
        trio.step(0, Input::Propose(batch("of two")));
        trio.step(1, Input::Propose(batch("of two")));
        trio.step(2, Input::Propose(batch("of one")));
        trio
    }

    fn step(&mut self, i: usize, input: Input<Rabia>) {
        let (rabia, rng, lsn) = &mut self.replicas[i];
        let mut effects = Vec::new();
        let wall = AgreedTime::default();
        rabia.step(
            input,
            &mut Context::new(Time::ZERO, wall, rng, lsn, &mut effects),
        );
        for effect in effects {
            match effect {
                Effect::Send {
                    message: Message::Round(round),
                    ..
                } => {
                    for item in round.items.iter().filter(|item| item.seq == SLOT) {
                        let vote = matches!(item.said, Said::Vote { .. });
                        self.said.insert((i, item.said.phase(), vote), item.said);
                    }
                }
                Effect::Decide {
                    seq: SLOT, batch, ..
                } => self.decided[i] = Some(batch.digest()),
                _ => {}
            }
        }
    }

    /// Replica `to` hears what replica `from` said.
    fn hear(&mut self, to: usize, from: usize, phase: u32, vote: bool) {
        let said = self.said[&(from, phase, vote)];
        let items = vec![Item { seq: SLOT, said }];
        let round = Message::Round(Round {
            items,
            ..Round::default()
        });
        let (from, any) = (NodeId(from as u32), &mut |_: &Batch| Ok(()));
        let message = Verified::check::<Rabia>(&self.config, &self.membership, from, round, any);
        let message = message.unwrap();
        self.step(to, Input::Message { from, message });
    }

    fn state(&self, i: usize, phase: u32) -> Option<bool> {
        match self.said.get(&(i, phase, false))? {
            Said::State { state, .. } => Some(state.is_some()),
            _ => None,
        }
    }

    fn coin(&self, phase: u32) -> bool {
        coin::flip(&self.membership, SLOT, phase)
    }

    /// The exchange: afterwards two replicas are in state `majority`, one in the other.
    fn exchange(&mut self, majority: bool) {
        self.hear(0, 1, 0, false);
        self.hear(1, if majority { 0 } else { 2 }, 0, false);
        self.hear(2, 1, 0, false);
    }

    /// One phase in which one replica votes for the majority's value and nobody else can; afterwards
    /// `wanted` is what two replicas are in, if the coin does not spoil it.
    fn phase(&mut self, phase: u32, wanted: bool) {
        let states: Vec<bool> = (0..3).filter_map(|i| self.state(i, phase)).collect();
        let ones = states.iter().filter(|one| **one).count();
        let majority = ones >= 2;
        let mut with: Vec<usize> = (0..3).filter(|i| states[*i] == majority).collect();
        with.sort_unstable();
        let (first, second) = (with[0], with[1]);
        let third = 3 - first - second;
        self.hear(first, second, phase, false);
        self.hear(second, third, phase, false);
        self.hear(third, second, phase, false);
        self.hear(first, second, phase, true);
        let told = if wanted == majority { first } else { third };
        self.hear(second, told, phase, true);
        self.hear(third, second, phase, true);
    }

    fn is_split(&self, phase: u32) -> bool {
        let states: Vec<bool> = (0..3).filter_map(|i| self.state(i, phase)).collect();
        states.len() == 3 && states.iter().any(|one| *one != states[0])
    }

    /// Everything said reaches everybody.
    fn release(&mut self) {
        while self.decided.iter().any(Option::is_none) {
            let before = self.said.len();
            let words: Vec<(usize, u32, bool)> = self.said.keys().copied().collect();
            for (from, phase, vote) in words {
                for to in (0..3).filter(|to| *to != from) {
                    self.hear(to, from, phase, vote);
                }
            }
            let fetched = Batch::new(AgreedTime::default(), &["of two".into()]);
            self.step(2, Input::Body(fetched));
            let done = self.decided.iter().all(Option::is_some);
            assert!(
                self.said.len() > before || done,
                "stuck: {:?}",
                self.decided
            );
        }
        assert_eq!(self.decided[0], self.decided[1]);
        assert_eq!(self.decided[0], self.decided[2]);
    }
}

/// Whoever knows all coins in advance and rules the network can keep a slot open for ever: that is
/// why liveness is stated against networks that do not look. Agreement and memory must hold even so.
#[test]
fn a_scheduler_that_knows_every_coin_delays_but_never_splits_a_decision() {
    let mut trio = Trio::new();
    trio.exchange(!trio.coin(1));
    for phase in 1..=300 {
        assert!(trio.is_split(phase), "phase {phase}");
        let wanted = !trio.coin(phase + 1);
        trio.phase(phase, wanted);
    }
    assert!(trio.decided.iter().all(Option::is_none));
    for (rabia, ..) in &trio.replicas {
        let slot = &rabia.slots[&SLOT];
        assert_eq!((slot.stage, slot.phase), (Stage::State, 301));
        assert!(slot.kept_tallies() <= 2, "finished phases are let go of");
    }
    trio.release();
}

/// A scheduler biased against one side of the coin, that does all the same with the votes, loses with
/// probability 1/2 in each phase: two phases more on average.
#[test]
fn a_scheduler_biased_against_the_coin_loses_within_a_few_phases() {
    for biased in [false, true] {
        let (mut phases, mut longest) = (0, 0);
        let slots = 400u32;
        for salt in 0..slots {
            let mut trio = Trio::new();
            // Another cluster, other coins.
            trio.rename(salt);
            trio.exchange(biased);
            let mut phase = 1;
            while trio.is_split(phase) {
                trio.phase(phase, biased);
                phase += 1;
            }
            trio.release();
            phases += phase;
            longest = longest.max(phase);
        }
        let mean = f64::from(phases) / f64::from(slots);
        assert!(mean < 4.0, "{mean} phases on average");
        assert!(longest < 40, "{longest} phases");
    }
}

#[test]
fn trap_the_coin_is_a_pure_function_of_epoch_slot_and_phase() {
    let (three, five) = (membership(3, 0), membership(5, 0));
    let flips: Vec<bool> = (1..=64).map(|p| coin::flip(&three, SeqNo(9), p)).collect();
    let again: Vec<bool> = (1..=64).map(|p| coin::flip(&five, SeqNo(9), p)).collect();
    assert_eq!(flips, again, "who flips it does not matter");
    let other: Vec<bool> = (1..=64).map(|p| coin::flip(&three, SeqNo(10), p)).collect();
    assert_ne!(flips, other);
    let ones = (1..=10_000)
        .filter(|p| coin::flip(&three, SeqNo(3), *p))
        .count();
    assert!((4_800..5_200).contains(&ones), "{ones} of 10000");
    // The same on every branch: two replicas come to it by different messages.
    let mut trio = Trio::new();
    trio.exchange(true);
    for i in 0..3 {
        for from in (0..3).filter(|from| *from != i) {
            if trio.state(i, 1) != trio.state(from, 1) {
                trio.hear(i, from, 1, false);
                break;
            }
        }
    }
    for (i, from) in [(0, 2), (1, 0), (2, 1)] {
        let Said::Vote { vote, .. } = trio.said[&(i, 1, true)] else {
            panic!("a vote");
        };
        assert!(matches!(vote, Vote::Unsure(_)), "{vote:?}");
        trio.hear(i, from, 1, true);
        assert_eq!(trio.state(i, 2), Some(trio.coin(1)));
    }
}

impl Trio {
    fn rename(&mut self, salt: u32) {
        let fresh = Self::named(salt);
        *self = fresh;
    }

    fn named(salt: u32) -> Self {
        let mut trio = Self::new();
        let members = trio.membership.members().to_vec();
        let genesis = Digest::of(&salt.to_le_bytes());
        let verifier = Arc::clone(trio.membership.verifier());
        let (epoch, model) = (trio.membership.epoch(), Rabia::FAULT_MODEL);
        let renamed = Membership::new(genesis, epoch, model, members, verifier);
        trio.membership = Arc::new(renamed.unwrap());
        for (rabia, ..) in &mut trio.replicas {
            rabia.membership = Arc::clone(&trio.membership);
        }
        trio
    }
}
