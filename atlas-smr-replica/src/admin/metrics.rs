//! The metrics of a replica, made from a plain [`Snapshot`] at the moment they are fetched: nothing
//! that orders or executes ever touches a metrics type.

use super::server::AdminCounters;
use crate::config::NodeConfig;
use crate::store::CheckpointFigures;
use atlas_communication::{NetworkCounters, Refusal, Traffic};
use atlas_persistent_log::LogStats;
use atlas_smr_core::transfer::StateTransferCounters;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where a replica stands and what it has counted since it started.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The view (term) it is in.
    pub view: u64,
    /// Whether it leads.
    pub is_leader: bool,
    /// Whether it is between views.
    pub changing_view: bool,
    /// View changes completed.
    pub view_changes: u64,
    /// The last slot decided.
    pub decided: u64,
    /// The last slot executed.
    pub executed: u64,
    /// The slot of the newest certified checkpoint.
    pub checkpoint: u64,
    /// Slots proposed and not decided.
    pub in_flight: u64,
    /// Whether it has no vote for now, because it lost its log or a part of it.
    pub forgot_votes: bool,
    /// Whether it is fetching decisions or a state.
    pub catching_up: bool,
    /// Bundles that wait in the pool.
    pub pool_bundles: u64,
    /// Their bytes.
    pub pool_bytes: u64,
    /// Messages and decisions that wait for the disk.
    pub outbox: u64,
    /// Decisions handed to the executor.
    pub decisions: u64,
    /// Decisions learnt by log transfer.
    pub decisions_transferred: u64,
    /// States installed from peers.
    pub states_installed: u64,
    /// What was written of checkpoints.
    pub checkpoints: CheckpointFigures,
    /// What was fetched and served of states.
    pub transfer: StateTransferCounters,
    /// Of the state that is being fetched: bytes that are here, and all.
    pub fetching: (u64, u64),
    /// Operations executed.
    pub operations: u64,
    /// Operations on which the application panicked.
    pub application_failures: u64,
    /// Replies that are no longer kept because there were too many bytes of them.
    pub replies_forgotten: u64,
    /// Requests dropped, by reason.
    pub requests_dropped: BTreeMap<&'static str, u64>,
    /// Messages of peers dropped, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Cases of proven misbehaviour of a peer.
    pub evidence: u64,
    /// What the network has counted.
    pub network: NetworkCounters,
    /// What the log has counted.
    pub log: LogStats,
}

/// Which replica the metrics are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The protocol.
    pub protocol: &'static str,
    /// The replica.
    pub replica: u32,
}

impl Identity {
    /// That of a configured node.
    #[must_use]
    pub fn of(node: &NodeConfig) -> Self {
        Self {
            cluster: node.cluster.name().to_owned(),
            protocol: node.cluster.protocol().name,
            replica: node.id.0,
        }
    }
}

/// The metrics page.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
}

impl Metrics {
    /// The page's media type: OpenMetrics text.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The page of one replica, all zeros until it is updated.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let families = Arc::new(Families {
            identity,
            now: Mutex::default(),
        });
        let mut registry = Registry::with_prefix("atlas");
        registry.register_collector(Box::new(Arc::clone(&families)));
        Self { registry, families }
    }

    /// Replaces what the page shows.
    pub fn update(&self, snapshot: Snapshot, admin: AdminCounters) {
        *self.families.now.lock() = (snapshot, admin);
    }

    /// The page.
    ///
    /// # Errors
    /// None that is known of: it is written to memory.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

#[derive(Debug)]
struct Families {
    identity: Identity,
    now: Mutex<(Snapshot, AdminCounters)>,
}

impl Collector for Families {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (snapshot, admin) = &*self.now.lock();
        let mut page = Page(encoder);
        page.identity(&self.identity)?;
        page.ordering(snapshot)?;
        page.execution(snapshot)?;
        page.checkpoints(snapshot)?;
        page.transfer(snapshot)?;
        page.requests(snapshot)?;
        page.peers(&snapshot.network)?;
        page.connections(&snapshot.network)?;
        page.log(&snapshot.log)?;
        page.admin(admin)
    }
}

/// The labels of one value.
type Labels = Vec<(&'static str, String)>;

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        gauge.encode(metric)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn identity(&mut self, identity: &Identity) -> fmt::Result {
        let help = "Which replica this is; always 1";
        let labels: Labels = vec![
            ("cluster", identity.cluster.clone()),
            ("protocol", identity.protocol.to_owned()),
            ("replica", identity.replica.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let mut family = self
            .0
            .encode_descriptor("replica_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(family.encode_family(&labels)?)
    }

    fn ordering(&mut self, now: &Snapshot) -> fmt::Result {
        self.gauge("view", "The view (term) the replica is in", now.view)?;
        self.gauge(
            "is_leader",
            "1 when this replica leads",
            now.is_leader.into(),
        )?;
        let changing = now.changing_view.into();
        self.gauge("changing_view", "1 between two views", changing)?;
        self.counter("view_changes", "View changes completed", now.view_changes)?;
        self.gauge("decided_slot", "The last slot decided", now.decided)?;
        let help = "The slot of the newest certified checkpoint";
        self.gauge("checkpoint_slot", help, now.checkpoint)?;
        self.gauge(
            "in_flight_slots",
            "Slots proposed and not decided",
            now.in_flight,
        )?;
        let help = "1 while decisions or a state are fetched from peers";
        self.gauge("catching_up", help, now.catching_up.into())?;
        let help = "1 while it has no vote, because it lost its log or a part of it";
        self.gauge("forgot_votes", help, now.forgot_votes.into())?;
        let help = "Messages and decisions that wait for the disk";
        self.gauge("outbox_messages", help, now.outbox)?;
        let help = "Messages of peers dropped, by reason";
        self.family("rejected_messages", help, None, by_reason(&now.rejected))?;
        let help = "Cases of proven misbehaviour of a peer";
        self.counter("evidence", help, now.evidence)
    }

    fn execution(&mut self, now: &Snapshot) -> fmt::Result {
        self.gauge("executed_slot", "The last slot executed", now.executed)?;
        self.counter(
            "decisions",
            "Decisions handed to the executor",
            now.decisions,
        )?;
        let help = "Decisions learnt from peers by log transfer";
        self.counter("decisions_transferred", help, now.decisions_transferred)?;
        let help = "States fetched from peers and installed";
        self.counter("states_installed", help, now.states_installed)?;
        self.counter("operations_executed", "Operations executed", now.operations)?;
        let help = "Operations on which the application panicked";
        self.counter("application_failures", help, now.application_failures)?;
        let help = "Replies given up because those of all sessions outgrew replies_bytes_max";
        self.counter("replies_forgotten", help, now.replies_forgotten)
    }

    fn checkpoints(&mut self, now: &Snapshot) -> fmt::Result {
        let figures = now.checkpoints;
        let help = "Checkpoints of its own state that the replica has written";
        self.counter("checkpoints_written", help, figures.written)?;
        let help = "Bytes written for checkpoints: parts that were not there, pages and indexes";
        self.counter("checkpoint_written_bytes", help, figures.bytes_written)?;
        let help = "Parts of checkpoints that were not there and had to be written";
        self.counter("checkpoint_parts_written", help, figures.parts_written)?;
        let help = "The size of the state at the newest checkpoint";
        self.gauge("checkpoint_state_bytes", help, figures.state_bytes)?;
        let help = "Bytes on the disk in which parts of checkpoints lie, used or not";
        self.gauge("checkpoint_pack_bytes", help, figures.pack_bytes)?;
        let help = "Bytes on the disk that the next parts of checkpoints are written over";
        self.gauge("checkpoint_spare_bytes", help, figures.spare_bytes)?;
        let help = "Collections of what no checkpoint needs any more";
        self.counter("checkpoint_collections", help, figures.collections)
    }

    fn transfer(&mut self, now: &Snapshot) -> fmt::Result {
        let transfer = &now.transfer;
        let counts = |counts: &[(&str, u64)]| -> Vec<(Labels, u64)> {
            let labels = |what: &str| vec![("what", what.to_owned())];
            let counts = counts.iter().map(|(what, count)| (labels(what), *count));
            counts.collect()
        };
        let bytes = counts(&[
            ("fetched", transfer.bytes_fetched),
            ("reused", transfer.bytes_reused),
            ("served", transfer.bytes_served),
        ]);
        let help = "Bytes of states: fetched from peers, found here instead, or sent to peers";
        self.family("transfer", help, Some(&Unit::Bytes), bytes)?;
        let parts = counts(&[
            ("fetched", transfer.parts_fetched),
            ("reused", transfer.parts_reused),
            ("rejected", transfer.parts_rejected),
            ("repaired", transfer.parts_repaired),
        ]);
        let help = "Parts of states: fetched, found here instead, refused, or put in the place of \
                    damaged ones";
        self.family("transfer_parts", help, None, parts)?;
        let help = "Times that a peer was left alone because it lied or was too slow";
        self.counter("transfer_peers_blamed", help, transfer.peers_blamed)?;
        let (here, all) = now.fetching;
        let help = "Bytes of the state that is being fetched; 0 when none is";
        self.gauge("transfer_state_bytes", help, all)?;
        let help = "Bytes of the state that is being fetched that are here";
        self.gauge("transfer_state_here_bytes", help, here)
    }

    fn requests(&mut self, now: &Snapshot) -> fmt::Result {
        self.gauge(
            "pool_bundles",
            "Request bundles that wait",
            now.pool_bundles,
        )?;
        self.gauge(
            "pool_bytes",
            "Bytes of the bundles that wait",
            now.pool_bytes,
        )?;
        let help = "Request bundles dropped, by reason";
        self.family(
            "requests_dropped",
            help,
            None,
            by_reason(&now.requests_dropped),
        )
    }

    fn peers(&mut self, network: &NetworkCounters) -> fmt::Result {
        let help = "Other replicas to which the ordering lane's link stands";
        self.gauge("peers_connected", help, network.peers_connected)?;
        let links = network.links.iter().flat_map(|(peer, lanes)| {
            let labels = |lane: &dyn fmt::Display| {
                vec![("peer", peer.0.to_string()), ("lane", lane.to_string())]
            };
            lanes
                .iter()
                .map(move |(lane, traffic)| (labels(lane), *traffic))
        });
        let links: Vec<(Labels, Traffic)> = links.collect();
        let help = "Frames between replicas: sent, received, or dropped before sending";
        self.family("peer_frames", help, None, links.iter().flat_map(frames))?;
        let help = "Bytes of frames between replicas: sent, received, or dropped before sending";
        let bytes = links.iter().flat_map(bytes);
        self.family("peer", help, Some(&Unit::Bytes), bytes)?;
        let help = "Frames addressed to a replica that is no peer";
        self.counter("unroutable_frames", help, network.frames_unroutable)
    }

    fn connections(&mut self, network: &NetworkCounters) -> fmt::Result {
        self.gauge(
            "clients_connected",
            "Clients connected",
            network.clients_connected,
        )?;
        let clients = (Labels::new(), network.clients);
        let help = "Frames with clients: sent, received, or dropped before sending";
        self.family("client_frames", help, None, frames(&clients))?;
        let help = "Bytes of frames with clients: sent, received, or dropped before sending";
        self.family("client", help, Some(&Unit::Bytes), bytes(&clients))?;
        let refusals = &network.refusals;
        let refused = |by: &'static str, counts: &BTreeMap<Refusal, u64>| -> Vec<(Labels, u64)> {
            let labels = |reason| {
                vec![
                    ("by", by.to_owned()),
                    ("reason", refusal(reason).to_owned()),
                ]
            };
            let count = |reason| counts.get(&reason).copied().unwrap_or(0);
            // All of them, zeros too: a rate over a value that appears out of nowhere misses it.
            Refusal::ALL
                .map(|reason| (labels(reason), count(reason)))
                .into()
        };
        let help = "Connections refused, by this replica (us) or by the other side (peer)";
        let all = refused("us", &refusals.by_us)
            .into_iter()
            .chain(refused("peer", &refusals.by_peer));
        self.family("connections_refused", help, None, all)?;
        let help = "Connections ended because what came was no frame";
        self.counter("connections_malformed", help, refusals.malformed)
    }

    fn log(&mut self, log: &LogStats) -> fmt::Result {
        let help = "Group commits of the log: one write, and in mode sync one fdatasync";
        self.counter("log_commits", help, log.groups)?;
        self.counter("log_records", "Records appended to the log", log.records)?;
        let help = "Bytes of records appended to the log";
        let unit = Some(&Unit::Bytes);
        let metric = self
            .0
            .encode_descriptor("log_record", help, unit, MetricType::Counter)?;
        ConstCounter::new(log.record_bytes).encode(metric)?;
        let help = "Time spent in writes and syncs of the log";
        let seconds = ConstCounter::new(log.commit_micros as f64 / 1e6);
        let unit = Some(&Unit::Seconds);
        let metric = self
            .0
            .encode_descriptor("log_commit", help, unit, MetricType::Counter)?;
        seconds.encode(metric)
    }

    fn admin(&mut self, admin: &AdminCounters) -> fmt::Result {
        let outcomes = [
            ("served", admin.served),
            ("refused", admin.refused),
            ("cut", admin.cut),
            ("turned_away", admin.turned_away),
            ("failed", admin.failed),
        ];
        let outcome = |(name, count): (&str, u64)| (vec![("outcome", name.to_owned())], count);
        let help = "Requests to this endpoint, by outcome";
        self.family("admin_requests", help, None, outcomes.map(outcome))
    }
}

fn by_reason(counts: &BTreeMap<&'static str, u64>) -> impl Iterator<Item = (Labels, u64)> {
    let labels = |reason: &str| vec![("reason", reason.to_owned())];
    counts
        .iter()
        .map(move |(reason, count)| (labels(reason), *count))
}

fn frames((labels, traffic): &(Labels, Traffic)) -> [(Labels, u64); 3] {
    [
        (with(labels, "sent"), traffic.frames_sent),
        (with(labels, "received"), traffic.frames_received),
        (with(labels, "dropped"), traffic.frames_dropped),
    ]
}

fn bytes((labels, traffic): &(Labels, Traffic)) -> [(Labels, u64); 3] {
    [
        (with(labels, "sent"), traffic.bytes_sent),
        (with(labels, "received"), traffic.bytes_received),
        (with(labels, "dropped"), traffic.bytes_dropped),
    ]
}

fn with(labels: &Labels, direction: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push(("direction", direction.to_owned()));
    labels
}

/// The reason's name as a label: lower case with underscores.
const fn refusal(reason: Refusal) -> &'static str {
    match reason {
        Refusal::UnknownKey => "unknown_key",
        Refusal::WrongKey => "wrong_key",
        Refusal::WrongCluster => "wrong_cluster",
        Refusal::WrongVersion => "wrong_version",
        Refusal::TooManyClients => "too_many_clients",
        Refusal::TooManyPending => "too_many_pending",
        Refusal::HandshakeTimeout => "handshake_timeout",
        Refusal::NotAtlas => "not_atlas",
    }
}
