//! What goes wrong is said in one line that names what was found and what is expected, and the exit
//! code tells a script.

use crate::processes::{Cluster, atlas};
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// The exit code of a command that was written wrongly.
const USAGE: i32 = 2;
/// The exit code of a command that could not do its work.
const FAILURE: i32 = 1;

/// Runs a command that must fail in this way, saying all of this on standard error, without panic,
/// backtrace or colours, and nothing on standard output.
fn refused(command: &mut Command, code: i32, expected: &[&str]) {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    for part in expected {
        assert!(said.contains(part), "{command:?}: no `{part}` in: {said}");
    }
    let bad = ["panicked", "stack backtrace", "\u{1b}["];
    assert!(!bad.iter().any(|bad| said.contains(bad)), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn a_wrong_flag_is_refused_with_the_usage() {
    let expected = [
        "error: unexpected argument '--frobnicate'",
        "Usage: atlas start",
    ];
    refused(atlas().args(["start", "--frobnicate"]), USAGE, &expected);
    let expected = [
        "error: invalid value 'twice' for '--replicas",
        "invalid digit",
    ];
    let mut init = atlas();
    init.args(["init", "--dir", "nowhere", "--replicas", "twice"]);
    refused(&mut init, USAGE, &expected);
    let expected = ["error: invalid value 'maybe' for '--durability", "memory"];
    let mut init = atlas();
    init.args(["init", "--dir", "nowhere", "--durability", "maybe"]);
    refused(&mut init, USAGE, &expected);
}

#[test]
fn a_missing_file_is_named() {
    let cluster = Cluster::start(&["--durability", "memory"]);
    let nowhere = cluster.path("nowhere");
    let shown = nowhere.display().to_string();
    let expected = ["error: ", &shown, "no such file", "`node.toml`"];
    refused(atlas().arg("start").arg(&nowhere), FAILURE, &expected);
    let expected = ["error: ", &shown, "no such file", "`client.toml`"];
    let mut kv = atlas();
    kv.args(["kv", "--client"])
        .arg(&nowhere)
        .args(["get", "key"]);
    refused(&mut kv, FAILURE, &expected);
    let expected = ["error: cannot read ", &shown, "No such file"];
    refused(&mut cluster.kv(&["import", &shown]), FAILURE, &expected);
}

#[test]
fn a_busy_port_is_named() {
    let cluster = Cluster::init(&[]);
    let start = |node: &str| {
        let mut start = atlas();
        start.arg("start").arg(cluster.path(node));
        start
    };
    let (address, admin) = (cluster.address(1), cluster.admin_address(1));
    let held = TcpListener::bind(&address).unwrap();
    refused(
        &mut start("replica-1"),
        FAILURE,
        &["error: ", &address, "in use"],
    );
    drop(held);
    let _held = TcpListener::bind(&admin).unwrap();
    refused(
        &mut start("replica-1"),
        FAILURE,
        &["error: ", &admin, "in use"],
    );
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let cluster = Cluster::init(&[]);
    for (node, command) in [("replica-0", "start"), ("client-0", "status")] {
        let key = cluster.path(node).join("key");
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "as `init` writes it");
        fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
        let mut command_line = atlas();
        command_line.arg(command);
        if command == "status" {
            command_line.arg("--client");
        }
        command_line.arg(cluster.path(node));
        let shown = key.display().to_string();
        let expected = ["error: ", &shown, "file mode 0640", "0600", "chmod 600"];
        refused(&mut command_line, FAILURE, &expected);
    }
}

#[test]
fn data_of_another_cluster_are_refused_with_what_helps() {
    let (cluster, other) = (Cluster::init(&[]), Cluster::init(&[]));
    let data = |cluster: &Cluster| cluster.path("replica-0").join("data");
    fs::remove_dir_all(data(&cluster)).unwrap();
    fs::rename(data(&other), data(&cluster)).unwrap();
    let mut start = atlas();
    start.arg("start").arg(cluster.path("replica-0"));
    let expected = [
        "error: replica 0 cannot start",
        "belong",
        "\nwhat helps: correct what it says",
    ];
    refused(&mut start, FAILURE, &expected);
}

#[test]
fn an_unknown_protocol_is_refused_with_those_that_there_are() {
    let cluster = Cluster::init(&[]);
    let mut init = atlas();
    init.args(["init", "--protocol", "oracle", "--dir"]);
    init.arg(cluster.path("another"));
    let expected = ["error: there is no protocol `oracle`", "pbft"];
    refused(&mut init, FAILURE, &expected);
    assert!(!cluster.path("another").exists());

    let file = cluster.path("cluster.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("protocol = \"pbft\"", "protocol = \"oracle\"");
    fs::write(&file, text).unwrap();
    let mut start = atlas();
    start.arg("start").arg(cluster.path("replica-0"));
    let expected = ["error: ", "cluster.toml:", "`\"oracle\"`", "`\"pbft\"`"];
    refused(&mut start, FAILURE, &expected);
}

#[test]
fn a_cluster_that_is_there_already_is_left_alone() {
    let cluster = Cluster::init(&[]);
    let key = cluster.path("replica-0").join("key");
    let before = fs::read(&key).unwrap();
    let mut init = atlas();
    init.args(["init", "--dir"]).arg(cluster.path(""));
    refused(&mut init, FAILURE, &["error: ", "is not empty"]);
    assert_eq!(fs::read(&key).unwrap(), before);
}
