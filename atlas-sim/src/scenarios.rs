//! Scenarios.
use crate::plan::Plan;
/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    make: fn(u64) -> Plan,
}
impl Scenario {
    /// The plan of a seed.
    #[must_use]
    pub fn plan(&self, seed: u64) -> Plan {
        (self.make)(seed)
    }
}
/// All.
pub const ALL: &[Scenario] = &[];
/// By name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
