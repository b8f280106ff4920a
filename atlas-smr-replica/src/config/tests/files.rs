//! Node files, client files and key files.

use super::{KNOWN, cluster_text, key, relative};
use crate::config::{ClientConfig, NodeConfig, read_key_file, write_key_file};
use atlas_common::NodeId;
use atlas_common::crypto::Signer;
use atlas_persistent_log::{Compression, Durability};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const NODE: &str = "id = 2\n\
    cluster_file = \"c.toml\"\n\
    key_file = \"key\"\n\
    data_dir = \"data\"\n";

const CLIENT: &str = "name = \"a\"\ncluster_file = \"c.toml\"\nkey_file = \"key\"\n";

/// A directory with the cluster file and the key of replica 2.
fn site() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("c.toml"), cluster_text()).unwrap();
    write_key_file(&dir.path().join("key"), &key(2), "replica 2").unwrap();
    dir
}

fn load_node(site: &TempDir, text: &str) -> Result<NodeConfig, String> {
    fs::write(site.path().join("node.toml"), text).unwrap();
    let loaded = NodeConfig::load(site.path(), &KNOWN);
    loaded.map_err(|error| relative(&error.to_string(), site.path()))
}

fn load_client(site: &TempDir, text: &str) -> Result<ClientConfig, String> {
    fs::write(site.path().join("client.toml"), text).unwrap();
    let loaded = ClientConfig::load(site.path(), &KNOWN);
    loaded.map_err(|error| relative(&error.to_string(), site.path()))
}

#[test]
fn a_good_node_file_gives_the_node_with_its_defaults() {
    let site = site();
    let node = load_node(&site, NODE).unwrap();
    assert_eq!(node.id, NodeId(2));
    assert_eq!(node.key.public_key(), key(2).public_key());
    assert_eq!(node.data_dir, site.path().join("data"));
    assert_eq!(node.listen.as_str(), "127.0.0.1:7102");
    assert_eq!(
        (node.admin_listen, node.durability),
        (None, Durability::Sync)
    );
    assert_eq!((node.log_segment_bytes, node.clients_max), (64 << 20, 4096));
    assert_eq!(node.transfer_bytes_per_second, 512 << 20);
    let all = format!(
        "{NODE}listen = \"0.0.0.0:7102\"\nadmin_listen = \"127.0.0.1:9100\"\n\
         durability = \"async\"\nlog_segment_bytes = 1000000\nclients_max = 5\nworker_threads = 3\n\
         execution_threads = 2\n\
         transfer_bytes_per_second = 0\nscrub_bytes_per_second = 7\n\
         checkpoints_kept = 3\ncheckpoint_compression = \"zstd\"\n"
    );
    let node = load_node(&site, &all).unwrap();
    assert_eq!(node.listen.as_str(), "0.0.0.0:7102");
    assert_eq!(node.admin_listen, Some(([127, 0, 0, 1], 9100).into()));
    assert_eq!(node.durability, Durability::Async);
    assert_eq!((node.log_segment_bytes, node.clients_max), (1_000_000, 5));
    assert_eq!(
        (node.worker_threads, node.execution_threads),
        (Some(3), Some(2))
    );
    assert_eq!(
        (node.transfer_bytes_per_second, node.scrub_bytes_per_second),
        (0, 7)
    );
    assert_eq!(node.checkpoints_kept, 3);
    assert_eq!(node.checkpoint_compression, Compression::Zstd);
}

#[test]
fn wrong_values_in_a_node_file_are_named_with_their_place() {
    let site = site();
    let is = |text: &str, message: &str| assert_eq!(load_node(&site, text).unwrap_err(), message);
    is(
        &NODE.replace("id = 2", "id = 4"),
        "node.toml:1:6: `id` is 4; expected the id of a member in c.toml: a number from 0 to 3",
    );
    is(
        &NODE.replace("id = 2\n", ""),
        "node.toml:1:1: `id` is missing; expected the id of a member in the cluster file",
    );
    is(
        &NODE.replace("c.toml", "d.toml"),
        "node.toml:2:16: `cluster_file` is `d.toml`: no such file; expected the path of a cluster \
         file",
    );
    is(
        &NODE.replace("\"key\"", "\"lock\""),
        "node.toml:3:12: `key_file` is `lock`: no such file; expected the path of a key file",
    );
    is(
        &NODE.replace("id = 2", "id = 1"),
        &format!(
            "node.toml:3:12: `key_file` is `key`, a private key whose public half is {}; expected \
             the key of member 1, whose public half in c.toml is {}",
            key(2).public_key(),
            key(1).public_key()
        ),
    );
    is(
        &NODE.replace("\"data\"", "\"key\""),
        "node.toml:4:12: `data_dir` is `key`, which is no directory; expected the path of the \
         directory for log and checkpoints",
    );
    let with = |more: &str| format!("{NODE}{more}\n");
    is(
        &with("durability = \"most\""),
        "node.toml:5:14: `durability` is unknown variant `most`; expected `\"sync\"`, `\"async\"` \
         or `\"memory\"`",
    );
    is(
        &with("listen = \"everywhere\""),
        "node.toml:5:10: `listen` is `\"everywhere\"`; expected a host and a port, such as \
         `127.0.0.1:7100`",
    );
    is(
        &with("admin_listen = \"localhost:9100\""),
        "node.toml:5:16: `admin_listen` is `\"localhost:9100\"`; expected an IP address and a port, \
         such as `127.0.0.1:9100`",
    );
    is(
        &with("log_segment_bytes = 10"),
        "node.toml:5:21: `log_segment_bytes` is 10; expected a whole number from 262144 to \
         1073741824",
    );
    is(
        &with("clients_max = 1.5"),
        "node.toml:5:15: `clients_max` is floating point `1.5`; expected a whole number from 1 to \
         65536",
    );
    is(
        &with("worker_threads = 65"),
        "node.toml:5:18: `worker_threads` is 65; expected a whole number from 0 to 64",
    );
    is(
        &with("execution_threads = 0"),
        "node.toml:5:21: `execution_threads` is 0; expected a whole number from 1 to 64",
    );
    is(
        &with("transfer_bytes_per_second = -1"),
        "node.toml:5:29: `transfer_bytes_per_second` is integer `-1`; expected a whole number: bytes \
         per second, or 0 for no limit",
    );
    is(
        &with("scrub_bytes_per_second = 67108865"),
        "node.toml:5:26: `scrub_bytes_per_second` is 67108865; expected a whole number from 0 to \
         67108864",
    );
    is(
        &with("checkpoints_kept = 0"),
        "node.toml:5:20: `checkpoints_kept` is 0; expected a whole number from 1 to 1000",
    );
    is(
        &with("checkpoint_compression = \"gzip\""),
        "node.toml:5:26: `checkpoint_compression` is unknown variant `gzip`; expected `\"none\"` or `\"zstd\"`",
    );
    is(
        &with("threads = 1"),
        "node.toml:5:1: `threads` is an unknown key; expected one of `id`, `cluster_file`, \
         `key_file`, `data_dir`, `listen`, `admin_listen`, `durability`, \
         `log_segment_bytes`, `clients_max`, `worker_threads`, `execution_threads`, \
         `transfer_bytes_per_second`, `scrub_bytes_per_second`, \
         `checkpoints_kept`, `checkpoint_compression`",
    );
    // A mistake in the cluster file is the cluster file's, with its place there.
    fs::write(
        site.path().join("c.toml"),
        cluster_text().replace("pbft", "zab"),
    )
    .unwrap();
    is(
        NODE,
        "c.toml:3:12: `protocol` is `\"zab\"`; expected one of `\"pbft\"`, `\"raft\"`",
    );
    fs::remove_file(site.path().join("node.toml")).unwrap();
    let gone = NodeConfig::load(&site.path().join("node.toml"), &KNOWN).unwrap_err();
    assert_eq!(
        relative(&gone.to_string(), site.path()),
        "node.toml: no such file; expected the configuration of a replica, as `atlas init` writes \
         it (`node.toml`)"
    );
}

#[test]
fn a_client_must_be_the_one_that_the_cluster_lists() {
    let site = site();
    let client = load_client(&site, CLIENT).unwrap();
    assert_eq!(
        (client.name.as_str(), client.key.public_key()),
        ("a", key(2).public_key())
    );
    let is = |text: &str, message: &str| assert_eq!(load_client(&site, text).unwrap_err(), message);
    is(
        &CLIENT.replace("c.toml", "d.toml"),
        "client.toml:2:16: `cluster_file` is `d.toml`: no such file; expected the path of a cluster \
         file",
    );
    is(
        &CLIENT.replace("name", "nick"),
        "client.toml:1:1: `nick` is an unknown key; expected one of `name`, `cluster_file`, \
         `key_file`",
    );
    let listed = format!(
        "[{{name = \"b\", public_key = \"{}\"}}]",
        key(60).public_key()
    );
    fs::write(
        site.path().join("c.toml"),
        cluster_text().replace("\"any\"", &listed),
    )
    .unwrap();
    is(
        CLIENT,
        "client.toml:1:8: `name` is `\"a\"`; expected the name of a client in c.toml",
    );
    is(
        &CLIENT.replace("\"a\"", "\"b\""),
        &format!(
            "client.toml:3:12: `key_file` is `key`, a private key whose public half is {}; expected \
             the key of client `b`, whose public half in c.toml is {}",
            key(2).public_key(),
            key(60).public_key()
        ),
    );
}

#[test]
fn a_key_file_is_for_its_owner_alone_and_no_error_shows_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    write_key_file(&file, &key(7), "mine\nand yours").unwrap();
    assert_eq!(
        read_key_file(&file).unwrap().public_key(),
        key(7).public_key()
    );
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# mineand yours\n"));
    let again = write_key_file(&file, &key(8), "other").unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);

    let refusal = |file: &Path| {
        let error = read_key_file(file).unwrap_err().to_string();
        relative(&error, dir.path())
    };
    let expected = "expected a key file: one line of 64 hexadecimal digits, comments beginning \
                    with `#`";
    let is = |content: &str, found: &str| {
        fs::write(&file, content).unwrap();
        assert_eq!(refusal(&file), format!("key: {found}; {expected}"));
    };
    is("", "0 lines that are no comments");
    is("# a\nb\nc\n", "2 lines that are no comments");
    is("secret", "a line of 6 characters");
    let digits = "z".repeat(64);
    is(
        &digits,
        "a line of 64 characters, not all of them hexadecimal digits",
    );
    is(&"#".repeat(5000), "more than 4096 bytes");
    assert_eq!(
        refusal(&dir.path().join("no")),
        format!("no: no such file; {expected}")
    );
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let site = site();
    let file = site.path().join("key");
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let found = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(found, 0o600, "as it was written");
    for open in [0o640, 0o604, 0o644, 0o700, 0o666] {
        mode(open);
        assert_eq!(
            load_node(&site, NODE).unwrap_err(),
            format!(
                "key: a private key with file mode {open:04o}; expected mode 0600, so that its owner \
                 alone can read it (`chmod 600`)"
            )
        );
    }
    mode(0o400);
    load_node(&site, NODE).unwrap();
}
