//! A replica on a storage of one's own, which counts what is written to it.

use atlas_smr::config::{InitOptions, NodeConfig};
use atlas_smr::storage::{Bytes, FileStorage, Storage, StorageError, StorageFile};
use atlas_smr::{ApplicationClient, ProtocolRegistry, create_cluster, prelude::*};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files, and a count of what they cost.
#[derive(Debug)]
struct Counting {
    files: FileStorage,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    syncs: AtomicU64,
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn StorageFile>,
    counts: Arc<Counts>,
}

impl Storage for Counting {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.files.list()
    }

    fn open(&self, name: &str) -> Result<Box<dyn StorageFile>, StorageError> {
        Ok(Box::new(CountingFile {
            file: self.files.open(name)?,
            counts: Arc::clone(&self.counts),
        }))
    }

    fn length(&self, name: &str) -> Result<u64, StorageError> {
        self.files.length(name)
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes, StorageError> {
        self.files.read(name, offset, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.files.rename(from, to)
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        self.files.delete(name)
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        self.files.sync_dir()
    }

    fn salt(&self) -> u64 {
        self.files.salt()
    }
}

impl StorageFile for CountingFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let written = bytes.len() as u64;
        self.counts.bytes.fetch_add(written, Ordering::Relaxed);
        self.file.write_at(offset, bytes)
    }

    fn set_length(&mut self, bytes: u64) -> Result<(), StorageError> {
        self.file.set_length(bytes)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }
}

/// An application: a number that grows.
struct Sum;

impl ApplicationData for Sum {
    type Request = u64;
    type Reply = u64;
}

impl Application for Sum {
    type State = u64;

    fn initial_state(&self) -> u64 {
        0
    }

    fn update(&self, sum: &mut u64, more: u64, _: &mut ExecutionContext) -> u64 {
        *sum += more;
        *sum
    }

    fn read(&self, sum: &u64, _: u64) -> u64 {
        *sum
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let known = ProtocolRegistry::default().known();
    let raft = known.iter().find(|protocol| protocol.name == "raft");
    let mut options = InitOptions::new(dir.path().join("cluster"), 1, *raft.ok_or("no raft")?);
    options.limits.checkpoint_interval = 8;
    let made = create_cluster(&options)?;
    let node = NodeConfig::load(&made.replicas[0], &known)?;

    let counts = Arc::new(Counts::default());
    let storage = Counting {
        files: FileStorage::open(&node.data_dir)?,
        counts: Arc::clone(&counts),
    };
    let replica = Replica::builder(Sum)
        .config(node)
        .storage(Arc::new(storage))
        .listener(TcpListener::bind("127.0.0.1:0")?)
        .start()?;
    let sum = ApplicationClient::<Sum>::new(replica.client().clone());
    for number in 1..=20 {
        sum.call(&number).await?;
    }
    assert_eq!(sum.call(&0).await?, 210);
    replica.shutdown().await;
    let (bytes, syncs) = (&counts.bytes, &counts.syncs);
    println!("{bytes:?} bytes written in {syncs:?} syncs");
    // 21 operations one after the other, and two checkpoints.
    assert!(syncs.load(Ordering::Relaxed) > 21);
    Ok(())
}
