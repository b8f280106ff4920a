//! What the machine can do at most: how fast TLS is between two nodes on it, and its disk. A rejoining
//! replica is measured by the lesser of the two.

use anyhow::{Context, Result};
use atlas_common::crypto::{KeyPair, Signer};
use atlas_common::{Digest, NodeId};
use atlas_communication::{
    ClientAdmission, Lane, Listener, Member, ReplicaInbox, ReplicaLimits, ReplicaNetwork,
    TlsReplicaConfig, TlsReplicaNetwork,
};
use bytes::Bytes;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that each probe carries.
const PROBE_BYTES: usize = 256 << 20;
/// Bytes of a frame, and of a write.
const PIECE_BYTES: usize = 1 << 20;
/// Frames on their way at a time.
const FRAMES: usize = 16;
/// What is written is synced after so many bytes, as a transfer does.
const SYNC_BYTES: usize = 16 << 20;
/// How long two nodes on one machine may take to find each other.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How often each probe is made. One takes a quarter of a second, in which a virtual machine may get half of
/// what it gets in the next.
const PROBES: usize = 5;

/// What a machine can do, in bytes per second.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) disk: Rates,
    pub(super) tls: Rates,
}

/// What the probes of one kind have found, rising.
#[derive(Clone, Debug)]
pub(super) struct Rates(Vec<f64>);

impl Rates {
    fn of(mut rates: Vec<f64>) -> Self {
        rates.sort_by(f64::total_cmp);
        Self(rates)
    }

    pub(super) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(0.0)
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |rate: Option<&f64>| rate.copied().unwrap_or(0.0) / f64::from(1 << 20);
        write!(
            f,
            "{:.0} MiB/s ({:.0} to {:.0})",
            mib(Some(&self.median())),
            mib(self.0.first()),
            mib(self.0.last())
        )
    }
}

/// Probes both, in turns.
pub(super) fn machine(directory: &Path) -> Result<Machine> {
    let (mut disks, mut tlss) = (Vec::new(), Vec::new());
    for _ in 0..PROBES {
        disks.push(disk(directory)?);
        tlss.push(tls()?);
    }
    Ok(Machine {
        disk: Rates::of(disks),
        tls: Rates::of(tlss),
    })
}

/// Bytes per second that the disk of this directory takes durably, written one after the other.
fn disk(directory: &Path) -> Result<f64> {
    let path = directory.join("disk-probe");
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)?;
    let piece = noise();
    let began = Instant::now();
    for number in 1..=PROBE_BYTES / PIECE_BYTES {
        file.write_all(&piece)?;
        if number % (SYNC_BYTES / PIECE_BYTES) == 0 {
            file.sync_data()?;
        }
    }
    let rate = PROBE_BYTES as f64 / began.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// Bytes per second from one node to another by this project's transport, over TLS on the loopback
/// interface, with a processor for each of them where there are two.
fn tls() -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (sender, receiver) = pair()?;
        carry(&sender, receiver.1).await
    })
}

type Node = (Arc<TlsReplicaNetwork>, ReplicaInbox);

fn pair() -> Result<(Arc<TlsReplicaNetwork>, Node)> {
    let keys = [KeyPair::generate()?, KeyPair::generate()?];
    let bind = || TcpListener::bind(("127.0.0.1", 0));
    let listeners = [bind()?, bind()?];
    let mut members = Vec::new();
    for ((id, key), listener) in (0..).map(NodeId).zip(&keys).zip(&listeners) {
        members.push(Member {
            id,
            key: key.public_key(),
            address: listener.local_addr()?.to_string(),
        });
    }
    let mut nodes = Vec::new();
    for ((id, key), listener) in (0..).map(NodeId).zip(keys).zip(listeners) {
        nodes.push(TlsReplicaNetwork::start(TlsReplicaConfig {
            id,
            key,
            genesis: Digest::of(b"probe"),
            members: members.clone(),
            clients: ClientAdmission::Any,
            listener: Listener::Bound(listener),
            limits: ReplicaLimits::default(),
            connections: Default::default(),
            pending_handshakes_max: 16,
        })?);
    }
    let receiver = nodes.pop().context("no second node")?;
    let (sender, _) = nodes.pop().context("no first node")?;
    Ok((sender, receiver))
}

async fn carry(sender: &Arc<TlsReplicaNetwork>, mut inbox: ReplicaInbox) -> Result<f64> {
    let frame = Bytes::from(noise());
    let connected = async {
        while sender.connected().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let late = "the nodes of the probe do not find each other";
    tokio::time::timeout(CONNECT_WITHIN, connected)
        .await
        .context(late)?;
    let frames = PROBE_BYTES / PIECE_BYTES;
    let began = Instant::now();
    let (mut sent, mut received) = (0, 0);
    while received < frames {
        while sent < frames && sent - received < FRAMES {
            sender.send(NodeId(1), Lane::Transfer, frame.clone());
            sent += 1;
        }
        let inbound = inbox
            .transfer
            .recv()
            .await
            .context("the probe's network ended")?;
        received += inbound.frames.len();
    }
    Ok(PROBE_BYTES as f64 / began.elapsed().as_secs_f64())
}

/// Bytes that no disk makes smaller.
fn noise() -> Vec<u8> {
    let mut rng = atlas_common::rng::SeededRng::new(1);
    let words = (0..PIECE_BYTES / 8).flat_map(|_| rng.next_u64().to_le_bytes());
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_probes_come_to_an_end_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(disk(dir.path()).unwrap() > 0.0);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        assert!(tls().unwrap() > 0.0);
    }

    #[test]
    fn the_probe_in_the_middle_counts() {
        let rates = Rates::of(vec![5.0, 900.0, 300.0, 800.0, 700.0]);
        assert_eq!(rates.median(), 700.0);
        let shown = Rates::of([3 << 20, 1 << 20, 2 << 20].map(f64::from).to_vec()).to_string();
        assert_eq!(shown, "2 MiB/s (1 to 3)");
    }
}
