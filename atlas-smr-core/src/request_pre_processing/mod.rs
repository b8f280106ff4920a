//! What happens to requests before they wait to be ordered: decoding, admission, signatures.
//!
//! [`BundleChecker`] holds the rules and is pure; [`workers`] runs it (and the checks of messages
//! between replicas) on threads. From there bundles go to the [`RequestPool`], which is the
//! [`RequestPreProcessing`] of the core.

mod cache;
mod checker;
#[cfg(test)]
mod tests;
pub mod workers;

pub use cache::VerifiedCache;
pub use checker::{BundleChecker, ClientAdmission};
pub use workers::{PreProcessedSink, WorkerConfig, WorkerCounters, WorkerPool};

use crate::bundle::RequestBundle;
use crate::pool::{Insertion, RequestPool};
use atlas_common::{ClientId, Time};

/// Where requests wait between their clients and the ordering protocol.
pub trait RequestPreProcessing {
    /// Takes requests that another replica passed on, checked. Says what became of each.
    fn process_forwarded_requests(
        &mut self,
        bundles: Vec<RequestBundle>,
        now: Time,
    ) -> Vec<Insertion>;

    /// Takes back the requests of slots that a view change dropped: they wait again.
    fn process_stopped_requests(&mut self, bundles: Vec<RequestBundle>, now: Time);

    /// These requests are decided and wait no more.
    fn process_decided_batch(&mut self, bundles: &[RequestBundle]);
}

impl RequestPreProcessing for RequestPool {
    fn process_forwarded_requests(
        &mut self,
        bundles: Vec<RequestBundle>,
        now: Time,
    ) -> Vec<Insertion> {
        bundles
            .into_iter()
            .map(|bundle| self.insert(bundle, now))
            .collect()
    }

    fn process_stopped_requests(&mut self, bundles: Vec<RequestBundle>, now: Time) {
        self.restore(bundles, now);
    }

    fn process_decided_batch(&mut self, bundles: &[RequestBundle]) {
        self.decided(bundles);
    }
}

/// Says which worker does a client's work. The same client always goes to the same worker, which is
/// what keeps its requests in their order.
pub trait WorkPartitioner: Send + Sync + std::fmt::Debug {
    /// The worker for this client, below `workers` (which is not 0).
    fn worker_of(&self, client: &ClientId, workers: usize) -> usize;
}

/// Spreads clients evenly by their keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByClient;

impl WorkPartitioner for ByClient {
    fn worker_of(&self, client: &ClientId, workers: usize) -> usize {
        let [a, b, c, d, e, f, g, h, ..] = client.key.0;
        let key = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        // Keys are as good as random; instances of one key are set apart by an odd multiplier.
        let mixed = (key ^ client.instance).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (mixed % workers.max(1) as u64) as usize
    }
}
