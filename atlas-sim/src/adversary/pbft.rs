//! Adversaries that know PBFT: they make its messages, signed with the one key they have.

mod proposals;
mod views;
mod votes;

use super::Adversary;
use crate::protocol::{self, Setup, SimProtocol};
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::Membership;
use atlas_pbft::message::{Message, Phase};
use atlas_pbft::{Pbft, PbftConfig};
use std::time::Duration;

/// The longest patience of a backed-off view change, in multiples of the first.
const BACK_OFF_MAX: u32 = 16;

impl SimProtocol for Pbft {
    #[expect(clippy::expect_used, reason = "plans hold settings that fit together")]
    fn config(setup: &Setup) -> PbftConfig {
        let config = PbftConfig::new(
            std::sync::Arc::clone(&setup.signer),
            setup.replicas,
            &setup.limits,
            setup.patience,
            setup.patience * BACK_OFF_MAX,
            Duration::from_millis(1000),
        );
        let config = config.expect("plans hold settings that fit together");
        // The defect: what is acknowledged is not yet known to the own disk.
        let durable = setup.quorum_reads && setup.bug != Some(FORGOTTEN_DECISIONS);
        plant(config.with_durable_decisions(durable), setup.bug)
    }

    fn describe(message: &Message) -> String {
        describe(message)
    }

    fn votes(
        message: &Message,
        me: NodeId,
        _to: Option<NodeId>,
        membership: &Membership,
    ) -> Vec<protocol::Vote> {
        let vote = |kind, view: View, seq: SeqNo, digest: &Digest| {
            vec![protocol::Vote::for_digest(kind, view.0, seq.0, digest)]
        };
        match message {
            // The leader's proposal is its prepare vote; others pass it on.
            Message::PrePrepare(p)
                if p.view.0 % membership.quorums().n() as u64 == u64::from(me.0) =>
            {
                vote("prepare", p.view, p.seq, &p.batch.digest())
            }
            Message::Vote(v) if v.phase == Phase::Prepare => {
                vote("prepare", v.view, v.seq, &v.digest)
            }
            Message::Vote(v) => vote("commit", v.view, v.seq, &v.digest),
            _ => Vec::new(),
        }
    }

    fn adversaries() -> &'static [&'static str] {
        &[
            "equivocate",
            "partial-proposals",
            "bad-proposals",
            "oversized",
            "slow-leader",
            "late-proposals",
            "forge-votes",
            "double-votes",
            "far-future",
            "foreign",
            "fake-certificates",
            "bad-new-view",
            "forgetful",
            "storm",
        ]
    }

    fn adversary(name: &str) -> Option<Box<dyn Adversary<Self>>> {
        Some(match name {
            "equivocate" => Box::<proposals::Equivocate>::default(),
            "partial-proposals" => Box::new(proposals::Partial),
            "bad-proposals" => Box::new(proposals::Bad),
            "oversized" => Box::new(proposals::Oversized),
            "slow-leader" => Box::new(proposals::Slow),
            "late-proposals" => Box::new(proposals::Late),
            "forge-votes" => Box::<votes::Forge>::default(),
            "double-votes" => Box::new(votes::Double),
            "far-future" => Box::new(votes::FarFuture),
            "foreign" => Box::new(votes::Foreign),
            "fake-certificates" => Box::<views::FakeCertificates>::default(),
            "bad-new-view" => Box::new(views::BadNewView),
            "forgetful" => Box::new(views::Forgetful),
            "storm" => Box::new(views::Storm),
            _ => return None,
        })
    }

    fn bugs() -> &'static [&'static str] {
        BUGS
    }
}

/// The defect of replicas that acknowledge decisions which a power cut can take from them, where reads are
/// not ordered.
const FORGOTTEN_DECISIONS: &str = "forgotten-decisions";

/// The defects that can be switched on. The last are the executor's and the client's.
#[cfg(feature = "seeded-bugs")]
const BUGS: &[&str] = &[
    "vote-before-durable",
    "quorum-one-short",
    "drop-prepared-slots",
    "execute-without-body",
    "oldest-certificate-wins",
    crate::machine::LOST_SESSIONS,
    crate::machine::IGNORED_CONFLICTS,
    crate::machine::STALE_VIEW,
    crate::clients::FEW_REPLIES,
    FORGOTTEN_DECISIONS,
];

#[cfg(not(feature = "seeded-bugs"))]
const BUGS: &[&str] = &[];

#[cfg(feature = "seeded-bugs")]
fn plant(config: PbftConfig, bug: Option<&'static str>) -> PbftConfig {
    use atlas_pbft::bugs::SeededBug;
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
fn plant(config: PbftConfig, _bug: Option<&'static str>) -> PbftConfig {
    config
}

fn describe(message: &Message) -> String {
    match message {
        Message::PrePrepare(proposal) => {
            let (batch, count) = (proposal.batch.digest(), proposal.batch.bundles().len());
            format!(
                "pre-prepare v{} #{} {batch:?} of {count}",
                proposal.view, proposal.seq
            )
        }
        Message::Vote(vote) => {
            let phase = match vote.phase {
                Phase::Prepare => "prepare",
                Phase::Commit => "commit",
            };
            format!("{phase} v{} #{} {:?}", vote.view, vote.seq, vote.digest)
        }
        Message::ViewChange(signed) => {
            let prepared: Vec<String> = signed
                .change
                .prepared
                .iter()
                .map(|p| format!("#{} v{} {:?}", p.seq, p.view, p.digest))
                .collect();
            let (view, low) = (signed.change.view, signed.change.low());
            format!(
                "view change v{view} low #{low} prepared [{}]",
                prepared.join(", ")
            )
        }
        Message::NewView(new_view) => {
            let from: Vec<String> = new_view
                .changes
                .iter()
                .map(|change| format!("n{}", change.from))
                .collect();
            format!("new view v{} by {}", new_view.view, from.join(" "))
        }
        Message::Committed { seq, proof } => {
            format!("committed v{} #{seq} {:?}", proof.view, proof.digest)
        }
        Message::Status(status) => format!(
            "status v{}{} low #{} decided #{}{}",
            status.view,
            if status.changing { " changing" } else { "" },
            status.low,
            status.decided,
            if status.wants_help { " wants help" } else { "" }
        ),
    }
}
