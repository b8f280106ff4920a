//! Bounded memory: nothing in a replica grows beyond its limit.

use super::Violation;
use atlas_common::NodeId;
use atlas_core::Limits;
use atlas_smr_core::core::CoreStatus;

/// The most messages and decisions that may wait for the disk, for each slot of the window. A slot
/// makes a few votes; a replica whose disk is slow keeps those of the whole window.
const OUTBOX_PER_SLOT: u64 = 16;

/// Checks a correct replica's queues against the cluster's limits.
///
/// # Errors
/// The first that is too long.
pub fn check(replica: NodeId, status: &CoreStatus, limits: &Limits) -> Result<(), Violation> {
    let outbox_max = (limits.window + 64) * OUTBOX_PER_SLOT;
    // A view may begin from a checkpoint that this replica does not have yet, a window above its own.
    let windows = 2 * limits.window;
    let found = [
        (
            "pool_bytes",
            status.pool_bytes as u64,
            limits.pool_bytes_max as u64,
        ),
        ("outbox", status.outbox as u64, outbox_max),
        ("slots in flight", status.protocol.in_flight as u64, windows),
    ];
    match found.into_iter().find(|(_, found, limit)| found > limit) {
        Some((what, found, limit)) => Err(Violation::Unbounded {
            replica,
            what,
            found,
            limit,
        }),
        None => Ok(()),
    }
}
