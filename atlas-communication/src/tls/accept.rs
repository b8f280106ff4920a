//! Connections that others dial: handshakes bounded in time and number, each checked before it may
//! say a word.

use super::Members;
use super::greeting::{self, Answer, GreetingError, Hello, Role};
use super::identity::{HandshakeRefusal, key_of, refusal_in};
use super::stream::{Socket, part, prepare};
use crate::clients::Seat;
use crate::endpoint::ReplicaEndpoint;
use crate::error::Refusal;
use crate::frame::Room;
use crate::inbox::ReplicaInboxes;
use crate::limits::{ConnectionLimits, READ_BYTES_MAX, ReplicaLimits};
use crate::link::{Destination, LinkEnd, read_frames, write_frames};
use crate::network::Lane;
use atlas_common::crypto::PublicKey;
use atlas_common::{ClientId, Digest, NodeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long to wait when the operating system hands out no connection (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// So many refusals for one reason get a line each in the log; later ones only when their number is a
/// power of two, so that a flood of bad connections is not a flood of lines.
const REFUSALS_LOGGED: u64 = 32;

/// What accepting needs to know.
pub(super) struct Acceptor {
    pub(super) tls: TlsAcceptor,
    pub(super) members: Arc<Members>,
    pub(super) genesis: Digest,
    pub(super) endpoint: Arc<ReplicaEndpoint>,
    pub(super) inboxes: ReplicaInboxes,
    pub(super) limits: ReplicaLimits,
    pub(super) connections: ConnectionLimits,
    pub(super) pending: Pending,
    /// For each peer and lane, what ends the connection when a newer one comes.
    pub(super) incoming: Mutex<BTreeMap<(NodeId, Lane), oneshot::Sender<()>>>,
}

/// A connection that was let in.
struct Guest {
    stream: TlsStream<Socket>,
    who: Who,
}

enum Who {
    Replica { id: NodeId, lane: Lane },
    Client(Seat),
}

/// A connection that was not let in, and what is left of it.
struct NotAdmitted {
    why: Why,
    rest: Option<Rest>,
}

enum Why {
    /// With what an operator wants to know besides.
    ByUs(Refusal, String),
    ByPeer,
    Lost(io::Error),
}

enum Rest {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl From<io::Error> for NotAdmitted {
    fn from(error: io::Error) -> Self {
        let why = match refusal_in(&error) {
            Some(HandshakeRefusal::ByUs(refused)) => Why::ByUs(refused.refusal, refused.shown()),
            Some(HandshakeRefusal::ByPeer) => Why::ByPeer,
            Some(HandshakeRefusal::NotTls) => Why::ByUs(Refusal::NotAtlas, format!(" ({error})")),
            None => Why::Lost(error),
        };
        Self { why, rest: None }
    }
}

impl Acceptor {
    /// Accepts for ever.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        let mut failing = false;
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    failing = false;
                    let pending = self.pending.begin(&self);
                    let serving = Arc::clone(&self).serve(stream, from, pending);
                    self.endpoint.tasks.spawn(serving);
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!("cannot accept connections for now: {error}");
                    }
                    failing = true;
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, from: SocketAddr, mut pending: Handshake) {
        let admitted = tokio::select! {
            biased;
            _ = &mut pending.evicted => {
                self.refuse(from, Refusal::TooManyPending, "");
                return;
            }
            admitted = timeout(self.connections.handshake(), self.admit(stream)) => admitted,
        };
        match admitted {
            Ok(Ok(guest)) => {
                drop(pending);
                self.host(guest, from).await;
            }
            Ok(Err(NotAdmitted { why, rest })) => {
                self.note_not_admitted(from, why);
                match rest {
                    None => {}
                    Some(Rest::Plain(socket)) => part(socket).await,
                    Some(Rest::Tls(stream)) => part(stream).await,
                }
            }
            Err(_elapsed) => self.refuse(from, Refusal::HandshakeTimeout, ""),
        }
    }

    fn note_not_admitted(&self, from: SocketAddr, why: Why) {
        match why {
            Why::ByUs(refusal, detail) => self.refuse(from, refusal, &detail),
            Why::ByPeer => {
                let before = self.endpoint.refusals.by_peer(Refusal::WrongKey);
                if is_logged(before) {
                    tracing::warn!("{from} refused this node's key: it expects another node here");
                }
            }
            Why::Lost(error) => tracing::debug!("connection from {from} lost: {error}"),
        }
    }

    fn refuse(&self, from: SocketAddr, refusal: Refusal, detail: &str) {
        let before = self.endpoint.refusals.by_us(refusal);
        if is_logged(before) {
            tracing::warn!("refused a connection from {from}: {refusal}{detail}");
        }
    }

    async fn admit(&self, stream: TcpStream) -> Result<Guest, NotAdmitted> {
        let handshake = self.tls.accept(prepare(stream)?).into_fallible();
        let mut stream = match handshake.await {
            Ok(stream) => stream,
            Err((error, socket)) => {
                let rest = Some(Rest::Plain(socket));
                return Err(NotAdmitted {
                    rest,
                    ..error.into()
                });
            }
        };
        let (refusal, detail) = match self.identify(&mut stream).await {
            Ok(who) => {
                let welcome = greeting::encode(&Answer::Welcome);
                greeting::send(&mut stream, &welcome).await?;
                return Ok(Guest { stream, who });
            }
            Err((GreetingError::Io(error), _)) => return Err(error.into()),
            Err((GreetingError::Refused(refusal), detail)) => (refusal, detail),
        };
        let answer = greeting::encode(&Answer::Refused(refusal));
        // Whether the reason arrives changes nothing here.
        drop(greeting::send(&mut stream, &answer).await);
        Err(NotAdmitted {
            why: Why::ByUs(refusal, detail),
            rest: Some(Rest::Tls(Box::new(stream))),
        })
    }

    /// Reads the greeting and holds it against the key. An error comes with what an operator wants to
    /// know besides.
    async fn identify(
        &self,
        stream: &mut TlsStream<Socket>,
    ) -> Result<Who, (GreetingError, String)> {
        let hello: Hello = match greeting::receive(stream).await {
            Ok(hello) => hello,
            Err(error) => return Err((error, String::new())),
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let key = certificates.and_then(|all| key_of(all.first()?));
        let who = match key {
            Some(key) if hello.genesis == self.genesis => self.authorize(key, hello.role),
            Some(_) => Err(Refusal::WrongCluster),
            None => Err(Refusal::UnknownKey),
        };
        who.map_err(|refusal| (refusal.into(), describe(hello.role, key)))
    }

    fn authorize(&self, key: PublicKey, role: Role) -> Result<Who, Refusal> {
        match role {
            // A member may speak for itself alone; this replica has no link with itself.
            Role::Replica { id, lane } => match self.endpoint.link(id, lane) {
                Some(_) if self.members.member(&key) == Some(id) => Ok(Who::Replica { id, lane }),
                _ => Err(Refusal::WrongKey),
            },
            Role::Client { instance } if self.members.admits_client(&key) => {
                let seat = self.endpoint.clients.seat(ClientId { key, instance })?;
                Ok(Who::Client(seat))
            }
            Role::Client { .. } => Err(Refusal::UnknownKey),
        }
    }

    async fn host(&self, guest: Guest, from: SocketAddr) {
        let (end, who) = match guest.who {
            Who::Replica { id, lane } => {
                let end = self.host_replica(guest.stream, id, lane).await;
                (end, format!("replica {id}, {lane} lane"))
            }
            Who::Client(seat) => {
                let who = format!("client {:?}", seat.client);
                (self.host_client(guest.stream, seat).await, who)
            }
        };
        if end.is_malformed() {
            self.endpoint.refusals.malformed();
            tracing::warn!("connection from {who} at {from} ended: {end}");
        } else {
            tracing::debug!("connection from {who} at {from} ended: {end}");
        }
    }

    async fn host_replica(&self, mut stream: TlsStream<Socket>, id: NodeId, lane: Lane) -> LinkEnd {
        let Some(back) = self.endpoint.link(id, lane) else {
            return LinkEnd::Replaced;
        };
        stream.get_mut().0.read_ahead(READ_BYTES_MAX);
        let links = Lane::ALL.map(|lane| self.endpoint.link(id, lane));
        links
            .into_iter()
            .flatten()
            .for_each(|link| link.note_call());
        let (end_older, replaced) = oneshot::channel();
        // The sender of an older connection is dropped here, which ends that connection.
        self.incoming.lock().insert((id, lane), end_older);
        let to = Destination {
            from: id,
            inbox: &self.inboxes.lanes[lane.index()],
            meter: back.meter(),
            frame_bytes_max: self.limits.frame_bytes_max,
            room: Room::FOR_MEMBERS,
            on_read: &|_| (),
        };
        tokio::select! {
            biased;
            end = read_frames(stream, to) => end,
            _ = replaced => LinkEnd::Replaced,
        }
    }

    async fn host_client(&self, stream: TlsStream<Socket>, seat: Seat) -> LinkEnd {
        let (reader, writer) = tokio::io::split(stream);
        let to = Destination {
            from: seat.client,
            inbox: &self.inboxes.clients,
            meter: seat.queue.meter(),
            frame_bytes_max: self.limits.client_frame_bytes_max,
            room: Room::FOR_MANY,
            on_read: &|bytes| seat.set_reading(bytes),
        };
        tokio::select! {
            biased;
            end = read_frames(reader, to) => end,
            end = write_frames(writer, &seat.queue, self.connections.stall()) => end,
        }
    }
}

const fn is_logged(before: u64) -> bool {
    before < REFUSALS_LOGGED || (before + 1).is_power_of_two()
}

fn describe(role: Role, key: Option<PublicKey>) -> String {
    let claim: &dyn fmt::Display = match role {
        Role::Replica { id, lane } => &format!("replica {id}, {lane} lane"),
        Role::Client { instance } => &format!("client instance {instance:x}"),
    };
    match key {
        Some(key) => format!(" (it says it is {claim}, with key {key})"),
        None => format!(" (it says it is {claim})"),
    }
}

/// The connections that are being set up. When there are too many the oldest is given up: an honest
/// handshake takes milliseconds, one that sits there for long is most likely not meant to end.
pub(super) struct Pending {
    max: usize,
    handshakes: Mutex<Handshakes>,
}

#[derive(Default)]
struct Handshakes {
    next: u64,
    /// By age; dropping a sender gives the handshake up.
    under_way: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One connection being set up; off the list when dropped.
struct Handshake {
    acceptor: Arc<Acceptor>,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

impl Pending {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            handshakes: Mutex::default(),
        }
    }

    fn begin(&self, acceptor: &Arc<Acceptor>) -> Handshake {
        let (evict, evicted) = oneshot::channel();
        let mut handshakes = self.handshakes.lock();
        let number = handshakes.next;
        handshakes.next += 1;
        handshakes.under_way.insert(number, evict);
        if handshakes.under_way.len() > self.max {
            // Dropping its sender tells the oldest.
            handshakes.under_way.pop_first();
        }
        Handshake {
            acceptor: Arc::clone(acceptor),
            number,
            evicted,
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut handshakes = self.acceptor.pending.handshakes.lock();
        handshakes.under_way.remove(&self.number);
    }
}
