//! The thread that serves the pages.

use super::metrics::{Identity, Metrics, Snapshot};
use super::request::{REQUEST_BYTES_MAX, Request, response};
use crate::config::{ConfigError, NodeConfig};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

/// Where the pages' contents come from. Both are called each time that a page is fetched, on a thread
/// that may block; one that blocks or panics costs the fetch and nothing else.
pub struct Pages {
    /// What `/metrics` shows.
    pub snapshot: Box<dyn Fn() -> Snapshot + Send + Sync>,
    /// What `/status` shows.
    pub status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// What the endpoint has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdminCounters {
    /// Pages served.
    pub served: u64,
    /// Requests that asked for something else, or were no requests.
    pub refused: u64,
    /// Connections ended because they took too long.
    pub cut: u64,
    /// Connections turned away because as many as are allowed were open.
    pub turned_away: u64,
    /// Connections that broke, or whose page could not be made.
    pub failed: u64,
}

/// The bounds of the endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections open at once.
    pub(super) connections_max: usize,
    /// From the first byte to the last of a connection.
    pub(super) connection_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 16,
            connection_max: Duration::from_secs(5),
        }
    }
}

/// The endpoint at work. It ends when this is dropped.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    meter: Arc<Meter>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Starts the endpoint where the node's `admin_listen` says; nothing where it says nothing.
    ///
    /// # Errors
    /// When the address cannot be listened on (busy, not of this machine, not permitted) or the
    /// system gives no thread.
    pub fn start(node: &NodeConfig, pages: Pages) -> Result<Option<Self>, ConfigError> {
        let Some(address) = node.admin_listen else {
            return Ok(None);
        };
        let identity = Identity::of(node);
        let started = Self::start_at(address, identity, pages, Bounds::default());
        started.map(Some).map_err(|error| {
            let found = format!("`{address}`, which cannot be listened on ({error})");
            let expected = "an address of this machine with a port that is free";
            node.wrong("admin_listen", &found, expected)
        })
    }

    pub(super) fn start_at(
        address: SocketAddr,
        identity: Identity,
        pages: Pages,
        bounds: Bounds,
    ) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let meter = Arc::new(Meter::default());
        let site = Arc::new(Site {
            pages,
            metrics: Metrics::new(identity),
            meter: Arc::clone(&meter),
            bounds,
        });
        let (stop, stopped) = oneshot::channel();
        let serve = move || runtime.block_on(serve(listener, site, stopped));
        let thread = std::thread::Builder::new()
            .name("atlas-admin".to_owned())
            .spawn(serve)?;
        Ok(Self {
            address,
            meter,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has counted.
    #[must_use]
    pub fn counters(&self) -> AdminCounters {
        self.meter.counters()
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked: then it has ended too.
            drop(thread.join());
        }
    }
}

#[derive(Debug, Default)]
struct Meter {
    served: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    turned_away: AtomicU64,
    failed: AtomicU64,
}

impl Meter {
    fn counters(&self) -> AdminCounters {
        AdminCounters {
            served: self.served.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            cut: self.cut.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What all connections share.
struct Site {
    pages: Pages,
    metrics: Metrics,
    meter: Arc<Meter>,
    bounds: Bounds,
}

async fn serve(listener: StdListener, site: Arc<Site>, mut stopped: oneshot::Receiver<()>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return count(&site.meter.failed);
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Dropped with the server: that is the sign to stop.
            _ = &mut stopped => return,
            Some(ended) = connections.join_next() => {
                if ended.is_err() {
                    count(&site.meter.failed);
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < site.bounds.connections_max => {
                    connections.spawn(attend(stream, Arc::clone(&site)));
                }
                Ok(_) => count(&site.meter.turned_away),
                Err(_) => {
                    count(&site.meter.failed);
                    // Out of file descriptors, mostly: asking again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn attend(stream: TcpStream, site: Arc<Site>) {
    match timeout(site.bounds.connection_max, Arc::clone(&site).answer(stream)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => count(&site.meter.failed),
        Err(_) => count(&site.meter.cut),
    }
}

impl Site {
    async fn answer(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        let Some(request) = read_request(&mut stream).await? else {
            return Ok(());
        };
        // The contents come from the core, which is waited for.
        let page = spawn_blocking(move || self.page(request)).await?;
        stream.write_all(&page).await?;
        stream.shutdown().await?;
        // A socket that is closed with bytes unread resets the connection, which may destroy the
        // response on its way: read what else comes, within the connection's time.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }

    fn page(&self, request: Request) -> Vec<u8> {
        const TEXT: &str = "text/plain; charset=utf-8";
        let refused = |status: &str, body: &str| {
            count(&self.meter.refused);
            response(status, TEXT, body)
        };
        match request {
            Request::Metrics => self.metrics_page(),
            Request::Status => {
                let status = (self.pages.status)();
                count(&self.meter.served);
                response("200 OK", "application/json", &format!("{status:#}\n"))
            }
            Request::NotFound => refused("404 Not Found", "Here are /metrics and /status.\n"),
            Request::NotGet => refused("405 Method Not Allowed", "GET alone works here.\n"),
            Request::Malformed => refused("400 Bad Request", "This is no HTTP/1.1 request.\n"),
            Request::TooLarge => {
                let body = format!("A request has at most {REQUEST_BYTES_MAX} bytes here.\n");
                refused("431 Request Header Fields Too Large", &body)
            }
        }
    }

    fn metrics_page(&self) -> Vec<u8> {
        let snapshot = (self.pages.snapshot)();
        // Before the page is made, so that it counts itself.
        count(&self.meter.served);
        self.metrics.update(snapshot, self.meter.counters());
        match self.metrics.encode() {
            Ok(page) => response("200 OK", Metrics::CONTENT_TYPE, &page),
            Err(error) => {
                count(&self.meter.failed);
                let body = format!("The metrics cannot be written: {error}.\n");
                response("500 Internal Server Error", "text/plain", &body)
            }
        }
    }
}

/// One request; `None` when the connection ended before one was whole.
async fn read_request(stream: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let room = (REQUEST_BYTES_MAX - bytes.len()) as u64;
        if (&mut *stream).take(room).read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
        if let Some(request) = Request::read(&bytes) {
            return Ok(Some(request));
        }
    }
}
