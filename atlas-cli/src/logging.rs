//! Logs: quiet unless asked.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Logs go to standard error, from this level on unless asked otherwise: `ATLAS_LOG` asks for more
/// (`ATLAS_LOG=info`, `ATLAS_LOG=atlas_smr_replica=debug`).
pub(crate) fn start(default: &str) {
    let filter = EnvFilter::try_from_env("ATLAS_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A file or a pipe gets no colours.
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .compact()
        .init();
}
