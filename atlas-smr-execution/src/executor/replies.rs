//! Replies that fit a frame.

use atlas_smr_core::client_message::OperationResult;

/// Cuts results into runs of at most `limit_bytes`, of one result at least.
pub(super) fn split(
    results: Vec<OperationResult>,
    limit_bytes: usize,
) -> Vec<Vec<OperationResult>> {
    /// What a result adds to its bytes, at most.
    const OVERHEAD: usize = 16;
    let size = |result: &OperationResult| match result {
        OperationResult::Ok(bytes) => bytes.len() + OVERHEAD,
        _ => OVERHEAD,
    };
    if results.iter().map(size).sum::<usize>() <= limit_bytes {
        return vec![results];
    }
    let (mut runs, mut run, mut bytes) = (Vec::new(), Vec::new(), 0);
    for result in results {
        if !run.is_empty() && bytes + size(&result) > limit_bytes {
            runs.push(std::mem::take(&mut run));
            bytes = 0;
        }
        bytes += size(&result);
        run.push(result);
    }
    runs.push(run);
    runs
}
