//! What replicas leave on their disks: looked at, proven to others, and damaged.

use crate::processes::{Cluster, atlas, run};
use std::fs;
use std::path::Path;

fn inspect(replica: &Path) -> (i32, String) {
    run(atlas().arg("inspect").arg(replica))
}

fn verify(proof: &Path, cluster: &Path) -> (i32, String) {
    run(atlas()
        .arg("verify")
        .arg(proof)
        .arg("--cluster")
        .arg(cluster.join("cluster.toml")))
}

/// The numbers in "decisions: A to B".
fn last_decision(inspected: &str) -> u64 {
    let line = inspected
        .lines()
        .find_map(|line| line.strip_prefix("decisions: "));
    let (_, last) = line.unwrap().split_once(" to ").unwrap();
    last.parse().unwrap()
}

#[test]
fn a_stopped_replica_is_inspected_and_what_it_knows_is_proven_to_others() {
    let mut cluster = Cluster::start(&["--checkpoint-interval", "4"]);
    for i in 0..10 {
        let (code, text) = run(&mut cluster.kv(&["put", &format!("key-{i}"), "value"]));
        assert_eq!(code, 0, "{text}");
    }
    let replica = cluster.path("replica-0");
    let (code, text) = inspect(&replica);
    assert!(code == 1 && text.contains("in use"), "{text}");
    cluster.kill_9(&[0]);
    let before = fingerprint(&replica.join("data"));
    let (code, text) = inspect(&replica);
    assert!(code == 0 && text.contains("everything is whole"), "{text}");
    assert!(text.contains("certified by replicas"), "{text}");

    let last = last_decision(&text).to_string();
    let other = Cluster::init(&[]);
    for what in [&["--decision", &last][..], &["--checkpoint"]] {
        let proof = cluster.path(&format!("{}.proof", what[0]));
        let export = || {
            let mut command = atlas();
            command.arg("export-proof").arg(&replica).args(what);
            command.arg("--output").arg(&proof);
            run(&mut command)
        };
        let (code, text) = export();
        assert_eq!(code, 0, "{text}");
        let (code, text) = export();
        assert!(code == 1 && text.contains("exists"), "{text}");
        let (code, text) = verify(&proof, &cluster.path(""));
        assert!(code == 0 && text.starts_with("valid: "), "{text}");
        let (code, text) = verify(&proof, &other.path(""));
        assert!(code == 1 && text.contains("about cluster"), "{text}");
        let mut bytes = fs::read(&proof).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&proof, bytes).unwrap();
        let (code, text) = verify(&proof, &cluster.path(""));
        assert!(code == 2 && text.contains("damaged"), "{text}");
    }
    assert_eq!(fingerprint(&replica.join("data")), before);

    let log = newest_log(&replica.join("data"));
    let mut bytes = fs::read(&log).unwrap();
    bytes[200] ^= 4;
    fs::write(&log, bytes).unwrap();
    let (code, text) = inspect(&replica);
    let name = log.file_name().unwrap().to_str().unwrap();
    assert!(code == 1 && text.contains(name), "{text}");
}

#[test]
fn a_cluster_that_signs_nothing_has_nothing_to_prove() {
    let mut cluster = Cluster::start_with("raft", 3, &[]);
    let (code, text) = run(&mut cluster.kv(&["put", "key", "value"]));
    assert_eq!(code, 0, "{text}");
    cluster.kill_9(&[1]);
    let replica = cluster.path("replica-1");
    let (code, text) = inspect(&replica);
    assert_eq!(code, 0, "{text}");
    let mut export = atlas();
    export.arg("export-proof").arg(&replica).arg("--checkpoint");
    let (code, text) = run(export.arg("-o").arg(cluster.path("none")));
    assert!(code == 1 && text.contains("signs nothing"), "{text}");
    assert!(!cluster.path("none").exists());
}

/// Names and contents of all files but the lock.
fn fingerprint(directory: &Path) -> Vec<(String, blake3::Hash)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    let mut files: Vec<_> = named
        .filter(|(name, _)| name != "lock")
        .map(|(name, path)| (name, blake3::hash(&fs::read(path).unwrap())))
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

/// The last segment of the log.
fn newest_log(directory: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_log = |path: &std::path::PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("log-")
    };
    entries.filter(is_log).max().expect("a log")
}

#[test]
fn a_checkpoint_is_taken_when_it_is_asked_for() {
    let cluster = Cluster::start_with("raft", 3, &["--checkpoint-interval", "50"]);
    let (code, text) = run(&mut cluster.kv(&["put", "key", "value"]));
    assert_eq!(code, 0, "{text}");
    let take = || {
        let mut command = atlas();
        command.arg("checkpoint").arg("--client");
        run(command.arg(cluster.path("client-0")))
    };
    let (code, text) = take();
    assert!(code == 0 && text.starts_with("checkpoint 50: "), "{text}");
    let holders = cluster.status();
    let holders = holders
        .iter()
        .filter(|r| r["checkpoint"].as_u64() >= Some(50));
    assert!(holders.count() >= 2);
}
