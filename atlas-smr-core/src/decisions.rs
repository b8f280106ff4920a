//! Decisions kept in memory for peers that are behind.

use atlas_common::{Digest, SeqNo, wire};
use atlas_core::Batch;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// What a decision costs in memory besides its bytes, and each bundle of its batch.
const DECISION_OVERHEAD_BYTES: usize = 256;
const BUNDLE_OVERHEAD_BYTES: usize = 32;

/// The newest decisions, without gaps, each with its proof.
///
/// It holds at most `bytes_max` bytes: beyond that the oldest are dropped first, and a peer that
/// needs those has to fetch a state. The newest decision is kept whatever its size.
#[derive(Clone, Debug)]
pub struct DecisionStore<Proof> {
    bytes_max: usize,
    bytes: usize,
    /// The number of the first kept decision; of the next one while nothing is kept.
    first: SeqNo,
    decisions: VecDeque<Kept<Proof>>,
    by_digest: BTreeMap<Digest, SeqNo>,
}

#[derive(Clone, Debug)]
struct Kept<Proof> {
    batch: Batch,
    proof: Proof,
    bytes: usize,
}

impl<Proof: Clone + Serialize> DecisionStore<Proof> {
    /// An empty store.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            first: SeqNo::ZERO.next(),
            decisions: VecDeque::new(),
            by_digest: BTreeMap::new(),
        }
    }

    /// Keeps the decision of slot `seq`. One that is kept already is ignored; one that leaves a gap
    /// (a state was installed in between) takes the place of all earlier ones.
    pub fn push(&mut self, seq: SeqNo, batch: Batch, proof: Proof) {
        let next = self.next();
        if seq < next && !self.decisions.is_empty() {
            return;
        }
        if seq != next {
            self.decisions.clear();
            self.by_digest.clear();
            self.bytes = 0;
            self.first = seq;
        }
        let proof_bytes = wire::encode(&proof).map_or(0, |encoded| encoded.len());
        let bundles = batch.bundles().len() * BUNDLE_OVERHEAD_BYTES;
        let bytes = batch.raw().len() + bundles + proof_bytes + DECISION_OVERHEAD_BYTES;
        self.by_digest.insert(batch.digest(), seq);
        self.decisions.push_back(Kept {
            batch,
            proof,
            bytes,
        });
        self.bytes += bytes;
        while self.bytes > self.bytes_max && self.decisions.len() > 1 {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(kept) = self.decisions.pop_front() else {
            return;
        };
        self.bytes -= kept.bytes;
        // Batches may be equal (null ones are): the entry is that of the newest.
        let digest = kept.batch.digest();
        if self.by_digest.get(&digest) == Some(&self.first) {
            self.by_digest.remove(&digest);
        }
        self.first = self.first.next();
    }

    /// Drops the decisions before `seq`.
    pub fn prune_below(&mut self, seq: SeqNo) {
        while self.first < seq && !self.decisions.is_empty() {
            self.drop_oldest();
        }
    }

    fn next(&self) -> SeqNo {
        self.first.plus(self.decisions.len() as u64)
    }

    /// The first decision kept.
    #[must_use]
    pub fn oldest(&self) -> Option<SeqNo> {
        (!self.decisions.is_empty()).then_some(self.first)
    }

    /// The last decision kept.
    #[must_use]
    pub fn newest(&self) -> Option<SeqNo> {
        (!self.decisions.is_empty()).then(|| self.next().prev())
    }

    /// The decision of slot `seq`.
    #[must_use]
    pub fn get(&self, seq: SeqNo) -> Option<(&Batch, &Proof)> {
        let offset = seq.0.checked_sub(self.first.0)?;
        let kept = self.decisions.get(usize::try_from(offset).ok()?)?;
        Some((&kept.batch, &kept.proof))
    }

    /// The decisions from `from` on, to `to` at most, without gaps, as many as stay within
    /// `bytes_max` (and one even if it does not). Empty when `from` is not kept.
    #[must_use]
    pub fn range(&self, from: SeqNo, to: SeqNo, bytes_max: usize) -> Vec<(Batch, Proof)> {
        let Some(offset) = from.0.checked_sub(self.first.0) else {
            return Vec::new();
        };
        let Ok(offset) = usize::try_from(offset) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        let count = usize::try_from(to.next().since(from)).unwrap_or(usize::MAX);
        for kept in self.decisions.iter().skip(offset).take(count) {
            bytes += kept.bytes;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((kept.batch.clone(), kept.proof.clone()));
        }
        found
    }

    /// The kept batch with this digest.
    #[must_use]
    pub fn body(&self, digest: &Digest) -> Option<Batch> {
        let seq = self.by_digest.get(digest)?;
        self.get(*seq).map(|(batch, _)| batch.clone())
    }

    /// How many decisions are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.decisions.len()
    }

    /// Whether no decision is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// What the kept decisions cost in memory, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::AgreedTime;
    use bytes::Bytes;

    fn batch(n: u64, size: usize) -> Batch {
        let bundle = Bytes::from(vec![n as u8; size]);
        Batch::new(AgreedTime::from_unix_millis(n), &[bundle])
    }

    fn store(bytes_max: usize, count: u64) -> DecisionStore<u64> {
        let mut store = DecisionStore::new(bytes_max);
        for n in 1..=count {
            store.push(SeqNo(n), batch(n, 100), n);
        }
        store
    }

    #[test]
    fn the_oldest_go_first_when_bytes_run_out() {
        let store = store(2500, 100);
        assert!(store.bytes() <= 2500 && store.len() >= 5, "{}", store.len());
        assert_eq!(store.newest(), Some(SeqNo(100)));
        let oldest = store.oldest().unwrap();
        assert_eq!(oldest, SeqNo(101 - store.len() as u64));
        assert_eq!(store.get(oldest).unwrap().1, &oldest.0);
        assert_eq!(store.get(oldest.prev()), None);
        assert_eq!(store.body(&batch(oldest.0 - 1, 100).digest()), None);
        let mut one = DecisionStore::new(10);
        one.push(SeqNo(1), batch(1, 100), ());
        assert_eq!(one.len(), 1, "the newest is kept whatever its size");
    }

    #[test]
    fn ranges_are_contiguous_and_bounded() {
        let store = store(usize::MAX, 50);
        let seqs = |from, to, bytes| -> Vec<u64> {
            let range = store.range(SeqNo(from), SeqNo(to), bytes);
            range.into_iter().map(|(_, proof)| proof).collect()
        };
        assert_eq!(seqs(3, 6, usize::MAX), [3, 4, 5, 6]);
        assert_eq!(seqs(49, 500, usize::MAX), [49, 50]);
        assert_eq!(seqs(7, 50, 1), [7], "one at least");
        assert_eq!(seqs(7, 50, 1000).len(), 2);
        assert!(seqs(51, 60, usize::MAX).is_empty() && seqs(0, 5, usize::MAX).is_empty());
        assert!(seqs(9, 8, usize::MAX).is_empty());
        assert_eq!(seqs(1, u64::MAX, usize::MAX).len(), 50);
    }

    #[test]
    fn row_15_a_decision_known_already_is_ignored() {
        let mut store = store(usize::MAX, 5);
        store.push(SeqNo(3), batch(9, 1), 9);
        assert_eq!(store.get(SeqNo(3)).unwrap().1, &3);
        assert_eq!(store.len(), 5);
    }

    #[test]
    fn a_gap_takes_the_place_of_what_came_before() {
        let mut store = store(usize::MAX, 5);
        store.push(SeqNo(90), batch(90, 1), 90);
        assert_eq!((store.oldest(), store.len()), (Some(SeqNo(90)), 1));
        assert_eq!(store.body(&batch(3, 100).digest()), None);
        let bytes = store.bytes();
        store.push(SeqNo(91), batch(91, 1), 91);
        assert_eq!(store.bytes(), 2 * bytes);
    }

    #[test]
    fn pruning_keeps_equal_batches_of_later_slots_to_be_found() {
        let mut store = DecisionStore::new(usize::MAX);
        for n in 1..=4 {
            store.push(SeqNo(n), Batch::null(), n);
        }
        store.prune_below(SeqNo(4));
        assert_eq!(store.oldest(), Some(SeqNo(4)));
        assert_eq!(store.body(&Batch::null().digest()), Some(Batch::null()));
        store.prune_below(SeqNo(9));
        assert!(store.is_empty() && store.bytes() == 0);
        assert_eq!(store.body(&Batch::null().digest()), None);
        store.push(SeqNo(5), Batch::null(), 5);
        assert_eq!(store.newest(), Some(SeqNo(5)));
    }
}
