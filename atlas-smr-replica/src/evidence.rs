//! Evidence against replicas that contradict themselves, kept as proof files beside the log.

use crate::proof::{ProofFile, Proven};
use atlas_common::{Digest, NodeId};
use atlas_persistent_log::{Storage, StorageError};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// How many pieces of evidence are kept. One convicts; the rest say how often and how long.
pub(crate) const KEPT_MAX: usize = 64;
const PREFIX: &str = "evidence-";
const SUFFIX: &str = ".proof";

/// Where evidence is kept.
pub(crate) struct EvidenceFiles {
    storage: Arc<dyn Storage>,
    genesis: Digest,
    protocol: &'static str,
    kept: usize,
}

impl fmt::Debug for EvidenceFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pieces of evidence", self.kept)
    }
}

impl EvidenceFiles {
    /// Goes on behind what earlier lives of the replica have kept.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        genesis: Digest,
        protocol: &'static str,
    ) -> Result<Self, StorageError> {
        let names = storage.list()?;
        let own = |name: &&String| name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        Ok(Self {
            kept: names.iter().filter(own).count(),
            storage,
            genesis,
            protocol,
        })
    }

    /// Whether no more is kept.
    pub(crate) const fn is_enough(&self) -> bool {
        self.kept >= KEPT_MAX
    }

    /// Keeps two encoded messages that contradict each other, durably, and returns the file's name;
    /// `None` when enough is kept.
    pub(crate) fn keep(
        &mut self,
        culprit: NodeId,
        first: Bytes,
        second: Bytes,
    ) -> Result<Option<String>, StorageError> {
        if self.is_enough() {
            return Ok(None);
        }
        let proof = ProofFile {
            genesis: self.genesis,
            proven: Proven::Contradiction {
                protocol: self.protocol.to_owned(),
                culprit,
                first,
                second,
            },
        };
        let name = format!("{PREFIX}{}-by-{culprit}{SUFFIX}", self.kept);
        self.storage.write_atomically(&name, &proof.encode())?;
        self.kept += 1;
        Ok(Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_persistent_log::SimStorage;

    #[test]
    fn evidence_outlives_a_restart_and_is_bounded() {
        let disk = SimStorage::new();
        let open = || {
            let storage = Arc::new(disk.clone());
            EvidenceFiles::open(storage, Digest::of(b"cluster"), "pbft").unwrap()
        };
        let keep = |files: &mut EvidenceFiles| {
            let (first, second) = (Bytes::from_static(b"one"), Bytes::from_static(b"other"));
            files.keep(NodeId(2), first, second).unwrap()
        };
        let name = keep(&mut open()).expect("there is room");
        let again = keep(&mut open()).expect("there is room");
        assert_ne!(name, again);
        let kept = ProofFile::decode(&disk.read_all(&name, 1000).unwrap()).unwrap();
        assert!(matches!(
            kept.proven,
            Proven::Contradiction {
                culprit: NodeId(2),
                ..
            }
        ));
        let mut files = open();
        assert!(!files.is_enough());
        let more = std::iter::from_fn(|| keep(&mut files)).count();
        assert_eq!(more, KEPT_MAX - 2);
        assert!(files.is_enough() && open().is_enough());
    }
}
