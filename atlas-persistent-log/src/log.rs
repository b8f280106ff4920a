//! The log: records in numbered segments, and the rule by which damage is told from a torn write.
//!
//! # Files
//!
//! A segment is a file `log-<first lsn, 16 hex digits>`: a header of 128 bytes (magic, version,
//! genesis digest, first [`Lsn`], salt, the low mark and the checksum that the segment before ended
//! with) and then *frames* without gaps. A frame has 32 bytes of head and its payload:
//!
//! | bytes | |
//! |---|---|
//! | 4 | head checksum: crc32c of the segment's salt and the head from `kind` on |
//! | 4 | body checksum: the head checksum carried on over the payload |
//! | 4 | kind (4 bits: record, marker, seal) and length of the payload (28 bits) |
//! | 4 | the body checksum of the frame before: frames are chained |
//! | 8 | lsn (a marker's or seal's: that of the record before it) |
//! | 8 | *durable end*: up to which offset this segment was synced when the frame was made |
//!
//! After the last frame come 32 zero bytes or more, up to the end of a block of 4 KiB. Space behind them
//! was filled with zeros in advance, or belongs to a recycled segment and holds what was there before.
//! Files are written in whole blocks, past the system's page cache in mode `sync`: the last block is
//! written again, with the same bytes in front, when frames are added to it. A write of it that is torn
//! between sectors so leaves what was durable as it was.
//!
//! # Torn or damaged
//!
//! When the log is opened and the frame expected at offset p is not whole, then either it was being
//! written when the power went (*torn*: nobody was told that it is durable, cut it), or it was
//! durable and has been damaged since (cutting it would take back a vote: never do that). The rule:
//!
//! > It is **damaged** if (a) a later segment exists, or (b) anywhere behind p in this segment there
//! > is a head with a right head checksum whose durable end lies beyond p, or (c) the head at p has
//! > a right head checksum but does not continue the chain, or (d) it is the segment's own header.
//! > Otherwise it is torn.
//!
//! *Damaged is never said of a torn write.* (a) A later segment gets its name only after this one was
//! synced to its end. (b) A head with that durable end was made after a sync of this file beyond p
//! had succeeded, so the frame at p was durable. The head was made for this segment: its checksum
//! starts from the segment's salt, a number of 64 random bits, drawn anew when a file is recycled,
//! and stale or foreign bytes match it with a probability of 2⁻³²; stale records have smaller lsns
//! besides. A client that fills its requests with imitations of heads does not know the salt. (c) A
//! whole head is written only at the end of the chain; what is cut off is first removed durably
//! (the file is shortened and synced) before anything is written in its place. (d) The
//! header is synced before the segment gets its name.
//!
//! *Torn is never said of a record that was durable, unless it is in the tail*: behind the last
//! durable end that any frame states. Each group commit states, for the one before, that it was
//! durable; when the log is idle for a moment or is closed, a marker states it for the last one
//! ([`LogWriter::mark_tail`]). So what cannot be told from a torn write is damage to the last group
//! of a log that lost its process within moments of writing it (or whose machine lost power before
//! the marker reached the disk by itself), damage that takes all evidence with it (the rest of the
//! last segment, or its file and the seal of the one before), and a forged checksum: crc32c finds
//! accidents, not attackers who can write to the disk.
//!
//! A torn tail is cut at the last whole frame. Whole records of an unfinished group stay; they were
//! never acknowledged and do no harm: a replica may always have logged more than it said.
//!
//! # After a failed sync
//!
//! A sync that fails may leave bytes that are read back but are not on the disk and count as clean,
//! so that no later sync writes them (Rebello et al., ATC'20). Therefore opening writes everything
//! behind the last stated durable end once more before it syncs and reports it.
//!
//! # Removing the front
//!
//! [`LogWriter::truncate_below`] first makes a marker durable that states the new *low mark*, the
//! first lsn of the oldest segment that stays; then files go, up to four of them ([`SPARES_MAX`]) kept
//! under names `spare-0` and so on to be written over, which is faster than growing new ones. A
//! [`LogHandle`](crate::LogHandle) deletes the others on a thread of their own. Opening finishes an
//! interrupted removal (segments below the low mark), and finds a segment missing where the low mark
//! or a seal says that there must be one.

mod error;
mod format;
mod recover;
mod segments;
mod writer;

pub use error::{Damage, LogError};
pub use segments::SPARES_MAX;
pub use writer::LogWriter;
pub(crate) use writer::delete;

use crate::mode::Durability;
use crate::storage::{Storage, StorageError};
use atlas_common::{Digest, Lsn};
use bytes::Bytes;
use std::time::Duration;

/// The longest record any log can hold, in bytes: 128 MiB.
pub const RECORD_BYTES_CAP: usize = 128 << 20;

/// How a log is laid out and when it syncs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The cluster the log belongs to. A log of another cluster is refused.
    pub genesis: Digest,
    /// When a record counts as durable.
    pub durability: Durability,
    /// A segment ends when the next record would make it longer than this. Default 64 MiB.
    pub segment_bytes: u64,
    /// By how much a segment is extended with zeros at a time, ahead of what is written: a sync of
    /// bytes that overwrite others is nearly twice as fast as one that must also write a new length.
    /// Default 4 MiB.
    pub fill_bytes: u64,
    /// The longest record, at most [`RECORD_BYTES_CAP`]. Default 64 MiB + 64 KiB: the longest
    /// message and a little about it.
    pub record_bytes_max: usize,
    /// [`Durability::Async`]: the longest time between a write and its sync. Default 50 ms.
    pub sync_interval: Duration,
}

impl LogOptions {
    /// The defaults for real disks, in mode `sync`.
    #[must_use]
    pub const fn new(genesis: Digest) -> Self {
        Self {
            genesis,
            durability: Durability::Sync,
            segment_bytes: 64 << 20,
            fill_bytes: 4 << 20,
            record_bytes_max: (64 << 20) + (64 << 10),
            sync_interval: Duration::from_millis(50),
        }
    }

    /// The same log in small: segments of 256 KiB, extended by 16 KiB. For simulated disks, which
    /// live in memory.
    #[must_use]
    pub const fn small(genesis: Digest) -> Self {
        Self {
            segment_bytes: 256 << 10,
            fill_bytes: 16 << 10,
            ..Self::new(genesis)
        }
    }

    /// With another durability.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// All records, in order, without gaps; all durable. They share memory with the file contents
    /// they were read from.
    pub records: Vec<(Lsn, Bytes)>,
    /// The last record the log has had, which may have been removed since ([`Lsn::ZERO`]: none
    /// ever). The next one is the one after it.
    pub last: Lsn,
    /// Whether there was a log, even one without a record.
    pub existed: bool,
    /// What was cut off, if the log ended in the middle of a write.
    pub torn: Option<TornTail>,
}

/// An unfinished write at the end of a log, which has been cut off. No record in it had been
/// acknowledged (in mode `sync`; in mode `async` a power cut may take acknowledged ones).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: String,
    /// The length to which it was cut.
    pub offset: u64,
    /// The first record that is gone.
    pub lsn: Lsn,
}

/// Reads a log without changing anything on the disk: what [`LogWriter::open`] would start from.
///
/// # Errors
/// As [`LogWriter::open`].
pub fn read(storage: &dyn Storage, options: &LogOptions) -> Result<Recovered, LogError> {
    let Some(found) = recover::read(storage, options)? else {
        return Ok(Recovered::default());
    };
    Ok(Recovered {
        records: found.records,
        last: found.tail.last,
        existed: true,
        torn: found.torn,
    })
}

/// What the names of segments begin with that were set aside.
pub const SET_ASIDE: &str = "damaged-log-";

/// Takes a log out of use that cannot be opened: renames its segments to `damaged-…` (replacing
/// those of an earlier time), so that the next [`LogWriter::open`] begins an empty one. Returns the
/// new names.
///
/// The replica has then forgotten what it voted for and must rejoin as one whose disk was wiped.
///
/// # Errors
/// When the storage fails.
pub fn set_aside(storage: &dyn Storage) -> Result<Vec<String>, StorageError> {
    let mut aside = Vec::new();
    for name in storage.list()? {
        if format::first_lsn_of(&name).is_some() {
            let to = format!("damaged-{name}");
            storage.rename(&name, &to)?;
            aside.push(to);
        }
    }
    storage.sync_dir()?;
    Ok(aside)
}

#[cfg(test)]
mod tests;
