//! Backups: a certified checkpoint in a directory of its own, and new clusters that begin with one.
//!
//! # Taking one
//!
//! A replica's checkpoint files never change once they have their names, so a backup is read from its
//! directory while it runs. What a backup directory holds already is not copied again. Everything is
//! checked against the certificate before the backup is said to be good.
//!
//! # When restoring is safe
//!
//! A restored cluster is a **new** cluster: it has keys and an identity of its own, and its cluster file
//! names the root of the state that it begins with, so that no replica can begin with another. It holds
//! what the checkpoint held. What the old cluster acknowledged after that is not in it, and its clients'
//! sessions are not either: an operation that was on its way when the backup was taken may or may not
//! have been executed, and the new cluster cannot tell. So restore when the old cluster is gone for
//! good, or for a copy to try things on; and never let the same clients use both.
//!
//! Until a restored replica has a checkpoint of the new cluster's own it needs the backup's state; one
//! that loses its disk gets it again ([`seed`]).

use crate::config::{ClusterConfig, NodeConfig};
use crate::recovery::{self, FoundCheckpoint};
use atlas_common::crypto::Ed25519;
use atlas_common::parts::PartRef;
use atlas_common::{Digest, SeqNo};
use atlas_core::Reject;
use atlas_persistent_log::part_store::StoreOptions;
use atlas_persistent_log::storage::ReadOnly;
use atlas_persistent_log::{CheckpointMeta, FileStorage, PartStore, StorageError, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// How often a backup begins again when a running replica has removed what was being read.
const ATTEMPTS: usize = 5;

/// A backup that was taken or read.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The cluster it is of.
    pub genesis: Digest,
    /// The last decision whose effects it holds.
    pub seq: SeqNo,
    /// The root of its state.
    pub root: Digest,
    /// The bytes of the state.
    pub state_bytes: u64,
    /// The bytes that were written for it: less when the directory had some of them.
    pub bytes_written: u64,
}

/// A backup could not be taken, read or restored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The replica has no data.
    #[error("{} does not exist: the replica has never started here", .0.display())]
    Absent(PathBuf),
    /// A directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The replica's checkpoints or the backup's files fail.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing to back up.
    #[error("there is no certified checkpoint yet: `atlas checkpoint` has one taken")]
    NoCheckpoint,
    /// The directory is no backup.
    #[error("{} holds no backup", .0.display())]
    NoBackup(PathBuf),
    /// The certificate does not hold.
    #[error("checkpoint {seq} is not certified by this cluster: {cause}")]
    Certificate {
        /// Its decision.
        seq: SeqNo,
        /// Why not.
        cause: Reject,
    },
    /// What is in the directory is damaged.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// The replica belongs to a cluster that did not begin with this backup.
    #[error(
        "the backup holds state {found}, and the replica's cluster {}",
        expected.map_or_else(
            || "was not restored from one".to_owned(),
            |root| format!("began with {root}")
        )
    )]
    OtherState {
        /// The root in the backup.
        found: Digest,
        /// The root in the cluster file.
        expected: Option<Digest>,
    },
}

/// Copies the newest certified checkpoint of a replica, which may be running, into a directory.
///
/// # Errors
/// When there is none, it is damaged or not certified, or a directory cannot be read or written. A backup
/// that was in the directory stays.
pub fn take(node: &NodeConfig, directory: &Path) -> Result<Backup, BackupError> {
    if !node.data_dir.is_dir() {
        return Err(BackupError::Absent(node.data_dir.clone()));
    }
    let genesis = *node.cluster.genesis();
    let target = open_store(FileStorage::open(directory)?, genesis)?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match copy_newest(node, &target) {
            // The replica has removed it meanwhile, and has a newer one.
            Err(BackupError::Store(error)) if is_gone(&error) => last = Some(error),
            other => return other,
        }
    }
    Err(last.map_or(BackupError::NoCheckpoint, BackupError::Store))
}

/// Whether what was being copied may have been removed in this moment, and the file that it was in be
/// deleted or written over: damage that is none. What is really damaged is so at each attempt.
fn is_gone(error: &StoreError) -> bool {
    match error {
        StoreError::NoSuchBlob { .. } | StoreError::Absent { .. } | StoreError::Damaged(_) => true,
        StoreError::Storage(error) => error.is_not_found(),
        _ => false,
    }
}

fn open_store(files: FileStorage, genesis: Digest) -> Result<PartStore, StoreError> {
    PartStore::open(Arc::new(files), StoreOptions::new(genesis))
}

fn copy_newest(node: &NodeConfig, target: &PartStore) -> Result<Backup, BackupError> {
    let genesis = *node.cluster.genesis();
    let files = Arc::new(ReadOnly::new(Arc::new(FileStorage::look(&node.data_dir)?)));
    let source = PartStore::open(files, StoreOptions::new(genesis))?;
    let found = newest(&source)?.ok_or(BackupError::NoCheckpoint)?;
    let seq = check(&found, &node.cluster)?;
    let mut bytes_written = 0;
    if !target.list()?.contains(&seq) {
        let meta = source.stored(seq)?.meta.clone();
        bytes_written = copy(&source, seq, target, meta)?;
        target.prune(1)?;
    }
    whole(target, seq)?;
    Ok(Backup {
        genesis,
        seq,
        root: found.descriptor.root(),
        state_bytes: found.descriptor.total_bytes,
        bytes_written,
    })
}

fn newest(store: &PartStore) -> Result<Option<FoundCheckpoint>, StoreError> {
    for seq in store.list()?.into_iter().rev() {
        if let Ok(Some(found)) = recovery::read_certified(store, seq) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The certificate is the quorum's word, and the descriptor's root is what it is about.
fn check(found: &FoundCheckpoint, cluster: &ClusterConfig) -> Result<SeqNo, BackupError> {
    let certificate = &found.stored.certificate;
    let seq = certificate.id.seq;
    let membership = cluster.membership(Arc::new(Ed25519));
    let verdict = certificate.verify(&membership);
    verdict.map_err(|cause| BackupError::Certificate { seq, cause })?;
    if found.descriptor.root() != certificate.id.state {
        let cause = Reject::BadCertificate;
        return Err(BackupError::Certificate { seq, cause });
    }
    Ok(seq)
}

/// Copies the parts that are not there, and then the metadata.
fn copy(
    source: &PartStore,
    seq: SeqNo,
    target: &PartStore,
    meta: CheckpointMeta,
) -> Result<u64, StoreError> {
    let mut writer = target.begin(meta.seq)?;
    for part in source.parts(seq)? {
        let part = part?;
        writer.part(PartRef::of(&part), &part)?;
    }
    Ok(writer.commit(meta)?.bytes_written)
}

fn whole(store: &PartStore, seq: SeqNo) -> Result<(), BackupError> {
    match store.verify(seq)?.first() {
        None => Ok(()),
        Some(damage) => Err(BackupError::Damaged(damage.to_string())),
    }
}

/// Reads what a backup directory holds, every byte of it. Whether a quorum of its cluster vouches for it
/// was checked when it was taken, and can be again with that cluster's file.
///
/// # Errors
/// When it holds none, or it is damaged.
pub fn read(directory: &Path) -> Result<Backup, BackupError> {
    let (genesis, store) = open(directory)?;
    let nothing = || BackupError::NoBackup(directory.to_owned());
    let found = newest(&store)?.ok_or_else(nothing)?;
    let id = found.stored.certificate.id;
    if found.descriptor.root() != id.state {
        let why = format!("its certificate is about state {}", id.state);
        return Err(BackupError::Damaged(why));
    }
    let seq = id.seq;
    whole(&store, seq)?;
    Ok(Backup {
        genesis,
        seq,
        root: found.descriptor.root(),
        state_bytes: found.descriptor.total_bytes,
        bytes_written: 0,
    })
}

fn open(directory: &Path) -> Result<(Digest, PartStore), BackupError> {
    let nothing = || BackupError::NoBackup(directory.to_owned());
    if !directory.is_dir() {
        return Err(nothing());
    }
    let files = Arc::new(ReadOnly::new(Arc::new(FileStorage::look(directory)?)));
    let genesis = PartStore::cluster_of(&*files)?.ok_or_else(nothing)?;
    let store = PartStore::open(files, StoreOptions::new(genesis))?;
    Ok((genesis, store))
}

/// Gives a replica of a restored cluster the state that its cluster began with.
///
/// # Errors
/// When the backup is not the one that the cluster file names, or a directory cannot be read or written.
pub fn seed(directory: &Path, node: &NodeConfig) -> Result<Backup, BackupError> {
    let backup = read(directory)?;
    let (found, expected) = (backup.root, node.cluster.initial_state());
    if expected != Some(found) {
        return Err(BackupError::OtherState { found, expected });
    }
    let (_, source) = open(directory)?;
    let files = FileStorage::open(&node.data_dir)?;
    let target = open_store(files, *node.cluster.genesis())?;
    if target.list()?.contains(&SeqNo::ZERO) {
        return Ok(backup);
    }
    let bytes_written = copy(&source, backup.seq, &target, CheckpointMeta::default())?;
    Ok(Backup {
        bytes_written,
        ..backup
    })
}
