//! The protocols that come with Atlas keep what every protocol must keep.

use atlas_pbft::Pbft;
use atlas_rabia::Rabia;
use atlas_raft::Raft;
use atlas_sim::SimProtocol;
use atlas_sim::conformance::{self, Extent};

fn conforms<P: SimProtocol>() {
    let extent = Extent {
        seeds: 0..4,
        ..Extent::default()
    };
    let verdict = conformance::check::<P>(&extent);
    let failed = verdict.as_ref().err().map(ToString::to_string);
    assert_eq!(failed, None);
    assert!(verdict.is_ok_and(|passed| passed.operations >= 100 * passed.runs));
}

#[test]
fn pbft_conforms() {
    conforms::<Pbft>();
}

#[test]
fn raft_conforms() {
    conforms::<Raft>();
}

#[test]
fn rabia_conforms() {
    conforms::<Rabia>();
}
