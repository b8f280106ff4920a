//! Serving states.

use super::super::*;
use super::*;
use crate::transfer::state::serve::OUTSTANDING_MAX;
use atlas_common::quorum::FaultModel;
use std::time::Duration;

fn server(bytes_per_second: u64) -> StateTransfer {
    let (_, membership) = cluster(FaultModel::Byzantine);
    let peers = (1..4).map(NodeId).collect();
    StateTransfer::new(
        membership,
        peers,
        &limits(),
        bytes_per_second,
        MapKey::new(1),
    )
}

fn request(number: u64, count: usize) -> StateTransferMessage {
    let digests = vec![Digest::of(&number.to_le_bytes()); count];
    StateTransferMessage::RequestParts { digests }
}

#[test]
fn what_a_peer_is_served_at_once_is_bounded() {
    let mut server = server(0);
    let mut now = Time::from_millis(1);
    for number in 0..100 {
        server.process_message(now, NodeId(1), request(number, 5));
    }
    let served = std::iter::from_fn(|| server.poll()).count();
    assert_eq!(served, OUTSTANDING_MAX);
    assert_eq!(server.counters().requests_dropped, 84);
    server.served(now, NodeId(1), 5);
    server.process_message(now, NodeId(1), request(7, 1));
    let effect = server.poll();
    assert!(matches!(
        effect,
        Some(StateTransferEffect::ServeParts { .. })
    ));
    // What the driver never answers does not count for ever.
    now = now.after(Duration::from_secs(11));
    let offer = StateTransferMessage::RequestLatestState { above: SeqNo(3) };
    server.process_message(now, NodeId(1), offer);
    let (to, above) = (NodeId(1), SeqNo(3));
    let wanted = StateTransferEffect::ServeOffer { to, above };
    assert_eq!(server.poll(), Some(wanted));
}

#[test]
fn requests_for_nothing_or_for_too_much_are_dropped() {
    let mut server = server(0);
    let now = Time::from_millis(1);
    for count in [0, ANSWER_DIGESTS_MAX + 1, 100_000] {
        server.process_message(now, NodeId(1), request(1, count));
    }
    assert_eq!(server.poll(), None);
    assert_eq!(server.counters().requests_dropped, 3);
}

#[test]
fn an_answer_is_bounded_and_says_what_is_not_here() {
    let blobs: Vec<Bytes> = (0..10).map(|i| noise(i, 1000)).collect();
    let mut digests: Vec<Digest> = blobs.iter().map(|blob| Digest::of(blob)).collect();
    digests.insert(1, Digest::of(b"nowhere"));
    let mut read = 0;
    let messages = answer(&digests, 3500, |digest| {
        read += 1;
        blobs.iter().find(|b| Digest::of(b) == *digest).cloned()
    });
    let parts = StateTransferMessage::Parts {
        blobs: blobs[..3].to_vec(),
    };
    let gone = StateTransferMessage::Gone {
        digests: vec![digests[1]],
    };
    assert_eq!(messages, [parts, gone]);
    assert_eq!(
        read, 5,
        "one more than was sent, and the one that is missing"
    );
}

#[test]
fn an_answer_fits_a_frame_and_holds_the_largest_part() {
    let usual = Limits::default();
    assert_eq!(answer_bytes_max(&usual), 1 << 20);
    let large = Limits {
        chunk_bytes: 8 << 20,
        ..Limits::default()
    };
    assert_eq!(answer_bytes_max(&large), 8 << 20);
    let small = Limits {
        frame_bytes_max: 200 << 10,
        chunk_bytes: 4 << 10,
        ..Limits::default()
    };
    assert!(answer_bytes_max(&small) < small.frame_bytes_max);
    let blobs = vec![noise(1, answer_bytes_max(&small) / 256); 256];
    let message = StateTransferMessage::Parts { blobs };
    let encoded = atlas_common::wire::encode(&message).unwrap();
    assert!(encoded.len() <= small.frame_bytes_max);
}

/// Three peers ask all the time, one of them for ten times as much.
#[test]
fn the_bandwidth_is_kept_and_shared_among_the_peers() {
    let rate: u64 = 8 << 20;
    let mut server = server(rate);
    let mut now = Time::from_millis(1);
    let mut served = std::collections::BTreeMap::<NodeId, u64>::new();
    let end = Time::from_millis(10_000);
    while now < end {
        for (peer, times) in [(1, 10), (2, 1), (3, 1)] {
            for number in 0..times {
                server.process_message(now, NodeId(peer), request(number, 200));
            }
        }
        while let Some(StateTransferEffect::ServeParts { to, .. }) = server.poll() {
            *served.entry(to).or_default() += 200_000;
            server.served(now, to, 200_000);
        }
        let deadline = server.deadline().expect("requests wait");
        now = deadline.max(now.after(Duration::from_millis(5)));
        server.handle_timeout(now);
    }
    let total: u64 = served.values().sum();
    assert_eq!(server.counters().bytes_served, total);
    assert!((9 * rate..11 * rate).contains(&total), "{total}");
    assert!(
        served.values().all(|bytes| *bytes > total / 4),
        "{served:?}"
    );
}
