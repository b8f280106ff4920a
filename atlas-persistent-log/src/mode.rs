//! When a record counts as kept, and who waits for it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// What "durable" means for a log; every benchmark says which one ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Acknowledged after `fdatasync`: survives a power cut.
    #[default]
    Sync,
    /// Acknowledged once the operating system has it, synced in the background: survives the end of
    /// the process, not a power cut.
    Async,
    /// Nothing is written: survives nothing.
    Memory,
}

impl Durability {
    /// The name used in configuration files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no [`Durability`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{found}` is no durability mode: expected `sync`, `async` or `memory`")]
pub struct UnknownDurability {
    /// The word.
    pub found: String,
}

impl FromStr for Durability {
    type Err = UnknownDurability;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Sync, Self::Async, Self::Memory]
            .into_iter()
            .find(|mode| mode.name() == word)
            .ok_or_else(|| UnknownDurability {
                found: word.to_owned(),
            })
    }
}

/// Whether a writer waits for its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationMode {
    /// Return at once; the outcome is reported to a callback.
    Notify,
    /// Return when it is durable.
    Blocking,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowercase_and_round_trip() {
        for mode in [Durability::Sync, Durability::Async, Durability::Memory] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "Sync".parse::<Durability>().unwrap_err();
        assert!(error.to_string().contains("`Sync`"));
    }
}
