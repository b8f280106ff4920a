//! Connections that this node dials: kept up for as long as the network runs.

use super::greeting::{self, Answer, GreetingError};
use super::identity::{HandshakeRefusal, refusal_in};
use super::stream::{Socket, prepare};
use crate::counters::RefusalMeter;
use crate::error::Refusal;
use crate::frame::Room;
use crate::inbox::Inbox;
use crate::limits::{ConnectionLimits, WRITE_BYTES_MAX};
use crate::link::{Destination, LinkEnd, expect_silence, read_frames, write_frames};
use crate::network::Inbound;
use crate::queue::SendQueue;
use atlas_common::NodeId;
use atlas_common::rng::SeededRng;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The first pause between two attempts, in ms.
const FIRST_PAUSE_MS: u64 = 20;

/// A connection that lasted this long was a good one: after it the pauses start small again.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);

/// After so many failed attempts in a row (about two seconds) a peer is reported as unreachable.
const ATTEMPTS_TILL_REPORT: u32 = 8;

/// Whom to dial, and how.
pub(super) struct Dialler {
    pub(super) tls: TlsConnector,
    pub(super) peer: NodeId,
    /// `host:port`; a name is looked up at each attempt.
    pub(super) address: String,
    /// The encoded greeting.
    pub(super) hello: Vec<u8>,
    pub(super) limits: ConnectionLimits,
}

/// No connection came of an attempt.
#[derive(Debug)]
pub(super) enum DialError {
    RefusedByUs(Refusal),
    RefusedByPeer(Refusal),
    Failed(io::Error),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match refusal_in(&error) {
            Some(HandshakeRefusal::ByUs(refused)) => Self::RefusedByUs(refused.refusal),
            Some(HandshakeRefusal::ByPeer) => Self::RefusedByPeer(Refusal::UnknownKey),
            Some(HandshakeRefusal::NotTls) => Self::RefusedByUs(Refusal::NotAtlas),
            None => Self::Failed(error),
        }
    }
}

impl From<GreetingError> for DialError {
    fn from(error: GreetingError) -> Self {
        match error {
            GreetingError::Io(error) => error.into(),
            GreetingError::Refused(refusal) => Self::RefusedByUs(refusal),
        }
    }
}

impl Dialler {
    pub(super) async fn dial(&self) -> Result<TlsStream<Socket>, DialError> {
        match timeout(self.limits.handshake(), self.handshake()).await {
            Ok(result) => result,
            Err(_elapsed) => Err(DialError::Failed(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn handshake(&self) -> Result<TlsStream<Socket>, DialError> {
        let socket = prepare(TcpStream::connect(&self.address).await?)?;
        // Raw public keys have no names in them, and none is sent.
        let nameless = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let mut stream = self.tls.connect(nameless, socket).await?;
        // A peer that did not like our key may have closed already; its reason is still to be read.
        let greeted = greeting::send(&mut stream, &self.hello).await;
        match greeting::receive(&mut stream).await {
            Ok(Answer::Welcome) => Ok(stream),
            Ok(Answer::Refused(refusal)) => Err(DialError::RefusedByPeer(refusal)),
            Err(GreetingError::Io(error)) if refusal_in(&error).is_none() => {
                Err(greeted.err().unwrap_or(error).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The pauses between attempts: doubling up to a cap, each shortened at random by up to a half.
struct Pauses {
    next_ms: u64,
    cap_ms: u64,
    rng: SeededRng,
}

impl Pauses {
    const fn new(cap_ms: u64, rng: SeededRng) -> Self {
        Self {
            next_ms: FIRST_PAUSE_MS,
            cap_ms,
            rng,
        }
    }

    const fn reset(&mut self) {
        self.next_ms = FIRST_PAUSE_MS;
    }

    /// From here on the longest.
    const fn jump_to_cap(&mut self) {
        self.next_ms = self.cap_ms;
    }

    fn next(&mut self) -> Duration {
        let longest = self.next_ms.min(self.cap_ms);
        self.next_ms = longest.saturating_mul(2);
        Duration::from_millis(self.rng.between(longest.div_ceil(2), longest))
    }
}

/// One connection kept up, and the queue that it drains.
pub(super) struct DialledLink {
    pub(super) dialler: Dialler,
    pub(super) queue: Arc<SendQueue>,
    pub(super) kind: LinkKind,
    pub(super) refusals: Arc<RefusalMeter>,
    pub(super) seed: u64,
}

/// What flows on a dialled connection.
pub(super) enum LinkKind {
    /// To a replica, from a replica: nothing comes back.
    OneWay {
        /// Dial at once rather than when there is something to send.
        eager: bool,
        /// Whether it is worth a line in the log that the peer is away.
        report: bool,
    },
    /// To a replica, from a client: replies come back.
    Replies {
        inbox: Inbox<Inbound>,
        reply_bytes_max: usize,
    },
}

impl LinkKind {
    const fn is_eager(&self) -> bool {
        !matches!(self, Self::OneWay { eager: false, .. })
    }

    const fn is_reported(&self) -> bool {
        !matches!(self, Self::OneWay { report: false, .. })
    }
}

impl DialledLink {
    /// Dials, serves, dials again, until the queue is closed or the task ended.
    pub(super) async fn run(self) {
        let cap_ms = self.dialler.limits.reconnect_ms_max;
        let mut pauses = Pauses::new(cap_ms, SeededRng::new(self.seed));
        let mut report = Report::new(&self.dialler, self.kind.is_reported());
        loop {
            if !self.kind.is_eager() && !self.queue.filled().await {
                return;
            }
            match self.dialler.dial().await {
                Ok(stream) => {
                    report.connected();
                    let since = Instant::now();
                    self.queue.set_linked(true);
                    let end = self.serve(stream).await;
                    self.queue.set_linked(false);
                    self.note_end(&end);
                    if since.elapsed() >= GOOD_CONNECTION {
                        pauses.reset();
                    }
                }
                Err(DialError::Failed(error)) => report.failed(&error),
                Err(DialError::RefusedByUs(refusal)) => {
                    self.refusals.by_us(refusal);
                    report.refused("refused by us", refusal);
                    pauses.jump_to_cap();
                }
                Err(DialError::RefusedByPeer(refusal)) => {
                    self.refusals.by_peer(refusal);
                    report.refused("refused by the other side", refusal);
                    pauses.jump_to_cap();
                }
            }
            self.pause(pauses.next()).await;
        }
    }

    /// Waits until the next attempt. A peer that dials this node is there and need not be waited for longer
    /// than for the first pause, which is also the shortest for one that dials again and again.
    async fn pause(&self, pause: Duration) {
        let shortest = pause.min(Duration::from_millis(FIRST_PAUSE_MS));
        sleep(shortest).await;
        tokio::select! {
            () = sleep(pause - shortest) => {}
            () = self.queue.called() => {}
        }
    }

    async fn serve(&self, mut stream: TlsStream<Socket>) -> LinkEnd {
        if matches!(self.kind, LinkKind::OneWay { .. }) {
            // What is taken from the queue in one go leaves in one call of the system.
            stream.get_mut().1.set_buffer_limit(Some(WRITE_BYTES_MAX));
        }
        let (reader, writer) = tokio::io::split(stream);
        let write = write_frames(writer, &self.queue, self.dialler.limits.stall());
        match &self.kind {
            LinkKind::OneWay { .. } => {
                tokio::select! {
                    biased;
                    end = write => end,
                    end = expect_silence(reader) => end,
                }
            }
            LinkKind::Replies {
                inbox,
                reply_bytes_max,
            } => {
                let to = Destination {
                    from: self.dialler.peer,
                    inbox,
                    meter: self.queue.meter(),
                    frame_bytes_max: *reply_bytes_max,
                    room: Room::FOR_MANY,
                    on_read: &|_| (),
                };
                tokio::select! {
                    biased;
                    end = read_frames(reader, to) => end,
                    end = write => end,
                }
            }
        }
    }

    fn note_end(&self, end: &LinkEnd) {
        let (peer, address) = (self.dialler.peer, &self.dialler.address);
        if end.is_malformed() {
            self.refusals.malformed();
            tracing::warn!("connection to replica {peer} at {address} ended: {end}");
        } else {
            tracing::debug!("connection to replica {peer} at {address} ended: {end}");
        }
    }
}

/// Says once what an operator must know of a peer, not at each attempt.
struct Report<'a> {
    dialler: &'a Dialler,
    loud: bool,
    failures: u32,
    refused: Option<Refusal>,
}

impl<'a> Report<'a> {
    const fn new(dialler: &'a Dialler, loud: bool) -> Self {
        Self {
            dialler,
            loud,
            failures: 0,
            refused: None,
        }
    }

    fn connected(&mut self) {
        if self.failures >= ATTEMPTS_TILL_REPORT || self.refused.is_some() {
            tracing::info!("connected to {}", self.peer());
        }
        self.failures = 0;
        self.refused = None;
    }

    fn failed(&mut self, error: &io::Error) {
        self.failures = self.failures.saturating_add(1);
        if self.loud && self.failures == ATTEMPTS_TILL_REPORT {
            tracing::warn!("{} is unreachable: {error}; still trying", self.peer());
        }
    }

    fn refused(&mut self, by: &str, refusal: Refusal) {
        if self.refused != Some(refusal) {
            tracing::warn!("connection to {} {by}: {refusal}", self.peer());
        }
        self.refused = Some(refusal);
    }

    fn peer(&self) -> impl fmt::Display {
        let Dialler { peer, address, .. } = self.dialler;
        format!("replica {peer} at {address}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_cap_and_never_vanish() {
        let mut pauses = Pauses::new(2000, SeededRng::new(3));
        let all: Vec<u128> = (0..12).map(|_| pauses.next().as_millis()).collect();
        for (step, pause) in all.iter().enumerate() {
            let longest = 2000.min(20 << step);
            assert!((longest / 2..=longest).contains(pause), "{all:?}");
        }
        pauses.reset();
        assert!(pauses.next().as_millis() <= 20);
        pauses.jump_to_cap();
        assert!(pauses.next().as_millis() >= 1000);
    }
}
