//! The asynchronous client over the in-memory network, against a fake cluster.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use atlas_client::{
    CallError, Client, ClientConfig, Consistency, CoreConfig, Doubt, NotReady, StatusReport,
    random_instance,
};
use atlas_common::crypto::{KeyPair, Signer};
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::{ClientId, Digest, NodeId, OpNumber, SeqNo, View, wire};
use atlas_communication::{
    ClientAdmission, ClientInbound, ConnectionLimits, Listener, Member, MemoryHub, ReplicaInbox,
    ReplicaLimits, ReplicaNetwork, TlsReplicaConfig, TlsReplicaNetwork,
};
use atlas_core::Limits;
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{
    ClientMessage, LeaderHint, OperationResult, Reply, ReplyMessage,
};
use atlas_smr_core::session::{Admission, SessionTable};
use bytes::Bytes;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn genesis() -> Digest {
    Digest::of(b"cluster")
}

/// What the replicas agree on, executed once for all of them. The application gives every operation
/// back.
struct Service {
    replicas: Vec<Option<Arc<dyn ReplicaNetwork>>>,
    table: SessionTable,
    decided: u64,
    operations: u64,
    /// Hears requests and does nothing about them.
    mute: Option<NodeId>,
    /// Operations that are never executed.
    black_hole: Option<Bytes>,
}

impl Service {
    fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            replicas: vec![None; 4],
            table: SessionTable::new(&Limits {
                sessions_max: 10,
                ..Limits::default()
            }),
            decided: 0,
            operations: 0,
            mute: None,
            black_hole: None,
        }))
    }

    fn reply(&self, from: &Arc<dyn ReplicaNetwork>, to: &ClientId, reply: Reply) {
        let hint = LeaderHint {
            view: View(0),
            leader: Some(NodeId(0)),
        };
        let message = ReplyMessage { hint, reply };
        from.reply(to, wire::encode(&message).unwrap().into());
    }

    fn bundle(&mut self, raw: Bytes) {
        let bundle = RequestBundle::decode(raw, &genesis(), &Limits::default()).unwrap();
        if self
            .black_hole
            .iter()
            .any(|hole| bundle.operations().contains(hole))
        {
            return;
        }
        self.decided += 1;
        let session = bundle.session();
        let reply = match self.table.admit(&bundle, SeqNo(self.decided)) {
            Admission::Opened { session, .. } => Reply::Opened(session),
            Admission::Expired => Reply::SessionExpired(session),
            Admission::Gap | Admission::NotTheirs => return,
            Admission::Run { from } => {
                for (_, operation) in bundle.numbered().filter(|(number, _)| *number >= from) {
                    self.operations += 1;
                    self.table
                        .record(session, OperationResult::Ok(operation.clone()));
                }
                let cached = self.table.cached(session, bundle.first(), bundle.last());
                let Some((first, results)) = cached else {
                    return;
                };
                Reply::Results {
                    session,
                    first,
                    results,
                }
            }
        };
        for replica in self.replicas.iter().flatten() {
            self.reply(replica, &bundle.client(), reply.clone());
        }
    }

    fn hear(&mut self, at: NodeId, read: &ClientInbound) {
        for frame in &read.frames {
            if self.mute == Some(at) {
                continue;
            }
            let me = self.replicas[at.index()].clone().unwrap();
            match wire::decode(frame, 4 << 20).unwrap() {
                ClientMessage::Bundle(raw) => self.bundle(raw),
                ClientMessage::Read(request) => {
                    let result = OperationResult::Ok(request.operation);
                    let reply = Reply::Read {
                        id: request.id,
                        result,
                        at: SeqNo(self.decided),
                    };
                    self.reply(&me, &read.from, reply);
                }
                ClientMessage::Status(id) => {
                    // Replica 1 speaks for another.
                    let replica = if at == NodeId(1) { NodeId(2) } else { at };
                    let report = report(replica);
                    self.reply(&me, &read.from, Reply::Status { id, report });
                }
            }
        }
    }
}

fn report(replica: NodeId) -> StatusReport {
    StatusReport {
        replica,
        view: View(1),
        leader: Some(NodeId(0)),
        decided: SeqNo(9),
        executed: SeqNo(8),
        checkpoint: SeqNo(0),
        state: genesis(),
        view_changes: 0,
        forgot_votes: false,
        catching_up: false,
        fetching: None,
        connected: vec![],
    }
}

/// Runs a replica.
fn serve(service: &Arc<Mutex<Service>>, replica: Arc<dyn ReplicaNetwork>, mut inbox: ReplicaInbox) {
    let id = replica.id();
    service.lock().unwrap().replicas[id.index()] = Some(replica);
    let service = Arc::clone(service);
    tokio::spawn(async move {
        while let Some(read) = inbox.clients.recv().await {
            service.lock().unwrap().hear(id, &read);
        }
    });
}

struct Cluster {
    hub: MemoryHub,
    service: Arc<Mutex<Service>>,
    key: KeyPair,
    quorums: Quorums,
}

impl Cluster {
    fn start(running: u32) -> Self {
        let hub = MemoryHub::new(4);
        let service = Service::new();
        for id in (0..running).map(NodeId) {
            let (replica, inbox) = hub.replica(id).unwrap();
            serve(&service, replica, inbox);
        }
        let quorums = Quorums::new(FaultModel::Byzantine, 4).unwrap();
        Self {
            hub,
            service,
            key: KeyPair::from_seed(&[5; 32]),
            quorums,
        }
    }

    fn client(&self) -> Client {
        let instance = random_instance().unwrap();
        self.client_with(CoreConfig::new(genesis(), self.quorums, instance))
    }

    fn client_with(&self, config: CoreConfig) -> Client {
        let id = ClientId {
            key: self.key.public_key(),
            instance: config.instance,
        };
        let (network, inbox) = self.hub.client(id).unwrap();
        Client::over(network, inbox, config, Arc::new(self.key.clone())).unwrap()
    }

    fn decided(&self) -> u64 {
        self.service.lock().unwrap().decided
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_callers_on_one_client_share_bundles() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    client.ready(LONG).await.unwrap();
    let (callers, each) = (250u64, 40);
    let tasks = (0..callers).map(|caller| {
        let client = client.clone();
        tokio::spawn(async move {
            for i in 0..each {
                let operation = Bytes::from(format!("{caller} {i}"));
                assert_eq!(client.call(operation.clone()).await, Ok(operation));
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(cluster.service.lock().unwrap().operations, callers * each);
    let per_bundle = callers * each / cluster.decided();
    assert!(
        per_bundle >= 20,
        "{per_bundle} operations under one signature"
    );
}

#[tokio::test(start_paused = true)]
async fn callers_who_call_again_when_answered_form_one_bundle() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    client.ready(LONG).await.unwrap();
    let round = || async {
        let before = cluster.decided();
        let calls: Vec<_> = (0..250u64)
            .map(|i| {
                let client = client.clone();
                tokio::spawn(async move { client.call_typed::<u64, u64>(&i).await })
            })
            .collect();
        for (i, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap(), Ok(i as u64));
        }
        cluster.decided() - before
    };
    round().await;
    assert!(round().await <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_mute_leader_costs_a_time_out_not_the_call() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    client.ready(LONG).await.unwrap();
    cluster.service.lock().unwrap().mute = Some(NodeId(0));
    let reply = client.call(Bytes::from_static(b"hello")).await;
    assert_eq!(reply, Ok(Bytes::from_static(b"hello")));
    assert_eq!(cluster.service.lock().unwrap().operations, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_noticed_by_its_connection() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    client.ready(LONG).await.unwrap();
    client.call(Bytes::from_static(b"a")).await.unwrap();
    cluster.hub.cut(client.id(), NodeId(0));
    let begun = tokio::time::Instant::now();
    client.call(Bytes::from_static(b"b")).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn not_ready_names_who_could_not_be_reached() {
    let cluster = Cluster::start(1);
    let client = cluster.client();
    let waited = Duration::from_secs(2);
    let unreachable = vec![NodeId(1), NodeId(2), NodeId(3)];
    let expected = NotReady::TimedOut {
        waited,
        reachable: vec![NodeId(0)],
        unreachable,
    };
    assert_eq!(client.ready(waited).await, Err(expected));
    assert_eq!(client.call(Bytes::new()).await, Err(CallError::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn ready_opens_another_session_after_the_cluster_closed_one() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    client.ready(LONG).await.unwrap();
    {
        let mut service = cluster.service.lock().unwrap();
        for instance in 0..10 {
            let id = ClientId {
                key: cluster.key.public_key(),
                instance,
            };
            let open = RequestBundle::open(id, &genesis(), &cluster.key);
            service.decided += 1;
            let seq = SeqNo(service.decided);
            service.table.admit(&open, seq);
        }
    }
    let outcome = client.call(Bytes::new()).await;
    let doubt = Doubt::SessionExpired;
    assert!(matches!(outcome, Err(CallError::UnknownOutcome { doubt: d, .. }) if d == doubt));
    client.ready(LONG).await.unwrap();
    assert_eq!(client.call(Bytes::new()).await, Ok(Bytes::new()));
}

#[tokio::test(start_paused = true)]
async fn a_call_s_own_deadline_and_the_end_of_the_client_are_told_apart() {
    let cluster = Cluster::start(4);
    let hole = Bytes::from_static(b"hole");
    cluster.service.lock().unwrap().black_hole = Some(hole.clone());
    let client = cluster.client();
    client.ready(LONG).await.unwrap();
    let one = client
        .call_within(hole.clone(), Duration::from_secs(1))
        .await;
    let Err(CallError::UnknownOutcome {
        request,
        doubt: Doubt::Deadline,
    }) = one
    else {
        panic!("{one:?}")
    };
    assert_eq!(
        (request.client, request.operation),
        (client.id(), OpNumber(1))
    );
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.call(Bytes::from_static(b"behind the hole")).await }
    });
    tokio::task::yield_now().await;
    client.close().await;
    let outcome = waiting.await.unwrap();
    let closed = matches!(
        outcome,
        Err(CallError::Closed
            | CallError::UnknownOutcome {
                doubt: Doubt::Closed,
                ..
            })
    );
    assert!(closed, "{outcome:?}");
    assert_eq!(client.call(hole).await, Err(CallError::Closed));
    assert_eq!(client.ready(LONG).await, Err(NotReady::Closed));
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_client_takes_the_network_with_it() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    client.ready(LONG).await.unwrap();
    let network = Arc::clone(client.network());
    let clone = client.clone();
    drop(client);
    assert_eq!(clone.call(Bytes::new()).await, Ok(Bytes::new()));
    drop(clone);
    while !network.connected().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_runtime_that_goes_tells_the_calls() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (client, hole) = runtime.block_on(async {
        let cluster = Cluster::start(4);
        let hole = Bytes::from_static(b"hole");
        cluster.service.lock().unwrap().black_hole = Some(hole.clone());
        let client = cluster.client();
        client.ready(LONG).await.unwrap();
        (client, hole)
    });
    let mut call = Box::pin(client.call(hole));
    let other = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let poll = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx)));
    assert!(other.block_on(poll).is_pending());
    drop(runtime);
    let outcome = other.block_on(call);
    let told = matches!(
        outcome,
        Err(CallError::Closed
            | CallError::UnknownOutcome {
                doubt: Doubt::Closed,
                ..
            })
    );
    assert!(told, "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn reads_and_types() {
    let cluster = Cluster::start(4);
    let instance = random_instance().unwrap();
    let mut config = CoreConfig::new(genesis(), cluster.quorums, instance);
    config.unordered_reads = true;
    let client = cluster.client_with(config);
    client.ready(LONG).await.unwrap();
    let before = cluster.decided();
    for consistency in [Consistency::Linearizable, Consistency::Stale] {
        let text = client.read_typed::<_, String>("read", consistency).await;
        assert_eq!(text.as_deref(), Ok("read"));
    }
    assert_eq!(cluster.decided(), before);
    let wrong = client.call_typed::<_, u64>("text").await;
    assert!(matches!(wrong, Err(CallError::Decode(_))), "{wrong:?}");
}

#[tokio::test(start_paused = true)]
async fn status_comes_from_each_replica_for_itself() {
    let cluster = Cluster::start(3);
    let client = cluster.client();
    client.ready(LONG).await.unwrap();
    let reports = client.status(Duration::from_secs(1)).await;
    assert_eq!(reports, [report(NodeId(0)), report(NodeId(2))]);
}

#[tokio::test]
async fn over_tls_a_client_finds_its_cluster() {
    let service = Service::new();
    let keys: Vec<KeyPair> = (10..14)
        .map(|seed| KeyPair::from_seed(&[seed; 32]))
        .collect();
    let sockets: Vec<_> = (0..4)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let member = |(id, (key, socket)): (u32, (&KeyPair, &TcpListener))| {
        let address = socket.local_addr().unwrap().to_string();
        Member {
            id: NodeId(id),
            key: key.public_key(),
            address,
        }
    };
    let members: Vec<Member> = (0..).zip(keys.iter().zip(&sockets)).map(member).collect();
    for ((id, key), socket) in (0..).map(NodeId).zip(keys).zip(sockets) {
        let config = TlsReplicaConfig {
            id,
            key,
            genesis: genesis(),
            members: members.clone(),
            clients: ClientAdmission::Any,
            listener: Listener::Bound(socket),
            limits: ReplicaLimits {
                client_frame_bytes_max: 3 << 20,
                ..ReplicaLimits::default()
            },
            connections: ConnectionLimits::default(),
            pending_handshakes_max: 16,
        };
        let (replica, inbox) = TlsReplicaNetwork::start(config).unwrap();
        serve(&service, replica, inbox);
    }
    let key = KeyPair::from_seed(&[5; 32]);
    let config = ClientConfig::new(key, genesis(), FaultModel::Byzantine, members).unwrap();
    let client = Client::connect(config).unwrap();
    client.ready(LONG).await.unwrap();
    let largest = Bytes::from(vec![7; Limits::default().operation_bytes_max]);
    let calls = (0..20).map(|_| {
        let (client, largest) = (client.clone(), largest.clone());
        tokio::spawn(async move { client.call(largest).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().len(), largest.len());
    }
    assert_eq!(service.lock().unwrap().operations, 20);
    client.close().await;
}
