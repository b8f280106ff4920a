//! A replicated counter. `cargo run --example counter` starts four replicas in this program, counts
//! from many tasks at once, and shows that no step was lost or taken twice. `-- --protocol raft` or
//! `rabia` orders its steps by another protocol.

use atlas_smr::prelude::*;

/// What clients may ask.
#[derive(Serialize, Deserialize)]
enum Request {
    Add(u64),
    Get,
}

#[derive(Clone)]
struct Counter;

impl ApplicationData for Counter {
    type Request = Request;
    type Reply = u64;
}

impl Application for Counter {
    type State = u64;

    fn initial_state(&self) -> u64 {
        0
    }

    fn update(&self, count: &mut u64, request: Request, _cx: &mut ExecutionContext) -> u64 {
        if let Request::Add(steps) = request {
            *count = count.wrapping_add(steps);
        }
        *count
    }

    fn read(&self, count: &u64, _request: Request) -> u64 {
        *count
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = LocalClusterOptions::from_arguments(std::env::args().skip(1))?;
    println!(
        "{} replicas, ordered by {}",
        options.replicas, options.protocol
    );
    let cluster = LocalCluster::start(Counter, options).await?;
    println!("they are up, their files in {}", cluster.dir().display());

    let mut tasks = Vec::new();
    for _ in 0..50 {
        let counter = cluster.client().clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..20 {
                counter.call(&Request::Add(1)).await?;
            }
            Ok::<_, CallError>(())
        }));
    }
    for task in tasks {
        task.await??;
    }

    let count = cluster
        .client()
        .read(&Request::Get, Consistency::Linearizable)
        .await?;
    println!("50 tasks added 1 twenty times each: the counter is at {count}");
    assert_eq!(count, 1000);
    cluster.shutdown().await;
    Ok(())
}
