//! Sockets with the settings that every connection gets.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
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
pub(super) fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
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
