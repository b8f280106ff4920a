//! Scenarios: one for each row of the fault catalogue that the simulator can show, and a few more.
//!
//! A scenario is a plan in which that fault happens, for any seed, and what must be seen of it
//! besides what every run must keep. A fault that never fired is a failed run.

mod clients;
mod crash;
mod leaders;
mod network;
mod rabia;
mod votes;

use crate::plan::Plan;
use crate::protocol::SimProtocol;
use crate::verdict::{Report, Verdict};
use atlas_common::quorum::FaultModel;

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name, beginning with the row of the catalogue it is about.
    pub name: &'static str,
    /// What happens, and what is expected.
    pub about: &'static str,
    plan: fn(u64) -> Plan,
    /// What else must be seen.
    shows: fn(&Report) -> Result<(), String>,
}

impl Scenario {
    /// The plan of a seed.
    #[must_use]
    pub fn plan(&self, seed: u64) -> Plan {
        Plan {
            name: self.name.to_owned(),
            ..(self.plan)(seed)
        }
    }

    /// Runs it; the verdict also says whether what it is about was seen.
    #[must_use]
    pub fn run<P: SimProtocol>(&self, seed: u64, transcript: bool) -> Report {
        self.run_with::<P>(seed, None, transcript)
    }

    /// Runs it with a deliberate defect in every correct replica.
    #[must_use]
    pub fn run_with<P: SimProtocol>(
        &self,
        seed: u64,
        bug: Option<&'static str>,
        transcript: bool,
    ) -> Report {
        let plan = Plan {
            bug,
            ..self.plan(seed)
        };
        let mut report = crate::run::<P>(&plan, transcript);
        if report.verdict.is_pass()
            && let Err(missing) = (self.shows)(&report)
        {
            report.verdict = Verdict::Idle(missing);
        }
        let led = crash::LED
            .iter()
            .filter(|(name, _)| P::LED && *name == self.name);
        for (_, shows) in led {
            if report.verdict.is_pass()
                && let Err(missing) = shows(&report)
            {
                report.verdict = Verdict::Idle(missing);
            }
        }
        report
    }
}

/// All scenarios for protocols that survive such faults: those with liars for PBFT, those for which
/// half of the replicas may crash for the others.
#[must_use]
pub fn all(model: FaultModel) -> Vec<&'static Scenario> {
    let byzantine = [leaders::ALL, votes::ALL, network::ALL, clients::ALL];
    match model {
        FaultModel::Byzantine => byzantine.into_iter().flatten().collect(),
        FaultModel::Crash => crash::ALL.iter().collect(),
    }
}

/// Those that only Rabia is asked.
#[must_use]
pub fn of_rabia() -> Vec<&'static Scenario> {
    rabia::ALL.iter().collect()
}

/// The scenario of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Scenario> {
    let models = [FaultModel::Byzantine, FaultModel::Crash].into_iter();
    let mut all = models.flat_map(all).chain(of_rabia());
    all.find(|scenario| scenario.name == name)
}

/// Nothing more than every run must show.
fn nothing(_report: &Report) -> Result<(), String> {
    Ok(())
}

/// Correct replicas must have counted something.
fn counted(report: &Report, names: &[&str]) -> Result<(), String> {
    match names.iter().find(|name| report.counter(name) == 0) {
        Some(name) => Err(format!("no correct replica counted `{name}`")),
        None => Ok(()),
    }
}

/// There must have been view changes.
fn changed_views(report: &Report, at_least: u64) -> Result<(), String> {
    if report.view_changes >= at_least {
        return Ok(());
    }
    Err(format!(
        "{} view changes instead of {at_least}",
        report.view_changes
    ))
}
