//! Replicas as processes, and what processor time they use.

use super::watch::resident_bytes;
use anyhow::{Context, Result, bail};
use atlas_smr::config::Initialised;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Running replicas; killed when dropped.
pub(super) struct Processes {
    directories: Vec<PathBuf>,
    /// What tells `atlas start` which application to run.
    application: Vec<String>,
    children: Vec<Child>,
}

impl Processes {
    pub(super) fn start(files: &Initialised, application: Vec<String>) -> Result<Self> {
        let mut processes = Self {
            directories: files.replicas.clone(),
            application,
            children: Vec::new(),
        };
        for directory in &files.replicas {
            let child = processes.spawn(directory)?;
            processes.children.push(child);
        }
        for child in &mut processes.children {
            wait_until_ready(child)?;
        }
        Ok(processes)
    }

    fn spawn(&self, directory: &Path) -> Result<Child> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        Command::new(&own)
            .arg("start")
            .arg(directory)
            .args(&self.application)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", own.display()))
    }

    pub(super) fn len(&self) -> usize {
        self.children.len()
    }

    /// Kills a replica as `kill -9` does.
    pub(super) fn kill(&mut self, replica: usize) -> Result<()> {
        let child = self.children.get_mut(replica).context("no such replica")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts a replica that was killed; does not wait until it is ready.
    pub(super) fn restart(&mut self, replica: usize) -> Result<()> {
        let directory = self.directories.get(replica).context("no such replica")?;
        let child = self.spawn(directory)?;
        let place = self.children.get_mut(replica).context("no such replica")?;
        *place = child;
        Ok(())
    }

    /// The memory of each replica.
    pub(super) fn resident_bytes(&self) -> Vec<u64> {
        let resident = |child: &Child| resident_bytes(child.id());
        self.children.iter().map(resident).collect()
    }

    pub(super) fn processor_seconds(&self) -> Result<f64> {
        self.children
            .iter()
            .map(|child| processor_seconds(&child.id().to_string()))
            .sum()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn wait_until_ready(child: &mut Child) -> Result<()> {
    let output = child
        .stdout
        .as_mut()
        .context("a replica without standard output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if !line.contains("ready") {
        bail!("a replica did not start; its error is above");
    }
    Ok(())
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
