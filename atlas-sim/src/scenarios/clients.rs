//! Byzantine clients, and replicas that lie to clients: rows 29, 30, 31 and 33.

use super::{Scenario, counted, nothing};
use crate::faults::FaultKind;
use crate::plan::{BadClient, Plan};
use std::time::Duration;

fn with_bad_clients(seed: u64, kind: BadClient, fault: FaultKind) -> Plan {
    let mut plan = Plan {
        bad_clients: vec![kind; 2],
        must_happen: vec![fault],
        ..Plan::calm("", 4, seed)
    };
    // Long enough for everything that they are up to.
    for client in &mut plan.clients {
        client.pause = Duration::from_millis(120);
    }
    plan
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "row-29-client-equivocates",
        about: "different payloads under one number: the order picks one, the same everywhere",
        plan: |seed| with_bad_clients(seed, BadClient::Equivocates, FaultKind::ClientEquivocation),
        shows: nothing,
    },
    Scenario {
        name: "row-30-disorderly-client",
        about: "gaps, jumps, repeated numbers, others' sessions, floods: at most once, bounded",
        plan: |seed| with_bad_clients(seed, BadClient::Disorderly, FaultKind::ClientDisorder),
        shows: nothing,
    },
    Scenario {
        name: "row-31-client-garbage",
        about: "what is no request is dropped, and others are served",
        plan: |seed| with_bad_clients(seed, BadClient::Garbage, FaultKind::ClientGarbage),
        shows: |report| counted(report, &["malformed", "bad_signature", "wrong_sender"]),
    },
    Scenario {
        name: "row-33-forged-replies",
        about: "f replicas lie to clients: these wait for f+1 equal replies",
        plan: |seed| Plan {
            must_happen: vec![FaultKind::ForgedReply],
            ..Plan::calm("", 7, seed)
                .adversary(0, "forged-replies")
                .adversary(3, "forged-replies")
        },
        shows: nothing,
    },
];
