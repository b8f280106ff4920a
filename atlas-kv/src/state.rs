//! The store's state, and how operations read and change it.

use crate::request::{Compare, KvError, KvOperation, KvOutcome, KvReply};
use atlas_smr_execution::DivisibleState;
use atlas_smr_execution::state::{DivisibleMap, FrozenMap, PartReader, ThawError};
use bytes::Bytes;
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

/// What the store holds. Clones are made in constant time and share what does not change; a checkpoint
/// stores the parts that changed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KvState(DivisibleMap);

impl KvState {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key.as_bytes())
    }

    /// The same, to go into an answer.
    pub(crate) fn value(&self, key: &str) -> Option<Bytes> {
        self.get(key).map(Bytes::copy_from_slice)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.0.len()).unwrap_or(usize::MAX)
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, value)| (text(key), value))
    }

    /// Sets a key. Says whether it had a value.
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) -> Result<bool, KvError> {
        check_key(key)?;
        if value.len() > VALUE_BYTES_MAX {
            let bytes = value.len() as u64;
            return Err(KvError::ValueTooLarge { bytes });
        }
        // The map's limits are wider.
        let previous = self.0.insert(key.as_bytes(), value);
        Ok(previous.is_ok_and(|previous| previous.is_some()))
    }

    /// Removes a key. Says whether it was there.
    pub(crate) fn delete(&mut self, key: &str) -> bool {
        self.0.remove(key.as_bytes()).is_some()
    }

    pub(crate) fn cas(
        &mut self,
        key: &str,
        expect: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<KvReply, KvError> {
        if self.get(key) != expect {
            let current = self.value(key);
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
                self.delete(key);
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
        let start = start.map(str::as_bytes);
        for (key, value) in self.0.range((start, Bound::Unbounded)) {
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            let size = key.len() + value.len() + ENTRY_OVERHEAD_BYTES;
            let full = bytes + size > PAGE_BYTES && !entries.is_empty();
            if full || entries.len() as u64 >= u64::from(limit) {
                more = true;
                break;
            }
            bytes += size;
            entries.push((text(key).to_owned(), Bytes::copy_from_slice(value)));
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
        let holds = |compare: &Compare| self.get(&compare.key) == compare.expect.as_deref();
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
            KvOperation::Get { key } => KvOutcome::Value(self.value(&key)),
            KvOperation::Put { key, value } => KvOutcome::Put {
                previous: self.put(&key, &value)?,
            },
            KvOperation::Delete { key } => KvOutcome::Deleted {
                existed: self.delete(&key),
            },
        })
    }
}

impl DivisibleState for KvState {
    type Frozen = FrozenMap;

    fn freeze(&self) -> FrozenMap {
        self.0.freeze()
    }

    fn thaw(parts: &mut dyn PartReader) -> Result<Self, ThawError> {
        let map = DivisibleMap::thaw(parts)?;
        let keys = map.iter().map(|(key, _)| key);
        let fault = keys.map(str::from_utf8).find_map(Result::err);
        match fault {
            None => Ok(Self(map)),
            Some(error) => Err(ThawError::Malformed {
                part: 0,
                fault: format!("or one behind it has a key that is no text: {error}"),
            }),
        }
    }

    fn fork(&self) -> Option<Self> {
        self.0.fork().map(Self)
    }

    fn merge(&mut self, fork: Self) {
        self.0.merge(fork.0);
    }

    fn detach(&mut self) {
        self.0.detach();
    }
}

impl fmt::Debug for KvState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store of {} keys", self.len())
    }
}

/// A key, which is text: requests and checkpoints bring no other.
fn text(key: &[u8]) -> &str {
    str::from_utf8(key).unwrap_or_default()
}

fn check_key(key: &str) -> Result<(), KvError> {
    if key.len() > KEY_BYTES_MAX {
        let bytes = key.len() as u64;
        return Err(KvError::KeyTooLong { bytes });
    }
    Ok(())
}
