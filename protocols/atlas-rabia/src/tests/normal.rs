//! The normal case: slots, batches, decisions.

use super::rig::{PATIENCE, RESEND, Rig};
use std::time::Duration;

#[test]
fn a_lone_request_is_decided_in_one_slot_everywhere() {
    for n in [1, 2, 3, 4, 5, 7] {
        let mut rig = Rig::new(n, 1);
        rig.submit_to(0);
        rig.settle();
        rig.run(Duration::from_millis(100));
        for i in rig.alive() {
            assert_eq!(rig.decided(i), 1, "n = {n}");
            assert_eq!(rig.requests(i), [1], "n = {n}");
        }
    }
}

#[test]
fn any_replica_serves_any_client_and_all_decide_the_same() {
    for seed in 0..20 {
        for n in [3, 4, 5] {
            let mut rig = Rig::new(n, seed);
            rig.submit(100);
            rig.settle();
            let mut requests = rig.requests(0);
            for i in 1..n {
                assert_eq!(rig.requests(i), requests, "seed {seed}, n = {n}");
            }
            requests.sort_unstable();
            assert_eq!(
                requests,
                (1..=100).collect::<Vec<_>>(),
                "seed {seed}, n = {n}"
            );
        }
    }
}

#[test]
fn nothing_is_said_while_nothing_waits_but_a_rare_status() {
    let mut rig = Rig::new(3, 3);
    rig.submit(10);
    rig.settle();
    rig.run(10 * RESEND + PATIENCE);
    let (sent, decided) = (rig.sent, rig.decided(0));
    rig.run(Duration::from_secs(10));
    assert!(rig.sent - sent <= 3 * 14, "{}", rig.sent - sent);
    assert_eq!(rig.decided(0), decided, "no empty slots");
}
