//! A replica that was away long enough to need a state.

use crate::processes::{Cluster, wait_for};
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

const AWAY: u16 = 3;

/// Four keys, over and over; each call is decided by itself.
fn put(cluster: &Cluster, number: usize) {
    let (key, value) = (format!("{:05}", number % 4), format!("{number:0100}"));
    let put = cluster.kv(&["put", &key, &value]).output().unwrap();
    assert!(put.status.success(), "{put:?}");
}

fn status(cluster: &Cluster, replica: u16) -> Value {
    serde_json::from_str(&cluster.page(replica, "/status")).unwrap()
}

fn import(cluster: &Cluster, count: usize) {
    let mut lines = String::new();
    for i in 0..count {
        writeln!(lines, "{{\"key\":\"{i:05}\",\"value\":\"{:0100}\"}}", i * 7).unwrap();
    }
    cluster.import(&lines);
}

#[test]
fn a_replica_that_was_away_fetches_only_what_differs() {
    let mut cluster = Cluster::start(&["--checkpoint-interval", "8"]);
    import(&cluster, 30_000);
    cluster.wait_until_agreed();
    let filled = status(&cluster, AWAY)["core"]["executed"].as_u64().unwrap();
    let mut puts = 0;
    wait_for("a checkpoint of everything", || {
        put(&cluster, puts);
        puts += 1;
        let checkpoint = status(&cluster, AWAY)["core"]["checkpoint"].as_u64();
        checkpoint.filter(|checkpoint| *checkpoint >= filled)
    });
    cluster.kill_9(&[AWAY.into()]);
    // The others' logs begin behind what it has then.
    (0..40).for_each(|number| put(&cluster, puts + number));

    cluster.start_replica(AWAY.into());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The load goes on.
        scope.spawn(|| {
            let mut number = puts + 40;
            while !done.load(Ordering::Relaxed) {
                put(&cluster, number);
                number += 1;
            }
        });
        wait_for("a state from the others", || {
            let installed = &status(&cluster, AWAY)["counters"]["states_installed"];
            installed.as_u64().filter(|installed| *installed > 0)
        });
        done.store(true, Ordering::Relaxed);
    });
    cluster.wait_until_agreed();

    let status = status(&cluster, AWAY);
    let figure = |name: &str| status["transfer"][name].as_u64().unwrap();
    let (fetched, reused) = (figure("bytes_fetched"), figure("bytes_reused"));
    println!("{fetched} bytes fetched, {reused} were here");
    assert!(reused > 3_000_000, "{status:#}");
    assert!(fetched > 0 && fetched * 10 < reused, "{status:#}");
    let metrics = cluster.page(AWAY, "/metrics");
    let line = format!("atlas_transfer_bytes_total{{what=\"fetched\"}} {fetched}");
    assert!(metrics.contains(&line), "{metrics}");
}
