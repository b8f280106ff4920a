//! The endpoint over real sockets.

use super::metrics::{Identity, Snapshot};
use super::request::REQUEST_BYTES_MAX;
use super::server::{AdminCounters, AdminServer, Bounds, Pages};
use crate::config::{
    ClientsEntry, ClusterConfig, ClusterFile, KnownProtocol, MemberEntry, NodeConfig, Timeouts,
};
use atlas_common::NodeId;
use atlas_common::crypto::{KeyPair, Signer};
use atlas_communication::{Lane, Refusal, Traffic};
use atlas_core::{Limits, Role};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot {
        view: 7,
        is_leader: true,
        decided: 41,
        pool_bytes: 5,
        rejected: BTreeMap::from([("bad_signature", 3)]),
        ..Snapshot::default()
    };
    let traffic = Traffic {
        frames_sent: 11,
        bytes_dropped: 13,
        ..Traffic::default()
    };
    let lanes = BTreeMap::from([(Lane::Ordering, traffic)]);
    snapshot.network.links.insert(NodeId(2), lanes);
    snapshot
        .network
        .refusals
        .by_us
        .insert(Refusal::WrongCluster, 9);
    snapshot.log.commit_micros = 1_500_000;
    snapshot
}

fn pages() -> Pages {
    Pages {
        snapshot: Box::new(snapshot),
        status: Box::new(|| serde_json::json!({ "view": 7, "leader": null })),
    }
}

fn start(pages: Pages, bounds: Bounds) -> AdminServer {
    let identity = Identity {
        cluster: "a \"b\"".to_owned(),
        protocol: "pbft",
        replica: 3,
    };
    AdminServer::start_at(ANY_PORT, identity, pages, bounds).unwrap()
}

fn connect(server: &AdminServer) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

/// Everything that comes until the server ends the connection; an abrupt end is an end too.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    String::from_utf8(bytes).unwrap()
}

fn exchange(server: &AdminServer, request: &[u8]) -> String {
    let mut stream = connect(server);
    stream.write_all(request).unwrap();
    rest(stream)
}

fn get(server: &AdminServer, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
    let response = exchange(server, request.as_bytes());
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())),
        "{head}"
    );
    response
}

/// Waits for the endpoint's thread to count what it did: other than by asking there is no knowing.
fn until(server: &AdminServer, reached: impl Fn(AdminCounters) -> bool) {
    let begun = Instant::now();
    while !reached(server.counters()) {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{:?}",
            server.counters()
        );
        std::thread::yield_now();
    }
}

#[test]
fn both_pages_come_over_a_real_socket() {
    let server = start(pages(), Bounds::default());
    let page = get(&server, "/metrics");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text"));
    for line in [
        "atlas_replica_info{cluster=\"a \\\"b\\\"\",protocol=\"pbft\",replica=\"3\",version=\"0.1.0\"} 1",
        "atlas_view 7",
        "atlas_is_leader 1",
        "atlas_decided_slot 41",
        "# TYPE atlas_pool_bytes gauge",
        "atlas_pool_bytes 5",
        "atlas_rejected_messages_total{reason=\"bad_signature\"} 3",
        "atlas_peer_frames_total{peer=\"2\",lane=\"ordering\",direction=\"sent\"} 11",
        "atlas_peer_bytes_total{peer=\"2\",lane=\"ordering\",direction=\"dropped\"} 13",
        "atlas_client_frames_total{direction=\"received\"} 0",
        "atlas_connections_refused_total{by=\"us\",reason=\"wrong_cluster\"} 9",
        "atlas_connections_refused_total{by=\"peer\",reason=\"unknown_key\"} 0",
        "atlas_log_record_bytes_total 0",
        "atlas_log_commit_seconds_total 1.5",
        "atlas_admin_requests_total{outcome=\"served\"} 1",
        "# EOF",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    let status = get(&server, "/status");
    assert!(status.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"));
    let (_, json) = status.split_once("\r\n\r\n").unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json, serde_json::json!({ "view": 7, "leader": null }));
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let server = start(pages(), Bounds::default());
    let page = get(&server, "/metrics");
    let exists: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let text = include_str!("../../../docs/metrics.md");
    let documented: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split(['`', '{']).next())
        .map(|name| name.trim_end_matches("_total"))
        .collect();
    assert_eq!(documented, exists);
}

#[test]
fn what_is_no_request_for_a_page_gets_an_answer_and_the_end_of_the_connection() {
    let server = start(pages(), Bounds::default());
    let status = |request: &[u8]| {
        let response = exchange(&server, request);
        response.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(
        status(b"POST /metrics HTTP/1.1\r\n\r\nx"),
        "HTTP/1.1 405 Method Not Allowed"
    );
    assert_eq!(status(b"what?\r\n"), "HTTP/1.1 400 Bad Request");
    assert_eq!(
        status(b"\x16\x03\x01\x00\xff\x00\n"),
        "HTTP/1.1 400 Bad Request"
    );
    let long = format!("GET /status HTTP/1.1\r\n{}", "a".repeat(REQUEST_BYTES_MAX));
    assert_eq!(
        status(long.as_bytes()),
        "HTTP/1.1 431 Request Header Fields Too Large"
    );
    let endless = vec![b'a'; 20 * REQUEST_BYTES_MAX];
    assert_eq!(
        status(&endless),
        "HTTP/1.1 431 Request Header Fields Too Large"
    );
    let stream = connect(&server);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(stream), "", "nothing asked, nothing said");
    assert_eq!(server.counters().refused, 6);
    assert!(get(&server, "/status").starts_with("HTTP/1.1 200"));
}

/// A request in drips, a request that never ends, a reader that never reads: each is cut, while
/// others are served.
#[test]
fn slow_peers_are_cut_and_hold_up_nobody() {
    let bounds = Bounds {
        connection_max: Duration::from_secs(2),
        ..Bounds::default()
    };
    let large = Pages {
        status: Box::new(|| "x".repeat(32 << 20).into()),
        ..pages()
    };
    let server = start(large, bounds);
    let silent = connect(&server);
    let mut drips = connect(&server);
    drips.write_all(b"GET /metr").unwrap();
    let mut deaf = connect(&server);
    deaf.write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
    let mut greedy = connect(&server);
    greedy.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    assert!(get(&server, "/metrics").starts_with("HTTP/1.1 200"));
    // Each read returns because the server ended the connection; the test has no clock.
    assert_eq!(rest(silent), "");
    assert_eq!(rest(drips), "");
    // This one has its page, and keeps its end open.
    let mut byte = [0];
    while greedy.read(&mut byte).is_ok_and(|read| read > 0) {}
    until(&server, |counters| counters.cut >= 4);
    drop((deaf, greedy));
    assert!(get(&server, "/metrics").starts_with("HTTP/1.1 200"));
}

#[test]
fn connections_beyond_the_bound_are_turned_away_and_the_bound_frees_up() {
    let bounds = Bounds {
        connections_max: 4,
        // Long enough that only closing them frees the places.
        connection_max: Duration::from_secs(3600),
    };
    let server = start(pages(), bounds);
    let held: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
    for _ in 0..100 {
        assert_eq!(rest(connect(&server)), "");
    }
    assert_eq!(server.counters().turned_away, 100);
    drop(held);
    // The places are free once the endpoint has seen the ends.
    let begun = Instant::now();
    while !exchange(&server, b"GET /status HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn a_page_that_panics_costs_its_fetch_alone() {
    let panicking = Pages {
        status: Box::new(|| panic!("a test")),
        ..pages()
    };
    let server = start(panicking, Bounds::default());
    assert_eq!(exchange(&server, b"GET /status HTTP/1.1\r\n\r\n"), "");
    until(&server, |counters| counters.failed == 1);
    assert!(get(&server, "/metrics").starts_with("HTTP/1.1 200"));
}

#[test]
fn dropping_the_server_ends_it_with_connections_open() {
    let server = start(pages(), Bounds::default());
    let open = connect(&server);
    let address = server.address();
    drop(server);
    assert_eq!(rest(open), "");
    TcpListener::bind(address).unwrap();
}

fn node() -> NodeConfig {
    let members = (0..4).map(|id| MemberEntry {
        id,
        address: format!("127.0.0.1:{}", 7100 + id),
        public_key: KeyPair::from_seed(&[id as u8; 32]).public_key().to_string(),
        role: Role::Voter,
    });
    let file = ClusterFile {
        name: "test".to_owned(),
        cluster_id: "0".repeat(32),
        protocol: "pbft".to_owned(),
        clients: ClientsEntry::Any,
        unordered_reads: false,
        lease_reads: false,
        initial_state: None,
        members: members.collect(),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
    };
    let known = KnownProtocol::of::<atlas_pbft::Pbft>();
    let cluster = ClusterConfig::new(&file, &[known]).unwrap();
    NodeConfig::in_memory(cluster, NodeId(0), KeyPair::from_seed(&[0; 32]), "data").unwrap()
}

#[test]
fn a_busy_port_is_an_error_at_the_start_that_names_file_and_key() {
    let mut node = node();
    assert!(AdminServer::start(&node, pages()).unwrap().is_none());
    let busy = TcpListener::bind(ANY_PORT).unwrap();
    let address = busy.local_addr().unwrap();
    node.admin_listen = Some(address);
    let error = AdminServer::start(&node, pages()).unwrap_err();
    let cause = TcpListener::bind(address).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "configuration in memory: `admin_listen` is `{address}`, which cannot be listened on \
             ({cause}); expected an address of this machine with a port \
             that is free"
        )
    );
    node.admin_listen = Some(ANY_PORT);
    let server = AdminServer::start(&node, pages()).unwrap().unwrap();
    assert!(get(&server, "/metrics").contains("\natlas_view 7\n"));
}
