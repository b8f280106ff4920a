//! A map's checkpoint: a head of its own, then its parts as they are in memory.
//!
//! A part that is larger than a checkpoint's parts may be (a large value's) is handed over in pieces,
//! which its length puts together again.

use super::part::{HEADER_BYTES, Part};
use super::tree::Tree;
use super::{DivisibleMap, MapFault, PART_BYTES_MAX, PART_BYTES_MIN, VALUE_BYTES_MAX};
use crate::state::{FrozenState, PartError, PartReader, PartWriter, SnapshotError, ThawError};
use atlas_common::Digest;
use atlas_common::parts::Blob;
use bytes::{Buf, BufMut, Bytes};
use std::sync::Arc;
use std::vec;

/// The layout of head and parts.
const FORMAT: u32 = 1;
/// Layout, bytes of a part, parts, entries.
const HEAD_BYTES: usize = 4 + 4 + 8 + 8;
/// The largest part: one of the largest key and value.
const BYTES_MAX: usize =
    HEADER_BYTES + super::part::ENTRY_BYTES + super::KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// Parts that are hashed together: enough to fill a processor's lanes, and few to be held longer for it.
const GROUP_PARTS: usize = 64;
/// Bytes of such a group, where a part is not larger.
const GROUP_BYTES: usize = 256 << 10;
/// Parts that are gathered in one step, each of which lies somewhere else in memory.
const GATHERED: usize = 4096;

/// A [`DivisibleMap`] held still.
#[derive(Debug)]
pub struct FrozenMap {
    /// Empty once all parts were gathered.
    tree: Tree,
    left: Left,
}

/// How far [`FrozenMap::write_some`] has come. The tree goes first, so that execution need not copy its
/// nodes for long, and then the parts, one group after the other.
#[derive(Debug)]
enum Left {
    /// The parts so far.
    Gathering(Vec<Arc<Part>>),
    Writing(vec::IntoIter<Arc<Part>>),
}

impl FrozenMap {
    pub(super) const fn new(tree: Tree) -> Self {
        let left = Left::Gathering(Vec::new());
        Self { tree, left }
    }
}

impl FrozenState for FrozenMap {
    fn write_parts(&self, out: &mut PartWriter) -> Result<(), SnapshotError> {
        write_head(&self.tree, out)?;
        let mut parts = self.tree.parts().map(Arc::clone);
        while write_group(&mut parts, out)? > 0 {}
        Ok(())
    }

    fn write_some(&mut self, out: &mut PartWriter) -> Result<usize, SnapshotError> {
        let gathered = match &mut self.left {
            Left::Gathering(gathered) => gathered,
            Left::Writing(parts) => {
                write_group(parts, out)?;
                return Ok(parts.len());
            }
        };
        let behind = if let Some(last) = gathered.last() {
            self.tree.parts_behind(last.first_key())
        } else {
            write_head(&self.tree, out)?;
            gathered.reserve_exact(self.tree.parts_len());
            self.tree.parts()
        };
        gathered.extend(behind.take(GATHERED).map(Arc::clone));
        let all = self.tree.parts_len();
        if gathered.len() == all {
            self.left = Left::Writing(std::mem::take(gathered).into_iter());
            self.tree = Tree::new(self.tree.part_bytes());
        }
        Ok(all)
    }
}

fn write_head(tree: &Tree, out: &mut PartWriter) -> Result<(), SnapshotError> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.put_u32_le(FORMAT);
    head.put_u32_le(tree.part_bytes() as u32);
    head.put_u64_le(tree.parts_len() as u64);
    head.put_u64_le(tree.len());
    write_pieces(head.into(), out)
}

/// Writes some parts; how many.
fn write_group(
    parts: &mut impl Iterator<Item = Arc<Part>>,
    out: &mut PartWriter,
) -> Result<usize, SnapshotError> {
    let (mut group, mut size) = (Vec::with_capacity(GROUP_PARTS), 0);
    while group.len() < GROUP_PARTS
        && size < GROUP_BYTES
        && let Some(part) = parts.next()
    {
        size += part.size();
        group.push(part);
    }
    let bytes: Vec<Bytes> = group.iter().map(|part| part.bytes()).collect();
    let fits = |bytes: &Bytes| bytes.len() <= out.chunk_bytes();
    let to_hash = group.iter().zip(&bytes);
    let to_hash = to_hash.filter(|(part, bytes)| !part.is_hashed() && fits(bytes));
    let (unhashed, their_bytes): (Vec<_>, Vec<_>) = to_hash.unzip();
    for (part, digest) in unhashed.iter().zip(Digest::of_all(&their_bytes)) {
        part.hashed(digest);
    }
    for (part, bytes) in group.iter().zip(bytes) {
        write_part(part, bytes, out)?;
    }
    Ok(group.len())
}

fn write_part(part: &Part, bytes: Bytes, out: &mut PartWriter) -> Result<(), SnapshotError> {
    if bytes.len() <= out.chunk_bytes() {
        out.part(bytes, Some(part.digest()))
    } else {
        write_pieces(bytes, out)
    }
}

fn write_pieces(mut bytes: Bytes, out: &mut PartWriter) -> Result<(), SnapshotError> {
    while !bytes.is_empty() {
        let length = bytes.len().min(out.chunk_bytes());
        out.part(bytes.split_to(length), None)?;
    }
    Ok(())
}

pub(super) fn thaw(parts: &mut dyn PartReader) -> Result<DivisibleMap, ThawError> {
    let mut reader = Pieces { parts, read: 0 };
    let mut head = reader.exactly(HEAD_BYTES)?;
    let (format, part_bytes) = (head.get_u32_le(), head.get_u32_le() as usize);
    let (count, len) = (head.get_u64_le(), head.get_u64_le());
    let good = format == FORMAT && (PART_BYTES_MIN..=PART_BYTES_MAX).contains(&part_bytes);
    if !good {
        return Err(reader.malformed(MapFault::Head));
    }
    let mut tree = Tree::new(part_bytes);
    for _ in 0..count {
        let (bytes, digest) = reader.whole()?;
        let part = Part::check(bytes, digest).map_err(|fault| reader.malformed(fault))?;
        if part.size() > part_bytes && part.len() > 1 {
            return Err(reader.malformed(MapFault::Length));
        }
        if !tree.push(part) {
            return Err(reader.malformed(MapFault::Order));
        }
    }
    if tree.len() != len {
        return Err(reader.malformed(MapFault::Count));
    }
    Ok(DivisibleMap::from_tree(tree))
}

/// Puts pieces together.
struct Pieces<'a> {
    parts: &'a mut dyn PartReader,
    read: u64,
}

impl Pieces<'_> {
    fn malformed(&self, fault: MapFault) -> ThawError {
        let (part, fault) = (self.read.saturating_sub(1), fault.to_string());
        ThawError::Malformed { part, fault }
    }

    fn next(&mut self) -> Result<Blob, ThawError> {
        let part = self.parts.next_part()?.ok_or(PartError::Ended)?;
        self.read += 1;
        Ok(part)
    }

    /// Pieces of so many bytes together.
    fn exactly(&mut self, length: usize) -> Result<Bytes, ThawError> {
        let first = self.next()?.into_bytes();
        self.rest(first, length)
    }

    /// A whole part, with its digest where it came in one piece.
    fn whole(&mut self) -> Result<(Bytes, Option<Digest>), ThawError> {
        let piece = self.next()?;
        let (digest, mut first) = (piece.digest(), piece.into_bytes());
        if Part::length_of(&first) == Some(first.len()) {
            return Ok((first, Some(digest)));
        }
        while first.len() < 4 {
            first = [first, self.next()?.into_bytes()].concat().into();
        }
        let length = Part::length_of(&first).filter(|length| *length <= BYTES_MAX);
        let length = length.ok_or_else(|| self.malformed(MapFault::Length))?;
        Ok((self.rest(first, length)?, None))
    }

    fn rest(&mut self, first: Bytes, length: usize) -> Result<Bytes, ThawError> {
        let mut bytes = Vec::with_capacity(length.min(first.len().max(1 << 16)));
        bytes.extend_from_slice(&first);
        while bytes.len() < length {
            bytes.extend_from_slice(self.next()?.bytes());
        }
        if bytes.len() > length {
            return Err(self.malformed(MapFault::Length));
        }
        bytes.shrink_to_fit();
        Ok(bytes.into())
    }
}
