//! `atlas kv import` and `export`: JSON Lines, one `{"key": …, "value": …}` a line.

use anyhow::{Context, Result, bail};
use atlas_kv::{Kv, KvReply, KvRequest};
use atlas_smr::ApplicationClient;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use tokio::task::JoinHandle;

/// Calls in flight at once.
const IN_FLIGHT: usize = 512;
/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// Entries asked for at once by an export.
const PAGE: u32 = 1000;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    value: String,
}

/// Puts every entry of the file (`-`: standard input). Returns how many there were.
pub(crate) async fn import(client: &ApplicationClient<Kv>, file: &Path) -> Result<u64> {
    let (input, bytes): (Box<dyn Read>, Option<u64>) = if file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let length = opened.metadata().ok().map(|metadata| metadata.len());
        (Box::new(opened), length)
    };
    let bar = progress(bytes);
    let mut reader = BufReader::new(input);
    let mut in_flight: VecDeque<JoinHandle<Result<()>>> = VecDeque::new();
    let mut line = Vec::new();
    let mut count = 0u64;
    loop {
        line.clear();
        let read = (&mut reader)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        bar.inc(read as u64);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        count += 1;
        let entry: Entry = serde_json::from_slice(&line).with_context(|| {
            format!(
                "{}: entry {count}: expected {{\"key\": …, \"value\": …}}",
                file.display()
            )
        })?;
        if in_flight.len() >= IN_FLIGHT
            && let Some(oldest) = in_flight.pop_front()
        {
            oldest.await??;
        }
        let client = client.clone();
        in_flight.push_back(tokio::spawn(async move { put(&client, entry).await }));
    }
    for put in in_flight {
        put.await??;
    }
    bar.finish_and_clear();
    Ok(count)
}

async fn put(client: &ApplicationClient<Kv>, entry: Entry) -> Result<()> {
    let request = KvRequest::Put {
        key: entry.key,
        value: entry.value.into_bytes().into(),
    };
    match client.call(&request).await? {
        KvReply::Put { .. } => Ok(()),
        other => bail!("the store answered {other:?}"),
    }
}

fn progress(bytes: Option<u64>) -> ProgressBar {
    let Some(bytes) = bytes else {
        return ProgressBar::new_spinner();
    };
    let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| {
        // The template is ours and right; a plain bar is no loss.
        ProgressStyle::default_bar()
    });
    ProgressBar::new(bytes).with_style(style)
}

/// Writes every entry in the order of keys to the file (`-`: standard output). Returns how many.
pub(crate) async fn export(client: &ApplicationClient<Kv>, file: &Path) -> Result<u64> {
    let output: Box<dyn Write> = if file == Path::new("-") {
        Box::new(io::stdout())
    } else {
        let made =
            File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        Box::new(made)
    };
    let mut output = BufWriter::new(output);
    let mut after = None;
    let mut count = 0;
    loop {
        let request = KvRequest::List {
            prefix: String::new(),
            after,
            limit: PAGE,
        };
        let KvReply::Entries { entries, more } = client.call(&request).await? else {
            bail!("the store did not answer with entries");
        };
        after = entries.last().map(|(key, _)| key.clone());
        for (key, value) in entries {
            let value = String::from_utf8(value.to_vec())
                .with_context(|| format!("the value of `{key}` is not text"))?;
            serde_json::to_writer(&mut output, &Entry { key, value })?;
            output.write_all(b"\n")?;
            count += 1;
        }
        if !more {
            break;
        }
    }
    output.flush()?;
    Ok(count)
}
