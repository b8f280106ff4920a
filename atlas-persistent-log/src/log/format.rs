//! The bytes of a segment. Nothing here does I/O.

use atlas_common::{Digest, Lsn};

const MAGIC: [u8; 8] = *b"atlaslog";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 128;
pub(super) const HEAD_BYTES: usize = 32;
/// A marker's payload: the low mark.
pub(super) const MARKER_BYTES: usize = HEAD_BYTES + 8;
/// Room kept at the end of each segment for a marker, the seal and the terminator.
pub(super) const RESERVE_BYTES: usize = MARKER_BYTES + 2 * HEAD_BYTES;
const SPARE: &str = "spare";
const PREFIX: &str = "log-";
const LENGTH_BITS: u32 = 28;

pub(super) fn segment_name(first: Lsn) -> String {
    format!("{PREFIX}{:016x}", first.0)
}

/// The name of a file that waits to be written over.
pub(super) fn spare_name(number: usize) -> String {
    format!("{SPARE}-{number}")
}

pub(super) fn is_spare(name: &str) -> bool {
    name.starts_with(SPARE)
}

/// The first lsn of a segment by its name; `None` for other files.
pub(super) fn first_lsn_of(name: &str) -> Option<Lsn> {
    let digits = name.strip_prefix(PREFIX)?;
    let lsn = Lsn(u64::from_str_radix(digits, 16).ok()?);
    (segment_name(lsn) == name).then_some(lsn)
}

/// Copies a little-endian field out of bytes that are long enough.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) genesis: Digest,
    pub(super) first: Lsn,
    pub(super) salt: u64,
    /// The first lsn of the oldest segment when this one was begun.
    pub(super) low: Lsn,
    /// The body checksum of the last frame of the segment before.
    pub(super) chain: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    Version(u32),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..44].copy_from_slice(&self.genesis.0);
        bytes[44..52].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[52..60].copy_from_slice(&self.salt.to_le_bytes());
        bytes[60..68].copy_from_slice(&self.low.0.to_le_bytes());
        bytes[68..72].copy_from_slice(&self.chain.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Damaged)?;
        let checksum = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        if bytes[..8] != MAGIC || u32_at(bytes, HEADER_BYTES - 4) != checksum {
            return Err(HeaderError::Damaged);
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            other => return Err(HeaderError::Version(other)),
        }
        Ok(Self {
            genesis: Digest(field(bytes, 12)),
            first: Lsn(u64_at(bytes, 44)),
            salt: u64_at(bytes, 52),
            low: Lsn(u64_at(bytes, 60)),
            chain: u32_at(bytes, 68),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Record = 0,
    /// States a durable end and a low mark; takes no lsn.
    Marker = 1,
    /// States that a later segment exists.
    Seal = 2,
}

/// The head of a frame, but for its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) length: usize,
    /// The body checksum of the frame before.
    pub(super) chain: u32,
    pub(super) lsn: Lsn,
    pub(super) durable_end: u64,
}

/// A segment's frames can be checked only with its salt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealer {
    seed: u32,
}

impl Sealer {
    pub(super) fn new(salt: u64) -> Self {
        Self {
            seed: crc32c::crc32c(&salt.to_le_bytes()),
        }
    }

    /// Appends a frame to `buffer` and returns its body checksum.
    pub(super) fn encode(self, head: &Head, payload: &[u8], buffer: &mut Vec<u8>) -> u32 {
        debug_assert_eq!(head.length, payload.len());
        let word = ((head.kind as u32) << LENGTH_BITS) | head.length as u32;
        let mut bytes = [0; HEAD_BYTES];
        bytes[8..12].copy_from_slice(&word.to_le_bytes());
        bytes[12..16].copy_from_slice(&head.chain.to_le_bytes());
        bytes[16..24].copy_from_slice(&head.lsn.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&head.durable_end.to_le_bytes());
        let head_checksum = crc32c::crc32c_append(self.seed, &bytes[8..]);
        let body_checksum = crc32c::crc32c_append(head_checksum, payload);
        bytes[..4].copy_from_slice(&head_checksum.to_le_bytes());
        bytes[4..8].copy_from_slice(&body_checksum.to_le_bytes());
        buffer.extend_from_slice(&bytes);
        buffer.extend_from_slice(payload);
        body_checksum
    }

    /// The head at `at`, when its own checksum is right. Says nothing about the payload.
    pub(super) fn head(self, segment: &[u8], at: usize) -> Option<Head> {
        let bytes = segment.get(at..at.checked_add(HEAD_BYTES)?)?;
        // One salt in 2³² would make zeros a head.
        if is_zero(bytes) || u32_at(bytes, 0) != crc32c::crc32c_append(self.seed, &bytes[8..]) {
            return None;
        }
        let word = u32_at(bytes, 8);
        let kind = match word >> LENGTH_BITS {
            0 => Kind::Record,
            1 => Kind::Marker,
            2 => Kind::Seal,
            _ => return None,
        };
        Some(Head {
            kind,
            length: (word & ((1 << LENGTH_BITS) - 1)) as usize,
            chain: u32_at(bytes, 12),
            lsn: Lsn(u64_at(bytes, 16)),
            durable_end: u64_at(bytes, 24),
        })
    }

    /// The end of the frame at `at` and its body checksum, when the whole frame is right. `head` is
    /// what [`Self::head`] gave for it.
    pub(super) fn body(self, segment: &[u8], at: usize, head: &Head) -> Option<(usize, u32)> {
        let start = at + HEAD_BYTES;
        let end = start.checked_add(head.length)?;
        let payload = segment.get(start..end)?;
        let checksum = crc32c::crc32c_append(u32_at(segment, at), payload);
        (u32_at(segment, at + 4) == checksum).then_some((end, checksum))
    }

    /// Whether a head behind `bad` proves that the frame at `bad` had been durable, and whether
    /// there is any head of this segment at all. `lsns` is the range of lsns that heads there can
    /// have: a cheap test that spares most checksums.
    ///
    /// Only heads are checked, 24 bytes each: the cost is linear whatever the bytes are.
    pub(super) fn evidence(self, segment: &[u8], bad: usize, low: Lsn) -> Evidence {
        let mut found = Evidence::None;
        let high = low.plus((segment.len() - bad) as u64 / HEAD_BYTES as u64 + 1);
        let last = segment.len().saturating_sub(HEAD_BYTES);
        for at in bad + 1..=last {
            let lsn = Lsn(u64_at(segment, at + 16));
            if lsn < low || lsn > high {
                continue;
            }
            if let Some(head) = self.head(segment, at) {
                if head.durable_end > bad as u64 {
                    return Evidence::Durable;
                }
                found = Evidence::Written;
            }
        }
        found
    }
}

/// What lies behind a bad frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Nothing of this segment.
    None,
    /// Frames, of which none says that the bad one was durable.
    Written,
    /// A frame which says so.
    Durable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_sort_as_numbers_and_nothing_else_is_a_segment() {
        assert!(segment_name(Lsn(9)) < segment_name(Lsn(16)));
        assert_eq!(first_lsn_of(&segment_name(Lsn(77))), Some(Lsn(77)));
        for name in [
            "log-7",
            "log-",
            "spare-1",
            "log-000000000000004G",
            "log-000000000000004D",
        ] {
            assert_eq!(first_lsn_of(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Header::decode(&bytes).is_err());
            let sealer = Sealer::new(7);
            for at in 0..bytes.len() {
                prop_assert_eq!(sealer.head(&bytes, at), None);
            }
            prop_assert_eq!(sealer.evidence(&bytes, 0, Lsn(1)), Evidence::None);
        }

        #[test]
        fn frames_round_trip(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            lsn: u64, chain: u32, durable_end: u64, salt: u64,
        ) {
            let sealer = Sealer::new(salt);
            let head = Head {
                kind: Kind::Record, length: payload.len(), chain, lsn: Lsn(lsn), durable_end,
            };
            let mut bytes = Vec::new();
            let checksum = sealer.encode(&head, &payload, &mut bytes);
            prop_assert_eq!(sealer.head(&bytes, 0), Some(head));
            prop_assert_eq!(sealer.body(&bytes, 0, &head), Some((bytes.len(), checksum)));
            prop_assert_eq!(Sealer::new(salt ^ 1).head(&bytes, 0), None);
        }
    }
}
