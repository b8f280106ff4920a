//! Backups of running clusters, and new clusters that begin with them.

use crate::processes::{Cluster, atlas, run};
use std::fs;
use std::path::Path;

fn backup(cluster: &Cluster, to: &Path) -> (i32, String) {
    let mut command = atlas();
    command.arg("backup").arg(cluster.path("replica-1"));
    run(command.arg("--output").arg(to))
}

fn put(cluster: &Cluster, key: &str, value: &str) {
    let (code, text) = run(&mut cluster.kv(&["put", key, value]));
    assert_eq!(code, 0, "{text}");
}

fn checkpoint(cluster: &Cluster) {
    let mut command = atlas();
    command.arg("checkpoint").arg("--client");
    let (code, text) = run(command.arg(cluster.path("client-0")));
    assert_eq!(code, 0, "{text}");
}

/// Turns every byte of all that the replica's part store holds.
fn damage_packs(replica: &Path) {
    let mut damaged = 0;
    for entry in fs::read_dir(replica.join("data")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("pack-")
        {
            let bytes: Vec<u8> = fs::read(&path).unwrap().iter().map(|b| !b).collect();
            fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "no packs in {}", replica.display());
}

#[test]
fn a_new_cluster_begins_with_the_backup_of_a_running_one() {
    let old = Cluster::start(&["--checkpoint-interval", "8"]);
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("backup");
    let (code, text) = backup(&old, &to);
    assert!(
        code == 1 && text.contains("no certified checkpoint"),
        "{text}"
    );
    for i in 0..5 {
        put(&old, &format!("key-{i}"), "value");
    }
    checkpoint(&old);
    let (code, text) = backup(&old, &to);
    assert!(code == 0 && text.contains("certificate checked"), "{text}");
    let (code, text) = backup(&old, &to);
    assert!(
        code == 0 && text.contains(" 0 of them written now"),
        "{text}"
    );
    let kept = old.export();
    put(&old, "later", "than the backup");
    // What belongs to one cluster is not mixed with another's.
    let other = Cluster::start(&["--checkpoint-interval", "8"]);
    put(&other, "key", "value");
    checkpoint(&other);
    let (code, text) = backup(&other, &to);
    assert!(code == 1 && text.contains("cluster"), "{text}");
    drop((old, other));

    let mut new = Cluster::restore(&to, "raft", 3);
    (0..3).for_each(|replica| new.start_replica(replica));
    assert_eq!(new.export(), kept);
    put(&new, "later", "in the new cluster");
    new.wait_until_agreed();

    // Before the first checkpoint of its own, a replica without its disk needs the backup.
    new.kill_9(&[2]);
    fs::remove_dir_all(new.path("replica-2/data")).unwrap();
    let (code, text) = run(atlas().arg("start").arg(new.path("replica-2")));
    assert!(
        code == 1 && text.contains("atlas restore --replica"),
        "{text}"
    );
    let mut again = atlas();
    again
        .arg("restore")
        .arg(&to)
        .arg("--replica")
        .arg(new.path("replica-2"));
    let (code, text) = run(&mut again);
    assert_eq!(code, 0, "{text}");
    new.start_replica(2);
    new.wait_until_agreed();

    // A replica that can read none of its checkpoints does not begin with another state.
    for value in ["first", "second"] {
        put(&new, "later", value);
        checkpoint(&new);
    }
    new.kill_9(&[1]);
    damage_packs(&new.path("replica-1"));
    let (code, text) = run(atlas().arg("start").arg(new.path("replica-1")));
    assert!(code == 1 && text.contains("atlas restore"), "{text}");
}

#[test]
fn a_damaged_backup_is_not_restored() {
    let old = Cluster::start_with("raft", 3, &["--checkpoint-interval", "4"]);
    put(&old, "key", "value");
    checkpoint(&old);
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("backup");
    let (code, text) = backup(&old, &to);
    assert_eq!(code, 0, "{text}");
    let files = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_pack = |path: &std::path::PathBuf| path.to_string_lossy().contains("pack-");
    let pack = files.into_iter().find(is_pack).expect("a pack");
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let into = directory.path().join("new");
    let mut restore = atlas();
    restore
        .arg("restore")
        .arg(&to)
        .args(["--protocol", "raft", "--dir"]);
    let (code, text) = run(restore.arg(&into));
    assert!(code == 1 && text.contains("damaged"), "{text}");
    assert!(!into.exists());
    let mut nothing = atlas();
    nothing
        .arg("restore")
        .arg(directory.path().join("none"))
        .arg("--dir");
    let (code, text) = run(nothing.arg(&into));
    assert!(code == 1 && text.contains("holds no backup"), "{text}");
}
