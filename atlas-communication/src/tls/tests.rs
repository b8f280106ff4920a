//! The rows of the fault catalogue about sockets, with peers that break the rules. Each connects as a
//! real node would and then misbehaves.

use super::dial::{DialError, Dialler};
use super::greeting::{self, Answer, GreetingError, Hello, Role, VERSION, encode, encode_as};
use super::identity::Identity;
use super::stream::Socket;
use super::{
    ClientAdmission, Listener, Member, TlsClientConfig, TlsClientNetwork, TlsReplicaConfig,
    TlsReplicaNetwork,
};
use crate::error::Refusal;
use crate::limits::{ClientLimits, ConnectionLimits, ReplicaLimits};
use crate::network::{ClientNetwork, Lane, ReplicaInbox, ReplicaNetwork};
use atlas_common::crypto::{KeyPair, Signer};
use atlas_common::{Digest, NodeId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(20);

fn key(seed: u32) -> KeyPair {
    KeyPair::from_seed(&[seed as u8 + 1; 32])
}

/// The client that the clusters of these tests list.
const LISTED_CLIENT: u32 = 100;
const STRANGER: u32 = 200;

struct Cluster {
    members: Vec<Member>,
    listeners: Vec<Option<TcpListener>>,
}

impl Cluster {
    fn new(replicas: u32) -> Self {
        let bind = |id| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let member = Member {
                id: NodeId(id),
                key: key(id).public_key(),
                address: listener.local_addr().unwrap().to_string(),
            };
            (member, Some(listener))
        };
        let (members, listeners) = (0..replicas).map(bind).unzip();
        Self { members, listeners }
    }

    fn config(&mut self, id: u32) -> TlsReplicaConfig {
        TlsReplicaConfig {
            id: NodeId(id),
            key: key(id),
            genesis: genesis(),
            members: self.members.clone(),
            clients: ClientAdmission::Listed(BTreeSet::from([key(LISTED_CLIENT).public_key()])),
            listener: Listener::Bound(self.listeners[id as usize].take().unwrap()),
            limits: ReplicaLimits {
                frame_bytes_max: 100_000,
                client_frame_bytes_max: 1000,
                ..ReplicaLimits::default()
            },
            connections: ConnectionLimits::default(),
            pending_handshakes_max: 64,
        }
    }

    fn start(&mut self, id: u32) -> (Arc<TlsReplicaNetwork>, ReplicaInbox) {
        TlsReplicaNetwork::start(self.config(id)).unwrap()
    }

    fn client(&self, key: KeyPair, genesis: Digest) -> Arc<TlsClientNetwork> {
        let config = TlsClientConfig {
            key,
            instance: 7,
            genesis,
            replicas: self.members.clone(),
            limits: ClientLimits::default(),
            connections: ConnectionLimits::default(),
        };
        TlsClientNetwork::start(config).unwrap().0
    }

    /// Dials replica `to` with the key of `holder` and this greeting.
    async fn dial(
        &self,
        holder: u32,
        to: u32,
        hello: Vec<u8>,
    ) -> Result<TlsStream<Socket>, DialError> {
        let member = &self.members[to as usize];
        let tls = Identity::new(&key(holder)).unwrap().client(member.key);
        let dialler = Dialler {
            tls: Arc::new(tls.unwrap()).into(),
            peer: member.id,
            address: member.address.clone(),
            hello,
            limits: ConnectionLimits::default(),
        };
        dialler.dial().await
    }

    /// A connection on which replica `from` could speak to replica `to`.
    async fn replica_link(&self, from: u32, to: u32) -> TlsStream<Socket> {
        let link = self.dial(from, to, replica_hello(from)).await;
        link.expect("welcome")
    }

    async fn client_link(&self, to: u32) -> TlsStream<Socket> {
        let link = self.dial(LISTED_CLIENT, to, client_hello(genesis())).await;
        link.expect("welcome")
    }
}

fn genesis() -> Digest {
    Digest::of(b"genesis")
}

fn replica_hello(id: u32) -> Vec<u8> {
    let hello = Hello {
        genesis: genesis(),
        role: Role::Replica {
            id: NodeId(id),
            lane: Lane::Ordering,
        },
    };
    encode(&hello)
}

fn client_hello(genesis: Digest) -> Vec<u8> {
    let role = Role::Client { instance: 9 };
    encode(&Hello { genesis, role })
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_le_bytes(), frame].concat()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let check = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(PATIENCE, check).await.is_ok(), "never so: {what}");
}

/// Waits until the other side has ended the connection.
async fn ended(stream: &mut TlsStream<Socket>) {
    let end = timeout(PATIENCE, stream.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

async fn receive<T>(inbox: &mut tokio::sync::mpsc::Receiver<T>) -> T {
    timeout(PATIENCE, inbox.recv()).await.unwrap().unwrap()
}

/// Rows 23 and 36: what is no frame ends the connection; what came before it counts, others are
/// served, and the peer may come back.
#[tokio::test]
async fn rows_23_and_36_what_is_no_frame_ends_the_connection_and_the_peer_may_come_back() {
    let mut cluster = Cluster::new(2);
    let (network, mut inbox) = cluster.start(0);
    let good = framed(b"good");
    let bad: [&[u8]; 4] = [
        // A length bomb, an empty frame, one byte over the limit, text.
        &u32::MAX.to_le_bytes(),
        &0u32.to_le_bytes(),
        &100_001u32.to_le_bytes(),
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    for (round, bad) in bad.into_iter().enumerate() {
        let mut link = cluster.replica_link(1, 0).await;
        link.write_all(&[&good, bad].concat()).await.unwrap();
        ended(&mut link).await;
        assert_eq!(receive(&mut inbox.ordering).await.frames, ["good"]);
        assert_eq!(network.counters().refusals.malformed, round as u64 + 1);
    }
    let mut back = cluster.replica_link(1, 0).await;
    back.write_all(&good).await.unwrap();
    assert_eq!(receive(&mut inbox.ordering).await.frames, ["good"]);
}

/// Row 36: a frame cut short by an orderly end is the peer's fault, trailing bytes are the start of a
/// frame that never ends.
#[tokio::test]
async fn row_36_a_truncated_frame_is_counted_and_never_delivered() {
    let mut cluster = Cluster::new(2);
    let (network, mut inbox) = cluster.start(0);
    for bytes in [
        &framed(b"whole")[..7],
        &[&framed(b"good"), &[9u8][..]].concat(),
    ] {
        let before = network.counters().refusals.malformed;
        let mut link = cluster.replica_link(1, 0).await;
        link.write_all(bytes).await.unwrap();
        link.shutdown().await.unwrap();
        until("counted", || {
            network.counters().refusals.malformed == before + 1
        })
        .await;
    }
    assert_eq!(receive(&mut inbox.ordering).await.frames, ["good"]);
    assert!(inbox.ordering.try_recv().is_err());
}

/// Row 31, as far as frames go: a client that sends what it must not is cut off, the others are not.
#[tokio::test]
async fn row_31_a_client_that_floods_with_long_frames_is_cut_off_and_others_are_served() {
    let mut cluster = Cluster::new(1);
    let (network, mut inbox) = cluster.start(0);
    let honest = cluster.client(key(LISTED_CLIENT), genesis());
    until("connected", || honest.connected() == [NodeId(0)]).await;
    let mut link = cluster.client_link(0).await;
    link.write_all(&framed(&[1; 1001])).await.unwrap();
    ended(&mut link).await;
    assert_eq!(network.counters().refusals.malformed, 1);
    honest.send(NodeId(0), Bytes::from_static(b"request"));
    let inbound = receive(&mut inbox.clients).await;
    assert_eq!(inbound.from, honest.id());
    assert_eq!(inbound.frames, ["request"]);
    until("unseated", || network.counters().clients_connected == 1).await;
}

/// A peer sends on a connection that only goes the other way.
#[tokio::test]
async fn row_23_data_against_the_direction_of_a_link_ends_it() {
    let mut cluster = Cluster::new(2);
    let peer = cluster.listeners[1].take().unwrap();
    peer.set_nonblocking(true).unwrap();
    let peer = tokio::net::TcpListener::from_std(peer).unwrap();
    let (network, _inbox) = cluster.start(0);
    let members = super::Members {
        by_key: [(key(0).public_key(), NodeId(0))].into(),
        clients: ClientAdmission::Any,
    };
    let server = Identity::new(&key(1)).unwrap().server(Arc::new(members));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server.unwrap()));
    let (stream, _) = peer.accept().await.unwrap();
    let mut stream = acceptor.accept(stream).await.unwrap();
    let hello: Result<Hello, GreetingError> = greeting::receive(&mut stream).await;
    assert!(matches!(
        hello.unwrap().role,
        Role::Replica { id: NodeId(0), .. }
    ));
    stream.write_all(&encode(&Answer::Welcome)).await.unwrap();
    stream.write_all(b"surprise").await.unwrap();
    stream.flush().await.unwrap();
    until("counted", || network.counters().refusals.malformed == 1).await;
}

/// Row 35: half-open connections are given up after the deadline.
#[tokio::test]
async fn row_35_a_connection_that_says_nothing_is_given_up_at_the_deadline() {
    let mut cluster = Cluster::new(1);
    let config = TlsReplicaConfig {
        connections: ConnectionLimits {
            handshake_ms_max: 50,
            ..ConnectionLimits::default()
        },
        ..cluster.config(0)
    };
    let (network, _inbox) = TlsReplicaNetwork::start(config).unwrap();
    let mut silent = TcpStream::connect(network.local_addr()).await.unwrap();
    let end = timeout(PATIENCE, silent.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    let refusals = network.counters().refusals;
    assert_eq!(refusals.by_us(Refusal::HandshakeTimeout), 1);
}

/// Row 35: however many connections are opened and left, few are held, and an honest replica gets in
/// while established ones go on.
#[tokio::test]
async fn row_35_a_flood_of_half_open_connections_keeps_no_honest_peer_out() {
    const FLOOD: u64 = 100;
    let mut cluster = Cluster::new(3);
    let config = TlsReplicaConfig {
        pending_handshakes_max: 8,
        ..cluster.config(0)
    };
    let (network, mut inbox) = TlsReplicaNetwork::start(config).unwrap();
    let mut standing = cluster.replica_link(1, 0).await;
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        flood.push(TcpStream::connect(network.local_addr()).await.unwrap());
    }
    let given_up = || network.counters().refusals.by_us(Refusal::TooManyPending);
    until("all but eight given up", || given_up() == FLOOD - 8).await;
    standing.write_all(&framed(b"vote")).await.unwrap();
    assert_eq!(receive(&mut inbox.ordering).await.from, NodeId(1));
    let mut late = cluster.replica_link(2, 0).await;
    late.write_all(&framed(b"vote")).await.unwrap();
    assert_eq!(receive(&mut inbox.ordering).await.from, NodeId(2));
    assert!(given_up() > FLOOD - 8);
}

#[tokio::test]
async fn row_23_what_is_not_tls_is_refused() {
    let mut cluster = Cluster::new(1);
    let (network, _inbox) = cluster.start(0);
    let mut stream = TcpStream::connect(network.local_addr()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .await
        .unwrap();
    // TLS answers with an alert, then the connection ends.
    let mut answer = Vec::new();
    drop(
        timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap(),
    );
    let refusals = network.counters().refusals;
    assert_eq!(refusals.by_us(Refusal::NotAtlas), 1);
}

fn refused_by_peer(result: Result<TlsStream<Socket>, DialError>) -> Refusal {
    match result {
        Err(DialError::RefusedByPeer(refusal)) => refusal,
        Ok(_) => panic!("let in"),
        Err(DialError::RefusedByUs(refusal)) => panic!("refused by us: {refusal}"),
        Err(DialError::Failed(error)) => panic!("failed: {error}"),
    }
}

/// Row 37: the key of replica 2 is valid, but not for speaking as replica 1.
#[tokio::test]
async fn row_37_a_valid_key_does_not_serve_under_another_name() {
    let mut cluster = Cluster::new(3);
    let (network, _inbox) = cluster.start(0);
    let as_other = cluster.dial(2, 0, replica_hello(1)).await;
    assert_eq!(refused_by_peer(as_other), Refusal::WrongKey);
    let as_the_acceptor = cluster.dial(2, 0, replica_hello(0)).await;
    assert_eq!(refused_by_peer(as_the_acceptor), Refusal::WrongKey);
    let as_nobody = cluster.dial(2, 0, replica_hello(77)).await;
    assert_eq!(refused_by_peer(as_nobody), Refusal::WrongKey);
    let client_as_replica = cluster.dial(LISTED_CLIENT, 0, replica_hello(1)).await;
    assert_eq!(refused_by_peer(client_as_replica), Refusal::WrongKey);
    // A member is a client only if it is listed as one.
    let replica_as_client = cluster.dial(1, 0, client_hello(genesis())).await;
    assert_eq!(refused_by_peer(replica_as_client), Refusal::UnknownKey);
    let refusals = network.counters().refusals;
    assert_eq!(refusals.by_us(Refusal::WrongKey), 4);
    assert_eq!(refusals.by_us(Refusal::UnknownKey), 1);
}

/// Row 37: the address of replica 1 leads to replica 2.
#[tokio::test]
async fn row_37_a_dialler_refuses_a_peer_with_the_key_of_another() {
    let mut cluster = Cluster::new(3);
    cluster.members[1].address = cluster.members[2].address.clone();
    let (there, _there_inbox) = cluster.start(2);
    let (network, _inbox) = cluster.start(0);
    let refused_here = || network.counters().refusals.by_us(Refusal::WrongKey);
    let refused_there = || there.counters().refusals.by_peer(Refusal::WrongKey);
    until("refused on both sides", || {
        refused_here() > 0 && refused_there() > 0
    })
    .await;
    until("the right one connected", || {
        network.connected() == [NodeId(2)]
    })
    .await;
}

/// A log that the test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// For the whole process: tracing forgets subscribers of single threads when several run.
    fn install() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn lines_with(&self, text: &str) -> usize {
        let bytes = self.0.lock();
        let log = String::from_utf8_lossy(&bytes);
        let count = log.lines().filter(|line| line.contains(text)).count();
        // Shown when the test fails.
        println!("{count} lines with {text:?} in:\n{log}");
        count
    }
}

/// Row 38: a stranger and a node of another cluster are refused; both sides count it and say so in
/// one line, however often the dialler tries.
#[tokio::test]
async fn row_38_strangers_and_other_clusters_are_refused_with_one_line_on_each_side() {
    let log = Log::install();
    let mut cluster = Cluster::new(1);
    let (network, _inbox) = cluster.start(0);
    // Other tests log too; the address is this cluster's own.
    let dialled = format!(
        "replica 0 at {} refused by the other side",
        network.local_addr()
    );

    let stranger = cluster.client(key(STRANGER), genesis());
    let there = || stranger.counters().refusals.by_peer(Refusal::UnknownKey);
    // Twice, to see that the dialler does not repeat itself.
    until("refused there", || there() >= 2).await;
    assert!(network.counters().refusals.by_us(Refusal::UnknownKey) >= 2);
    stranger.shutdown();
    let shown = format!("it showed {}", key(STRANGER).public_key());
    assert!(log.lines_with(&shown) >= 2);
    assert_eq!(log.lines_with(&dialled), 1);
    assert_eq!(
        log.lines_with(&format!("{dialled}: its key is not that of a member")),
        1
    );

    let foreign = cluster.client(key(LISTED_CLIENT), Digest::of(b"elsewhere"));
    let there = || foreign.counters().refusals.by_peer(Refusal::WrongCluster);
    until("refused there", || there() >= 1).await;
    assert!(network.counters().refusals.by_us(Refusal::WrongCluster) >= 1);
    assert_eq!(
        log.lines_with(&format!("{dialled}: it belongs to another cluster")),
        1
    );
    let claim = format!(
        "client instance 7, with key {}",
        key(LISTED_CLIENT).public_key()
    );
    assert!(
        log.lines_with(&format!(
            "it belongs to another cluster (it says it is {claim})"
        )) >= 1
    );
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_as_such() {
    let mut cluster = Cluster::new(2);
    let (network, _inbox) = cluster.start(0);
    let newer = encode_as(VERSION + 1, &"whatever version 2 says");
    let refused = refused_by_peer(cluster.dial(1, 0, newer).await);
    assert_eq!(refused, Refusal::WrongVersion);
    let refused = refused_by_peer(cluster.dial(1, 0, framed(&[7; 100])).await);
    assert_eq!(refused, Refusal::NotAtlas);
    let refused = refused_by_peer(cluster.dial(1, 0, framed(&[7; 5000])).await);
    assert_eq!(refused, Refusal::NotAtlas);
    assert_eq!(network.counters().refusals.by_us(Refusal::NotAtlas), 2);
}

/// A replica has one connection per lane: were it otherwise, one could hold any number.
#[tokio::test]
async fn row_32_a_newer_connection_of_a_replica_ends_the_older() {
    let mut cluster = Cluster::new(2);
    let (_network, mut inbox) = cluster.start(0);
    let mut older = cluster.replica_link(1, 0).await;
    for _ in 0..20 {
        let newer = cluster.replica_link(1, 0).await;
        ended(&mut older).await;
        older = newer;
    }
    older.write_all(&framed(b"vote")).await.unwrap();
    assert_eq!(receive(&mut inbox.ordering).await.frames, ["vote"]);
}

/// A replica that was restarted dials the others; if they waited for their own next attempt, it would hear
/// nothing for as long.
#[tokio::test]
async fn a_peer_that_comes_back_is_dialled_when_it_dials_itself() {
    let mut cluster = Cluster::new(2);
    let socket = cluster.listeners[1].as_ref().unwrap().try_clone().unwrap();
    let mut config = cluster.config(0);
    config.connections.reconnect_ms_max = 3_600_000;
    let (network, _inbox) = TlsReplicaNetwork::start(config).unwrap();
    // One of another cluster refuses, and is dialled again when the longest pause is over.
    let mut config = cluster.config(1);
    config.genesis = Digest::of(b"elsewhere");
    let (stranger, _inbox) = TlsReplicaNetwork::start(config).unwrap();
    let eager = Lane::ALL.iter().filter(|lane| lane.is_eager()).count() as u64;
    let refused = || network.counters().refusals.by_peer(Refusal::WrongCluster);
    until("refused", || refused() == eager).await;
    stranger.shutdown();
    stranger.stopped().await;

    cluster.listeners[1] = Some(socket);
    let (_back, mut inbox) = cluster.start(1);
    network.send(NodeId(1), Lane::Ordering, Bytes::from_static(b"news"));
    assert_eq!(receive(&mut inbox.ordering).await.frames, ["news"]);
}

/// Row 40: a client that takes no replies loses them, then its connection; memory stays bounded.
#[tokio::test]
async fn row_40_a_client_that_does_not_read_is_cut_off_in_the_end() {
    let mut cluster = Cluster::new(1);
    let config = TlsReplicaConfig {
        connections: ConnectionLimits {
            stall_ms_max: 100,
            ..ConnectionLimits::default()
        },
        limits: ReplicaLimits {
            client_queue_frames_max: 10,
            ..ReplicaLimits::default()
        },
        ..cluster.config(0)
    };
    let (network, mut inbox) = TlsReplicaNetwork::start(config).unwrap();
    let mut link = cluster.client_link(0).await;
    link.write_all(&framed(b"request")).await.unwrap();
    let client = receive(&mut inbox.clients).await.from;
    let reply = Bytes::from(vec![1; 100_000]);
    until("cut off", || {
        network.reply(&client, reply.clone());
        network.counters().clients_connected == 0
    })
    .await;
    assert!(network.counters().clients.frames_dropped >= 10);
}
