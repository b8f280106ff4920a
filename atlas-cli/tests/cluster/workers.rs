//! Replicas that check signatures on threads of their own.

use crate::processes::Cluster;
use std::fmt::Write as _;

fn add_workers(cluster: &Cluster, replica: usize, workers: usize) {
    let node = cluster.path(&format!("replica-{replica}/node.toml"));
    let mut text = std::fs::read_to_string(&node).unwrap();
    writeln!(text, "worker_threads = {workers}").unwrap();
    std::fs::write(&node, text).unwrap();
}

/// How many bundles the workers of a replica have passed.
fn checked_by_workers(cluster: &Cluster, replica: u16) -> u64 {
    let status: serde_json::Value =
        serde_json::from_str(&cluster.page(replica, "/status")).unwrap();
    status["workers"]["checked"].as_u64().unwrap()
}

#[test]
fn replicas_with_and_without_worker_threads_serve_together() {
    let mut cluster = Cluster::init(&[]);
    add_workers(&cluster, 0, 2);
    add_workers(&cluster, 1, 1);
    (2..4).for_each(|replica| add_workers(&cluster, replica, 0));
    (0..4).for_each(|replica| cluster.start_replica(replica));
    let mut lines = String::new();
    for i in 0..5000 {
        writeln!(lines, "{{\"key\":\"{i:05}\",\"value\":\"{}\"}}", i * 7).unwrap();
    }
    cluster.import(&lines);
    assert_eq!(cluster.export(), lines);
    cluster.wait_until_agreed();
    assert!(checked_by_workers(&cluster, 0) > 0, "the leader's workers");
    assert_eq!(checked_by_workers(&cluster, 2), 0, "it has none");
    let metrics = cluster.page(3, "/metrics");
    assert!(metrics.contains("atlas_decisions_total"), "{metrics}");
}
