//! Bytes that are gathered in memory that a disk can take as it is.

/// What disks and file systems read and write at a time: offsets, lengths and memory that are multiples of
/// it can go past the system's page cache.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Where the first whole block of some memory begins.
pub(super) fn first_block(memory: &[u8]) -> usize {
    memory.as_ptr().align_offset(BLOCK_BYTES)
}

/// Whether these bytes begin and end with a block.
pub(crate) fn are_blocks(bytes: &[u8]) -> bool {
    first_block(bytes) == 0 && bytes.len().is_multiple_of(BLOCK_BYTES)
}

/// A buffer of whole blocks, always the same memory. The default one has none.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    memory: Vec<u8>,
    start: usize,
    /// A multiple of the block size.
    capacity: usize,
    length: usize,
}

impl Blocks {
    /// An empty buffer for so many bytes, rounded up to whole blocks.
    pub(crate) fn new(bytes: usize) -> Self {
        let capacity = bytes.next_multiple_of(BLOCK_BYTES);
        // One block more to align it, and one for zeros behind the last.
        let memory = vec![0; capacity + 2 * BLOCK_BYTES];
        // A pointer of bytes can always be aligned; otherwise nothing goes past the page cache.
        let start = first_block(&memory).min(BLOCK_BYTES);
        Self {
            memory,
            start,
            capacity,
            length: 0,
        }
    }

    /// Appends as much as there is room for; the rest is given back.
    pub(crate) fn push<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.capacity - self.length;
        let (taken, rest) = bytes.split_at(room.min(bytes.len()));
        let end = self.start + self.length;
        self.memory[end..end + taken.len()].copy_from_slice(taken);
        self.length += taken.len();
        rest
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Drops everything.
    pub(crate) const fn clear(&mut self) {
        self.length = 0;
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.length == self.capacity
    }

    /// What was appended, and zeros up to the end of the last block.
    pub(crate) fn padded(&mut self) -> &[u8] {
        self.terminated(0)
    }

    /// What was appended, and zeros behind it: at least so many, no more than a block, and up to the end
    /// of one.
    pub(crate) fn terminated(&mut self, zeros: usize) -> &[u8] {
        let end = self.length + zeros.min(BLOCK_BYTES);
        let padded = end.next_multiple_of(BLOCK_BYTES);
        let bytes = &mut self.memory[self.start..self.start + padded];
        bytes[self.length..].fill(0);
        bytes
    }

    /// Drops all whole blocks; how many bytes those were. What is left is the begin of a block.
    pub(crate) fn drop_whole(&mut self) -> usize {
        let whole = self.length / BLOCK_BYTES * BLOCK_BYTES;
        let from = self.start + whole;
        self.memory
            .copy_within(from..self.start + self.length, self.start);
        self.length -= whole;
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_comes_out_in_whole_blocks() {
        let mut blocks = Blocks::new(2 * BLOCK_BYTES - 1);
        assert!(are_blocks(blocks.padded()) && blocks.padded().is_empty());
        assert!(blocks.push(&[1; 5000]).is_empty() && !blocks.is_full());
        assert!(are_blocks(blocks.padded()));
        let padded = [vec![1; 5000], vec![0; 2 * BLOCK_BYTES - 5000]].concat();
        assert_eq!(blocks.padded(), padded);
        let terminated = [vec![1; 5000], vec![0; 3 * BLOCK_BYTES - 5000]].concat();
        assert_eq!(blocks.terminated(2 * BLOCK_BYTES - 5000), padded);
        assert_eq!(blocks.terminated(2 * BLOCK_BYTES - 4999), terminated);
        assert_eq!(blocks.drop_whole(), BLOCK_BYTES);
        assert_eq!(blocks.len(), 5000 - BLOCK_BYTES);
        let left = 2 * BLOCK_BYTES - blocks.len();
        assert_eq!(blocks.push(&[2; 9000]).len(), 9000 - left);
        assert!(blocks.is_full());
        assert_eq!(blocks.terminated(1).len(), 3 * BLOCK_BYTES);
        let expected = [vec![1; 5000 - BLOCK_BYTES], vec![2; left]].concat();
        assert_eq!(blocks.padded(), expected);
        assert_eq!((blocks.drop_whole(), blocks.len()), (2 * BLOCK_BYTES, 0));
        blocks.push(&[3; 7]);
        let padded = [vec![3; 7], vec![0; BLOCK_BYTES - 7]].concat();
        assert_eq!(blocks.padded(), padded, "nothing of what was there before");
    }
}
