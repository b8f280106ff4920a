//! The store's state, and how operations read and change it.

use crate::request::{Compare, KvError, KvOperation, KvOutcome, KvReply};
use atlas_smr_execution::map::OrdMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Bound;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// The largest value, in bytes. With its key it fits into a reply under the default limits
/// (`operation_bytes_max` 1 MiB); where a cluster's limit is smaller, that limit comes first.
pub const VALUE_BYTES_MAX: usize = 1_000_000;
/// The most comparisons of a transaction, and the most operations in each of its branches.
pub const TXN_OPERATIONS_MAX: usize = 1024;
/// A page of entries ends with the one that reaches this many bytes.
pub const PAGE_BYTES: usize = 256 << 10;
/// What an entry counts besides its key and value, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 16;

/// What the store holds. Clones are made in constant time and share what does not change.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KvState(OrdMap<String, Bytes>);

impl KvState {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.0.get(key)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Sets a key. Says whether it had a value.
    pub(crate) fn put(&mut self, key: String, value: Bytes) -> Result<bool, KvError> {
        check_key(&key)?;
        if value.len() > VALUE_BYTES_MAX {
            let bytes = value.len() as u64;
            return Err(KvError::ValueTooLarge { bytes });
        }
        Ok(self.0.insert(key, value).is_some())
    }

    /// Removes a key. Says whether it was there.
    pub(crate) fn delete(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    pub(crate) fn cas(
        &mut self,
        key: String,
        expect: Option<&Bytes>,
        new: Option<Bytes>,
    ) -> Result<KvReply, KvError> {
        let current = self.get(&key);
        if current != expect {
            let current = current.cloned();
            return Ok(KvReply::Cas {
                swapped: false,
                current,
            });
        }
        match new {
            Some(value) => {
                self.put(key, value)?;
            }
            None => {
                self.delete(&key);
            }
        }
        Ok(KvReply::Cas {
            swapped: true,
            current: None,
        })
    }

    /// At least one entry where there is one and `limit` allows it, however large it is: else a
    /// client could not get past it.
    pub(crate) fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> KvReply {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut entries = Vec::new();
        let (mut bytes, mut more) = (0, false);
        for (key, value) in self.0.range::<_, str>((start, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            let size = key.len() + value.len() + ENTRY_OVERHEAD_BYTES;
            let full = bytes + size > PAGE_BYTES && !entries.is_empty();
            if full || entries.len() as u64 >= u64::from(limit) {
                more = true;
                break;
            }
            bytes += size;
            entries.push((key.clone(), value.clone()));
        }
        KvReply::Entries { entries, more }
    }

    /// Carries out a transaction on a clone, which takes the state's place only when no operation
    /// was refused.
    pub(crate) fn txn(
        &mut self,
        compares: &[Compare],
        then: Vec<KvOperation>,
        otherwise: Vec<KvOperation>,
    ) -> Result<KvReply, KvError> {
        let count = compares.len().max(then.len()).max(otherwise.len());
        if count > TXN_OPERATIONS_MAX {
            let count = count as u64;
            return Err(KvError::TxnTooLong { count });
        }
        let holds = |compare: &Compare| self.get(&compare.key) == compare.expect.as_ref();
        let succeeded = compares.iter().all(holds);
        let branch = if succeeded { then } else { otherwise };
        let mut next = self.clone();
        let mut replies = Vec::with_capacity(branch.len());
        let mut read_bytes = 0;
        for operation in branch {
            let outcome = next.operation(operation)?;
            if let KvOutcome::Value(Some(value)) = &outcome {
                read_bytes += value.len();
            }
            if read_bytes > VALUE_BYTES_MAX {
                return Err(KvError::TxnReadsTooMuch);
            }
            replies.push(outcome);
        }
        *self = next;
        Ok(KvReply::Txn { succeeded, replies })
    }

    fn operation(&mut self, operation: KvOperation) -> Result<KvOutcome, KvError> {
        Ok(match operation {
            KvOperation::Get { key } => KvOutcome::Value(self.get(&key).cloned()),
            KvOperation::Put { key, value } => KvOutcome::Put {
                previous: self.put(key, value)?,
            },
            KvOperation::Delete { key } => KvOutcome::Deleted {
                existed: self.delete(&key),
            },
        })
    }
}

impl fmt::Debug for KvState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store of {} keys", self.len())
    }
}

fn check_key(key: &str) -> Result<(), KvError> {
    if key.len() > KEY_BYTES_MAX {
        let bytes = key.len() as u64;
        return Err(KvError::KeyTooLong { bytes });
    }
    Ok(())
}
