//! A cluster becomes ready whatever the order in which its replicas start.

use crate::processes::{PATIENCE, free_ports};
use atlas_kv::{Kv, KvReply, KvRequest};
use atlas_smr::config::{ClientConfig, InitOptions, NodeConfig, Ports};
use atlas_smr::{
    ApplicationClient, Client, Durability, ProtocolRegistry, Replica, ReplicaHandle, connect,
    create_cluster,
};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const REPLICAS: usize = 4;

/// The seed of this run: `ATLAS_SEED`, or another each time.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let given = std::env::var("ATLAS_SEED");
    given.map_or(now.as_nanos() as u64, |seed| seed.parse().unwrap())
}

/// `0..=REPLICAS` in an order that follows from the seed: each replica, and last the client.
fn random_order(seed: u64, round: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..=REPLICAS).collect();
    let rank = |who: &usize| *blake3::hash(format!("{seed} {round} {who}").as_bytes()).as_bytes();
    order.sort_by_key(rank);
    order
}

/// Starts what is listed in this order, and returns how long it took from there until the client had
/// its first answer.
async fn start_and_serve(order: &[usize]) -> Duration {
    let dir = TempDir::with_prefix("atlas-test-").unwrap();
    let known = ProtocolRegistry::default().known();
    let pbft = known.iter().find(|known| known.name == "pbft").unwrap();
    let mut options = InitOptions::new(dir.path().join("cluster"), REPLICAS, *pbft);
    options.ports = Ports::From(free_ports(REPLICAS as u16));
    options.durability = Durability::Memory;
    let files = create_cluster(&options).unwrap();

    let began = Instant::now();
    let (mut replicas, mut client): (Vec<ReplicaHandle>, Option<Client>) = (Vec::new(), None);
    for who in order {
        if let Some(directory) = files.replicas.get(*who) {
            let node = NodeConfig::load(directory, &known).unwrap();
            let started = Replica::builder(Kv::default()).config(node).start();
            replicas.push(started.unwrap());
        } else {
            let config = ClientConfig::load(&files.clients[0], &known).unwrap();
            client = Some(connect(&config).unwrap());
        }
    }
    let client = client.expect("the order holds the client");
    client.ready(PATIENCE).await.unwrap();
    let put = KvRequest::Put {
        key: "key".to_owned(),
        value: "value".into(),
    };
    let reply = ApplicationClient::<Kv>::new(client.clone())
        .call(&put)
        .await;
    assert!(matches!(reply, Ok(KvReply::Put { previous: false })));
    let took = began.elapsed();
    client.close().await;
    for replica in replicas {
        replica.shutdown().await;
    }
    took
}

/// Two of eleven fault-free starts never became ready in a published system.
#[test]
fn a_cluster_starts_50_times_in_a_row_in_random_order() {
    let seed = seed();
    println!("ATLAS_SEED={seed}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..50 {
        let order = random_order(seed, round);
        let served = runtime
            .block_on(async { tokio::time::timeout(PATIENCE, start_and_serve(&order)).await });
        let took = served.unwrap_or_else(|_| panic!("round {round}, {order:?}: never ready"));
        println!("round {round}, {order:?}: {} ms", took.as_millis());
    }
}
