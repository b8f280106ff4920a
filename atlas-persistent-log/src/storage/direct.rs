//! Files past the page cache of the system. What is written and read once, in large pieces, costs more
//! there than at the disk: memory has to be found for it, and other files lose theirs.

use super::blocks::{BLOCK_BYTES, are_blocks, first_block};
use bytes::Bytes;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
#[cfg(target_os = "linux")]
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Opens a file that is read and written past the page cache, in whole blocks. File systems that cannot
/// refuse.
#[cfg(target_os = "linux")]
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flag = rustix::fs::OFlags::DIRECT.bits();
    options.custom_flags(flag.cast_signed()).open(path)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open(_: &mut OpenOptions, _: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads past the page cache the blocks in which these bytes lie; fewer where the file ends before.
pub(super) fn read(
    file: &File,
    offset: u64,
    bytes: usize,
    memory: &Arc<ReadMemory>,
) -> io::Result<Bytes> {
    let skipped = (offset % BLOCK_BYTES as u64) as usize;
    let length = skipped.saturating_add(bytes);
    let whole = length.next_multiple_of(BLOCK_BYTES);
    let mut piece = memory.take(whole + BLOCK_BYTES);
    let start = first_block(&piece.bytes).min(BLOCK_BYTES);
    let buffer = &mut piece.bytes[start..start + whole];
    let (mut read, from) = (0, offset - skipped as u64);
    // The last block of a file is read as far as it goes.
    while read < whole && read.is_multiple_of(BLOCK_BYTES) {
        match file.read_at(&mut buffer[read..], from + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let end = read.clamp(skipped, length);
    Ok(Bytes::from_owner(piece).slice(start + skipped..start + end))
}

/// Memory that was read into and is free again: it need be neither found nor zeroed a second time. Keeps at
/// most [`KEPT_MAX`] pieces.
#[derive(Debug, Default)]
pub(super) struct ReadMemory(Mutex<Vec<Vec<u8>>>);

/// Pieces that are kept, none of which is longer than what is read past the cache at a time: 8 MiB.
const KEPT_MAX: usize = 4;
/// Shorter ones are found soon enough.
const KEPT_BYTES_MIN: usize = 256 << 10;

impl ReadMemory {
    /// At least so many bytes; what they are is not said.
    fn take(self: &Arc<Self>, bytes: usize) -> Piece {
        let mut kept = self.0.lock();
        // Whoever reads little may hold it for long, and should not hold much.
        let fits = |piece: &Vec<u8>| piece.len() >= bytes && piece.len() / 4 <= bytes;
        let found = kept.iter().position(fits).map(|at| kept.swap_remove(at));
        drop(kept);
        Piece {
            bytes: found.unwrap_or_else(|| vec![0; bytes]),
            home: Arc::clone(self),
        }
    }
}

/// Memory that goes back where it is from.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    home: Arc<ReadMemory>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock();
        if kept.len() < KEPT_MAX && self.bytes.len() >= KEPT_BYTES_MIN {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// A file that is open already, once more, to be written past the page cache.
#[derive(Debug, Default)]
pub(super) enum Direct {
    #[default]
    Untried,
    Open(File),
    Refused,
}

impl Direct {
    fn file(&mut self, path: &Path) -> Option<&File> {
        if matches!(self, Self::Untried) {
            let opened = open(OpenOptions::new().write(true), path);
            *self = opened.map_or(Self::Refused, Self::Open);
        }
        match self {
            Self::Open(file) => Some(file),
            Self::Untried | Self::Refused => None,
        }
    }

    /// Writes whole blocks at the begin of a block; `None` where it has to be done in the usual way.
    pub(super) fn write(
        &mut self,
        path: &Path,
        offset: u64,
        bytes: &[u8],
    ) -> Option<io::Result<()>> {
        if !are_blocks(bytes) || !offset.is_multiple_of(BLOCK_BYTES as u64) {
            return None;
        }
        let written = self.file(path)?.write_all_at(bytes, offset);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::InvalidInput) {
            // It opens files so, and then wants larger blocks; or a full disk took part of a block.
            *self = Self::Refused;
            return None;
        }
        Some(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_into_again_once_nobody_holds_it() {
        let memory = Arc::<ReadMemory>::default();
        let kept = || memory.0.lock().len();
        let first = memory.take(KEPT_BYTES_MIN);
        let address = first.bytes.as_ptr();
        let held = Bytes::from_owner(first);
        let slice = held.slice(10..20);
        drop(held);
        assert_eq!(kept(), 0);
        drop(slice);
        assert_eq!(kept(), 1);
        // One that is asked for little does not get much.
        drop(memory.take(KEPT_BYTES_MIN / 8));
        assert_eq!(kept(), 1);
        let again = memory.take(KEPT_BYTES_MIN - 1);
        assert_eq!((again.bytes.as_ptr(), kept()), (address, 0));
        let many: Vec<Piece> = (0..KEPT_MAX + 3).map(|_| memory.take(1 << 20)).collect();
        drop(many);
        assert_eq!(kept(), KEPT_MAX);
    }
}
