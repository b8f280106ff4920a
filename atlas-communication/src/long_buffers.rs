//! The memory that long frames are read into, used again when nobody has the frames any more.
//!
//! Fresh memory of a megabyte comes from the system page by page, each at its first write, which can cost
//! more than all that is done with the bytes. A state transfer brings a thousand such frames, each of which
//! is gone when the next but one is there. While the process grows by the state all the same, this takes page
//! faults only off the thread that reads, which has everything else to do: what a frame is copied into is
//! then fresh memory on another.

use bytes::{Bytes, BytesMut};

/// Buffers whose frames are, or were, with others.
#[derive(Debug)]
pub(crate) struct LongBuffers {
    /// One frame of each. Who has it alone has the buffer.
    lent: Vec<Bytes>,
    count_max: usize,
}

impl LongBuffers {
    /// None so far, and so many at most.
    pub(crate) const fn new(count_max: usize) -> Self {
        Self {
            lent: Vec::new(),
            count_max,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lent.is_empty()
    }

    /// Remembers the buffer of a frame, of which no other frame may be remembered, unless there are enough.
    pub(crate) fn remember(&mut self, frame: &Bytes) {
        if self.lent.len() < self.count_max {
            self.lent.push(frame.clone());
        }
    }

    /// An empty buffer with so much room, out of those that are free, and not more than twice as much: its
    /// frame may be kept for long. What is free and does not fit is forgotten.
    pub(crate) fn take(&mut self, room: usize) -> Option<BytesMut> {
        while let Some(free) = self.lent.iter().position(Bytes::is_unique) {
            let Ok(mut buffer) = self.lent.remove(free).try_into_mut() else {
                continue;
            };
            buffer.clear();
            if buffer.try_reclaim(room) && buffer.capacity() <= 2 * room {
                return Some(buffer);
            }
        }
        None
    }

    /// Gives all memory back that no frame needs.
    pub(crate) fn forget(&mut self) {
        self.lent = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Bytes {
        let mut buffer = BytesMut::with_capacity(bytes + 100);
        buffer.resize(bytes + 4, 7);
        let mut frame = buffer.split_to(bytes + 4).freeze();
        drop(frame.split_to(4));
        frame
    }

    #[test]
    fn a_buffer_is_given_out_again_when_its_frame_is_gone_and_not_before() {
        let mut buffers = LongBuffers::new(2);
        let first = frame(1000);
        let place = first.as_ptr() as usize - 4;
        buffers.remember(&first);
        let part = first.slice(10..20);
        drop(first);
        assert!(buffers.take(1000).is_none(), "somebody has a part of it");
        assert_eq!(part, [7; 10][..]);
        drop(part);
        let again = buffers.take(1000).unwrap();
        assert!(again.is_empty() && again.capacity() >= 1000);
        assert!((place..place + 5).contains(&(again.as_ptr() as usize)));
        assert!(buffers.take(1000).is_none(), "it is out");
    }

    #[test]
    fn a_free_buffer_that_is_too_small_or_much_too_large_is_forgotten() {
        for room in [2000, 300] {
            let mut buffers = LongBuffers::new(2);
            buffers.remember(&frame(1000));
            assert!(buffers.take(room).is_none());
            assert!(buffers.is_empty());
        }
    }

    #[test]
    fn no_more_are_kept_than_there_may_be() {
        let mut buffers = LongBuffers::new(2);
        let frames = [1000, 1000, 1000].map(frame);
        frames.iter().for_each(|frame| buffers.remember(frame));
        drop(frames);
        assert!(buffers.take(1000).is_some() && buffers.take(1000).is_some());
        assert!(buffers.take(1000).is_none());
    }
}
