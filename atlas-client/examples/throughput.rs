//! What the client itself costs: calls per second against replicas in the same process that only
//! echo. Everything, the replicas' decoding and encoding too, runs on one thread.
//!
//! `cargo run --release -p atlas-client --example throughput -- [callers] [seconds]`

use atlas_client::{Client, CoreConfig, random_instance};
use atlas_common::crypto::{KeyPair, Signer};
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::{ClientId, Digest, NodeId, SessionId, View, wire};
use atlas_communication::{MemoryHub, ReplicaNetwork};
use atlas_core::Limits;
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{
    ClientMessage, LeaderHint, OperationResult, Reply, ReplyMessage,
};
use bytes::Bytes;
use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let callers: usize = arguments.next().map_or(Ok(250), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(measure(callers, Duration::from_secs(seconds))))
}

async fn measure(callers: usize, duration: Duration) -> Result<(), Box<dyn Error>> {
    let genesis = Digest::of(b"throughput");
    let hub = MemoryHub::new(4);
    let bundles = Rc::new(Cell::new(0u64));
    let (leader, mut inbox) = hub.replica(NodeId(0))?;
    let mut replicas = vec![Arc::clone(&leader)];
    let mut inboxes = Vec::new();
    for id in 1..4 {
        let (replica, inbox) = hub.replica(NodeId(id))?;
        replicas.push(replica);
        inboxes.push(inbox);
    }
    let counter = Rc::clone(&bundles);
    tokio::task::spawn_local(async move {
        while let Some(read) = inbox.clients.recv().await {
            for frame in &read.frames {
                counter.set(counter.get() + 1);
                let Some(reply) = answer(frame, &genesis) else {
                    continue;
                };
                replicas
                    .iter()
                    .for_each(|replica| replica.reply(&read.from, reply.clone()));
            }
        }
    });

    let key = KeyPair::generate()?;
    let instance = random_instance()?;
    let (network, inbox) = hub.client(ClientId {
        key: key.public_key(),
        instance,
    })?;
    let config = CoreConfig::new(genesis, Quorums::new(FaultModel::Byzantine, 4)?, instance);
    let client = Client::over(network, inbox, config, Arc::new(key))?;
    client.ready(Duration::from_secs(5)).await?;

    let started = Instant::now();
    let before = bundles.get();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                let operation = Bytes::from_static(&[7; 16]);
                let mut calls = 0u64;
                while started.elapsed() < duration {
                    calls += u64::from(client.call(operation.clone()).await.is_ok());
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for task in tasks {
        calls += task.await?;
    }
    let (seconds, bundles) = (started.elapsed().as_secs_f64(), bundles.get() - before);
    println!(
        "{callers} callers: {:.0} calls/s, {:.0} calls per bundle, {calls} calls",
        calls as f64 / seconds,
        calls as f64 / bundles as f64,
    );
    client.close().await;
    Ok(())
}

fn answer(frame: &[u8], genesis: &Digest) -> Option<Bytes> {
    let ClientMessage::Bundle(raw) = wire::decode(frame, 4 << 20).ok()? else {
        return None;
    };
    let bundle = RequestBundle::decode(raw, genesis, &Limits::default()).ok()?;
    let reply = if bundle.opens_session() {
        Reply::Opened(SessionId(1))
    } else {
        let results = bundle
            .operations()
            .iter()
            .cloned()
            .map(OperationResult::Ok)
            .collect();
        Reply::Results {
            session: bundle.session(),
            first: bundle.first(),
            results,
        }
    };
    let hint = LeaderHint {
        view: View(0),
        leader: Some(NodeId(0)),
    };
    wire::encode(&ReplyMessage { hint, reply })
        .ok()
        .map(Bytes::from)
}
