//! Prints what a `DivisibleMap` costs: `cargo run --release -p atlas-smr-execution --example map_speed`.
//! One million keys of 16 bytes with values of 240, written and read in a random order.

use atlas_common::rng::SeededRng;
use atlas_smr_execution::state::{DivisibleMap, MapError};
use atlas_smr_execution::{DivisibleState, FrozenState, PartWriter};
use std::time::{Duration, Instant};

const ENTRIES: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seed = 7;
    println!("{ENTRIES} entries of 16 + 240 bytes, seed {seed}");
    let mut order: Vec<u64> = (0..ENTRIES).collect();
    SeededRng::new(seed).shuffle(&mut order);

    let before = resident_bytes();
    let mut map = DivisibleMap::new();
    let time = timed(|| order.iter().try_for_each(|n| write(&mut map, *n, 1)))?;
    report("inserts", time);
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let each = after.saturating_sub(before) / ENTRIES;
        println!("{each:>12} bytes of memory for an entry of 256");
    }
    let time = timed(|| order.iter().try_for_each(|n| write(&mut map, *n, 2)))?;
    report("overwrites", time);
    let mut found = 0;
    let time = timed(|| {
        for n in &order {
            found += u64::from(map.contains_key(&key(*n)));
        }
        Ok::<_, MapError>(())
    })?;
    report("gets", time);
    assert_eq!(found, ENTRIES);
    let time = timed(|| {
        for n in &order {
            let mut fork = map.fork().unwrap_or_default();
            write(&mut fork, *n, 3)?;
            map.merge(fork);
        }
        Ok::<_, MapError>(())
    })?;
    report("writes, each on a fork", time);

    // As while a checkpoint is being written: what it holds must not change.
    let (before, frozen) = (resident_bytes(), map.freeze());
    let tenth = &order[..order.len() / 10];
    let time = timed(|| tenth.iter().try_for_each(|n| write(&mut map, *n, 5)))?;
    println!(
        "{:>12.0} overwrites/s of each tenth key beside a frozen map",
        tenth.len() as f64 / time.as_secs_f64()
    );
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let each = after.saturating_sub(before) / tenth.len() as u64;
        println!("{each:>12} bytes of memory for each of them");
    }
    drop(frozen);

    for what in ["whole", "after 1% of the keys"] {
        let start = Instant::now();
        let frozen = map.freeze();
        let froze = start.elapsed();
        let mut out = PartWriter::hashing(1 << 20);
        frozen.write_parts(&mut out)?;
        println!(
            "{:>12.1?} to freeze, {:.1?} to hash the {what}",
            froze,
            start.elapsed()
        );
        for n in order.iter().step_by(100) {
            write(&mut map, *n, 4)?;
        }
    }
    Ok(())
}

fn key(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

fn write(map: &mut DivisibleMap, n: u64, value: u8) -> Result<(), MapError> {
    map.insert(&key(n), &[value; 240]).map(drop)
}

fn timed<E>(run: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
    let start = Instant::now();
    run().map(|()| start.elapsed())
}

fn report(what: &str, time: Duration) {
    println!("{:>12.0} {what}/s", ENTRIES as f64 / time.as_secs_f64());
}

/// What the operating system says that the process holds; nothing where it does not say.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
