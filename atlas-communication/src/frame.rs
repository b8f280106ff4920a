//! Framing: four bytes of length, little-endian, then that many bytes. Pure; reads from no socket.

use crate::limits::READ_BYTES_MAX;
use crate::long_buffers::LongBuffers;
use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// How many bytes precede a frame.
pub(crate) const HEADER_BYTES: usize = 4;

/// A frame shorter than this is copied out of the read buffer, a longer one shares it. One that shares it
/// and is kept (a batch, until the next checkpoint) keeps all of the buffer, which must not be many
/// times as large; and the next read then needs fresh memory, which costs more than the copy.
const SHARE_BYTES_MIN: usize = READ_BYTES_MAX;

/// The first size of a read buffer. It doubles while reads fill it, so that thousands of quiet
/// connections stay small.
const READ_BYTES_MIN: usize = 4 << 10;

/// What memory is spent on long frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// How much is made for a frame of which only the header is there.
    promise_bytes_max: usize,
    /// How many buffers of long frames are kept for the next ones.
    buffers_kept: usize,
}

impl Room {
    /// For those of whom there may be thousands.
    pub(crate) const FOR_MANY: Self = Self {
        promise_bytes_max: 4 * READ_BYTES_MAX,
        buffers_kept: 0,
    };

    /// For members of the cluster, who are few: as much as an answer of a state transfer, which a buffer
    /// that has to grow would copy twice; and as many as are on their way from a member at a time.
    pub(crate) const FOR_MEMBERS: Self = Self {
        promise_bytes_max: 18 * READ_BYTES_MAX,
        buffers_kept: 8,
    };
}

/// What arrived is no frame. The connection cannot be understood from here on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum FrameError {
    #[error("a frame of {found} bytes where at most {limit} are allowed")]
    TooLong { found: usize, limit: usize },
    #[error("an empty frame")]
    Empty,
    #[error("the connection ended {missing} bytes before the end of a frame")]
    Truncated { missing: usize },
}

/// Bytes as they came, and the frames in them.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: BytesMut,
    frame_bytes_max: usize,
    room: Room,
    read_bytes: usize,
    /// Whether the memory was taken for the long frame that comes next.
    is_for_long: bool,
    kept: LongBuffers,
}

impl FrameBuffer {
    pub(crate) fn new(frame_bytes_max: usize, room: Room) -> Self {
        Self {
            bytes: BytesMut::new(),
            frame_bytes_max,
            room,
            read_bytes: READ_BYTES_MIN,
            is_for_long: false,
            kept: LongBuffers::new(room.buffers_kept),
        }
    }

    /// The buffer to read into, with room for the next read. Room for a frame is made as its header
    /// says up to what may be promised; beyond that the buffer grows as bytes come, by doubling.
    pub(crate) fn space(&mut self) -> &mut BytesMut {
        let promised = self.missing().min(self.room.promise_bytes_max);
        if promised > READ_BYTES_MAX {
            // So that the last read of a long frame finds room, and does not move all of it.
            self.make_room(promised + READ_BYTES_MAX);
        } else {
            self.bytes.reserve(promised.max(self.read_bytes));
        }
        &mut self.bytes
    }

    /// Makes room for a long frame: where it begins, in memory that earlier ones had, if there is some.
    fn make_room(&mut self, more: usize) {
        let here = self.bytes.len();
        // One read, or the end of one that another frame was in.
        let begins = here <= 2 * READ_BYTES_MAX;
        if !begins || self.bytes.capacity() - here >= more {
            return self.bytes.reserve(more);
        }
        let room = here + more;
        let buffer = self.kept.take(room);
        let mut buffer = buffer.unwrap_or_else(|| BytesMut::with_capacity(room));
        buffer.extend_from_slice(&self.bytes);
        self.bytes = buffer;
        self.is_for_long = true;
    }

    /// The memory it takes, besides buffers that are kept.
    pub(crate) fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether enough is here that it should be handed on before more is read.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= READ_BYTES_MAX
    }

    /// Moves all whole frames into `frames`; those before an error are there all the same.
    pub(crate) fn take_frames(&mut self, frames: &mut Vec<Bytes>) -> Result<(), FrameError> {
        if self.bytes.len() >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        let (before, mut was_long) = (frames.len(), false);
        while let Some(len) = self.next_len()? {
            if self.bytes.len() < HEADER_BYTES + len {
                break;
            }
            self.bytes.advance(HEADER_BYTES);
            frames.push(if len < SHARE_BYTES_MIN {
                let frame = Bytes::copy_from_slice(&self.bytes[..len]);
                self.bytes.advance(len);
                frame
            } else {
                let frame = self.bytes.split_to(len).freeze();
                self.keep(&frame);
                frame
            });
            was_long |= len > READ_BYTES_MAX;
        }
        if frames.len() > before && !was_long {
            self.kept.forget();
        }
        self.let_go(was_long);
        Ok(())
    }

    /// Keeps the memory of a long frame for the next ones, where it was taken for this one.
    fn keep(&mut self, frame: &Bytes) {
        if frame.len() > READ_BYTES_MAX
            && std::mem::take(&mut self.is_for_long)
            && frame.len() <= self.room.promise_bytes_max
        {
            self.kept.remember(frame);
        }
    }

    /// Whether memory of long frames is kept for more of them.
    pub(crate) fn expects_long(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Gives that memory back.
    pub(crate) fn expect_no_long(&mut self) {
        self.kept.forget();
    }

    /// What it means that no more bytes will come.
    pub(crate) fn finish(&self) -> Result<(), FrameError> {
        match self.bytes.len() {
            0 => Ok(()),
            _ => Err(FrameError::Truncated {
                missing: self.missing(),
            }),
        }
    }

    /// The length in the header at the front, checked; `None` while the header is not whole.
    fn next_len(&self) -> Result<Option<usize>, FrameError> {
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let found = u32::from_le_bytes(*header) as usize;
        match found {
            0 => Err(FrameError::Empty),
            _ if found > self.frame_bytes_max => Err(FrameError::TooLong {
                found,
                limit: self.frame_bytes_max,
            }),
            _ => Ok(Some(found)),
        }
    }

    /// How many bytes the first frame still lacks, as far as is known.
    fn missing(&self) -> usize {
        let known = match self.next_len() {
            Ok(Some(len)) => HEADER_BYTES + len,
            _ => HEADER_BYTES,
        };
        known.saturating_sub(self.bytes.len())
    }

    /// Gives back what a long frame made the buffer grow by, unless the next one is long too. The
    /// buffer may be a view of that frame's memory, or have taken it back.
    fn let_go(&mut self, was_long: bool) {
        let is_large =
            was_long || self.bytes.capacity() > READ_BYTES_MAX + self.room.promise_bytes_max;
        if is_large && self.bytes.len() + self.missing() <= READ_BYTES_MAX {
            self.bytes = BytesMut::from(&self.bytes[..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, VecDeque};

    const PROMISE: usize = Room::FOR_MANY.promise_bytes_max;

    fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            bytes.extend_from_slice(frame);
        }
        bytes
    }

    /// Reads as a connection would: at most what the buffer has room for at a time.
    fn feed(buffer: &mut FrameBuffer, mut bytes: &[u8]) -> Result<Vec<Bytes>, FrameError> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let space = buffer.space();
            let room = space.capacity() - space.len();
            assert!(room > 0);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            space.extend_from_slice(now);
            bytes = later;
            buffer.take_frames(&mut frames)?;
        }
        Ok(frames)
    }

    #[test]
    fn row_36_a_length_bomb_is_refused_before_anything_is_allocated() {
        let mut buffer = FrameBuffer::new(1000, Room::FOR_MANY);
        let bomb = u32::MAX.to_le_bytes();
        let too_long = FrameError::TooLong {
            found: u32::MAX as usize,
            limit: 1000,
        };
        assert_eq!(feed(&mut buffer, &bomb), Err(too_long));
        assert!(buffer.bytes.capacity() <= 2 * READ_BYTES_MIN);
        let empty = feed(&mut FrameBuffer::new(1000, Room::FOR_MANY), &[0; 4]);
        assert_eq!(empty, Err(FrameError::Empty));
    }

    #[test]
    fn row_36_a_promised_frame_holds_no_more_than_twice_what_came_of_it() {
        let mut buffer = FrameBuffer::new(1 << 28, Room::FOR_MANY);
        feed(&mut buffer, &(1u32 << 28).to_le_bytes()).unwrap();
        for _ in 0..100 {
            feed(&mut buffer, &[7; 5000]).unwrap();
            let held = buffer.bytes.capacity();
            assert!(
                held <= 2 * (buffer.bytes.len() + PROMISE + READ_BYTES_MAX),
                "{held}"
            );
        }
        let missing = HEADER_BYTES + (1 << 28) - buffer.bytes.len();
        assert_eq!(buffer.finish(), Err(FrameError::Truncated { missing }));
    }

    #[test]
    fn a_long_frame_does_not_leave_a_long_buffer_behind() {
        let mut buffer = FrameBuffer::new(1 << 24, Room::FOR_MANY);
        let frames = feed(&mut buffer, &framed(&[vec![1; 1 << 22], vec![2; 9]])).unwrap();
        assert_eq!(frames[0].len(), 1 << 22);
        drop(frames);
        feed(&mut buffer, &framed(&[vec![3; 9]])).unwrap();
        assert!(buffer.bytes.capacity() <= READ_BYTES_MAX + PROMISE);
    }

    #[test]
    fn a_promise_of_a_member_is_one_piece_of_memory() {
        let length = Room::FOR_MEMBERS.promise_bytes_max;
        let mut buffer = FrameBuffer::new(1 << 24, Room::FOR_MEMBERS);
        let frame = framed(&[vec![7; length]]);
        let (begin, rest) = frame.split_at(HEADER_BYTES + 1000);
        feed(&mut buffer, begin).unwrap();
        let place = buffer.space().as_ptr();
        assert!(buffer.bytes.capacity() >= HEADER_BYTES + length);
        feed(&mut buffer, &rest[..rest.len() - 1]).unwrap();
        assert_eq!(buffer.space().as_ptr(), place);
        assert_eq!(
            feed(&mut buffer, &rest[rest.len() - 1..]).unwrap()[0].len(),
            length
        );
    }

    /// As an answer of a state transfer.
    const LONG: usize = 1 << 20;

    /// In how many places the long frames lie; each is dropped when `held` more have come.
    fn places(buffer: &mut FrameBuffer, lengths: &[usize], held: usize) -> usize {
        let (mut places, mut frames) = (BTreeSet::new(), VecDeque::new());
        let mut others = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let sent = vec![number as u8; *length];
            let came = feed(buffer, &framed(std::slice::from_ref(&sent))).unwrap();
            assert!(came == [sent], "frame {number}");
            places.insert(came[0].as_ptr() as usize);
            frames.push_back(came);
            if frames.len() > held {
                frames.pop_front();
                // Takes what has gone back to the allocator.
                others.push(vec![0_u8; LONG]);
            }
        }
        let mut last = 0;
        let apart = |place: &usize| *place - std::mem::replace(&mut last, *place) > LONG / 2;
        places.into_iter().filter(apart).count()
    }

    #[test]
    fn long_frames_of_members_come_to_lie_where_those_before_them_were() {
        let mut buffer = FrameBuffer::new(1 << 24, Room::FOR_MEMBERS);
        for held in 0..8 {
            let used = places(&mut buffer, &[LONG; 50], held);
            assert!(used <= held + 1, "{used} places while {held} are held");
        }
        // Each a little longer or shorter than the last.
        let lengths: Vec<usize> = (0..50).map(|i| LONG - i * 37 % 50 * 100).collect();
        let used = places(&mut buffer, &lengths, 1);
        assert!(used < 12, "{used} places");
        // Of a client nothing is kept.
        let mut buffer = FrameBuffer::new(1 << 24, Room::FOR_MANY);
        places(&mut buffer, &[LONG; 5], 1);
        assert!(!buffer.expects_long());
    }

    #[test]
    fn long_frames_that_are_not_dropped_stay_as_they_came() {
        let mut buffer = FrameBuffer::new(1 << 24, Room::FOR_MEMBERS);
        let sent: Vec<Vec<u8>> = (0..20).map(|i| vec![i; LONG - usize::from(i)]).collect();
        let mut came = feed(&mut buffer, &framed(&sent)).unwrap();
        came.drain(5..15);
        let more = feed(&mut buffer, &framed(&sent)).unwrap();
        assert!(came[..5] == sent[..5] && came[5..] == sent[15..] && more == sent);
    }

    #[test]
    fn two_long_frames_in_one_buffer_do_not_hold_it_against_each_other() {
        let mut buffer = FrameBuffer::new(1 << 24, Room::FOR_MEMBERS);
        let frames = |lengths: &[usize]| {
            let frames = lengths.iter().map(|length| vec![1; *length]);
            framed(&frames.collect::<Vec<_>>())
        };
        feed(&mut buffer, &frames(&[200 << 10])).unwrap();
        assert_eq!(
            feed(&mut buffer, &frames(&[100 << 10, 80 << 10]))
                .unwrap()
                .len(),
            2
        );
        assert!(buffer.kept.take(200 << 10).is_some());
    }

    #[test]
    fn memory_of_long_frames_is_given_back_when_short_ones_come() {
        let mut buffer = FrameBuffer::new(1 << 24, Room::FOR_MEMBERS);
        places(&mut buffer, &[LONG; 3], 0);
        assert!(buffer.expects_long());
        feed(&mut buffer, &framed(&[vec![1; 9]])).unwrap();
        assert!(!buffer.expects_long());
        assert!(buffer.bytes.capacity() <= 2 * READ_BYTES_MAX);
    }

    #[test]
    fn frames_that_are_kept_leave_the_buffer_to_the_next_ones() {
        let mut buffer = FrameBuffer::new(1 << 20, Room::FOR_MANY);
        let frame = vec![5; READ_BYTES_MAX / 2];
        let mut kept = feed(&mut buffer, &framed(&vec![frame.clone(); 20])).unwrap();
        assert!(kept.iter().all(|kept| *kept == frame));
        let mut places = Vec::new();
        for _ in 0..20 {
            kept.extend(feed(&mut buffer, &framed(std::slice::from_ref(&frame))).unwrap());
            places.push(buffer.space().as_ptr() as usize);
        }
        assert_eq!(kept.len(), 40);
        let spread = places.iter().max().unwrap() - places.iter().min().unwrap();
        assert!(spread < 4 * READ_BYTES_MAX, "{spread}");
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in proptest::collection::vec((any::<u8>(), 1usize..9000), 0..30),
            cut in 1usize..20_000,
        ) {
            let frames: Vec<Vec<u8>> = frames.iter().map(|(b, n)| vec![*b; *n]).collect();
            let mut buffer = FrameBuffer::new(9000, Room::FOR_MANY);
            let mut out = Vec::new();
            for piece in framed(&frames).chunks(cut) {
                out.extend(feed(&mut buffer, piece).unwrap());
            }
            prop_assert_eq!(out, frames);
            prop_assert_eq!(buffer.finish(), Ok(()));
        }

        #[test]
        fn arbitrary_bytes_give_frames_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            // Any verdict is fine; a panic or an unbounded buffer is not.
            let mut buffer = FrameBuffer::new(500, Room::FOR_MANY);
            drop(feed(&mut buffer, &bytes));
            prop_assert!(buffer.bytes.capacity() <= 2 * READ_BYTES_MAX);
        }
    }
}
