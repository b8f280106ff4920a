//! One flipped bit at a time in the files of a stopped replica: it says so and is helped by what it says,
//! or it serves again, and either way its state is that of the others.
//!
//! A few places here; as many as `ATLAS_PLACES` says in a long run. `ATLAS_SEED` repeats one.

use crate::processes::{Cluster, PATIENCE, seed};
use atlas_common::rng::SeededRng;
use atlas_kv::{Kv, KvRequest};
use atlas_smr::{ApplicationClient, CallError, connect};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Decisions between two checkpoints, and those after each restart. Under PBFT a replica that has forgotten
/// its votes takes part again when its checkpoint is a window (four intervals) beyond what was decided by
/// then.
const INTERVAL: &str = "16";
const WRITES: u64 = 100;

fn places() -> u64 {
    let given = std::env::var("ATLAS_PLACES");
    given.map_or(5, |places| places.parse().unwrap())
}

/// The files of a replica, with their lengths.
fn files(data: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(data).unwrap().map(|entry| entry.unwrap());
    let lengths = entries.map(|entry| (entry.path(), entry.metadata().unwrap().len()));
    let mut files: Vec<_> = lengths.filter(|(_, bytes)| *bytes > 0).collect();
    files.sort_unstable();
    files
}

/// Where the last byte is that is not zero: logs are extended ahead of what is written.
fn used(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap();
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(1, |last| last as u64 + 1)
}

fn flip(file: &Path, offset: u64, bit: u64) {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, offset).unwrap();
}

struct Writer {
    runtime: tokio::runtime::Runtime,
    client: ApplicationClient<Kv>,
    count: u64,
}

impl Writer {
    fn new(cluster: &Cluster) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = {
            let _guard = runtime.enter();
            ApplicationClient::new(connect(&cluster.client_config()).unwrap())
        };
        let count = 0;
        Self {
            runtime,
            client,
            count,
        }
    }

    /// One after the other, so that each is a decision.
    fn write(&mut self, writes: u64) {
        for _ in 0..writes {
            self.count += 1;
            let put = KvRequest::Put {
                key: format!("key {}", self.count % 300),
                value: format!("{} {}", self.count, "value ".repeat(40)).into(),
            };
            let called = Instant::now();
            while let Err(error) = self.runtime.block_on(self.client.call(&put)) {
                // Whether it took effect does not matter: it is the same every time.
                let unknown = matches!(error, CallError::UnknownOutcome { .. });
                assert!(unknown && called.elapsed() < 3 * PATIENCE, "{error}");
            }
        }
    }
}

fn survives_flips(protocol: &str, replicas: usize) {
    let seed = seed();
    println!("seed {seed}");
    let mut rng = SeededRng::new(seed);
    let more = ["--checkpoint-interval", INTERVAL];
    let mut cluster = Cluster::start_with(protocol, replicas, &more);
    let mut writer = Writer::new(&cluster);
    writer.write(2 * WRITES);
    cluster.wait_until_agreed();
    let mut refused = 0;
    for place in 0..places() {
        let victim = rng.below(replicas as u64) as usize;
        cluster.kill_9(&[victim]);
        writer.write(3);
        let data = cluster.path(&format!("replica-{victim}")).join("data");
        // Files in turn, so that small ones get their share.
        let files = files(&data);
        let (file, bytes) = &files[place as usize % files.len()];
        let end = if rng.chance(0.9) { used(file) } else { *bytes };
        let (offset, bit) = (rng.below(end), rng.below(8));
        flip(file, offset, bit);
        let name = file.file_name().unwrap().to_str().unwrap();
        let flipped = format!("replica {victim}, {name}, byte {offset} of {bytes}, bit {bit}");
        match cluster.try_start_replica(victim) {
            Ok(notes) => println!("{flipped}: serves; {notes}"),
            Err(error) => {
                println!("{flipped}: refused: {error}");
                refused += 1;
                assert!(error.contains("error: "), "{error}");
                assert!(error.contains("what helps: "), "{error}");
                let named = error.contains(name) || error.contains("data");
                assert!(named, "the error names no file: {error}");
                // The remedy: its data are moved away.
                let away = data.with_file_name(format!("data-{place}"));
                fs::rename(&data, away).unwrap();
                cluster.start_replica(victim);
            }
        }
        writer.write(WRITES);
        cluster.wait_until_agreed();
        // Until then it counts as a failed one, and no other may go.
        cluster.wait_until_all_vote();
    }
    println!(
        "{protocol}: {} places, {refused} refused, all agree",
        places()
    );
}

#[test]
fn row_41_a_flipped_bit_in_a_file_is_harmless_or_repaired_or_said_under_pbft() {
    survives_flips("pbft", 4);
}

#[test]
fn row_41_a_flipped_bit_in_a_file_is_harmless_or_repaired_or_said_under_raft() {
    survives_flips("raft", 3);
}

#[test]
fn row_41_a_flipped_bit_in_a_file_is_harmless_or_repaired_or_said_under_rabia() {
    survives_flips("rabia", 3);
}
