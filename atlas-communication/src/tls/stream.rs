//! Sockets with the settings that every connection gets.

use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// A silent connection is probed after this long, and given up after three probes: a peer that lost
/// its power says no goodbye.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// How much and how long is read from a connection that was refused, see [`part`].
const PARTING_BYTES_MAX: u64 = 64 << 10;
const PARTING_TIME_MAX: Duration = Duration::from_millis(500);

/// Sets a socket up.
pub(super) fn prepare(stream: TcpStream) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(Socket {
        stream,
        ahead: Box::default(),
        unread: 0..0,
    })
}

/// A socket that can be read ahead. TLS asks for some 4 KiB at a time, of records of 16: each would be a
/// call of the system.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// Empty where nothing is read ahead.
    ahead: Box<[u8]>,
    /// What of it was not asked for yet.
    unread: Range<usize>,
}

impl Socket {
    /// From now on reads so many bytes at a time, where they are there. Called once, for a connection of
    /// which much is expected.
    pub(super) fn read_ahead(&mut self, bytes: usize) {
        self.ahead = vec![0; bytes].into();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            stream,
            ahead,
            unread,
        } = self.get_mut();
        if unread.start == unread.end {
            if buf.remaining() >= ahead.len() {
                return Pin::new(stream).poll_read(cx, buf);
            }
            let mut more = ReadBuf::new(ahead);
            ready!(Pin::new(stream).poll_read(cx, &mut more))?;
            *unread = 0..more.filled().len();
        }
        let bytes = unread.len().min(buf.remaining());
        buf.put_slice(&ahead[unread.start..unread.start + bytes]);
        unread.start += bytes;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Ends a refused connection so that the other side learns why: closing a socket with unread bytes in
/// it resets the connection, and the reset can overtake the reason.
pub(super) async fn part<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let farewell = async {
        if stream.shutdown().await.is_ok() {
            let mut rest = (&mut stream).take(PARTING_BYTES_MAX);
            // Its content and its end are of no interest.
            drop(tokio::io::copy(&mut rest, &mut tokio::io::sink()).await);
        }
    };
    drop(tokio::time::timeout(PARTING_TIME_MAX, farewell).await);
}

pub(super) async fn read_exactly<R: AsyncRead + Unpin>(
    reader: &mut R,
    bytes: &mut [u8],
) -> io::Result<()> {
    reader.read_exact(bytes).await.map(|_read| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_is_read_ahead_is_what_was_sent_and_so_is_the_end() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await;
        let mut far = prepare(far.unwrap()).unwrap();
        let mut near = prepare(listener.accept().await.unwrap().0).unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let (before, behind) = bytes.split_at(10);
        far.write_all(before).await.unwrap();
        let mut read = vec![0; 10];
        near.read_exact(&mut read).await.unwrap();
        near.read_ahead(1000);
        let send = async {
            far.write_all(behind).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let receive = async {
            // Less than is read ahead, as much, and more.
            for piece in [1, 999, 1000, 1001, 7, 5000].into_iter().cycle() {
                let mut space = vec![0; piece];
                match near.read(&mut space).await.unwrap() {
                    0 => return,
                    there => read.extend_from_slice(&space[..there]),
                }
                assert!(near.unread.end <= 1000);
            }
        };
        tokio::join!(send, receive);
        assert_eq!(read, bytes);
    }
}
