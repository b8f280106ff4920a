//! Which crate may depend on which.

use crate::source::Crate;

/// Our crates from the bottom up: each may depend on those above it in this list.
const LAYERS: [&str; 12] = [
    "atlas-common",
    "atlas-core",
    "atlas-communication",
    "atlas-smr-core",
    "atlas-smr-execution",
    "atlas-kv",
    "atlas-persistent-log",
    "atlas-client",
    "atlas-smr-replica",
    "atlas-smr",
    "atlas-sim",
    "atlas-cli",
];

/// What a protocol may be made of.
const OF_A_PROTOCOL: [&str; 5] = ["atlas-common", "atlas-core", "bytes", "serde", "thiserror"];

/// Where protocols are named: the registry of nodes, the simulator, the command.
const NAMES_PROTOCOLS: [&str; 4] = ["atlas-smr-replica", "atlas-smr", "atlas-sim", "atlas-cli"];

pub(crate) fn check(crates: &[Crate]) -> Vec<String> {
    let mut found = Vec::new();
    for one in crates {
        let name = &one.name;
        if !one.inherits_lints {
            found.push(format!(
                "{name}: its manifest lacks `[lints] workspace = true`"
            ));
        }
        for (dependency, version) in &one.dependencies {
            if version
                .as_deref()
                .is_some_and(|version| version.contains('*'))
            {
                found.push(format!("{name}: the version of {dependency} is open"));
            }
            if !may_depend(one, dependency, crates) {
                found.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    found
}

fn may_depend(one: &Crate, dependency: &str, crates: &[Crate]) -> bool {
    if is_protocol(one) {
        return OF_A_PROTOCOL.contains(&dependency);
    }
    if crates
        .iter()
        .any(|other| other.name == dependency && is_protocol(other))
    {
        return NAMES_PROTOCOLS.contains(&one.name.as_str());
    }
    let position = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match (position(&one.name), position(dependency)) {
        (Some(own), Some(other)) => other < own,
        // Examples and tools stand on top of everything; crates of others are everybody's.
        _ => true,
    }
}

fn is_protocol(one: &Crate) -> bool {
    one.folder.starts_with("protocols/")
}
