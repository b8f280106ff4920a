//! A replicated key-value store, as a user would write one, and run one replica of it:
//!
//! ```console
//! $ atlas init --replicas 4 --dir cluster
//! $ cargo run --example kvstore -- cluster/replica-0     # and 1, 2, 3
//! ```
//!
//! Without a directory it starts replicas in this program (`--protocol raft` for another protocol),
//! stops one, and goes on without it.

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
    // However large it is: a checkpoint stores, and a replica that was away fetches, what changed.
    type State = DivisibleMap;

    fn initial_state(&self) -> DivisibleMap {
        DivisibleMap::new()
    }

    fn update(&self, map: &mut DivisibleMap, request: Request, _: &mut ExecutionContext) -> Reply {
        match request {
            // A request is smaller than the map's limits: it is refused for neither key nor value.
            Request::Put(key, value) => {
                let previous = map.insert(key.as_bytes(), value.as_bytes()).ok().flatten();
                previous.map(|value| text(&value))
            }
            Request::Get(key) => map.get(key.as_bytes()).map(text),
            Request::Remove(key) => map.remove(key.as_bytes()).map(|value| text(&value)),
        }
    }

    fn read(&self, map: &DivisibleMap, request: Request) -> Reply {
        match request {
            Request::Get(key) => map.get(key.as_bytes()).map(text),
            // Changes are ordered or they do not happen.
            Request::Put(..) | Request::Remove(_) => None,
        }
    }

    // Requests for different keys may run at the same time.
    fn keys(&self, request: &Request) -> ReadWriteSet {
        match request {
            Request::Get(key) => ReadWriteSet::nothing().read(key.as_bytes()),
            Request::Put(key, _) | Request::Remove(key) => {
                ReadWriteSet::nothing().write(key.as_bytes())
            }
        }
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
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
