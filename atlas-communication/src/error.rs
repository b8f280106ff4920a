//! Why a network does not start, and why a connection is not let through.

use serde::{Deserialize, Serialize};
use std::io;
use thiserror::Error;

/// A network could not start.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The address to listen on cannot be had: busy, not of this machine, or not permitted.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address as configured.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// A value of the configuration is wrong.
    #[error("{field} is {found}; expected {expected}")]
    Config {
        /// Which value.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// The TLS library refuses the key or the settings made from it.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// Called outside of a tokio runtime.
    #[error("a network needs a tokio runtime to run on, and is not started from within one")]
    NoRuntime,
}

/// Why a connection is not let through. The text says it from the side that refuses.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Error, Serialize, Deserialize,
)]
pub enum Refusal {
    /// The key belongs to no member, and to no client that is admitted.
    #[error("its key is not that of a member or of an admitted client")]
    UnknownKey,
    /// The key belongs to another node than the one named.
    #[error("its key is that of another node than the one expected")]
    WrongKey,
    /// The other side belongs to a cluster with another genesis.
    #[error("it belongs to another cluster")]
    WrongCluster,
    /// The other side speaks another version of the transport's protocol.
    #[error("it speaks another version of the protocol")]
    WrongVersion,
    /// As many clients are connected as are allowed.
    #[error("too many clients are connected")]
    TooManyClients,
    /// So many connections were being set up that this one, the oldest, was given up.
    #[error("too many connections were being set up at once")]
    TooManyPending,
    /// The connection was not set up in time.
    #[error("the connection was not set up in time")]
    HandshakeTimeout,
    /// What came was not TLS, or not a greeting.
    #[error("it does not speak the protocol")]
    NotAtlas,
}

impl Refusal {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 8] = [
        Self::UnknownKey,
        Self::WrongKey,
        Self::WrongCluster,
        Self::WrongVersion,
        Self::TooManyClients,
        Self::TooManyPending,
        Self::HandshakeTimeout,
        Self::NotAtlas,
    ];
}
