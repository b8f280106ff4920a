//! Operations and the replies that are expected of them.

use super::Arguments;
use super::echo::Echo;
use super::table::{self, FILL_MAX};
use anyhow::{Context, Result, bail};
use atlas_common::rng::SeededRng;
use atlas_smr::Client;
use bytes::Bytes;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What one caller asks again and again.
#[derive(Debug)]
pub(super) enum Workload {
    Echo {
        payload: Bytes,
        reply: Bytes,
    },
    Table {
        rng: SeededRng,
        entries: u64,
        value_bytes: u32,
    },
}

impl Workload {
    pub(super) fn new(arguments: &Arguments, client: usize, caller: usize, rng: SeededRng) -> Self {
        let options = &arguments.options;
        if options.state.is_some() {
            return Self::Table {
                rng,
                entries: options.touched_entries(),
                value_bytes: options.value_bytes,
            };
        }
        let payload = super::payload(arguments.payload_bytes, client, caller);
        let reply_bytes = arguments.reply_bytes;
        let reply = Echo { reply_bytes }.answer(&payload);
        Self::Echo { payload, reply }
    }

    /// The next operation, and its reply.
    pub(super) fn next(&mut self) -> (Bytes, Bytes) {
        match self {
            Self::Echo { payload, reply } => (payload.clone(), reply.clone()),
            Self::Table {
                rng,
                entries,
                value_bytes,
            } => table::put(rng.below(*entries), rng.next_u64(), *value_bytes),
        }
    }
}

/// Fills of the table under way at a time.
const FILLS: u64 = 8;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Makes the entries of the table, through the cluster.
pub(super) async fn fill(client: &Client, entries: u64, value_bytes: u32) -> Result<()> {
    let began = Instant::now();
    let live = std::io::stderr().is_terminal();
    let mut told = began;
    let mut running = tokio::task::JoinSet::new();
    let mut next = 0;
    while next < entries || !running.is_empty() {
        if next < entries && (running.len() as u64) < FILLS {
            let count = u32::try_from(entries - next)
                .unwrap_or(FILL_MAX)
                .min(FILL_MAX);
            let (operation, reply) = table::fill(next, count, value_bytes);
            let client = client.clone();
            running.spawn(async move { anyhow::Ok(client.call(operation).await? == reply) });
            next += u64::from(count);
            continue;
        }
        if let Some(answer) = running.join_next().await
            && !answer?.context("the table cannot be filled")?
        {
            bail!("the table was filled otherwise than was asked");
        }
        if live && told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            eprint!("\rfilling the table: {next} of {entries} entries");
            // A terminal that has gone away is noticed by the next print.
            drop(std::io::stderr().flush());
        }
    }
    if live {
        eprint!("\r");
    }
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("the table has {entries} entries after {seconds:.1} s");
    Ok(())
}
