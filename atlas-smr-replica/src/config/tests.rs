//! Every kind of wrong value, and the whole message that it gives.

mod files;
mod init;

use super::*;
use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::{NodeId, quorum::FaultModel};
use std::sync::Arc;

const KNOWN: [KnownProtocol; 2] = [
    KnownProtocol {
        name: "pbft",
        model: FaultModel::Byzantine,
        limits_for: |_| Limits::default(),
    },
    KnownProtocol {
        name: "raft",
        model: FaultModel::Crash,
        limits_for: |_| Limits::default(),
    },
];

fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

/// A cluster of four, replica i with key i.
fn cluster_text() -> String {
    let mut text = "name = \"test\"\n\
        cluster_id = \"00112233445566778899aabbccddeeff\"\n\
        protocol = \"pbft\"\n\
        clients = \"any\"\n"
        .to_owned();
    for id in 0..4 {
        let (port, key) = (7100 + id, key(id as u8).public_key());
        text.push_str(&format!(
            "[[members]]\nid = {id}\naddress = \"127.0.0.1:{port}\"\npublic_key = \"{key}\"\n"
        ));
    }
    text
}

/// What is said of a cluster file, which is called `c.toml`.
fn refusal(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let error = ClusterConfig::load(&file, &KNOWN).unwrap_err().to_string();
    relative(&error, dir.path())
}

fn relative(message: &str, dir: &std::path::Path) -> String {
    message.replace(&format!("{}/", dir.display()), "")
}

fn replaced(from: &str, to: &str) -> String {
    let text = cluster_text();
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

fn parse(text: &str) -> Result<ClusterConfig, ConfigError> {
    let file: ClusterFile = toml::from_str(text).unwrap();
    ClusterConfig::new(&file, &KNOWN)
}

#[test]
fn a_good_file_gives_the_cluster() {
    let text = replaced(
        "clients = \"any\"\n",
        "unordered_reads = true\nclients = \"any\"\n",
    ) + "[limits]\nwindow = 8192\n[timeouts]\ncall_ms = 5000\n";
    let cluster = parse(&text).unwrap();
    assert_eq!((cluster.name(), cluster.protocol()), ("test", KNOWN[0]));
    assert!(cluster.unordered_reads());
    assert!(cluster.clients().admits(&key(77).public_key()));
    assert_eq!(cluster.limits().window, 8192);
    assert_eq!(cluster.timeouts().call_ms, 5000);
    let member = cluster.member(NodeId(3)).unwrap();
    assert_eq!(member.address.as_str(), "127.0.0.1:7103");
    let membership = cluster.membership(Arc::new(Ed25519));
    assert_eq!(membership.quorums().quorum(), 3);
    assert_eq!(membership.genesis(), cluster.genesis());
    assert_eq!(
        membership.member(NodeId(2)).unwrap().key,
        key(2).public_key()
    );
}

#[test]
fn syntax_unknown_missing_and_mistyped_keys_are_named_with_their_place() {
    let is = |text: &str, message: &str| assert_eq!(refusal(text), message);
    is(
        "name = ",
        "c.toml:1:8: string values must be quoted; expected literal string",
    );
    is(
        &replaced("clients", "colour = 1\nclients"),
        "c.toml:4:1: `colour` is an unknown key; expected one of `name`, `cluster_id`, `protocol`, \
         `clients`, `unordered_reads`, `lease_reads`, `initial_state`, `members`, `limits`, \
         `timeouts`",
    );
    is(
        &replaced("id = 1\n", "id = 1\nvote = 3\n"),
        "c.toml:11:1: `members[1].vote` is an unknown key; expected one of `id`, `address`, \
         `public_key`, `role`",
    );
    is(
        &replaced("name = \"test\"\n", ""),
        "c.toml:1:1: `name` is missing; expected a name of 1 to 64 printable characters",
    );
    is(
        &replaced("id = 1\n", ""),
        "c.toml:9:1: `members[1].id` is missing; expected a number; ids count from 0 without gaps",
    );
    is(
        &replaced("\"any\"", "true"),
        "c.toml:4:11: `clients` is boolean `true`; expected `\"any\"`, or a list of tables with \
         `name` and `public_key`",
    );
    is(
        &replaced("\"any\"", "\"some\""),
        "c.toml:4:11: `clients` is string \"some\"; expected `\"any\"`, or a list of tables with \
         `name` and `public_key`",
    );
    is(
        &replaced("\"any\"", "[{name = 3}]"),
        "c.toml:4:20: `clients[0].name` is integer `3`; expected a name of 1 to 64 printable \
         characters",
    );
    is(
        &replaced("id = 1\n", "id = -1\n"),
        "c.toml:10:6: `members[1].id` is integer `-1`; expected a number; ids count from 0 without \
         gaps",
    );
    is(
        &replaced("id = 1\n", "id = 1\nrole = \"king\"\n"),
        "c.toml:11:8: `members[1].role` is unknown variant `king`; expected `\"voter\"` or \
         `\"learner\"`",
    );
    is(
        &(cluster_text() + "[limits]\nwindow = \"big\"\n"),
        "c.toml:22:10: `limits.window` is string \"big\"; expected a whole number",
    );
    is(
        &(cluster_text() + "[timeouts]\nview_change_s = 1\n"),
        "c.toml:22:1: `timeouts.view_change_s` is an unknown key; expected one of \
         `view_change_ms`, `view_change_ms_max`, `election_ms`, `heartbeat_ms`, `resend_ms`, \
         `status_ms`, `retransmit_ms`, `call_ms`",
    );
    is(
        &(cluster_text() + "[limits]\n[limits]\n"),
        "c.toml:22:2: duplicate key; expected valid TOML",
    );
}

#[test]
fn wrong_values_are_named_with_their_place() {
    let is = |text: &str, message: &str| assert_eq!(refusal(text), message);
    is(
        &replaced("\"test\"", "\"\""),
        "c.toml:1:8: `name` is `\"\"`; expected a name of 1 to 64 printable characters",
    );
    is(
        &replaced("00112233", "xyz"),
        "c.toml:2:14: `cluster_id` is `\"xyz445566778899aabbccddeeff\"`; expected 32 hexadecimal \
         digits",
    );
    is(
        &replaced("\"pbft\"", "\"paxos\""),
        "c.toml:3:12: `protocol` is `\"paxos\"`; expected one of `\"pbft\"`, `\"raft\"`",
    );
    is(
        &replaced("127.0.0.1:7102", "127.0.0.1"),
        "c.toml:15:11: `members[2].address` is `\"127.0.0.1\"`; expected a host and a port, such as \
         `127.0.0.1:7100`",
    );
    is(
        &replaced("127.0.0.1:7102", "127.0.0.1:7100"),
        "c.toml:15:11: `members[2].address` is `\"127.0.0.1:7100\"`; expected another address than \
         that of member 0",
    );
    is(
        &replaced("id = 2", "id = 1"),
        "c.toml:14:6: `members[2].id` is 1; expected 2, as member 1 is there already",
    );
    is(
        &replaced("id = 2", "id = 7"),
        "c.toml:14:6: `members[2].id` is 7; expected 2: ids count from 0 without gaps",
    );
    let keys = [
        key(1).public_key().to_string(),
        key(3).public_key().to_string(),
    ];
    is(
        &replaced(&keys[0], "12"),
        "c.toml:12:14: `members[1].public_key` is `\"12\"`; expected 64 hexadecimal digits",
    );
    is(
        &replaced(&keys[1], &keys[0]),
        &format!(
            "c.toml:20:14: `members[3].public_key` is `\"{}\"`; expected another key than that of \
             member 1",
            keys[0]
        ),
    );
    is(
        &replaced("id = 1\n", "id = 1\nrole = \"learner\"\n"),
        "c.toml:14:1: `members[2].role` is `\"voter\"`; expected `\"learner\"`, as a learner \
         precedes it: voters come first",
    );
    is(
        &(cluster_text() + "[limits]\nwindow = 300\n"),
        "c.toml:22:10: `limits.window` is 300; expected at least 1024, which follows from \
         limits.checkpoint_interval",
    );
    is(
        &(cluster_text() + "[timeouts]\nview_change_ms = 100000\n"),
        "c.toml:21:1: `timeouts.view_change_ms_max` is 60000; expected a number of milliseconds from \
         100000 to 86400000, from `timeouts.view_change_ms` to a day",
    );
    is(
        &(cluster_text() + "[timeouts]\nretransmit_ms = 1\n"),
        "c.toml:22:17: `timeouts.retransmit_ms` is 1; expected a number of milliseconds from 10 to \
         30000, the upper end being `timeouts.call_ms`",
    );
}

#[test]
fn a_size_that_the_fault_model_cannot_work_with_is_explained() {
    let text = cluster_text();
    let three = text.rsplit_once("[[members]]").unwrap().0;
    assert_eq!(
        refusal(three),
        "c.toml:5:1: `members` is a list with 3 voters; expected at least 4 voters for `pbft` \
         (byzantine faults), as fewer could not survive a single faulty one, and at most 100 members"
    );
    let learner = text.clone() + "role = \"learner\"\n";
    assert_eq!(
        refusal(&learner),
        "c.toml:5:1: `members` is a list with 3 voters and 1 learners; expected at least 4 voters \
         for `pbft` (byzantine faults), as fewer could not survive a single faulty one, and at most \
         100 members"
    );
    // A crash-fault cluster of three survives one, and one of one is good for trying out.
    parse(&three.replace("pbft", "raft")).unwrap();
    let none = cluster_text()
        .split_once("[[members]]")
        .unwrap()
        .0
        .to_owned();
    assert_eq!(
        refusal(&(none.replace("pbft", "raft") + "members = []\n")),
        "c.toml:5:11: `members` is a list with 0 voters; expected 1 voter, or at least 3, for `raft` \
         (crash faults), and at most 100 members"
    );
    let two = three.rsplit_once("[[members]]").unwrap().0;
    assert_eq!(
        refusal(&two.replace("pbft", "raft")),
        "c.toml:5:1: `members` is a list with 2 voters; expected 1 voter, or at least 3, for `raft` \
         (crash faults), as of 2 neither can go on without the other, and at most 100 members"
    );
}

#[test]
fn listed_clients_alone_are_admitted_and_each_has_its_own_name_and_key() {
    let listed = |clients: &str| cluster_text().replace("\"any\"", clients);
    let one = key(50).public_key();
    let entry = format!("{{name = \"a\", public_key = \"{one}\"}}");
    let cluster = parse(&listed(&format!("[{entry}]"))).unwrap();
    assert!(cluster.clients().admits(&one));
    assert!(!cluster.clients().admits(&key(51).public_key()));

    let is = |clients: &str, message: &str| assert_eq!(refusal(&listed(clients)), message);
    is(
        "[]",
        "c.toml:4:11: `clients` is an empty list; expected `\"any\"`, or a list of tables with \
         `name` and `public_key`: nobody could use the cluster",
    );
    is(
        &format!("[{entry}, {entry}]"),
        "c.toml:4:115: `clients[1].name` is `\"a\"`; expected a name that no other client has",
    );
    is(
        &format!("[{entry}, {}]", entry.replace("\"a\"", "\"b\"")),
        &format!(
            "c.toml:4:133: `clients[1].public_key` is `\"{one}\"`; expected another key than that \
             of client `a`"
        ),
    );
    let member = key(2).public_key();
    is(
        &format!("[{}]", entry.replace(&one.to_string(), &member.to_string())),
        &format!(
            "c.toml:4:38: `clients[0].public_key` is `\"{member}\"`; expected another key than that \
             of member 2"
        ),
    );
}

#[test]
fn the_genesis_covers_what_replicas_must_share_and_nothing_else() {
    let genesis = |text: &str| *parse(text).unwrap().genesis();
    let first = genesis(&cluster_text());
    let listed = format!(
        "[{{name = \"a\", public_key = \"{}\"}}]",
        key(9).public_key()
    );
    for same in [
        replaced("127.0.0.1:7101", "example.org:80"),
        replaced("\"test\"", "\"other\""),
        replaced("\"any\"", &listed),
        cluster_text() + "[timeouts]\ncall_ms = 77\nretransmit_ms = 20\n",
        cluster_text() + "[limits]\npool_bytes_max = 100000000\n",
    ] {
        assert_eq!(genesis(&same), first, "{same}");
    }
    let learner = |id: u8| {
        let key = key(id).public_key();
        format!(
            "[[members]]\nid = 4\naddress = \"h:1\"\npublic_key = \"{key}\"\nrole = \"learner\"\n"
        )
    };
    let mut seen = std::collections::BTreeSet::from([first]);
    for other in [
        replaced("00112233", "00112234"),
        replaced("pbft", "raft"),
        replaced(
            &key(1).public_key().to_string(),
            &key(8).public_key().to_string(),
        ),
        cluster_text() + &learner(4),
        cluster_text() + &learner(4).replace("learner", "voter"),
        cluster_text() + "[limits]\ncheckpoint_interval = 100\n",
        cluster_text() + "[limits]\nsessions_max = 100\n",
        cluster_text() + "[limits]\nsession_replies_max = 5000\n",
        cluster_text() + "[limits]\nreplies_bytes_max = 100000000\n",
    ] {
        assert!(seen.insert(genesis(&other)), "{other}");
    }
}

#[test]
fn a_configuration_made_by_a_program_passes_the_same_checks() {
    let text = replaced("id = 2", "id = 3");
    assert_eq!(
        parse(&text).unwrap_err().to_string(),
        "configuration in memory: `members[2].id` is 3; expected 2: ids count from 0 without gaps"
    );
    let cluster = parse(&cluster_text()).unwrap();
    let node = NodeConfig::in_memory(cluster.clone(), NodeId(1), key(1), "data").unwrap();
    assert_eq!(node.listen.as_str(), "127.0.0.1:7101");
    let wrong = NodeConfig::in_memory(cluster.clone(), NodeId(1), key(2), "data").unwrap_err();
    assert_eq!(
        wrong.to_string(),
        format!(
            "configuration in memory: `key` is a private key whose public half is {}; expected the \
             key of member 1, {}",
            key(2).public_key(),
            key(1).public_key()
        )
    );
    assert!(NodeConfig::in_memory(cluster.clone(), NodeId(4), key(4), "data").is_err());
    ClientConfig::in_memory(cluster, "anybody", key(60)).unwrap();
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let load = |file: &std::path::Path| {
        let error = ClusterConfig::load(file, &KNOWN).unwrap_err();
        relative(&error.to_string(), dir.path())
    };
    let file = dir.path().join("c.toml");
    assert_eq!(load(&file), "c.toml: no such file; expected a cluster file");
    std::fs::write(&file, [0xff]).unwrap();
    assert_eq!(
        load(&file),
        "c.toml: not UTF-8 text; expected a cluster file"
    );
    std::fs::write(&file, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        load(&file),
        "c.toml: more than 1048576 bytes; expected a cluster file"
    );
    let error = ClusterConfig::load(dir.path(), &KNOWN).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(": not a regular file; expected a cluster file")
    );
}
