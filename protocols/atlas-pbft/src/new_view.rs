//! What a new view begins with: a pure function of its view changes (OSDI'99, section 4.4).
//!
//! The new leader does not send the proposals that follow from the view changes: every replica works
//! them out here, so that none can be omitted, altered or put out of order.

use crate::message::{Prepared, SignedViewChange};
use crate::record::Entered;
use atlas_common::{SeqNo, View};
use atlas_core::Batch;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The start of a view.
///
/// Slots up to the newest certified checkpoint are history. From there to the highest prepared slot
/// each holds the batch of the prepared certificate of the highest view, or the null batch where
/// there is none.
pub(crate) fn entered(view: View, changes: &[SignedViewChange], newest_wins: bool) -> Entered {
    let certificates = changes
        .iter()
        .filter_map(|signed| signed.change.stable.as_ref());
    let stable = certificates.max_by_key(|certificate| certificate.id.seq);
    let low = stable.map_or(SeqNo::ZERO, |certificate| certificate.id.seq);
    let mut chosen: BTreeMap<SeqNo, &Prepared> = BTreeMap::new();
    for prepared in changes.iter().flat_map(|signed| &signed.change.prepared) {
        let better = |old: &&Prepared| (prepared.view > old.view) == newest_wins;
        if prepared.seq > low && chosen.get(&prepared.seq).is_none_or(better) {
            chosen.insert(prepared.seq, prepared);
        }
    }
    let high = chosen.last_key_value().map_or(low, |(seq, _)| *seq);
    let null = Batch::null().digest();
    let digest_of = |seq| chosen.get(&seq).map_or(null, |prepared| prepared.digest);
    let slots = (low.0 + 1..=high.0).map(SeqNo);
    let proposals = slots.map(|seq| (seq, digest_of(seq))).collect();
    Entered {
        view,
        stable: stable.cloned().map(Arc::new),
        proposals,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ViewChange;
    use crate::sealed::Sealed;
    use atlas_common::crypto::Signature;
    use atlas_common::{Digest, NodeId};

    fn change(from: u32, prepared: &[(u64, u64, &str)]) -> SignedViewChange {
        let prepared = prepared.iter().map(|(seq, view, what)| Prepared {
            seq: SeqNo(*seq),
            view: View(*view),
            digest: Digest::of(what.as_bytes()),
            votes: Vec::new(),
        });
        let prepared = prepared.collect();
        let change = ViewChange {
            view: View(9),
            stable: None,
            prepared,
        };
        SignedViewChange {
            from: NodeId(from),
            change: Sealed::new(change),
            signature: Signature([0; 64]),
        }
    }

    /// Row 13, and the trap of a view change that carries only the first of many prepared slots.
    #[test]
    fn osdi99_4_4_every_prepared_slot_is_proposed_again_and_holes_are_null() {
        let changes = [
            change(0, &[(1, 3, "old"), (4, 2, "four")]),
            change(1, &[(1, 5, "new"), (2, 1, "two")]),
            change(2, &[]),
        ];
        let entered = entered(View(9), &changes, true);
        let expected = [
            (SeqNo(1), Digest::of(b"new")),
            (SeqNo(2), Digest::of(b"two")),
            (SeqNo(3), Batch::null().digest()),
            (SeqNo(4), Digest::of(b"four")),
        ];
        assert_eq!(entered.proposals, expected);
    }

    #[test]
    fn osdi99_4_4_without_prepared_slots_nothing_is_proposed_again() {
        let changes = [change(0, &[]), change(1, &[]), change(2, &[])];
        assert_eq!(entered(View(9), &changes, true).proposals, []);
    }
}
