//! The checkpoint store: states as parts under their digests, each part stored once.
//!
//! # Files
//!
//! Parts, and the pages that list them ([`StateDescriptor`]), are **blobs**. They lie in **packs**:
//! `pack-<n>` is a header, records of `[checksum, lengths, digest][bytes]`, and an index with a footer
//! whose digest covers header and index. A pack is written once, under a temporary name, synced, renamed,
//! and never changed. `checkpoint-<s>.meta` has descriptor, certificate, frontier and the caller's
//! `info`, sealed by a digest. `incoming-<n>` is a pack without an index to which blobs of a transfer are
//! added, and `transfer` names what is being fetched.
//!
//! # What a crash leaves
//!
//! **A checkpoint exists when its metadata do.** Everything they reach is in packs that were synced, and
//! whose names were made durable by a sync of the directory, before the metadata are renamed into
//! place. Metadata that are removed are gone durably before a pack goes that they reach. So whatever
//! subset of unsynced writes and names a power cut keeps, each set of metadata on the disk finds all its
//! blobs. Packs under temporary names are rubbish, and packs that nothing reaches are garbage. Whole
//! records of an incoming pack are taken over, and found again by [`PartStore::missing`]; what is torn
//! of it was never promised to anybody. Nothing else is ever cut. Files of packs that went are kept under
//! temporary names, as many as the next checkpoint is likely to fill, and written over.
//!
//! A failed sync is final ([`StoreError::Failed`]). A full disk is not: what did not fit is not there.
//!
//! # Damage
//!
//! Every byte is covered: a header and an index by the footer's digest, a record's head by its checksum,
//! its bytes by the digest of the blob, metadata by their seal. A record is checked whenever it is read,
//! an index and metadata when the store is opened, and all of them by [`PartStore::verify`]. A damaged
//! index is rebuilt from the records of its pack. A damaged blob counts as missing: a transfer fetches it
//! again, [`PartStore::repair`] takes it from peers. Of several copies of a blob the newest counts.
//!
//! # Bounds
//!
//! *Memory*: at most 150 bytes for each blob that is stored, the descriptors of the checkpoints (some 40
//! bytes for a page of 32 parts), while a checkpoint is written 36 bytes for each of its parts, a
//! buffer of 1 MiB, as much of pages that wait to be written, and 100 bytes for each blob of the pack that
//! is open. Blobs stay in memory while a transfer goes on, those of one state at most, until it is taken
//! over ([`PartStore::take_fetched`]).
//!
//! *Disk*: a collection ([`PartStore::retire`], [`PartStore::prune`], [`PartStore::remove`]) leaves at
//! most three times the bytes that checkpoints and the target of a transfer reach, files to write over
//! among them, and the index of each pack (48 bytes a blob). To that comes what is written before the next
//! one, which is at most one checkpoint and two incoming packs, and during a collection a copy of what it
//! moves.

mod collect;
mod collection;
mod error;
mod fetched;
mod gate;
mod index;
mod meta;
mod pack;
mod read;
mod record;
mod spare;
mod store;
mod transfer;
mod verify;
mod writer;

pub(crate) use pack::INCOMING;

pub use collection::Collection;
pub use error::{Damage, Damaged, StoreError};
pub use fetched::Fetched;
pub use meta::{CheckpointMeta, META_BYTES_MAX, StoredCheckpoint};
pub use record::{BLOB_BYTES_MAX, Compression};
pub use store::{PartStore, StoredParts};
pub use writer::{CheckpointWriter, Written};

use atlas_common::Digest;
#[cfg(doc)]
use atlas_common::parts::StateDescriptor;

/// The most bytes after which a pack is full: 1 GiB.
pub const PACK_BYTES_MAX: u64 = 1 << 30;

/// How a store is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// The cluster. Files of another one are refused.
    pub genesis: Digest,
    /// A pack is closed when it has so many bytes, at most [`PACK_BYTES_MAX`]. Default 64 MiB.
    pub pack_bytes: u64,
    /// How many checkpoints with a certificate [`PartStore::retire`] keeps, at least 1. Default 2: the
    /// newest, and the one before it in case the newest is damaged.
    pub retention: usize,
    /// Whether blobs are made smaller on the disk. Default: they are not.
    pub compression: Compression,
}

impl StoreOptions {
    /// The defaults.
    #[must_use]
    pub const fn new(genesis: Digest) -> Self {
        Self {
            genesis,
            pack_bytes: 64 << 20,
            retention: 2,
            compression: Compression::None,
        }
    }
}

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// How many packs there are.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Bytes of files that packs were in, and that the next ones are written over.
    pub spare_bytes: u64,
    /// How many blobs they hold.
    pub blobs: u64,
    /// How many of those are known to be damaged.
    pub damaged_blobs: u64,
}

#[cfg(test)]
mod tests;
