//! Files of packs that are gone, to be written over.
//!
//! Deleting a file gives its blocks back, and a disk that is told so (`discard`) is busy with that while the
//! log waits for its sync; writing a new one takes blocks again. A file that is written over does neither.
//!
//! A spare has the temporary name of the pack that it was, so one that a crash leaves behind goes when the
//! store is opened. It is written over only once that name is durable: a power cut could otherwise bring
//! the name of the pack back, over bytes of another one.

/// A file that nothing is in use of.
#[derive(Debug)]
struct Spare {
    file: String,
    bytes: u64,
}

/// The files that may be written over, or may be soon. Bookkeeping only: whoever changes names does that.
#[derive(Debug, Default)]
pub(super) struct Spares {
    ready: Vec<Spare>,
    /// Those whose names are not durable yet.
    renamed: Vec<Spare>,
    /// How many packs were filled since it was decided last how many spares are kept.
    filled: usize,
    count_max: usize,
    bytes_max: u64,
}

impl Spares {
    /// A pack was written until it was full: the next checkpoint is taken to fill as many.
    pub(super) const fn count_filled(&mut self) {
        self.filled += 1;
    }

    /// Decides how many are kept from now on: as many as packs were filled since the last time, of so many
    /// bytes together at most. The names of those that are too many.
    pub(super) fn keep(&mut self, bytes_max: u64) -> Vec<String> {
        self.count_max = std::mem::take(&mut self.filled);
        self.bytes_max = bytes_max;
        let mut too_many = Vec::new();
        while self.count() > self.count_max || self.bytes() > self.bytes_max {
            let Some(spare) = self.ready.pop().or_else(|| self.renamed.pop()) else {
                break;
            };
            too_many.push(spare.file);
        }
        too_many
    }

    fn count(&self) -> usize {
        self.ready.len() + self.renamed.len()
    }

    /// The bytes of all.
    pub(super) fn bytes(&self) -> u64 {
        let all = self.ready.iter().chain(&self.renamed);
        all.map(|spare| spare.bytes).sum()
    }

    /// Whether one of so many bytes is to be kept.
    pub(super) fn wants(&self, bytes: u64) -> bool {
        self.count() < self.count_max && self.bytes().saturating_add(bytes) <= self.bytes_max
    }

    /// Takes a file of so many bytes that was a pack, under its new name.
    pub(super) fn add(&mut self, file: String, bytes: u64) {
        self.renamed.push(Spare { file, bytes });
    }

    /// Whether there are names that are not durable yet.
    pub(super) const fn has_renamed(&self) -> bool {
        !self.renamed.is_empty()
    }

    /// All names are durable, and have been since the last one was added.
    pub(super) fn set_durable(&mut self) {
        self.ready.append(&mut self.renamed);
    }

    /// The name of one to write over.
    pub(super) fn take(&mut self) -> Option<String> {
        Some(self.ready.pop()?.file)
    }
}
