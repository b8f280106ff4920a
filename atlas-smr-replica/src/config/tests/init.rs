//! Setting up a cluster.

use super::KNOWN;
use crate::config::{ClientConfig, ClusterConfig, InitError, InitOptions, NodeConfig, Ports, init};
use atlas_common::NodeId;
use atlas_persistent_log::Durability;
use std::cell::RefCell;
use std::fs;
use std::path::Path;

fn options(dir: &Path) -> InitOptions {
    InitOptions::new(dir.join("cluster"), 4, KNOWN[0])
}

fn unborn(_node: &NodeConfig) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(())
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_init_writes_loads_as_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = InitOptions {
        name: "a \"quoted\" name".to_owned(),
        clients: 2,
        clients_listed: true,
        admin_ports: Some(Ports::From(9100)),
        durability: Durability::Async,
        unordered_reads: true,
        transfer_bytes_per_second: Some(77),
        ..options(dir.path())
    };
    options.limits.window = 9999;
    options.timeouts.call_ms = 12_345;
    let born = RefCell::new(Vec::new());
    let birth = |node: &NodeConfig| {
        assert_eq!(entries(&node.data_dir), [] as [&str; 0]);
        born.borrow_mut().push((node.id, *node.cluster.genesis()));
        Ok(())
    };
    let made = init(&options, &birth).unwrap();

    let cluster = &made.cluster;
    assert_eq!(cluster.name(), options.name);
    assert!(cluster.unordered_reads());
    assert_eq!(
        (cluster.limits(), cluster.timeouts()),
        (&options.limits, &options.timeouts)
    );
    let births: Vec<_> = (0..4).map(|id| (NodeId(id), *cluster.genesis())).collect();
    assert_eq!(*born.borrow(), births);
    assert_eq!(
        entries(&options.dir),
        [
            "client-0",
            "client-1",
            "cluster.toml",
            "replica-0",
            "replica-1",
            "replica-2",
            "replica-3"
        ]
    );
    assert_eq!(made.files.len(), 1 + 4 * 2 + 2 * 2);
    assert!(made.files.iter().all(|file| file.is_file()));
    for (id, replica) in made.replicas.iter().enumerate() {
        let node = NodeConfig::load(replica, &KNOWN).unwrap();
        let port = 7100 + id as u16;
        assert_eq!(node.listen.as_str(), format!("127.0.0.1:{port}"));
        assert_eq!(node.transfer_bytes_per_second, 77);
        assert_eq!(node.admin_listen.unwrap().port(), 9100 + id as u16);
        assert_eq!(
            (&node.cluster, node.durability),
            (cluster, Durability::Async)
        );
        assert!(node.data_dir.is_dir());
    }
    for client in &made.clients {
        assert_eq!(
            ClientConfig::load(client, &KNOWN).unwrap().cluster,
            *cluster
        );
    }
    // Two clusters of the same options are two clusters.
    options.dir = dir.path().join("other");
    let other = init(&options, &unborn).unwrap();
    assert_ne!(other.cluster.genesis(), cluster.genesis());
}

#[test]
fn every_setting_is_in_the_files_with_its_default_behind_a_comment() {
    let dir = tempfile::tempdir().unwrap();
    let made = init(&options(dir.path()), &unborn).unwrap();
    let uncommented = |path: &Path, from: &str| {
        let text = fs::read_to_string(path).unwrap();
        let (head, settings) = text.split_at(text.find(from).unwrap());
        let is_setting = |line: &&str| line.contains(" = ");
        let lines = settings.lines().map(|line| match is_setting(&line) {
            true => line.trim_start_matches("# "),
            false => line,
        });
        let lines: Vec<&str> = lines.collect();
        fs::write(path, format!("{head}{}\n", lines.join("\n"))).unwrap();
    };
    uncommented(&made.cluster_file, "[limits]");
    assert_eq!(
        ClusterConfig::load(&made.cluster_file, &KNOWN),
        Ok(made.cluster)
    );
    uncommented(&made.replicas[0].join("node.toml"), "# Where to serve");
    let node = NodeConfig::load(&made.replicas[0], &KNOWN).unwrap();
    assert_eq!((node.log_segment_bytes, node.clients_max), (64 << 20, 4096));
}

#[test]
fn a_directory_that_is_not_empty_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    fs::create_dir(&options.dir).unwrap();
    init(&options, &unborn).unwrap();
    let before = entries(&options.dir);
    let error = init(&options, &unborn).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} is not empty: choose another directory, or remove it first",
            options.dir.display()
        )
    );
    assert_eq!(entries(&options.dir), before);
}

#[test]
fn wrong_ports_and_sizes_are_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |options: InitOptions| {
        let error = init(&options, &unborn).unwrap_err().to_string();
        assert_eq!(entries(dir.path()), [] as [&str; 0]);
        super::relative(&error, dir.path())
    };
    let ports = |ports| InitOptions {
        ports,
        ..options(dir.path())
    };
    let expected = "expected a port from 1 to 65535, one for each of 4 replicas";
    assert_eq!(
        refusal(ports(Ports::From(65533))),
        format!("replica 3 would have port 65536: {expected}")
    );
    assert_eq!(
        refusal(ports(Ports::Listed(vec![5, 6]))),
        format!("replica 2 would have port none: {expected}")
    );
    assert_eq!(
        refusal(ports(Ports::From(0))),
        format!("replica 0 would have port 0: {expected}")
    );
    let message = refusal(ports(Ports::Listed(vec![5, 6, 5, 7])));
    assert!(
        message.contains("expected another address than that of member 0"),
        "{message}"
    );
    let three = InitOptions {
        replicas: 3,
        ..options(dir.path())
    };
    let message = refusal(three);
    assert!(
        message.contains("expected at least 4 voters for `pbft`"),
        "{message}"
    );
}

#[test]
fn a_failed_birth_leaves_nothing_not_even_what_earlier_births_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let birth = |node: &NodeConfig| {
        fs::write(node.data_dir.join("birth"), "born")?;
        match node.id {
            NodeId(2) => Err("no room".into()),
            _ => Ok(()),
        }
    };
    let error = init(&options(dir.path()), &birth).unwrap_err();
    assert!(matches!(error, InitError::Birth { .. }));
    assert!(
        error
            .to_string()
            .ends_with("replica-2/data cannot be recorded: no room")
    );
    assert_eq!(entries(dir.path()), [] as [&str; 0]);

    // In a directory that was there before, that directory stays.
    let options = options(dir.path());
    fs::create_dir(&options.dir).unwrap();
    init(&options, &birth).unwrap_err();
    assert_eq!(entries(&options.dir), [] as [&str; 0]);
}
