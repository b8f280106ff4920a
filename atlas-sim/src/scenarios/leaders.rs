//! Byzantine leaders: rows 1 to 7, 13, 14, 16, 17 and 24.

use super::{Scenario, changed_views, counted, nothing};
use crate::faults::FaultKind;
use crate::plan::{Action, CrashKind, Plan, Target};
use atlas_common::NodeId;
use std::time::Duration;

fn calm(replicas: usize, seed: u64, must_happen: &[FaultKind]) -> Plan {
    Plan {
        must_happen: must_happen.to_vec(),
        ..Plan::calm("", replicas, seed)
    }
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "row-01-equivocating-leader",
        about: "two proposals for one slot: at most one is decided, both are kept as evidence",
        plan: |seed| calm(4, seed, &[FaultKind::Equivocation]).adversary(0, "equivocate"),
        shows: |report| counted(report, &["evidence"]),
    },
    Scenario {
        name: "row-02-censoring-leader",
        about: "the leader leaves out one client: it is replaced within ten seconds",
        plan: |seed| Plan {
            answered_within: Duration::from_secs(10),
            ..calm(4, seed, &[FaultKind::Censorship]).adversary(0, "censor")
        },
        shows: |report| changed_views(report, 1),
    },
    Scenario {
        name: "row-04-invalid-proposals",
        about: "unsigned requests: refused; repeated or reordered ones: skipped when executed",
        plan: |seed| calm(4, seed, &[FaultKind::BadProposal]).adversary(0, "bad-proposals"),
        shows: |report| counted(report, &["bad_request"]),
    },
    Scenario {
        name: "row-05-oversized-proposals",
        about: "a batch larger than allowed is refused",
        plan: |seed| calm(4, seed, &[FaultKind::Oversized]).adversary(0, "oversized"),
        shows: |report| counted(report, &["too_large"]),
    },
    Scenario {
        name: "row-06-partial-proposals",
        about: "a proposal reaches f+1 only: the others fetch its body",
        plan: |seed| calm(7, seed, &[FaultKind::PartialProposal]).adversary(0, "partial-proposals"),
        shows: |report| counted(report, &["bodies_fetched"]),
    },
    Scenario {
        name: "row-07-votes-before-the-proposal",
        about: "votes that arrive before their proposal wait for it, and nothing runs without a body",
        plan: |seed| calm(4, seed, &[FaultKind::LateProposal]).adversary(0, "late-proposals"),
        shows: nothing,
    },
    Scenario {
        name: "row-13-bad-new-view",
        about: "a new view that leaves out what was prepared is refused, and the next leader's taken",
        plan: |seed| {
            let crash = Action::Crash(Target::Replica(NodeId(0)), CrashKind::PowerCut);
            calm(4, seed, &[FaultKind::BadNewView])
                .adversary(1, "bad-new-view")
                .at(300, crash)
                .at(2500, Action::RestartAll)
                .heal_at(3000)
        },
        shows: |report| changed_views(report, 1),
    },
    Scenario {
        name: "row-14-earlier-proposals",
        about: "views change under an equivocating leader: only what was voted for is decided",
        plan: |seed| {
            let mut plan = calm(4, seed, &[FaultKind::Equivocation, FaultKind::Suspicion])
                .adversary(0, "equivocate");
            for i in 1..12 {
                plan = plan.at(i * 150, Action::Suspect);
            }
            plan.heal_at(2000)
        },
        shows: |report| changed_views(report, 3),
    },
    Scenario {
        name: "row-16-decision-races-view-change",
        about: "views change under load at every moment of a slot's life: no deadlock",
        plan: |seed| {
            let mut plan = calm(4, seed, &[FaultKind::Suspicion]);
            for i in 1..40 {
                plan = plan.at(i * 37, Action::Suspect);
            }
            plan.heal_at(1600)
        },
        shows: |report| match report.view_changes_in_flight {
            0 => Err("no view change with slots in flight".to_owned()),
            _ => changed_views(report, 10),
        },
    },
    Scenario {
        name: "row-17-view-change-storm",
        about: "f replicas want another view all the time: nobody follows fewer than f+1",
        plan: |seed| {
            calm(7, seed, &[FaultKind::ViewChangeStorm])
                .adversary(5, "storm")
                .adversary(6, "storm")
        },
        shows: |report| match report.view_changes {
            0 => Ok(()),
            changes => Err(format!("{changes} view changes where there should be none")),
        },
    },
    Scenario {
        name: "row-24-split-first-slot",
        about: "n = 4: the first proposals reach some only, and the view changes in the first slot",
        plan: |seed| {
            calm(4, seed, &[FaultKind::PartialProposal])
                .adversary(0, "partial-proposals")
                .at(20 + seed % 60, Action::Suspect)
                .at(200 + seed % 60, Action::Suspect)
                .heal_at(1500)
        },
        shows: |report| changed_views(report, 1),
    },
];
