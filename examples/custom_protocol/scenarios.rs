//! The protocol in the simulator: what every protocol must keep, and scenarios of its own.

use super::Solo;
use atlas_sim::conformance::{self, Extent};
use atlas_sim::plan::{Action, CrashKind, Target};
use atlas_sim::{Plan, Setup, SimProtocol};
use atlas_smr::protocol::NodeId;

impl SimProtocol for Solo {
    fn config(_: &Setup) {}
}

#[test]
fn it_keeps_what_every_protocol_must_keep() {
    let extent = Extent::default().of_sizes([1]);
    if let Err(failure) = conformance::check::<Solo>(&extent) {
        panic!("{failure}");
    }
}

#[test]
fn it_takes_nothing_back_however_often_it_loses_its_power() {
    let alone = Target::Replica(NodeId(0));
    for seed in 0..20 {
        let mut plan = Plan::calm("power cuts", 1, seed);
        for i in 0..8 {
            plan = plan
                .at(100 + 300 * i, Action::Crash(alone, CrashKind::DuringWrite))
                .at(200 + 300 * i, Action::RestartAll);
        }
        let report = atlas_sim::run::<Solo>(&plan.heal_at(2600), true);
        assert!(
            report.verdict.is_pass(),
            "{}\n{}",
            report.verdict,
            report.transcript
        );
        assert_eq!(report.operations, 200, "seed {seed}");
    }
}
