//! Replicas as processes, and what processor time they use.

use anyhow::{Context, Result, bail};
use atlas_smr::config::Initialised;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Running replicas; killed when dropped.
pub(super) struct Processes(Vec<Child>);

impl Processes {
    pub(super) fn start(files: &Initialised, reply_bytes: usize) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let mut processes = Self(Vec::new());
        for replica in &files.replicas {
            let child = Command::new(&own)
                .arg("start")
                .arg(replica)
                .arg("--echo-reply-bytes")
                .arg(reply_bytes.to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {}", own.display()))?;
            processes.0.push(child);
        }
        for child in &mut processes.0 {
            let output = child
                .stdout
                .as_mut()
                .context("a replica without standard output")?;
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line)?;
            if !line.contains("ready") {
                bail!("a replica did not start; its error is above");
            }
        }
        Ok(processes)
    }

    pub(super) fn processor_seconds(&self) -> Result<f64> {
        self.0
            .iter()
            .map(|child| processor_seconds(&child.id().to_string()))
            .sum()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// User and system time of a process so far, by `/proc/<process>/stat` (fields 14 and 15, in ticks of
/// 10 ms on Linux).
pub(super) fn processor_seconds(process: &str) -> Result<f64> {
    let file = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    // The command's name, in parentheses, may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
    };
    match ticks(11).zip(ticks(12)) {
        Some((user, system)) => Ok((user + system) as f64 / 100.0),
        None => bail!("{file} does not look as expected"),
    }
}
