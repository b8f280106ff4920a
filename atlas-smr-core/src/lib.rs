//! State machine replication on top of an ordering protocol.
pub mod bundle;
pub mod client_message;
pub mod session;
