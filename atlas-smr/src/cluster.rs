//! Creating a cluster's files.

use atlas_persistent_log::birth::BirthError;
use atlas_persistent_log::{FileStorage, StorageError};
use atlas_smr_replica::config::{InitError, InitOptions, Initialised, NodeConfig, init};
use atlas_smr_replica::recovery;
use thiserror::Error;

/// A cluster could not be created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// Its files could not be written.
    #[error(transparent)]
    Init(#[from] InitError),
}

/// Writes the keys and files of a new cluster, and each replica's birth record, by which a new
/// replica is told from one that has lost its disk.
///
/// # Errors
/// When the directory is in use, or the options or the disk do not allow it. Nothing is left behind.
pub fn create_cluster(options: &InitOptions) -> Result<Initialised, CreateError> {
    Ok(init(options, &|node| Ok(give_birth(node)?))?)
}

#[derive(Debug, Error)]
enum NotBorn {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Birth(#[from] BirthError),
}

fn give_birth(node: &NodeConfig) -> Result<(), NotBorn> {
    let storage = FileStorage::open(&node.data_dir)?;
    Ok(recovery::give_birth(&storage, *node.cluster.genesis())?)
}
