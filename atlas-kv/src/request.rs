//! What clients ask of the store, and what it answers.

use atlas_smr_execution::ReadWriteSet;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvRequest {
    /// The value of a key; answered by [`KvReply::Value`].
    Get {
        /// The key.
        key: String,
    },
    /// Sets a key; answered by [`KvReply::Put`].
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key; answered by [`KvReply::Deleted`].
    Delete {
        /// The key.
        key: String,
    },
    /// Compare and swap: changes a key if it holds what is expected; answered by [`KvReply::Cas`].
    Cas {
        /// The key.
        key: String,
        /// What it must hold; `None`: it must be absent.
        expect: Option<Bytes>,
        /// What it shall hold; `None`: it is removed.
        new: Option<Bytes>,
    },
    /// The entries whose keys begin with `prefix`, in the order of their keys; answered by
    /// [`KvReply::Entries`].
    List {
        /// What the keys begin with; empty for all.
        prefix: String,
        /// Only keys behind this one: the last key of the page before.
        after: Option<String>,
        /// How many entries at most.
        limit: u32,
    },
    /// All or nothing: if every comparison holds, carries out `then`, else `otherwise`; answered by
    /// [`KvReply::Txn`]. No other request comes in between.
    Txn {
        /// What must hold.
        compares: Vec<Compare>,
        /// What is done when it does.
        then: Vec<KvOperation>,
        /// What is done when it does not.
        otherwise: Vec<KvOperation>,
    },
}

/// A comparison of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// What it must hold; `None`: it must be absent.
    pub expect: Option<Bytes>,
}

/// An operation inside a transaction. It sees what those before it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvOperation {
    /// The value of a key.
    Get {
        /// The key.
        key: String,
    },
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvReply {
    /// The value of the key, if it has one.
    Value(Option<Bytes>),
    /// The key is set.
    Put {
        /// Whether it had a value before.
        previous: bool,
    },
    /// The key is gone.
    Deleted {
        /// Whether it was there.
        existed: bool,
    },
    /// What became of a compare and swap.
    Cas {
        /// Whether the key held what was expected, and was changed.
        swapped: bool,
        /// What it holds when it was not changed; always `None` when it was.
        current: Option<Bytes>,
    },
    /// Entries in the order of their keys.
    Entries {
        /// Keys with their values.
        entries: Vec<(String, Bytes)>,
        /// Whether there are more behind the last of these: the page was full.
        more: bool,
    },
    /// A transaction was carried out.
    Txn {
        /// Whether every comparison held.
        succeeded: bool,
        /// What came of each operation of the branch that was taken.
        replies: Vec<KvOutcome>,
    },
    /// The request was refused, and nothing was changed.
    Refused(KvError),
}

/// What came of an operation inside a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvOutcome {
    /// The value of the key, if it has one.
    Value(Option<Bytes>),
    /// The key is set.
    Put {
        /// Whether it had a value before.
        previous: bool,
    },
    /// The key is gone.
    Deleted {
        /// Whether it was there.
        existed: bool,
    },
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum KvError {
    /// It would change the store, but was not ordered.
    #[error("a request that changes the store must be ordered")]
    ReadOnly,
    /// The key is too long.
    #[error("a key of {bytes} bytes, at most {max} allowed", max = crate::KEY_BYTES_MAX)]
    KeyTooLong {
        /// Its length, in bytes.
        bytes: u64,
    },
    /// The value is too large.
    #[error("a value of {bytes} bytes, at most {max} allowed", max = crate::VALUE_BYTES_MAX)]
    ValueTooLarge {
        /// Its size, in bytes.
        bytes: u64,
    },
    /// The transaction has too many comparisons, or too many operations in a branch.
    #[error(
        "a transaction with {count} comparisons or operations, at most {max} allowed",
        max = crate::TXN_OPERATIONS_MAX
    )]
    TxnTooLong {
        /// How many it has.
        count: u64,
    },
    /// The values that the transaction reads do not fit into one answer.
    #[error(
        "the transaction reads more than the {max} bytes that fit into an answer",
        max = crate::VALUE_BYTES_MAX
    )]
    TxnReadsTooMuch,
}

impl KvRequest {
    /// Whether the request can change nothing, whatever the store holds, so that it need not be
    /// ordered.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        let reads = |operation: &KvOperation| matches!(operation, KvOperation::Get { .. });
        match self {
            Self::Get { .. } | Self::List { .. } => true,
            Self::Put { .. } | Self::Delete { .. } | Self::Cas { .. } => false,
            Self::Txn {
                then, otherwise, ..
            } => then.iter().chain(otherwise).all(reads),
        }
    }

    /// What the request reads and writes, whatever the store holds. A list may meet any key.
    #[must_use]
    pub fn keys(&self) -> ReadWriteSet {
        let nothing = ReadWriteSet::nothing();
        match self {
            Self::Get { key } => nothing.read(key.as_bytes()),
            Self::Put { key, .. } | Self::Delete { key } | Self::Cas { key, .. } => {
                nothing.write(key.as_bytes())
            }
            Self::List { .. } => ReadWriteSet::Unknown,
            Self::Txn {
                compares,
                then,
                otherwise,
            } => {
                let compared = compares.iter().map(|compare| compare.key.as_bytes());
                let set = compared.fold(nothing, ReadWriteSet::read);
                let operations = then.iter().chain(otherwise);
                operations.fold(set, |set, operation| match operation {
                    KvOperation::Get { key } => set.read(key.as_bytes()),
                    KvOperation::Put { key, .. } | KvOperation::Delete { key } => {
                        set.write(key.as_bytes())
                    }
                })
            }
        }
    }
}
