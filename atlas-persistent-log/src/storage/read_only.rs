//! A storage that is only looked at.

use super::{Operation, Storage, StorageError, StorageFile, TEMPORARY_SUFFIX};
use crate::part_store::INCOMING;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Another storage, of which nothing is changed: for whoever looks at what a replica left. What a
/// replica would clean up or take over when it starts stays as it is, and is not listed; writing is
/// refused.
#[derive(Debug)]
pub struct ReadOnly {
    inner: Arc<dyn Storage>,
}

impl ReadOnly {
    /// Looks at `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner }
    }
}

impl Storage for ReadOnly {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        let mut names = self.inner.list()?;
        // What is being written is not there yet.
        names.retain(|name| !name.ends_with(TEMPORARY_SUFFIX) && !name.starts_with(INCOMING));
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Box<dyn StorageFile>, StorageError> {
        let refused = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        Err(StorageError::io(Operation::Open, name, refused))
    }

    fn length(&self, name: &str) -> Result<u64, StorageError> {
        self.inner.length(name)
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes, StorageError> {
        self.inner.read(name, offset, bytes)
    }

    fn read_past_cache(
        &self,
        name: &str,
        offset: u64,
        bytes: usize,
    ) -> Result<Bytes, StorageError> {
        self.inner.read_past_cache(name, offset, bytes)
    }

    /// Left undone.
    fn rename(&self, _from: &str, _to: &str) -> Result<(), StorageError> {
        Ok(())
    }

    /// Left undone.
    fn delete(&self, _name: &str) -> Result<(), StorageError> {
        Ok(())
    }

    /// There is nothing to sync.
    fn sync_dir(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn salt(&self) -> u64 {
        self.inner.salt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimStorage;

    #[test]
    fn nothing_changes_under_a_storage_that_is_only_looked_at() {
        let disk = SimStorage::new();
        disk.write_atomically("kept", b"as it was").unwrap();
        let looked_at = ReadOnly::new(Arc::new(disk.clone()));
        assert!(looked_at.open("kept").is_err());
        assert!(looked_at.write_atomically("kept", b"changed").is_err());
        looked_at.delete("kept").unwrap();
        looked_at.rename("kept", "gone").unwrap();
        assert_eq!(&looked_at.read_all("kept", 100).unwrap()[..], b"as it was");
        assert_eq!(disk.list().unwrap(), ["kept"]);
    }
}
