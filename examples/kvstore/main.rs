//! A replicated key-value store, as a user would write one, and run one replica of it:
//!
//! ```console
//! $ atlas init --replicas 4 --dir cluster
//! $ cargo run --example kvstore -- cluster/replica-0     # and 1, 2, 3
//! ```
//!
//! Without a directory it starts replicas in this program (`--protocol raft` for another protocol),
//! stops one, and goes on without it.

use atlas_smr::map::OrdMap;
use atlas_smr::prelude::*;

#[derive(Serialize, Deserialize)]
enum Request {
    Put(String, String),
    Get(String),
    Remove(String),
}

/// The value that the key had before.
type Reply = Option<String>;

#[derive(Clone)]
struct Store;

impl ApplicationData for Store {
    type Request = Request;
    type Reply = Reply;
}

impl Application for Store {
    // Cheap to clone however large, so that checkpoints do not stop the store.
    type State = OrdMap<String, String>;

    fn initial_state(&self) -> Self::State {
        OrdMap::new()
    }

    fn update(&self, map: &mut Self::State, request: Request, _: &mut ExecutionContext) -> Reply {
        match request {
            Request::Put(key, value) => map.insert(key, value),
            Request::Get(key) => map.get(&key).cloned(),
            Request::Remove(key) => map.remove(&key),
        }
    }

    fn read(&self, map: &Self::State, request: Request) -> Reply {
        match request {
            Request::Get(key) => map.get(&key).cloned(),
            // Changes are ordered or they do not happen.
            Request::Put(..) | Request::Remove(_) => None,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [directory] => serve(directory).await,
        _ => demonstrate(LocalClusterOptions::from_arguments(arguments)?).await,
    }
}

/// One replica of a real cluster.
async fn serve(directory: &str) -> Result<(), Box<dyn std::error::Error>> {
    let replica = Replica::builder(Store).config_file(directory)?.start()?;
    println!("replica {} is ready; Ctrl-C stops it", replica.id());
    tokio::signal::ctrl_c().await?;
    replica.shutdown().await;
    Ok(())
}

async fn demonstrate(options: LocalClusterOptions) -> Result<(), Box<dyn std::error::Error>> {
    let mut cluster = LocalCluster::start(Store, options).await?;
    let store = cluster.client().clone();
    let put = |key: &str, value: &str| Request::Put(key.to_owned(), value.to_owned());

    assert_eq!(store.call(&put("fruit", "apple")).await?, None);
    assert_eq!(
        store.call(&put("fruit", "pear")).await?,
        Some("apple".to_owned())
    );
    println!("fruit was an apple and is a pear");

    cluster.stop(0).await;
    println!("replica 0 is gone");
    assert_eq!(
        store.call(&put("fruit", "plum")).await?,
        Some("pear".to_owned())
    );
    let fruit = store
        .read(&Request::Get("fruit".into()), Consistency::Linearizable)
        .await?;
    println!(
        "the others go on: fruit is a {}",
        fruit.as_deref().unwrap_or("?")
    );

    assert_eq!(
        store.call(&Request::Remove("fruit".into())).await?,
        Some("plum".to_owned())
    );
    cluster.shutdown().await;
    Ok(())
}
