//! What replicas take is less than `atlas bounds` says.

use crate::processes::{Cluster, atlas, run};
use serde_json::Value;
use std::fs;

fn bounds(cluster: &Cluster, state_bytes: u64) -> Value {
    let mut command = atlas();
    command.arg("bounds").arg(cluster.path("replica-0"));
    command.args(["--json", "--state-bytes", &state_bytes.to_string()]);
    let (code, text) = run(&mut command);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap()
}

/// Bytes of memory that a process has.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

#[test]
fn running_replicas_take_less_than_their_bounds_say() {
    let cluster = Cluster::start(&["--checkpoint-interval", "16"]);
    let line = |n: u64| {
        format!(
            "{{\"key\":\"{}\",\"value\":\"{}\"}}\n",
            n % 500,
            "v".repeat(500)
        )
    };
    for round in 0..4 {
        let lines: String = (round * 1000..(round + 1) * 1000).map(line).collect();
        cluster.import(&lines);
    }
    let bounds = bounds(&cluster, 1 << 20);
    for replica in 0..4 {
        let data = cluster.path(&format!("replica-{replica}")).join("data");
        let files = fs::read_dir(data).unwrap();
        let disk: u64 = files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        let memory = memory(cluster.pid(replica));
        assert!(
            memory < number(&bounds, "memory_bytes"),
            "{memory} bytes of memory"
        );
        assert!(disk < number(&bounds, "disk_bytes"), "{disk} bytes of disk");
    }
}

/// The allocator reads it before anything else runs.
#[test]
fn a_replica_runs_with_an_allocator_that_keeps_free_memory_for_a_while() {
    let cluster = Cluster::start(&[]);
    for replica in 0..4 {
        let process = format!("/proc/{}", cluster.pid(replica));
        let environment = fs::read(format!("{process}/environ")).unwrap();
        let mut settings = environment.split(|byte| *byte == 0);
        assert!(settings.any(|setting| setting == b"MIMALLOC_PURGE_DELAY=600000"));
        let name = fs::read_to_string(format!("{process}/comm")).unwrap();
        assert!(name.starts_with("atlas"), "{name}");
    }
}

#[test]
fn bounds_follow_from_the_configuration() {
    let cluster = Cluster::init(&[]);
    let before = bounds(&cluster, 0);
    let sum = |bounds: &Value, resource: &str| -> u64 {
        let terms = bounds[resource].as_array().unwrap();
        terms.iter().map(|term| number(term, "bytes")).sum()
    };
    assert_eq!(sum(&before, "memory"), number(&before, "memory_bytes"));
    assert_eq!(sum(&before, "disk"), number(&before, "disk_bytes"));
    let with_state = bounds(&cluster, 1 << 30);
    let more = |key| number(&with_state, key) - number(&before, key);
    // Five times itself, and what is kept in mind of its stored parts.
    assert!(more("memory_bytes") >= 5 << 30);
    assert!(more("disk_bytes") >= 4 << 30);

    let file = cluster.path("cluster.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("# pool_bytes_max = 67108864", "pool_bytes_max = 67108865");
    fs::write(&file, text).unwrap();
    let after = bounds(&cluster, 0);
    assert_eq!(
        number(&after, "memory_bytes"),
        number(&before, "memory_bytes") + 1
    );
}
