//! The common coin.

use atlas_common::SeqNo;
use atlas_common::digest::DigestBuilder;
use atlas_core::Membership;

/// The coin of a phase of a slot: a pure function, so that every replica sees the same side, in each
/// of its lives and whatever else it does meanwhile.
///
/// It is common, not secret: liveness is proven against a network that does not look at it (see the
/// front page), safety holds against any.
#[must_use]
pub fn flip(membership: &Membership, seq: SeqNo, phase: u32) -> bool {
    let digest = DigestBuilder::new("atlas v1 rabia coin")
        .digest(membership.genesis())
        .number(membership.epoch().0)
        .number(seq.0)
        .number(u64::from(phase))
        .finish();
    digest.as_bytes()[0] & 1 == 1
}
