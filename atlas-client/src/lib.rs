//! The client library of Atlas.

mod bundles;
mod config;
mod core;
mod error;
mod leader;
mod reads;
mod retransmit;
mod session;
mod votes;
mod waiting;

pub use crate::config::{ConfigError, CoreConfig};
pub use crate::core::{CallId, ClientCore, Output};
pub use crate::error::{ApplicationError, CallError, Doubt, NotReady, RequestId};
