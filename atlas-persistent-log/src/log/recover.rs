//! Reading a log back: which records there are, whether its tail is torn, whether it is damaged.

use super::format::{self, Evidence, HEAD_BYTES, HEADER_BYTES, Header, HeaderError, Kind, Sealer};
use super::{Damage, LogError, LogOptions, TornTail};
use crate::storage::{Storage, StorageError};
use atlas_common::Lsn;
use bytes::Bytes;

/// No segment is longer, whatever the options were when it was written.
pub(super) const SEGMENT_BYTES_CAP: u64 = 1 << 30;

/// A log as it was found. Nothing on the disk has been changed yet.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) records: Vec<(Lsn, Bytes)>,
    /// The first lsns of the segments in use, in order, never empty.
    pub(super) segments: Vec<Lsn>,
    /// Segments whose removal was interrupted.
    pub(super) leftover: Vec<String>,
    /// The last segment, without its records.
    pub(super) tail: Segment,
    pub(super) torn: Option<TornTail>,
}

/// Reads all segments; `None` when there is none.
pub(super) fn read(storage: &dyn Storage, options: &LogOptions) -> Result<Option<Found>, LogError> {
    let names = storage.list()?;
    let firsts = names.iter().filter_map(|name| format::first_lsn_of(name));
    let mut segments: Vec<Lsn> = firsts.collect();
    let Some(newest) = segments.last().copied() else {
        return Ok(None);
    };
    // The last one first: it knows which others there must be.
    let mut tail = Segment::read(storage, options, newest)?;
    let torn = tail.check_tail()?;
    let leftover = segments.iter().take_while(|first| **first < tail.low);
    let leftover = leftover.map(|first| format::segment_name(*first)).collect();
    segments.retain(|first| *first >= tail.low);
    if segments.first() != Some(&tail.low) {
        return Err(missing(tail.low));
    }
    let mut records = Vec::new();
    let mut end = None;
    for first in &segments[..segments.len() - 1] {
        let mut segment = Segment::read(storage, options, *first)?;
        segment.check_follows(end.as_ref())?;
        records.append(&mut segment.records);
        end = Some(segment);
    }
    tail.check_follows(end.as_ref())?;
    records.append(&mut tail.records);
    Ok(Some(Found {
        records,
        segments,
        leftover,
        tail,
        torn,
    }))
}

fn missing(first: Lsn) -> LogError {
    LogError::Damaged {
        file: format::segment_name(first),
        offset: 0,
        lsn: first,
        damage: Damage::Missing,
    }
}

/// How the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// With zeros, or the end of the file.
    Clean,
    /// With a seal.
    Sealed,
    /// With something that is not a whole frame.
    Bad,
}

/// A segment as it was read, up to the first frame that is not whole.
#[derive(Debug)]
pub(super) struct Segment {
    name: String,
    pub(super) header: Header,
    pub(super) contents: Bytes,
    records: Vec<(Lsn, Bytes)>,
    /// The last record in it or before it.
    pub(super) last: Lsn,
    /// The body checksum of the last frame before a seal.
    pub(super) chain: u32,
    /// Where the frames end.
    pub(super) end: usize,
    /// Up to where some frame says that the segment was durable.
    pub(super) stated: u64,
    /// The highest low mark stated.
    low: Lsn,
    /// Whether the last frame is a marker that covers all before it, or there is none.
    pub(super) covered: bool,
    ending: Ending,
}

impl Segment {
    fn read(storage: &dyn Storage, options: &LogOptions, first: Lsn) -> Result<Self, LogError> {
        let name = format::segment_name(first);
        let damaged = |damage| LogError::Damaged {
            file: name.clone(),
            offset: 0,
            lsn: first,
            damage,
        };
        let contents = storage
            .read_all(&name, SEGMENT_BYTES_CAP)
            .map_err(|error| match error {
                StorageError::TooLong { .. } => damaged(Damage::Oversized),
                error => error.into(),
            })?;
        let header = Header::decode(&contents).map_err(|error| match error {
            HeaderError::Damaged => damaged(Damage::Header),
            HeaderError::Version(found) => LogError::UnknownVersion {
                file: name.clone(),
                found,
                expected: format::VERSION,
            },
        })?;
        if header.genesis != options.genesis {
            return Err(LogError::WrongCluster {
                file: name,
                found: header.genesis,
                expected: options.genesis,
            });
        }
        if header.first != first {
            return Err(damaged(Damage::Header));
        }
        let mut segment = Self {
            name,
            last: first.prev(),
            chain: header.chain,
            low: header.low,
            header,
            contents,
            records: Vec::new(),
            end: HEADER_BYTES,
            stated: HEADER_BYTES as u64,
            covered: true,
            ending: Ending::Bad,
        };
        segment.scan()?;
        Ok(segment)
    }

    /// Takes in whole frames until there is none.
    fn scan(&mut self) -> Result<(), LogError> {
        let sealer = Sealer::new(self.header.salt);
        loop {
            let Some(head) = sealer.head(&self.contents, self.end) else {
                let rest = &self.contents[self.end..];
                let zero = format::is_zero(&rest[..rest.len().min(HEAD_BYTES)]);
                self.ending = if zero { Ending::Clean } else { Ending::Bad };
                return Ok(());
            };
            let (lsn, length) = match head.kind {
                Kind::Record => (self.last.next(), head.length),
                Kind::Marker => (self.last, 8),
                Kind::Seal => (self.last, 0),
            };
            let in_sequence = head.lsn == lsn
                && head.length == length
                && head.chain == self.chain
                && (self.stated..=self.end as u64).contains(&head.durable_end);
            if !in_sequence {
                return Err(self.damaged(Damage::Sequence));
            }
            let Some((end, checksum)) = sealer.body(&self.contents, self.end, &head) else {
                self.ending = Ending::Bad;
                return Ok(());
            };
            self.stated = head.durable_end;
            if head.kind == Kind::Seal {
                self.ending = Ending::Sealed;
                return Ok(());
            }
            let payload = self.contents.slice(self.end + HEAD_BYTES..end);
            if head.kind == Kind::Record {
                self.records.push((lsn, payload));
                self.last = lsn;
            } else if let Ok(low) = <[u8; 8]>::try_from(&payload[..]) {
                self.low = self.low.max(Lsn(u64::from_le_bytes(low)));
            }
            self.covered = head.kind == Kind::Marker && head.durable_end == self.end as u64;
            self.chain = checksum;
            self.end = end;
        }
    }

    fn damaged(&self, damage: Damage) -> LogError {
        LogError::Damaged {
            file: self.name.clone(),
            offset: self.end as u64,
            lsn: self.last.next(),
            damage,
        }
    }

    /// The last segment: whether it ends in a write that was never finished. The rule is argued in
    /// the documentation of [`crate::log`].
    fn check_tail(&self) -> Result<Option<TornTail>, LogError> {
        if self.ending == Ending::Sealed {
            return Err(missing(self.last.next()));
        }
        let sealer = Sealer::new(self.header.salt);
        match sealer.evidence(&self.contents, self.end, self.last) {
            Evidence::Durable => Err(self.damaged(Damage::Frame)),
            Evidence::None if self.ending == Ending::Clean => Ok(None),
            Evidence::None | Evidence::Written => Ok(Some(TornTail {
                file: self.name.clone(),
                offset: self.end as u64,
                lsn: self.last.next(),
            })),
        }
    }

    /// Whether this segment goes on where the one before it ends.
    fn check_follows(&self, before: Option<&Self>) -> Result<(), LogError> {
        let Some(before) = before else {
            return Ok(());
        };
        if before.last.next() == self.header.first && before.chain == self.header.chain {
            return Ok(());
        }
        Err(if before.ending == Ending::Sealed {
            missing(before.last.next())
        } else {
            before.damaged(Damage::Frame)
        })
    }
}
