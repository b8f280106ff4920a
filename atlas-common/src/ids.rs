//! Identifiers: small numbers with a meaning, so that one cannot stand where another belongs.

use crate::crypto::PublicKey;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Not `write!`, which would lose the width that a table asks for.
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! counter {
    ($name:ident) => {
        impl $name {
            /// The smallest value.
            pub const ZERO: Self = Self(0);

            /// The value after this one. Saturates at the end of the range, which no run reaches:
            /// at a million steps a second it is half a million years away.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The value before this one, or [`Self::ZERO`].
            #[must_use]
            pub const fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }

            /// The value `n` after this one, saturating.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                Self(self.0.saturating_add(n))
            }

            /// How many steps this value is ahead of `other`; 0 when it is not ahead.
            #[must_use]
            pub const fn since(self, other: Self) -> u64 {
                self.0.saturating_sub(other.0)
            }
        }
    };
}

number!(
    /// A replica or a client node, by its number in the cluster file. Replicas count from 0 without
    /// gaps.
    NodeId(u32),
    "n"
);
number!(
    /// A slot in the total order of decisions. The first decision is number 1; 0 means "none yet".
    SeqNo(u64),
    "#"
);
number!(
    /// A view (PBFT), term (Raft) or phase under one leader, counted from 0.
    View(u64),
    "v"
);
number!(
    /// A period of fixed membership, counted from 0.
    Epoch(u64),
    "e"
);
number!(
    /// A client session, numbered by the replicated session table when it was opened; never given
    /// out twice. 0 is no session: a bundle under it asks to open one.
    SessionId(u64),
    "s"
);
number!(
    /// The number of an operation within its session, counted from 1 without gaps.
    OpNumber(u64),
    "op"
);
number!(
    /// The position of a record in a replica's own log, counted from 1. 0 means "nothing logged".
    Lsn(u64),
    "lsn"
);
counter!(Lsn);
counter!(SeqNo);
counter!(View);
counter!(Epoch);
counter!(SessionId);
counter!(OpNumber);

impl NodeId {
    /// The position of this replica in arrays indexed by replica.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One running client: its key, and a number that tells apart the programs that share the key. Each
/// has one connection to each replica, and replies find their way back by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId {
    /// The client's identity.
    pub key: PublicKey,
    /// Chosen at random by each program that runs under the key.
    pub instance: u64,
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:x}", self.key, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_line_up_in_a_table() {
        assert_eq!(
            format!("{:>6}|{:<3}|", SeqNo(626), NodeId(2)),
            "   626|2  |"
        );
    }
}
