//! Files past the page cache of the system. What is written and read once, in large pieces, costs more
//! there than at the disk: memory has to be found for it, and other files lose theirs.

use super::blocks::{BLOCK_BYTES, are_blocks, first_block};
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
#[cfg(target_os = "linux")]
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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
pub(super) fn read(file: &File, offset: u64, bytes: usize) -> io::Result<Bytes> {
    let skipped = (offset % BLOCK_BYTES as u64) as usize;
    let length = skipped.saturating_add(bytes);
    let whole = length.next_multiple_of(BLOCK_BYTES);
    let mut memory = vec![0; whole + BLOCK_BYTES];
    let start = first_block(&memory).min(BLOCK_BYTES);
    let buffer = &mut memory[start..start + whole];
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
    Ok(Bytes::from(memory).slice(start + skipped..start + end))
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
