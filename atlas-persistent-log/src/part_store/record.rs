//! How blobs lie in a pack file: its header, the head of a record, and the index at its end.

use atlas_common::Digest;
use atlas_common::digest::DigestBuilder;
use atlas_common::parts::Blob;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// 2: heads carry a checksum of what is behind them.
pub(super) const VERSION: u32 = 2;
pub(super) const HEADER_BYTES: usize = 8 + 4 + 32 + 8 + 4;
pub(super) const HEAD_BYTES: usize = 5 * 4 + 32;
const ENTRY_BYTES: usize = 32 + 4 * 4;
pub(super) const FOOTER_BYTES: usize = 8 + 8 + 8 + 32;
const MAGIC: [u8; 8] = *b"atlaspck";
const END_MAGIC: [u8; 8] = *b"atlasidx";

/// The longest blob, in bytes: 16 MiB.
pub const BLOB_BYTES_MAX: usize = 16 << 20;

/// Whether blobs are made smaller on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Stored as they are.
    #[default]
    None,
    /// By zstd, at its level 3; a blob that does not get smaller is stored as it is.
    Zstd,
}

/// How the bytes of a record stand for the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Zstd,
}

/// Where in a pack a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Of the record's head.
    pub(super) offset: u32,
    /// Bytes behind the head.
    pub(super) stored: u32,
    /// Bytes of the blob.
    pub(super) plain: u32,
    pub(super) encoding: Encoding,
}

/// A blob in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    pub(super) place: Place,
}

impl Place {
    /// The bytes of the record, head and all.
    pub(super) const fn record_bytes(&self) -> usize {
        HEAD_BYTES + self.stored as usize
    }

    /// Whether the lengths can be those of a blob.
    const fn is_possible(&self) -> bool {
        let stored = self.stored as usize;
        let plain = self.plain as usize;
        let fits = match self.encoding {
            Encoding::Plain => stored == plain,
            Encoding::Zstd => stored < plain,
        };
        fits && plain <= BLOB_BYTES_MAX
    }

    fn numbers(&self) -> [u8; 12] {
        let encoding = match self.encoding {
            Encoding::Plain => 0u32,
            Encoding::Zstd => 1,
        };
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.stored.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.plain.to_le_bytes());
        bytes[8..].copy_from_slice(&encoding.to_le_bytes());
        bytes
    }

    fn from_numbers(offset: u32, numbers: &[u8]) -> Option<Self> {
        let place = Self {
            offset,
            stored: number(numbers, 0)?,
            plain: number(numbers, 4)?,
            encoding: match number(numbers, 8)? {
                0 => Encoding::Plain,
                1 => Encoding::Zstd,
                _ => return None,
            },
        };
        place.is_possible().then_some(place)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn long_number(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn digest(bytes: &[u8]) -> Option<Digest> {
    Some(Digest(bytes.try_into().ok()?))
}

/// The first bytes of a pack.
pub(super) fn header(genesis: &Digest, pack: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&genesis.0);
    bytes.extend_from_slice(&pack.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// What a whole header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) genesis: Digest,
    pub(super) pack: u64,
}

pub(super) fn read_header(bytes: &[u8]) -> Option<Header> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    let (body, _) = bytes.split_at(HEADER_BYTES - 4);
    let whole = number(bytes, HEADER_BYTES - 4)? == crc32c::crc32c(body) && body[..8] == MAGIC;
    whole.then_some(())?;
    Some(Header {
        version: number(bytes, 8)?,
        genesis: digest(&bytes[12..44])?,
        pack: long_number(bytes, 44)?,
    })
}

/// What stands before the bytes of a blob in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) entry: Entry,
    /// CRC-32 of the bytes behind it, as they are stored: it costs a tenth of their digest, and serves where
    /// somebody else checks that. Not CRC-32C as for what is short: of some kilobytes this one is computed
    /// twice as fast, by multiplication without carry.
    stored_checksum: u32,
}

impl Head {
    pub(super) fn of(entry: Entry, stored: &[u8]) -> Self {
        Self {
            entry,
            stored_checksum: crc32fast::hash(stored),
        }
    }

    /// A head says in its own checksum in which pack and where it stands, so that no copy of it counts
    /// elsewhere.
    pub(super) fn encode(&self, pack: u64) -> [u8; HEAD_BYTES] {
        let Entry { digest, place } = &self.entry;
        let mut bytes = [0; HEAD_BYTES];
        bytes[4..16].copy_from_slice(&place.numbers());
        bytes[16..20].copy_from_slice(&self.stored_checksum.to_le_bytes());
        bytes[20..].copy_from_slice(&digest.0);
        let checksum = head_checksum(pack, place.offset, &bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn read(pack: u64, offset: u32, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEAD_BYTES)?;
        if number(bytes, 0)? != head_checksum(pack, offset, &bytes[4..]) {
            return None;
        }
        Some(Self {
            entry: Entry {
                place: Place::from_numbers(offset, &bytes[4..16])?,
                digest: digest(&bytes[20..])?,
            },
            stored_checksum: number(bytes, 16)?,
        })
    }

    /// Whether these bytes are the ones behind it.
    pub(super) fn fits(&self, stored: &[u8]) -> bool {
        stored.len() == self.entry.place.stored as usize
            && crc32fast::hash(stored) == self.stored_checksum
    }
}

fn head_checksum(pack: u64, offset: u32, rest: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&pack.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &offset.to_le_bytes());
    crc32c::crc32c_append(seed, rest)
}

/// The index and the footer behind it, in place of what `bytes` holds.
pub(super) fn index(header: &[u8], offset: u64, entries: &[Entry], bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.reserve(entries.len() * ENTRY_BYTES + FOOTER_BYTES);
    for entry in entries {
        bytes.extend_from_slice(&entry.digest.0);
        bytes.extend_from_slice(&entry.place.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.place.numbers());
    }
    let seal = seal(header, offset, bytes);
    bytes.extend_from_slice(&END_MAGIC);
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&seal.0);
}

fn seal(header: &[u8], offset: u64, entries: &[u8]) -> Digest {
    DigestBuilder::new("atlas v1 pack index")
        .bytes(header)
        .number(offset)
        .bytes(entries)
        .finish()
}

/// What a footer says: nothing of it is to be believed before [`read_index`] has checked it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footer {
    pub(super) offset: u64,
    pub(super) index_bytes: usize,
    seal: Digest,
}

/// The footer of a pack of so many bytes, if its numbers fit them.
pub(super) fn read_footer(bytes: &[u8], pack_bytes: u64) -> Option<Footer> {
    let bytes = bytes.get(..FOOTER_BYTES)?;
    (bytes[..8] == END_MAGIC).then_some(())?;
    let index = long_number(bytes, 8)?.checked_mul(ENTRY_BYTES as u64)?;
    let offset = long_number(bytes, 16)?;
    let end = offset.checked_add(index)?.checked_add(FOOTER_BYTES as u64);
    (end == Some(pack_bytes) && offset >= HEADER_BYTES as u64).then_some(())?;
    Some(Footer {
        offset,
        index_bytes: usize::try_from(index).ok()?,
        seal: digest(&bytes[24..])?,
    })
}

/// The entries, if header, index and footer are what was written.
pub(super) fn read_index(header: &[u8], index: &[u8], footer: &Footer) -> Option<Vec<Entry>> {
    if seal(header, footer.offset, index) != footer.seal {
        return None;
    }
    let (entries, []) = index.as_chunks::<ENTRY_BYTES>() else {
        return None;
    };
    let decode = |bytes: &[u8; ENTRY_BYTES]| {
        Some(Entry {
            digest: digest(&bytes[..32])?,
            place: Place::from_numbers(number(bytes, 32)?, &bytes[36..])?,
        })
    };
    entries.iter().map(decode).collect()
}

/// The bytes to store for a blob.
pub(super) fn compress(blob: &[u8], compression: Compression) -> (Encoding, Cow<'_, [u8]>) {
    const LEVEL: i32 = 3;
    if compression == Compression::Zstd
        && let Ok(smaller) = zstd::bulk::compress(blob, LEVEL)
        && smaller.len() < blob.len()
    {
        return (Encoding::Zstd, smaller.into());
    }
    (Encoding::Plain, blob.into())
}

/// The blob that was stored, if these bytes stand for it.
pub(super) fn restore(entry: &Entry, stored: Bytes) -> Option<Blob> {
    Blob::check(entry.digest, plain(entry, stored)?)
}

/// As [`restore`], for several.
pub(super) fn restore_all(records: Vec<(Entry, Bytes)>) -> Vec<Option<Blob>> {
    let (mut digests, mut all) = (Vec::new(), Vec::new());
    let restored = records.into_iter().map(|(entry, stored)| {
        let bytes = plain(&entry, stored);
        let there = bytes.is_some();
        if let Some(bytes) = bytes {
            digests.push(entry.digest);
            all.push(bytes);
        }
        there
    });
    let there: Vec<bool> = restored.collect();
    let mut checked = Blob::check_all(&digests, all).into_iter();
    let next = |there: bool| if there { checked.next()? } else { None };
    there.into_iter().map(next).collect()
}

/// The bytes of the blob; its digest is not checked. What is allocated is bounded by the length that the
/// record states, and that by [`BLOB_BYTES_MAX`].
pub(super) fn plain(entry: &Entry, stored: Bytes) -> Option<Bytes> {
    let bytes = match entry.place.encoding {
        Encoding::Plain => stored,
        Encoding::Zstd => zstd::bulk::decompress(&stored, entry.place.plain as usize)
            .ok()?
            .into(),
    };
    (bytes.len() == entry.place.plain as usize).then_some(bytes)
}
