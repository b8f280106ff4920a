//! Rabia in the simulator.

use crate::protocol::{self, Fact, Setup, SimProtocol};
use atlas_common::{Digest, NodeId};
use atlas_core::Membership;
use atlas_rabia::message::{Item, Message, Round, Said, Vote};
use atlas_rabia::{Rabia, RabiaConfig};
use std::fmt::Write as _;
use std::time::Duration;

/// Resends come so many times within the patience that others have with a leader.
const RESENDS_PER_PATIENCE: u32 = 10;

impl SimProtocol for Rabia {
    const LED: bool = false;

    #[expect(clippy::expect_used, reason = "plans hold settings that fit together")]
    fn config(setup: &Setup) -> RabiaConfig {
        let resend = setup.patience / RESENDS_PER_PATIENCE;
        let status = Duration::from_millis(1000);
        let config = RabiaConfig::new(&setup.limits, resend / 4, resend, status);
        plant(
            config.expect("plans hold settings that fit together"),
            setup.bug,
        )
    }

    fn describe(message: &Message) -> String {
        match message {
            Message::Round(round) => describe(round),
            Message::Decisions(decisions) => {
                let each = decisions.iter().map(|(seq, digest)| match digest {
                    Some(digest) => format!(" #{seq} {digest:?}"),
                    None => format!(" #{seq} null"),
                });
                format!("decisions{}", each.collect::<String>())
            }
            other => format!("{other:?}"),
        }
    }

    fn votes(
        message: &Message,
        _me: NodeId,
        _to: Option<NodeId>,
        _membership: &Membership,
    ) -> Vec<protocol::Vote> {
        let Message::Round(round) = message else {
            return Vec::new();
        };
        let vote = |item: &Item| {
            let nothing = Digest::of(b"nothing");
            let (kind, digest) = match item.said {
                Said::Proposal(digest) => ("proposal", digest.unwrap_or(nothing)),
                Said::State { state, .. } => ("state", state.unwrap_or(nothing)),
                Said::Vote { vote, .. } => match vote {
                    Vote::Unsure(_) => ("vote", Digest::of(b"unsure")),
                    Vote::Null => ("vote", nothing),
                    Vote::Batch(digest) => ("vote", digest),
                },
            };
            let phase = u64::from(item.said.phase());
            protocol::Vote::for_digest(kind, item.seq.0, phase, &digest)
        };
        round.items.iter().map(vote).collect()
    }

    fn facts(&self) -> Vec<Fact> {
        let fact = |flip: &atlas_rabia::Flip| Fact {
            name: "coin",
            at: (flip.seq, u64::from(flip.phase)),
            value: u64::from(flip.one),
        };
        self.flips().map(fact).collect()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = Rabia::counters(self);
        vec![
            ("null slots", counters.null_slots),
            ("second phases", counters.second_phases),
            ("coins flipped", counters.coins),
            ("rounds sent again", counters.resends),
        ]
    }

    fn bugs() -> &'static [&'static str] {
        BUGS
    }
}

/// In the order of [`atlas_rabia::bugs::SeededBug::ALL`]; then those of other parts.
#[cfg(feature = "seeded-bugs")]
const BUGS: &[&str] = &[
    "private-coin",
    "skip-exchange",
    "vote-before-durable",
    "quorum-one-short",
    "decide-own-proposal",
    "join-only-with-batch",
    "forget-amnesia",
    crate::machine::LOST_SESSIONS,
    crate::machine::IGNORED_CONFLICTS,
    crate::machine::STALE_VIEW,
];

#[cfg(not(feature = "seeded-bugs"))]
const BUGS: &[&str] = &[];

#[cfg(feature = "seeded-bugs")]
fn plant(config: RabiaConfig, bug: Option<&'static str>) -> RabiaConfig {
    use atlas_rabia::bugs::SeededBug;
    let bug = bug.and_then(|bug| {
        let index = BUGS.iter().position(|name| *name == bug)?;
        SeededBug::ALL.get(index).copied()
    });
    match bug {
        Some(bug) => config.with_bug(bug),
        None => config,
    }
}

#[cfg(not(feature = "seeded-bugs"))]
fn plant(config: RabiaConfig, _bug: Option<&'static str>) -> RabiaConfig {
    config
}

fn describe(round: &Round) -> String {
    let mut text = format!("round (decided #{}, heard #{}", round.decided, round.heard);
    text.push_str(if round.wants { ", wants)" } else { ")" });
    for spread in &round.batches {
        let (batch, count) = (spread.batch.digest(), spread.batch.bundles().len());
        write!(text, " batch {batch:?} of {count} by n{}", spread.origin).ok();
    }
    for item in &round.items {
        let seq = item.seq;
        match item.said {
            Said::Proposal(Some(digest)) => write!(text, " #{seq} proposes {digest:?}"),
            Said::Proposal(None) => write!(text, " #{seq} proposes nothing"),
            Said::State { phase, state } => {
                write!(text, " #{seq}.{phase} state {}", u8::from(state.is_some()))
            }
            Said::Vote { phase, vote } => match vote {
                Vote::Unsure(_) => write!(text, " #{seq}.{phase} vote ?"),
                Vote::Null => write!(text, " #{seq}.{phase} vote 0"),
                Vote::Batch(_) => write!(text, " #{seq}.{phase} vote 1"),
            },
        }
        .ok();
    }
    text
}
