//! Byzantine voters: rows 8 to 12 and 23.

use super::{Scenario, counted, nothing};
use crate::faults::FaultKind;
use crate::plan::{Action, Plan};

fn calm(replicas: usize, seed: u64, must_happen: &[FaultKind]) -> Plan {
    Plan {
        must_happen: must_happen.to_vec(),
        ..Plan::calm("", replicas, seed)
    }
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "row-08-forged-votes",
        about: "wrong digests, bad signatures, others' votes, repeated ones: dropped and counted",
        plan: |seed| {
            calm(7, seed, &[FaultKind::ForgedVote, FaultKind::DoubleVote])
                .adversary(2, "forge-votes")
                .adversary(4, "double-votes")
        },
        shows: |report| counted(report, &["bad_signature", "evidence"]),
    },
    Scenario {
        name: "row-09-replays-across-domains",
        about: "messages of another cluster, epoch, phase or view: refused",
        plan: |seed| {
            calm(7, seed, &[FaultKind::ForeignDomain, FaultKind::Replay])
                .adversary(1, "foreign")
                .adversary(5, "replay")
                .at(700, Action::Suspect)
                .heal_at(1000)
        },
        shows: |report| counted(report, &["bad_signature"]),
    },
    Scenario {
        name: "row-10-far-future",
        about: "slots and views that nobody will reach: dropped, memory stays within the window",
        plan: |seed| calm(4, seed, &[FaultKind::FarFuture]).adversary(2, "far-future"),
        shows: |report| counted(report, &["out_of_window"]),
    },
    Scenario {
        name: "row-11-mixed-certificates",
        about: "certificates that mix views, or with votes of non-members: refused",
        plan: |seed| calm(4, seed, &[FaultKind::FakeCertificate]).adversary(3, "fake-certificates"),
        shows: |report| counted(report, &["not_a_member", "bad_certificate"]),
    },
    Scenario {
        name: "row-12-fabricated-certificates",
        about: "every signature in a certificate is verified",
        plan: |seed| {
            calm(4, seed, &[FaultKind::FakeCertificate])
                .adversary(1, "fake-certificates")
                .at(500, Action::Suspect)
                .at(900, Action::Suspect)
                .heal_at(1200)
        },
        shows: |report| counted(report, &["bad_signature"]),
    },
    Scenario {
        name: "row-23-undecodable-bytes",
        about: "noise and length bombs: counted, and everybody lives",
        plan: |seed| calm(4, seed, &[FaultKind::Garbage]).adversary(0, "garbage"),
        shows: |report| counted(report, &["malformed"]),
    },
    Scenario {
        name: "wrong-checkpoints",
        about: "votes for states that nobody has: no certificate comes of them",
        plan: |seed| calm(4, seed, &[FaultKind::BadCheckpoint]).adversary(3, "bad-checkpoints"),
        shows: nothing,
    },
];
