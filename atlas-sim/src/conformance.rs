//! What every ordering protocol must keep, in one call.
//!
//! The cases know nothing of any protocol: they run whole clusters of it under faults that every
//! protocol for replicated state machines must survive, with all checkers on. A protocol of one's own
//! needs [`SimProtocol`] and one line:
//!
//! ```
//! use atlas_raft::Raft;
//! use atlas_sim::conformance::{self, Extent};
//!
//! let passed = conformance::check::<Raft>(&Extent::brief())?;
//! assert!(passed.runs >= conformance::CASES.len() as u64);
//! # Ok::<(), Box<conformance::Failure>>(())
//! ```
//!
//! [`Extent::default`] is what a test suite should run.

use crate::faults::FaultKind;
use crate::network::Quality;
use crate::plan::{Action, BadClient, CrashKind, Plan, Target};
use crate::protocol::SimProtocol;
use crate::verdict::{Report, Verdict};
use atlas_common::NodeId;
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use std::ops::Range;
use std::time::Duration;
use thiserror::Error;

/// A property, and the faults under which it is put to the test.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The property.
    pub name: &'static str,
    /// What happens, and what must hold.
    pub about: &'static str,
    /// The smallest cluster in which the faults can happen.
    pub replicas_min: usize,
    plan: fn(usize, u64) -> Plan,
}

/// How much is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Sizes of clusters; none: the two smallest that survive one fault and two.
    pub replicas: Vec<usize>,
    /// Seeds of each case and size.
    pub seeds: Range<u64>,
}

impl Default for Extent {
    /// Ten seeds of each case, for the two smallest sizes.
    fn default() -> Self {
        Self {
            replicas: Vec::new(),
            seeds: 0..10,
        }
    }
}

impl Extent {
    /// One seed of each case.
    #[must_use]
    pub fn brief() -> Self {
        Self {
            seeds: 0..1,
            ..Self::default()
        }
    }

    /// As much, for clusters of these sizes only.
    #[must_use]
    pub fn of_sizes(self, replicas: impl Into<Vec<usize>>) -> Self {
        let replicas = replicas.into();
        Self { replicas, ..self }
    }

    fn sizes(&self, model: FaultModel) -> Vec<usize> {
        match (self.replicas.as_slice(), model) {
            ([], FaultModel::Crash) => vec![3, 5],
            ([], FaultModel::Byzantine) => vec![4, 7],
            (sizes, _) => sizes.to_vec(),
        }
    }
}

/// Every run kept every property.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Runs.
    pub runs: u64,
    /// Operations that were answered in them.
    pub operations: u64,
}

/// A run in which something did not hold.
#[derive(Clone, Debug, Error)]
#[error("{case}: {replicas} replicas, seed {seed}: {verdict}\n{transcript}")]
pub struct Failure {
    /// The case.
    pub case: &'static str,
    /// The size of the cluster.
    pub replicas: usize,
    /// The seed.
    pub seed: u64,
    /// What did not hold.
    pub verdict: Verdict,
    /// What happened, in lines.
    pub transcript: String,
}

/// Runs all [`CASES`].
///
/// # Errors
/// The first run in which something did not hold, or the faults never happened.
pub fn check<P: SimProtocol>(extent: &Extent) -> Result<Passed, Box<Failure>> {
    let mut passed = Passed::default();
    for case in CASES {
        let one = case.check::<P>(extent)?;
        passed.runs += one.runs;
        passed.operations += one.operations;
    }
    Ok(passed)
}

impl Case {
    /// Runs this case.
    ///
    /// # Errors
    /// As [`check`].
    pub fn check<P: SimProtocol>(&self, extent: &Extent) -> Result<Passed, Box<Failure>> {
        let mut passed = Passed::default();
        let sizes = extent.sizes(P::FAULT_MODEL).into_iter();
        for replicas in sizes.filter(|n| *n >= self.replicas_min) {
            for seed in extent.seeds.clone() {
                let report = self.run::<P>(replicas, seed, false);
                if !report.verdict.is_pass() {
                    let report = self.run::<P>(replicas, seed, true);
                    return Err(Box::new(Failure {
                        case: self.name,
                        replicas,
                        seed,
                        verdict: report.verdict,
                        transcript: report.transcript,
                    }));
                }
                passed.runs += 1;
                passed.operations += report.operations;
            }
        }
        Ok(passed)
    }

    /// Runs one seed of this case.
    #[must_use]
    pub fn run<P: SimProtocol>(&self, replicas: usize, seed: u64, transcript: bool) -> Report {
        crate::run::<P>(&(self.plan)(replicas, seed), transcript)
    }
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "agreement",
        about: "links come and go and halves are cut apart: no slot is ever decided differently",
        replicas_min: 3,
        plan: agreement,
    },
    Case {
        name: "validity",
        about: "clients send garbage and contradict themselves: what is executed, a client has sent",
        replicas_min: 1,
        plan: validity,
    },
    Case {
        name: "integrity",
        about: "a third of all messages comes twice, late or not at all: each operation counts once",
        replicas_min: 1,
        plan: integrity,
    },
    Case {
        name: "recovery",
        about: "each replica in turn loses its power, and comes back from its disk",
        replicas_min: 1,
        plan: recovery,
    },
    Case {
        name: "progress",
        about: "leaders crash, stand still and are cut off: all calls are answered once that is over",
        replicas_min: 3,
        plan: progress,
    },
    Case {
        name: "persist before send",
        about: "all lose their power with slow disks, and all that was not synced: nothing is taken back",
        replicas_min: 1,
        plan: persist_before_send,
    },
    Case {
        name: "exactly once",
        about: "replies are lost and replicas crash: what is sent again is answered and not done again",
        replicas_min: 1,
        plan: exactly_once,
    },
    Case {
        name: "bounded memory",
        about: "one replica is away while the others go far beyond their window: no queue outgrows its limit",
        replicas_min: 3,
        plan: bounded_memory,
    },
];

fn calm(name: &str, replicas: usize, seed: u64, must_happen: &[FaultKind]) -> Plan {
    Plan {
        must_happen: must_happen.to_vec(),
        ..Plan::calm(name, replicas, seed)
    }
}

fn agreement(replicas: usize, seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let mut plan = calm("agreement", replicas, seed, &[FaultKind::Partition]);
    plan.quality.delay_mean = Duration::from_millis(rng.between(1, 8));
    let mut at = 100;
    while at < 2500 {
        let mut order: Vec<usize> = (0..replicas).collect();
        rng.shuffle(&mut order);
        let (low, high) = order.split_at(replicas / 2);
        plan = plan
            .at(at, Action::Mend)
            .at(at, Action::Partition(vec![low.to_vec(), high.to_vec()]));
        if rng.chance(0.3) {
            plan = plan.at(at + rng.below(60), Action::Mend);
        }
        at += rng.between(30, 400);
    }
    plan.heal_at(2500)
}

fn validity(replicas: usize, seed: u64) -> Plan {
    let must = [FaultKind::ClientEquivocation, FaultKind::ClientGarbage];
    Plan {
        bad_clients: vec![
            BadClient::Equivocates,
            BadClient::Disorderly,
            BadClient::Garbage,
        ],
        ..calm("validity", replicas, seed, &must)
    }
}

fn integrity(replicas: usize, seed: u64) -> Plan {
    let quality = Quality {
        loss: 0.1,
        duplicate: 0.3,
        reorder: 0.3,
        ..Quality::good()
    };
    let must = [FaultKind::Loss, FaultKind::Duplicate, FaultKind::Reorder];
    Plan {
        quality,
        ..calm("integrity", replicas, seed, &must)
    }
    .heal_at(3000)
}

fn recovery(replicas: usize, seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let mut plan = calm(
        "recovery",
        replicas,
        seed,
        &[FaultKind::Crash, FaultKind::Restart],
    );
    for replica in 0..replicas {
        let (at, kind) = (100 + 500 * replica as u64, crash_kind(&mut rng));
        let victim = NodeId(replica as u32);
        plan = plan
            .at(at, Action::Crash(Target::Replica(victim), kind))
            .at(at + rng.between(50, 450), Action::Restart(victim));
    }
    plan.heal_at(100 + 500 * replicas as u64)
}

fn crash_kind(rng: &mut SeededRng) -> CrashKind {
    let kinds = [
        CrashKind::PowerCut,
        CrashKind::DuringWrite,
        CrashKind::LosingAll,
        CrashKind::Kill,
    ];
    rng.pick(&kinds).copied().unwrap_or(CrashKind::PowerCut)
}

fn progress(replicas: usize, seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let mut plan = calm("progress", replicas, seed, &[]);
    for i in 0..5 {
        let at = 100 + i * 600;
        plan = match rng.below(3) {
            0 => plan
                .at(at, Action::Crash(Target::Leader, crash_kind(&mut rng)))
                .at(at + 500, Action::RestartAll),
            1 => plan
                .at(at, Action::Pause(Target::Leader))
                .at(at + 500, Action::ResumeAll),
            _ => plan
                .at(at, isolate(rng.chance(0.5)))
                .at(at + 500, Action::Mend),
        };
    }
    plan.heal_at(3200)
}

fn isolate(still_hears: bool) -> Action {
    Action::Isolate {
        target: Target::Leader,
        still_hears,
    }
}

fn persist_before_send(replicas: usize, seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let must = [FaultKind::Crash, FaultKind::SlowDisk];
    let mut plan = calm("persist before send", replicas, seed, &must);
    for replica in 0..replicas {
        let times = rng.between(5, 100) as u32;
        plan = plan.at(0, Action::SlowDisk(NodeId(replica as u32), times));
    }
    for i in 0..6 {
        let at = 100 + i * 400 + rng.below(150);
        plan = plan.at(at, Action::CrashAll(CrashKind::LosingAll));
        let mut order: Vec<u32> = (0..replicas as u32).collect();
        rng.shuffle(&mut order);
        for (turn, replica) in order.into_iter().enumerate() {
            let back = at + 20 + turn as u64 * rng.between(0, 40);
            plan = plan.at(back, Action::Restart(NodeId(replica)));
        }
    }
    plan.heal_at(2600)
}

fn exactly_once(replicas: usize, seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let must = [FaultKind::Partition, FaultKind::Crash];
    let mut plan = calm("exactly once", replicas, seed, &must);
    let clients = replicas..replicas + plan.clients.len();
    for i in 0..5 {
        let at = 100 + i * 500;
        let mut lost = Vec::new();
        for replica in 0..replicas {
            let deaf = clients.clone().filter(|_| rng.chance(0.8));
            lost.extend(deaf.map(|client| (replica, client)).collect::<Vec<_>>());
        }
        plan = plan
            .at(at, Action::Cut(lost))
            .at(
                at + 200,
                Action::Crash(Target::Leader, crash_kind(&mut rng)),
            )
            .at(at + 300, Action::Mend)
            .at(at + 400, Action::RestartAll);
    }
    plan.heal_at(2700)
}

fn bounded_memory(replicas: usize, seed: u64) -> Plan {
    let mut rng = SeededRng::new(seed);
    let away = rng.below(replicas as u64) as usize;
    let others = (0..replicas).filter(|replica| *replica != away).collect();
    let mut plan = Plan {
        limits: Plan::small_limits(8),
        ..calm("bounded memory", replicas, seed, &[FaultKind::Partition])
    };
    for client in &mut plan.clients {
        client.operations = 150;
        client.pause = Duration::from_millis(10);
    }
    plan.at(100, Action::Partition(vec![vec![away], others]))
        .at(1500, Action::Mend)
        .at(2000, isolate(true))
        .heal_at(3000)
}
