//! What both transports promise alike, over TLS on loopback and in memory.

#![allow(clippy::unwrap_used, reason = "a test")]

use atlas_common::crypto::{KeyPair, Signer};
use atlas_common::{ClientId, Digest, NodeId};
use atlas_communication::{
    ClientAdmission, ClientLimits, ClientNetwork, ConnectionLimits, Inbound, Lane, LaneStub,
    Listener, Member, MemoryHub, NetworkError, ReplicaInbox, ReplicaLimits, ReplicaNetwork,
    TlsClientConfig, TlsClientNetwork, TlsReplicaConfig, TlsReplicaNetwork, TransferStub,
};
use bytes::Bytes;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

type Replica = (Arc<dyn ReplicaNetwork>, ReplicaInbox);
type Client = (Arc<dyn ClientNetwork>, mpsc::Receiver<Inbound>);

/// How to start the nodes of one cluster.
enum Cluster {
    Memory(MemoryHub),
    Tls {
        members: Vec<Member>,
        /// Bound from the beginning, so that every address is known; taken at the first start.
        listeners: Vec<Option<TcpListener>>,
        limits: (ReplicaLimits, ClientLimits),
    },
}

impl Cluster {
    fn both(replicas: u32, limits: (ReplicaLimits, ClientLimits)) -> [Self; 2] {
        let hub = MemoryHub::with_limits(replicas, limits.0, limits.1).unwrap();
        let mut members = Vec::new();
        let mut listeners = Vec::new();
        for id in (0..replicas).map(NodeId) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            members.push(Member {
                id,
                key: key(id.0).public_key(),
                address: listener.local_addr().unwrap().to_string(),
            });
            listeners.push(Some(listener));
        }
        let tls = Self::Tls {
            members,
            listeners,
            limits,
        };
        [Self::Memory(hub), tls]
    }

    fn replica(&mut self, id: u32) -> Replica {
        match self {
            Self::Memory(hub) => {
                let (network, inbox) = hub.replica(NodeId(id)).unwrap();
                (network, inbox)
            }
            Self::Tls {
                members,
                listeners,
                limits,
            } => {
                let address = members[id as usize].address.clone();
                let listener = listeners[id as usize].take();
                let config = TlsReplicaConfig {
                    id: NodeId(id),
                    key: key(id),
                    genesis: Digest::of(b"genesis"),
                    members: members.clone(),
                    clients: ClientAdmission::Any,
                    listener: listener.map_or(Listener::Address(address), Listener::Bound),
                    limits: limits.0,
                    connections: ConnectionLimits::default(),
                    pending_handshakes_max: 64,
                };
                let (network, inbox) = TlsReplicaNetwork::start(config).unwrap();
                (network, inbox)
            }
        }
    }

    fn replicas(&mut self, count: u32) -> Vec<Replica> {
        (0..count).map(|id| self.replica(id)).collect()
    }

    fn client(&self, instance: u64) -> Client {
        match self {
            Self::Memory(hub) => {
                let key = key(100).public_key();
                let (network, inbox) = hub.client(ClientId { key, instance }).unwrap();
                (network, inbox)
            }
            Self::Tls {
                members, limits, ..
            } => {
                let config = TlsClientConfig {
                    key: key(100),
                    instance,
                    genesis: Digest::of(b"genesis"),
                    replicas: members.clone(),
                    limits: limits.1,
                    connections: ConnectionLimits::default(),
                };
                let (network, inbox) = TlsClientNetwork::start(config).unwrap();
                (network, inbox)
            }
        }
    }
}

fn key(seed: u32) -> KeyPair {
    KeyPair::from_seed(&[seed as u8 + 1; 32])
}

fn defaults() -> (ReplicaLimits, ClientLimits) {
    (ReplicaLimits::default(), ClientLimits::default())
}

/// Waits until something is so that no event tells of.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let check = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let result = timeout(PATIENCE, check).await;
    assert!(result.is_ok(), "never so: {what}");
}

async fn connect_all(replicas: &[Replica]) {
    for (network, _) in replicas {
        until("all connected", || network.connected() == network.peers()).await;
    }
}

async fn receive<T>(inbox: &mut mpsc::Receiver<T>) -> T {
    let received = timeout(PATIENCE, inbox.recv()).await;
    received.expect("nothing came").expect("the inbox closed")
}

/// Receives this many frames, all from one replica.
async fn frames(inbox: &mut mpsc::Receiver<Inbound>, from: u32, count: usize) -> Vec<Bytes> {
    let mut all = Vec::new();
    while all.len() < count {
        let inbound = receive(inbox).await;
        assert_eq!(inbound.from, NodeId(from));
        all.extend(inbound.frames);
    }
    assert_eq!(all.len(), count);
    all
}

fn numbered(numbers: std::ops::Range<u32>) -> Vec<Bytes> {
    let frame = |number: u32| Bytes::from(number.to_le_bytes().to_vec());
    numbers.map(frame).collect()
}

fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

fn on_two_threads(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

/// Runs a scenario over both transports, each on both kinds of runtime.
fn everywhere<F, R>(replicas: u32, limits: (ReplicaLimits, ClientLimits), scenario: F)
where
    F: Fn(Cluster) -> R,
    R: Future<Output = ()>,
{
    for cluster in Cluster::both(replicas, limits) {
        on_one_thread(scenario(cluster));
    }
    for cluster in Cluster::both(replicas, limits) {
        on_two_threads(scenario(cluster));
    }
}

#[test]
fn each_lane_carries_its_frames_in_order_to_its_own_inbox() {
    everywhere(3, defaults(), |mut cluster| async move {
        let mut replicas = cluster.replicas(3);
        connect_all(&replicas).await;
        for (index, lane) in Lane::ALL.into_iter().enumerate() {
            let first = index as u32 * 10_000;
            for frame in numbered(first..first + 3000) {
                replicas[0].0.send(NodeId(1), lane, frame);
            }
        }
        let inbox = &mut replicas[1].1;
        let lanes = [
            &mut inbox.ordering,
            &mut inbox.application,
            &mut inbox.transfer,
            &mut inbox.reconfiguration,
        ];
        for (index, lane) in lanes.into_iter().enumerate() {
            let first = index as u32 * 10_000;
            assert_eq!(frames(lane, 0, 3000).await, numbered(first..first + 3000));
        }
        let (sender, receiver) = (&replicas[0].0, &replicas[1].0);
        for lane in Lane::ALL {
            // What was written is counted after the write, so it may arrive first.
            let sent = || sender.counters().link(NodeId(1), lane);
            until("all counted as sent", || sent().frames_sent == 3000).await;
            assert_eq!((sent().bytes_sent, sent().frames_dropped), (12_000, 0));
            let got = receiver.counters().link(NodeId(0), lane);
            assert_eq!((got.frames_received, got.bytes_received), (3000, 12_000));
        }
        let aside = replicas[2].0.counters();
        assert_eq!(aside.link(NodeId(0), Lane::Ordering).frames_received, 0);
    });
}

#[test]
fn frames_of_every_size_arrive_whole() {
    everywhere(2, defaults(), |mut cluster| async move {
        let mut replicas = cluster.replicas(2);
        let sizes = [
            1,
            3,
            4095,
            4096,
            16_383,
            16_384,
            65_536,
            300_000,
            5 << 20,
            7,
        ];
        let sent: Vec<Bytes> = sizes.map(|size| vec![size as u8; size].into()).into();
        for frame in &sent {
            replicas[0].0.send(NodeId(1), Lane::Transfer, frame.clone());
        }
        let got = frames(&mut replicas[1].1.transfer, 0, sent.len()).await;
        assert_eq!(got, sent);
        // One byte over the limit never leaves.
        let long = Bytes::from(vec![0; ReplicaLimits::default().frame_bytes_max + 1]);
        replicas[0].0.send(NodeId(1), Lane::Transfer, long);
        let counted = replicas[0].0.counters().link(NodeId(1), Lane::Transfer);
        assert_eq!(counted.frames_dropped, 1);
    });
}

#[test]
fn clients_send_and_are_answered_each_on_its_own_connection() {
    everywhere(2, defaults(), |mut cluster| async move {
        let mut replicas = cluster.replicas(2);
        let mut clients: Vec<Client> = (0..5).map(|instance| cluster.client(instance)).collect();
        for (network, _) in &clients {
            network.broadcast(Bytes::copy_from_slice(&network.id().instance.to_le_bytes()));
        }
        for (network, inbox) in &mut replicas {
            for _ in 0..clients.len() {
                let inbound = receive(&mut inbox.clients).await;
                assert_eq!(
                    inbound.frames,
                    [inbound.from.instance.to_le_bytes()[..].to_vec()]
                );
                network.reply(&inbound.from, inbound.frames[0].clone());
            }
        }
        for (network, inbox) in &mut clients {
            let expected = network.id().instance.to_le_bytes();
            let answers = [receive(inbox).await, receive(inbox).await];
            assert_ne!(answers[0].from, answers[1].from);
            assert!(
                answers
                    .iter()
                    .all(|answer| answer.frames == [expected[..].to_vec()])
            );
            assert_eq!(network.connected().len(), 2);
        }
        let network = &replicas[0].0;
        until("all counted as sent", || {
            network.counters().clients.frames_sent == 5
        })
        .await;
        let counted = network.counters();
        assert_eq!(counted.clients_connected, 5);
        assert_eq!(counted.clients.frames_received, 5);
    });
}

#[test]
fn a_reply_to_nobody_and_a_frame_to_no_replica_are_counted_and_harmless() {
    everywhere(2, defaults(), |mut cluster| async move {
        let (network, _inbox) = cluster.replica(0);
        let key = key(9).public_key();
        network.reply(&ClientId { key, instance: 1 }, Bytes::from_static(b"abc"));
        network.send(NodeId(0), Lane::Ordering, Bytes::from_static(b"to myself"));
        network.send(NodeId(7), Lane::Ordering, Bytes::from_static(b"to nobody"));
        let counted = network.counters();
        assert_eq!(counted.clients.bytes_dropped, 3);
        assert_eq!(counted.frames_unroutable, 2);
    });
}

/// Row 40: a slow peer has a bounded queue, the fast ones go on.
#[test]
fn row_40_a_peer_that_does_not_read_holds_up_nobody_else() {
    let limits = ReplicaLimits {
        queue_frames_max: 2000,
        inbox_reads_max: 2,
        inbox_bytes_max: 200_000,
        ..ReplicaLimits::default()
    };
    everywhere(
        3,
        (limits, ClientLimits::default()),
        |mut cluster| async move {
            let mut replicas = cluster.replicas(3);
            connect_all(&replicas).await;
            let frame = Bytes::from(vec![7; 10_000]);
            // Replica 1 takes nothing out of its inbox; the socket's own buffers fill in the end.
            let mut sent = 0;
            while replicas[0]
                .0
                .counters()
                .link(NodeId(1), Lane::Ordering)
                .frames_dropped
                < 100
            {
                for _ in 0..100 {
                    replicas[0].0.broadcast(Lane::Ordering, frame.clone());
                }
                sent += 100;
                frames(&mut replicas[2].1.ordering, 0, 100).await;
                assert!(sent < 100_000, "the queue is not bounded");
            }
            let counted = replicas[0].0.counters();
            assert_eq!(counted.link(NodeId(2), Lane::Ordering).frames_dropped, 0);
            // Another lane to the slow peer is not held up either.
            replicas[0]
                .0
                .send(NodeId(1), Lane::Application, frame.clone());
            frames(&mut replicas[1].1.application, 0, 1).await;
            // Nor is the slow peer lost: when it reads again, what was kept arrives.
            let mut got = 0;
            let slow =
                |counters: &dyn ReplicaNetwork| counters.counters().link(NodeId(1), Lane::Ordering);
            while got + slow(&*replicas[0].0).frames_dropped < sent {
                got += receive(&mut replicas[1].1.ordering).await.frames.len() as u64;
            }
            until("all counted as sent", || {
                slow(&*replicas[0].0).frames_sent == got
            })
            .await;
        },
    );
}

#[test]
fn a_peer_that_comes_back_is_sent_to_again() {
    everywhere(3, defaults(), |mut cluster| async move {
        let mut replicas = cluster.replicas(3);
        connect_all(&replicas).await;
        let (gone, inbox) = replicas.pop().unwrap();
        gone.shutdown();
        drop((gone, inbox));
        let network = Arc::clone(&replicas[0].0);
        until("loss noticed", || network.connected() == [NodeId(1)]).await;
        for frame in numbered(0..10) {
            network.send(NodeId(2), Lane::Ordering, frame);
        }
        // Kept for a peer that is away, within the queue's bounds.
        let mut back = restart(&mut cluster, 2).await;
        assert_eq!(frames(&mut back.1.ordering, 0, 10).await, numbered(0..10));
        until("connected again", || network.connected().len() == 2).await;
        until("and back", || back.0.connected().len() == 2).await;
        back.0
            .broadcast(Lane::Ordering, Bytes::from_static(b"here"));
        assert_eq!(frames(&mut replicas[0].1.ordering, 2, 1).await[0], "here");
        assert_eq!(frames(&mut replicas[1].1.ordering, 2, 1).await[0], "here");
    });
}

/// Starts a replica whose address may not be free yet, for its last run is just ending.
async fn restart(cluster: &mut Cluster, id: u32) -> Replica {
    if let Cluster::Tls { members, .. } = &*cluster {
        let address = members[id as usize].address.clone();
        until("address free", || TcpListener::bind(&address).is_ok()).await;
    }
    cluster.replica(id)
}

#[test]
fn a_client_that_starts_again_under_its_number_takes_its_place_over() {
    everywhere(1, defaults(), |mut cluster| async move {
        let (network, mut inbox) = cluster.replica(0);
        let old = cluster.client(5);
        until("connected", || network.counters().clients_connected == 1).await;
        old.0.shutdown();
        let (client, mut answers) = cluster.client(5);
        client.send(NodeId(0), Bytes::from_static(b"again"));
        let inbound = receive(&mut inbox.clients).await;
        network.reply(&inbound.from, Bytes::from_static(b"yes"));
        assert_eq!(receive(&mut answers).await.frames, ["yes"]);
        assert_eq!(network.counters().clients_connected, 1);
    });
}

#[test]
fn clients_beyond_the_cap_are_refused_and_counted_on_both_sides() {
    use atlas_communication::Refusal::TooManyClients;
    let limits = ReplicaLimits {
        clients_max: 2,
        ..ReplicaLimits::default()
    };
    everywhere(
        1,
        (limits, ClientLimits::default()),
        |mut cluster| async move {
            let (network, _inbox) = cluster.replica(0);
            let first = cluster.client(1);
            let second = cluster.client(2);
            until("connected", || network.counters().clients_connected == 2).await;
            let third = cluster.client(3);
            until("refused there", || {
                network.counters().refusals.by_us(TooManyClients) > 0
            })
            .await;
            until("refused here", || {
                third.0.counters().refusals.by_peer(TooManyClients) > 0
            })
            .await;
            assert!(third.0.connected().is_empty());
            // A place that becomes free is there to be had.
            first.0.shutdown();
            until("let in", || !third.0.connected().is_empty()).await;
            assert!(!second.0.connected().is_empty());
        },
    );
}

#[test]
fn shutdown_closes_every_inbox_and_counts_what_comes_after() {
    everywhere(2, defaults(), |mut cluster| async move {
        let (network, mut inbox) = cluster.replica(0);
        let (client, mut answers) = cluster.client(1);
        until("connected", || !client.connected().is_empty()).await;
        network.shutdown();
        network.shutdown();
        let closed = async {
            assert!(inbox.ordering.recv().await.is_none());
            assert!(inbox.application.recv().await.is_none());
            assert!(inbox.transfer.recv().await.is_none());
            assert!(inbox.reconfiguration.recv().await.is_none());
            assert!(inbox.clients.recv().await.is_none());
        };
        timeout(PATIENCE, closed).await.unwrap();
        network.send(NodeId(1), Lane::Ordering, Bytes::from_static(b"late"));
        let counted = network.counters().link(NodeId(1), Lane::Ordering);
        assert_eq!(counted.frames_dropped, 1);
        client.shutdown();
        assert!(timeout(PATIENCE, answers.recv()).await.unwrap().is_none());
    });
}

#[test]
fn a_stub_sends_on_its_own_lane() {
    everywhere(2, defaults(), |mut cluster| async move {
        let mut replicas = cluster.replicas(2);
        let stub: TransferStub = LaneStub::new(Arc::clone(&replicas[0].0));
        stub.broadcast(Bytes::from_static(b"chunk"));
        stub.send(stub.peers()[0], Bytes::from_static(b"another"));
        let got = frames(&mut replicas[1].1.transfer, 0, 2).await;
        assert_eq!(got, ["chunk", "another"]);
    });
}

#[test]
fn in_memory_a_broadcast_is_one_buffer_and_links_are_cut_one_way() {
    on_one_thread(async {
        let hub = MemoryHub::new(3);
        let mut replicas: Vec<_> = (0..3).map(|id| hub.replica(NodeId(id)).unwrap()).collect();
        let frame = Bytes::from(vec![5; 1000]);
        replicas[0].0.broadcast(Lane::Ordering, frame.clone());
        for (_, inbox) in &mut replicas[1..] {
            let got = frames(&mut inbox.ordering, 0, 1).await;
            assert_eq!(got[0].as_ptr(), frame.as_ptr());
        }
        hub.cut(NodeId(0), NodeId(1));
        let sender = Arc::clone(&replicas[0].0);
        until("cut", || sender.connected() == [NodeId(2)]).await;
        sender.broadcast(Lane::Ordering, frame.clone());
        frames(&mut replicas[2].1.ordering, 0, 1).await;
        assert!(replicas[1].1.ordering.try_recv().is_err());
        replicas[1].0.send(NodeId(0), Lane::Ordering, frame);
        frames(&mut replicas[0].1.ordering, 1, 1).await;
        hub.heal(NodeId(0), NodeId(1));
        frames(&mut replicas[1].1.ordering, 0, 1).await;
    });
}

#[test]
fn a_busy_port_and_a_wrong_configuration_are_told_apart() {
    on_one_thread(async {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let config = |listen: &str, seed: u32| TlsReplicaConfig {
            id: NodeId(0),
            key: key(seed),
            genesis: Digest::of(b"genesis"),
            members: vec![Member {
                id: NodeId(0),
                key: key(0).public_key(),
                address: address.clone(),
            }],
            clients: ClientAdmission::Any,
            listener: Listener::Address(listen.to_owned()),
            limits: ReplicaLimits::default(),
            connections: ConnectionLimits::default(),
            pending_handshakes_max: 64,
        };
        let busy = TlsReplicaNetwork::start(config(&address, 0)).unwrap_err();
        assert!(matches!(&busy, NetworkError::Listen { address: named, .. } if *named == address));
        let wrong_key = TlsReplicaNetwork::start(config("127.0.0.1:0", 3)).unwrap_err();
        assert!(matches!(
            wrong_key,
            NetworkError::Config { field: "key", .. }
        ));
        let (network, _inbox) = TlsReplicaNetwork::start(config("127.0.0.1:0", 0)).unwrap();
        let chosen = network.local_addr();
        network.shutdown();
        network.stopped().await;
        TcpListener::bind(chosen).unwrap();
    });
    let hub = MemoryHub::new(1);
    let nowhere = hub.replica(NodeId(0)).map(|_| ()).unwrap_err();
    assert!(matches!(nowhere, NetworkError::NoRuntime));
}
