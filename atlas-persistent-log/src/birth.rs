//! The birth record: written once when a replica is set up, never changed.
//!
//! A replica that finds no log and no checkpoint is either new or has lost its disk; the first may
//! vote, the second may not (it may have voted already). The birth record tells them apart: `init`
//! writes it, and a disk without one is a wiped disk.

use crate::remedy::Remedy;
use crate::sealed::{self, SealedError};
use crate::storage::{Storage, StorageError};
use atlas_common::Digest;
use bytes::Bytes;
use thiserror::Error;

const FILE: &str = "birth";
const MAGIC: [u8; 8] = *b"atlasbth";

/// What a replica was told when it was set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The cluster.
    pub genesis: Digest,
    /// Whatever else it should know.
    pub info: Bytes,
}

/// A birth record could not be written.
#[derive(Debug, Clone, Error)]
pub enum BirthError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is one already: a replica is born once.
    #[error("this directory belongs to a replica already: it has a birth record")]
    Exists,
    /// `info` is longer than 64 KiB.
    #[error("{found_bytes} bytes in a birth record where at most {limit_bytes} are allowed")]
    TooLong {
        /// Its length.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

impl BirthError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Storage(error) => error.remedy(),
            Self::Exists | Self::TooLong { .. } => Remedy::Correct,
        }
    }
}

/// The longest `info`, in bytes.
pub const INFO_BYTES_MAX: usize = 64 << 10;

/// Writes the birth record, durably and whole or not at all.
///
/// # Errors
/// [`BirthError::Exists`] where there is one already, even a damaged one; otherwise when `info` is
/// too long or the storage fails.
pub fn write(storage: &dyn Storage, birth: &Birth) -> Result<(), BirthError> {
    check(birth)?;
    match storage.length(FILE) {
        Ok(_) => return Err(BirthError::Exists),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    sealed::write(storage, FILE, MAGIC, &birth.genesis, &birth.info)?;
    Ok(())
}

/// Replaces a birth record that is damaged. Whether the replica may take itself for one that was never
/// alive before is for the caller to remember: a damaged record does not prove it.
///
/// # Errors
/// When `info` is too long or the storage fails.
pub fn rewrite(storage: &dyn Storage, birth: &Birth) -> Result<(), BirthError> {
    check(birth)?;
    sealed::write(storage, FILE, MAGIC, &birth.genesis, &birth.info)?;
    Ok(())
}

fn check(birth: &Birth) -> Result<(), BirthError> {
    if birth.info.len() > INFO_BYTES_MAX {
        return Err(BirthError::TooLong {
            found_bytes: birth.info.len(),
            limit_bytes: INFO_BYTES_MAX,
        });
    }
    Ok(())
}

/// Reads the birth record; `None` where there is none.
///
/// # Errors
/// When it is damaged or of another version, or the storage fails. Whether the cluster is the right
/// one is for the caller to compare.
pub fn read(storage: &dyn Storage) -> Result<Option<Birth>, SealedError> {
    match sealed::read(storage, FILE, MAGIC) {
        Ok((genesis, info)) => Ok(Some(Birth { genesis, info })),
        Err(SealedError::Storage(error)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Fault, SimStorage};
    use atlas_common::rng::SeededRng;

    fn birth() -> Birth {
        Birth {
            genesis: Digest::of(b"genesis"),
            info: Bytes::from_static(b"replica 3"),
        }
    }

    #[test]
    fn a_replica_is_born_once_and_a_wiped_disk_knows_no_birth() {
        let disk = SimStorage::new();
        assert_eq!(read(&disk).unwrap(), None);
        write(&disk, &birth()).unwrap();
        assert!(matches!(write(&disk, &birth()), Err(BirthError::Exists)));
        let disk = disk.crash_losing_all();
        assert_eq!(read(&disk).unwrap(), Some(birth()));
        assert_eq!(read(&disk.wipe()).unwrap(), None);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let disk = SimStorage::new();
        write(&disk, &birth()).unwrap();
        let length = disk.length(FILE).unwrap();
        for byte in 0..length {
            let disk = disk.duplicate();
            assert!(disk.flip_bit(FILE, byte, (byte % 8) as u8));
            assert!(read(&disk).is_err(), "byte {byte}");
        }
        assert!(disk.lose(FILE, Some(length - 1)));
        assert!(read(&disk).is_err());
    }

    #[test]
    fn a_crash_leaves_it_whole_or_absent() {
        for cut in 1..10 {
            for seed in 0..20 {
                let disk = SimStorage::new();
                disk.inject(Fault::PowerCut, cut);
                let written = write(&disk, &birth()).is_ok();
                let disk = disk.crash(&mut SeededRng::new(seed));
                let found = read(&disk).unwrap();
                assert!(found.is_none() || found == Some(birth()));
                assert!(found.is_some() || !written, "cut {cut} seed {seed}");
            }
        }
    }
}
