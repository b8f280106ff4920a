//! Raft in the simulator.

use crate::protocol::{Setup, SimProtocol, Vote};
use atlas_common::NodeId;
use atlas_core::Membership;
use atlas_raft::message::{Body, Message};
use atlas_raft::{Raft, RaftConfig, RaftSettings};

/// Heartbeats come so many times within the shortest election time-out.
const HEARTBEATS_PER_PATIENCE: u32 = 6;

impl SimProtocol for Raft {
    #[expect(clippy::expect_used, reason = "plans hold settings that fit together")]
    fn config(setup: &Setup) -> RaftConfig {
        // The genesis digest is the same for all replicas of a run, and different in each.
        let drawn = setup.genesis.0[0];
        let mut settings = RaftSettings {
            election_min: setup.patience,
            election_max: setup.patience * 2,
            heartbeat: setup.patience / HEARTBEATS_PER_PATIENCE,
            ..RaftSettings::default()
        };
        if drawn.is_multiple_of(4) {
            // Clocks run at 75 to 130 % of the true speed.
            settings.lease = Some(setup.patience / 2);
        }
        if setup.limits.in_flight_max == 1 {
            // Entries go one by one to each, so that terms end in the middle.
            settings.append_bytes_max = 1;
            settings.entries_in_flight_max = 1;
        }
        let config = RaftConfig::new(&setup.limits, settings);
        plant(
            config.expect("plans hold settings that fit together"),
            setup.bug,
        )
    }

    fn describe(message: &Message) -> String {
        message.describe()
    }

    fn votes(
        message: &Message,
        me: NodeId,
        to: Option<NodeId>,
        _membership: &Membership,
    ) -> Vec<Vote> {
        let candidate = match &message.body {
            Body::RequestVote(request) if !request.pre => me,
            Body::Vote {
                pre: false,
                granted: true,
            } => to.unwrap_or(me),
            _ => return Vec::new(),
        };
        let at = ("vote", message.term.0, 0);
        vec![Vote {
            at,
            value: u64::from(candidate.0),
        }]
    }

    fn bugs() -> &'static [&'static str] {
        BUGS
    }
}

/// In the order of [`atlas_raft::bugs::SeededBug::ALL`]; then those of other parts.
#[cfg(feature = "seeded-bugs")]
const BUGS: &[&str] = &[
    "vote-not-persisted",
    "ack-before-durable",
    "commit-old-term",
    "quorum-one-short",
    "stale-append-erases",
    "read-before-own-commit",
    "read-without-round",
    "forgetful-voter",
    "vote-for-old-logs",
    crate::machine::LOST_SESSIONS,
    crate::machine::IGNORED_CONFLICTS,
    crate::machine::STALE_VIEW,
];

#[cfg(not(feature = "seeded-bugs"))]
const BUGS: &[&str] = &[];

#[cfg(feature = "seeded-bugs")]
fn plant(config: RaftConfig, bug: Option<&'static str>) -> RaftConfig {
    use atlas_raft::bugs::SeededBug;
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
fn plant(config: RaftConfig, _bug: Option<&'static str>) -> RaftConfig {
    config
}
