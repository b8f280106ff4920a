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
    match conformance::check::<P>(&extent) {
        Ok(passed) => assert!(passed.operations >= 100 * passed.runs),
        Err(failure) => panic!("{failure}"),
    }
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
