//! Nothing that was acknowledged is lost with a process.

use crate::processes::{Cluster, wait_for};
use atlas_kv::{Kv, KvReply, KvRequest};
use atlas_smr::{ApplicationClient, connect};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

/// Lines of text under one key.
const LINES_PER_ENTRY: usize = 16;

/// Real text: this repository's sources in pieces, `path:line` → digest.
fn entries_of_this_repository() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut entries = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    directories.push(path);
                }
                continue;
            }
            if !name.ends_with(".rs") && !name.ends_with(".toml") && !name.ends_with(".md") {
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else {
                // An editor's temporary file, gone already.
                continue;
            };
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            let lines: Vec<&str> = text.lines().collect();
            for (index, piece) in lines.chunks(LINES_PER_ENTRY).enumerate() {
                let digest = blake3::hash(piece.join("\n").as_bytes()).to_string();
                entries.insert(format!("{shown}:{}", index * LINES_PER_ENTRY + 1), digest);
            }
        }
    }
    entries
}

fn json_line(key: &str, value: &str) -> String {
    let (key, value) = (serde_json::json!(key), serde_json::json!(value));
    format!("{{\"key\":{key},\"value\":{value}}}\n")
}

/// Kills the victim when the import is half way, and restarts it before the import ends.
fn import_while_one_is_killed(victim: usize) {
    let entries = entries_of_this_repository();
    assert!(entries.len() > 1000, "only {} entries", entries.len());
    let sorted: Vec<String> = entries.iter().map(|(k, v)| json_line(k, v)).collect();
    // The order of the input is another than that of the keys.
    let (first, second) = sorted.split_at(sorted.len() / 2);

    let mut cluster = Cluster::start(&[]);
    let mut import = cluster
        .kv(&["import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = import.stdin.take().unwrap();
    input.write_all(second.concat().as_bytes()).unwrap();
    wait_for("the import to be under way", || {
        let executed = cluster.status()[victim]["executed"].as_u64().unwrap_or(0);
        (executed > 0).then_some(())
    });
    cluster.kill_9(&[victim]);
    let (third, fourth) = first.split_at(first.len() / 2);
    input.write_all(fourth.concat().as_bytes()).unwrap();
    cluster.start_replica(victim);
    input.write_all(third.concat().as_bytes()).unwrap();
    drop(input);
    let import = import.wait_with_output().unwrap();
    assert!(import.status.success(), "{import:?}");
    let said = String::from_utf8_lossy(&import.stdout).into_owned();
    assert_eq!(said, format!("{} entries imported\n", sorted.len()));

    assert_eq!(cluster.export(), sorted.concat());
    cluster.wait_until_agreed();
}

#[test]
fn import_survives_kill_9_of_a_replica() {
    import_while_one_is_killed(3);
}

#[test]
fn import_survives_kill_9_of_the_leader() {
    import_while_one_is_killed(0);
}

/// Puts numbered keys from many tasks at once until a call fails; notes each that was acknowledged.
fn write_until_failure(
    cluster: &Cluster,
    round: usize,
    acknowledged: &Arc<Mutex<BTreeSet<String>>>,
) -> tokio::runtime::Runtime {
    const WRITERS: usize = 64;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = cluster.client_config();
    let guard = runtime.enter();
    let client = ApplicationClient::<Kv>::new(connect(&config).unwrap());
    drop(guard);
    for writer in 0..WRITERS {
        let (client, acknowledged) = (client.clone(), Arc::clone(acknowledged));
        runtime.spawn(async move {
            for number in 0.. {
                let key = format!("{round}/{writer}/{number}");
                let value = key.clone().into_bytes().into();
                let request = KvRequest::Put {
                    key: key.clone(),
                    value,
                };
                match client.call(&request).await {
                    Ok(KvReply::Put { .. }) => acknowledged.lock().unwrap().insert(key),
                    _ => return,
                };
            }
        });
    }
    runtime
}

#[test]
fn kill_9_of_all_four_loses_nothing_acknowledged() {
    const ROUNDS: usize = 3;
    let mut cluster = Cluster::start(&["--durability", "sync"]);
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for round in 0..ROUNDS {
        let before = acknowledged.lock().unwrap().len();
        let writers = write_until_failure(&cluster, round, &acknowledged);
        wait_for("a load", || {
            (acknowledged.lock().unwrap().len() > before + 500).then_some(())
        });
        cluster.kill_9(&[0, 1, 2, 3]);
        // Whoever still waits for an answer is not told anything any more.
        writers.shutdown_background();
        (0..4)
            .rev()
            .for_each(|replica| cluster.start_replica(replica));
        let exported = cluster.export();
        let kept: BTreeSet<&str> = exported.lines().collect();
        for key in acknowledged.lock().unwrap().iter() {
            let line = json_line(key, key);
            assert!(
                kept.contains(line.trim_end()),
                "{key} is lost in round {round}"
            );
        }
    }
    cluster.wait_until_agreed();
}
