//! The two halves of a connection that stands: frames in, frames out.

use crate::frame::{FrameBuffer, FrameError, HEADER_BYTES, Room};
use crate::inbox::{Arrival, Inbox};
use crate::limits::WRITE_BYTES_MAX;
use crate::queue::SendQueue;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// A frame shorter than this is copied behind its header into the write buffer, so that many leave in
/// one write; a longer one is written from where it lies.
const COALESCE_BYTES_MAX: usize = 16 << 10;

/// What a write buffer keeps of its size when its burst is over.
const IDLE_WRITE_BUFFER_BYTES: usize = 64 << 10;

/// When a connection has been silent for so long, its next frame may be any.
const LONG_FRAMES_PAUSE: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum LinkEnd {
    #[error("the other side closed it")]
    Closed,
    #[error("it was replaced by a newer one, or this side shut down")]
    Replaced,
    #[error("malformed: {0}")]
    Malformed(#[from] FrameError),
    #[error("malformed: data on a connection that carries none this way")]
    Unexpected,
    #[error("malformed: {0}")]
    Garbled(io::Error),
    #[error("nothing could be written for {0:?}")]
    Stalled(Duration),
    #[error("lost: {0}")]
    Lost(io::Error),
}

impl LinkEnd {
    /// Whether the other side broke the protocol.
    pub(crate) const fn is_malformed(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_) | Self::Unexpected | Self::Garbled(_)
        )
    }
}

impl From<io::Error> for LinkEnd {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // What rustls says of records that do not decrypt or parse.
            io::ErrorKind::InvalidData => Self::Garbled(error),
            _ => Self::Lost(error),
        }
    }
}

/// Where a connection's frames go.
pub(crate) struct Destination<'a, T: Arrival> {
    pub(crate) from: T::From,
    pub(crate) inbox: &'a Inbox<T>,
    pub(crate) meter: &'a crate::counters::TrafficMeter,
    pub(crate) frame_bytes_max: usize,
    pub(crate) room: Room,
    /// Told after each read how many bytes are held.
    pub(crate) on_read: &'a (dyn Fn(usize) + Sync),
}

/// Reads frames and hands them on until the connection ends. Waits while the inbox is full, which
/// holds up this connection alone.
pub(crate) async fn read_frames<R, T>(mut reader: R, to: Destination<'_, T>) -> LinkEnd
where
    R: AsyncRead + Unpin,
    T: Arrival,
{
    let mut buffer = FrameBuffer::new(to.frame_bytes_max, to.room);
    loop {
        let open = match fill(&mut reader, &mut buffer).await {
            Ok(open) => open,
            Err(error) => return error.into(),
        };
        (to.on_read)(buffer.held());
        let mut frames = Vec::new();
        let taken = buffer.take_frames(&mut frames);
        if !frames.is_empty() {
            let bytes = frames.iter().map(Bytes::len).sum();
            to.meter.received(frames.len() as u64, bytes as u64);
            if !to.inbox.deliver(to.from, frames, bytes).await {
                return LinkEnd::Replaced;
            }
        }
        match (taken, open) {
            (Err(error), _) => return error.into(),
            (Ok(()), true) => {}
            (Ok(()), false) => {
                return buffer
                    .finish()
                    .map_or_else(LinkEnd::from, |()| LinkEnd::Closed);
            }
        }
    }
}

/// Waits for bytes and reads what is there, up to the buffer's measure. False at the end.
async fn fill<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut FrameBuffer) -> io::Result<bool> {
    if read_some(reader, buffer).await? == 0 {
        return Ok(false);
    }
    while !buffer.is_full() {
        match read_now(reader, buffer.space()).await {
            None => break,
            Some(Ok(0)) => return Ok(false),
            // The error will be met again once what came before it has been handed on.
            Some(Err(_)) => break,
            Some(Ok(_)) => {}
        }
    }
    Ok(true)
}

/// Waits for bytes. When none come for long, memory that long frames had goes back.
async fn read_some<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut FrameBuffer,
) -> io::Result<usize> {
    if buffer.expects_long() {
        match timeout(LONG_FRAMES_PAUSE, reader.read_buf(buffer.space())).await {
            Ok(read) => return read,
            Err(_elapsed) => buffer.expect_no_long(),
        }
    }
    reader.read_buf(buffer.space()).await
}

/// Reads without waiting; `None` when nothing is there.
async fn read_now<R: AsyncRead + Unpin>(
    reader: &mut R,
    space: &mut BytesMut,
) -> Option<io::Result<usize>> {
    let mut read = pin!(reader.read_buf(space));
    poll_fn(|cx| {
        Poll::Ready(match read.as_mut().poll(cx) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        })
    })
    .await
}

/// Waits until the other side closes a connection on which it has nothing to say.
pub(crate) async fn expect_silence<R: AsyncRead + Unpin>(mut reader: R) -> LinkEnd {
    match reader.read(&mut [0; 1]).await {
        Ok(0) => LinkEnd::Closed,
        Ok(_) => LinkEnd::Unexpected,
        Err(error) => error.into(),
    }
}

/// Writes what the queue holds, as much as waits in one go, until the connection or the queue ends.
pub(crate) async fn write_frames<W: AsyncWrite + Unpin>(
    writer: W,
    queue: &SendQueue,
    stall: Duration,
) -> LinkEnd {
    let mut out = Writer {
        writer,
        buffer: Vec::new(),
        stall,
    };
    let mut batch = Batch {
        frames: VecDeque::new(),
        queue,
    };
    loop {
        if !queue.take(&mut batch.frames, WRITE_BYTES_MAX).await {
            return LinkEnd::Replaced;
        }
        let bytes: usize = batch.frames.iter().map(Bytes::len).sum();
        if let Err(end) = out.write(&batch.frames).await {
            return end;
        }
        queue.meter().sent(batch.frames.len() as u64, bytes as u64);
        queue.let_go(bytes);
        batch.frames.clear();
        out.buffer.clear();
        if bytes < IDLE_WRITE_BUFFER_BYTES {
            out.buffer.shrink_to(IDLE_WRITE_BUFFER_BYTES);
        }
    }
}

/// Frames that left the queue; counted as dropped if the connection ends before they are written.
struct Batch<'a> {
    frames: VecDeque<Bytes>,
    queue: &'a SendQueue,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let bytes: usize = self.frames.iter().map(Bytes::len).sum();
        let frames = self.frames.len() as u64;
        self.queue.let_go(bytes);
        self.queue.meter().dropped(frames, bytes as u64);
    }
}

struct Writer<W> {
    writer: W,
    buffer: Vec<u8>,
    stall: Duration,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn write(&mut self, frames: &VecDeque<Bytes>) -> Result<(), LinkEnd> {
        for frame in frames {
            // The queue admits no frame whose length would not fit.
            let header: [u8; HEADER_BYTES] = (frame.len() as u32).to_le_bytes();
            self.buffer.extend_from_slice(&header);
            if frame.len() < COALESCE_BYTES_MAX {
                self.buffer.extend_from_slice(frame);
                continue;
            }
            self.write_buffer().await?;
            for piece in frame.chunks(WRITE_BYTES_MAX) {
                in_time(self.stall, self.writer.write_all(piece)).await?;
            }
        }
        self.write_buffer().await?;
        in_time(self.stall, self.writer.flush()).await
    }

    async fn write_buffer(&mut self) -> Result<(), LinkEnd> {
        in_time(self.stall, self.writer.write_all(&self.buffer)).await?;
        self.buffer.clear();
        Ok(())
    }
}

async fn in_time(
    limit: Duration,
    write: impl Future<Output = io::Result<()>>,
) -> Result<(), LinkEnd> {
    match timeout(limit, write).await {
        Ok(result) => result.map_err(LinkEnd::from),
        Err(_elapsed) => Err(LinkEnd::Stalled(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(
        far: &mut (impl AsyncRead + Unpin),
        buffer: &mut FrameBuffer,
    ) -> Result<Vec<Bytes>, LinkEnd> {
        let mut frames = Vec::new();
        while frames.is_empty() {
            fill(far, buffer).await?;
            buffer.take_frames(&mut frames)?;
        }
        Ok(frames)
    }

    #[tokio::test(start_paused = true)]
    async fn memory_of_long_frames_goes_back_when_a_connection_falls_silent() {
        let (mut near, mut far) = tokio::io::duplex(4 << 20);
        let mut buffer = FrameBuffer::new(1 << 24, Room::FOR_MEMBERS);
        for length in [1_u32 << 20, 9] {
            near.write_u32_le(length).await.unwrap();
            near.write_all(&vec![7; length as usize]).await.unwrap();
            let frames = read(&mut far, &mut buffer).await.unwrap();
            assert_eq!(frames, [vec![7; length as usize]]);
            assert_eq!(buffer.expects_long(), length > 9);
            let a_while = LONG_FRAMES_PAUSE / 2;
            timeout(a_while, fill(&mut far, &mut buffer))
                .await
                .unwrap_err();
            assert_eq!(buffer.expects_long(), length > 9);
            let silence = 2 * LONG_FRAMES_PAUSE;
            timeout(silence, fill(&mut far, &mut buffer))
                .await
                .unwrap_err();
            assert!(!buffer.expects_long());
        }
    }
}
