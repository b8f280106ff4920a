//! Looking at replicas while they work: their status pages, and their memory.

use anyhow::{Context, Result, bail};
use atlas_smr::ProtocolRegistry;
use atlas_smr::config::{Initialised, NodeConfig};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a replica may take to answer; it is busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The most bytes of a page.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// Where a replica stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) executed: u64,
    /// The newest certified checkpoint.
    pub(super) checkpoint: u64,
    pub(super) catching_up: bool,
    /// Bytes that its own checkpoints have put on the disk.
    pub(super) checkpoint_bytes: u64,
    /// Bytes of the state at its newest checkpoint.
    pub(super) state_bytes: u64,
    /// How often it has collected garbage of checkpoints, and whether it is at it.
    pub(super) collections: u64,
    pub(super) collecting: bool,
    /// The newest checkpoint that it wrote or took over.
    pub(super) written: u64,
    /// Bytes of states that it has fetched.
    pub(super) fetched_bytes: u64,
    /// Of the state that is being fetched: bytes that are here.
    pub(super) here_bytes: u64,
    /// Decisions that it has fetched.
    pub(super) decisions_fetched: u64,
    /// States from peers that are durable.
    pub(super) states_fetched: u64,
    /// States from peers that it has taken over.
    pub(super) states_installed: u64,
}

impl Standing {
    /// Whether it has a certified checkpoint no older than the newest that it wrote.
    pub(super) const fn is_certified(&self) -> bool {
        self.checkpoint > 0 && self.checkpoint >= self.written
    }

    /// Whether it has a certified checkpoint of the last decision of which one is due.
    pub(super) const fn is_quiet(&self, interval: u64) -> bool {
        self.is_certified() && self.executed / interval == self.checkpoint / interval
    }

    fn of(page: &Value) -> Option<Self> {
        let number = |path: &str| page.pointer(path)?.as_u64();
        Some(Self {
            executed: number("/core/executed")?,
            checkpoint: number("/core/checkpoint")?,
            catching_up: page.pointer("/core/catching_up")?.as_bool()?,
            checkpoint_bytes: number("/checkpoints/bytes_written")?,
            state_bytes: number("/checkpoints/state_bytes")?,
            collections: number("/checkpoints/collections")?,
            collecting: page.pointer("/checkpoints/collecting")?.as_bool()?,
            written: number("/execution/checkpoint/seq").unwrap_or(0),
            fetched_bytes: number("/transfer/bytes_fetched")?,
            here_bytes: number("/core/fetching/0").unwrap_or(0),
            decisions_fetched: number("/counters/decisions_transferred")?,
            states_fetched: number("/checkpoints/fetched")?,
            states_installed: number("/counters/states_installed")?,
        })
    }
}

/// The status pages of a cluster's replicas.
#[derive(Clone, Debug)]
pub(super) struct Pages(Vec<SocketAddr>);

impl Pages {
    pub(super) fn of(files: &Initialised) -> Result<Self> {
        let known = ProtocolRegistry::default().known();
        let page = |file: &std::path::PathBuf| {
            let node = NodeConfig::load(file, &known)?;
            node.admin_listen.context("a replica without a status page")
        };
        files
            .replicas
            .iter()
            .map(page)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Where each replica stands; `None` for one that does not answer.
    pub(super) async fn look(&self) -> Vec<Option<Standing>> {
        let mut standings = Vec::with_capacity(self.0.len());
        for replica in 0..self.0.len() {
            standings.push(self.look_at(replica).await);
        }
        standings
    }

    pub(super) async fn look_at(&self, replica: usize) -> Option<Standing> {
        let address = self.0.get(replica)?;
        let page = timeout(ANSWER_WITHIN, fetch(*address)).await;
        Standing::of(&page.ok()?.ok()?)
    }
}

async fn fetch(address: SocketAddr) -> Result<Value> {
    let mut stream = TcpStream::connect(address).await?;
    let request = "GET /status HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut page).await?;
    let page = String::from_utf8(page)?;
    let Some((_, body)) = page.split_once("\r\n\r\n") else {
        bail!("no page");
    };
    Ok(serde_json::from_str(body)?)
}

/// The resident memory of a process in bytes, by `/proc/<process>/status`; 0 when it has ended.
pub(super) fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_quiet_until_a_checkpoint_is_due_and_when_it_has_it() {
        let standing = |executed, written, checkpoint| Standing {
            executed,
            written,
            checkpoint,
            ..Standing::default()
        };
        assert!(standing(899, 800, 800).is_quiet(100));
        assert!(
            !standing(900, 800, 800).is_quiet(100),
            "it is being written"
        );
        assert!(
            !standing(950, 900, 800).is_quiet(100),
            "it is being certified"
        );
        assert!(standing(950, 900, 900).is_quiet(100));
    }

    #[test]
    fn this_process_uses_memory_and_one_that_is_not_there_none() {
        assert!(resident_bytes(std::process::id()) > 100_000);
        assert_eq!(resident_bytes(u32::MAX), 0);
    }
}
