//! Logs: quiet unless asked.

use tracing_subscriber::EnvFilter;

/// Logs go to standard error: warnings and what an operator must know. `ATLAS_LOG` asks for more
/// (`ATLAS_LOG=info`, `ATLAS_LOG=atlas_smr_replica=debug`).
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("ATLAS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .compact()
        .init();
}
