//! The protocols in turn under the same load, each losing a replica: one table and one picture.

use super::chart;
use super::load::{CALLERS, Load, READ_EVERY, Seen, Totals};
use super::replicas::{agree, leader_of, settled};
use anyhow::{Context, Result, bail};
use atlas_kv::Kv;
use atlas_smr::config::KnownProtocol;
use atlas_smr::{LocalCluster, LocalClusterOptions, NodeId, ProtocolRegistry, ReplicaStatus};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long the load runs before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// How much longer than its part of the run a pause after a crash may last.
const RESUMES_WITHIN: Duration = Duration::from_secs(30);

/// What one protocol's run came to.
pub(super) struct Outcome {
    pub(super) protocol: &'static str,
    pub(super) replicas: usize,
    pub(super) ops_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// The longest time without an answer after the crash.
    pub(super) pause_ms: f64,
    pub(super) messages_per_operation: f64,
    pub(super) bytes_per_operation: f64,
    totals: Totals,
    /// All replicas came to the same state.
    agree: bool,
}

impl Outcome {
    fn good(&self) -> bool {
        self.agree
            && self.totals.errors == 0
            && self.totals.wrong == 0
            && self.totals.operations > 0
    }
}

/// Everything that the table and the picture say.
pub(super) struct Comparison {
    pub(super) outcomes: Vec<Outcome>,
    /// Of each of the three parts of a run.
    span: Duration,
    /// How the cluster keeps what it writes.
    durability: String,
    cores: usize,
}

pub(super) async fn compare(span: Duration, out: &Path) -> Result<ExitCode> {
    let files = chart::Files::in_directory(out)?;
    let options = LocalClusterOptions::default();
    let mut comparison = Comparison {
        outcomes: Vec::new(),
        span,
        durability: options.durability.to_string(),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let mut protocols = ProtocolRegistry::default().known();
    protocols.sort_by_key(|protocol| std::cmp::Reverse(protocol.replicas_for_one_fault()));
    for protocol in protocols {
        let outcome = run(protocol, &options, span).await;
        comparison
            .outcomes
            .push(outcome.with_context(|| protocol.name)?);
    }
    println!("\n{}", comparison.table());
    files.write(&comparison)?;
    println!("\nThe picture is in {files}.");
    Ok(if comparison.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One protocol: undisturbed, with a replica killed, and with that replica back.
async fn run(
    protocol: KnownProtocol,
    options: &LocalClusterOptions,
    span: Duration,
) -> Result<Outcome> {
    let n = protocol.replicas_for_one_fault();
    println!("\n{}, {n} replicas", protocol.name);
    let options = LocalClusterOptions {
        replicas: n,
        protocol: protocol.name.to_owned(),
        ..options.clone()
    };
    let mut cluster = LocalCluster::start(Kv::default(), options).await?;
    let load = Load::start(cluster.client());
    load.watch("warming up", WARM_UP).await?;

    let before = Sample::take(&cluster, &load, n).await?;
    let seen = load.watch("all replicas up", span).await?;
    let after = Sample::take(&cluster, &load, n).await?;

    let victim = match leader_of(&cluster).await? {
        Some((leader, _)) => leader,
        None => after.serves_most_since(&before),
    };
    load.mark();
    cluster.stop(victim.index()).await;
    let what = format!("replica {victim} gone");
    load.watch(&what, span).await?;
    load.answered(RESUMES_WITHIN).await?;
    let pause = load.longest_pause();

    cluster.restart(victim.index())?;
    load.watch("all replicas up", span).await?;
    let totals = load.stop().await?;
    let agree = agree(&settled(&cluster, n).await, n);
    cluster.shutdown().await;
    Ok(outcome(
        protocol,
        &seen,
        pause,
        (&before, &after),
        totals,
        agree,
    ))
}

fn outcome(
    protocol: KnownProtocol,
    seen: &Seen,
    pause: Duration,
    (before, after): (&Sample, &Sample),
    totals: Totals,
    agree: bool,
) -> Outcome {
    let operations = after.operations.saturating_sub(before.operations);
    let per_operation =
        |before: u64, after: u64| after.saturating_sub(before) as f64 / operations.max(1) as f64;
    Outcome {
        protocol: protocol.name,
        replicas: protocol.replicas_for_one_fault(),
        ops_per_second: seen.ops_per_second,
        p50_ms: seen.latency_ms(0.5),
        p99_ms: seen.latency_ms(0.99),
        pause_ms: pause.as_secs_f64() * 1000.0,
        messages_per_operation: per_operation(before.frames, after.frames),
        bytes_per_operation: per_operation(before.bytes, after.bytes),
        totals,
        agree,
    }
}

/// What had been counted at one moment, since the start.
#[derive(Default)]
struct Sample {
    operations: u64,
    /// Sent by all replicas, to each other on every lane and to clients.
    frames: u64,
    bytes: u64,
    /// Received from clients, by each replica.
    asked: Vec<u64>,
}

impl Sample {
    async fn take(cluster: &LocalCluster<Kv>, load: &Load, n: usize) -> Result<Self> {
        let mut sample = Self {
            operations: load.operations(),
            ..Self::default()
        };
        for index in 0..n {
            let Some(replica) = cluster.replica(index) else {
                bail!("replica {index} is not running");
            };
            sample.add(&replica.status().await?);
        }
        Ok(sample)
    }

    fn add(&mut self, status: &ReplicaStatus) {
        let network = &status.network;
        let peers = network.links.values().flat_map(|lanes| lanes.values());
        for traffic in peers.chain([&network.clients]) {
            self.frames += traffic.frames_sent;
            self.bytes += traffic.bytes_sent;
        }
        self.asked.push(network.clients.bytes_received);
    }

    /// The replica that the client sent most to: where nobody leads, the one whose loss it feels.
    fn serves_most_since(&self, before: &Self) -> NodeId {
        let asked = self.asked.iter().zip(&before.asked);
        let most = (0u32..)
            .zip(asked)
            .max_by_key(|(_, (after, before))| after.saturating_sub(**before));
        NodeId(most.map_or(0, |(index, _)| index))
    }
}

impl Comparison {
    pub(super) fn good(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.iter().all(Outcome::good)
    }

    /// The figures, what they mean, and how the runs ended.
    fn table(&self) -> String {
        let mut text = format!(
            "{:<8} {:>2} {:>12} {:>9} {:>9} {:>12} {:>12} {:>12}\n",
            "protocol", "n", "operations/s", "p50", "p99", "crash pause", "messages/op", "bytes/op"
        );
        for o in &self.outcomes {
            text.push_str(&format!(
                "{:<8} {:>2} {:>12} {:>9} {:>9} {:>12} {:>12.3} {:>12}\n",
                o.protocol,
                o.replicas,
                grouped(o.ops_per_second),
                milliseconds(o.p50_ms),
                milliseconds(o.p99_ms),
                milliseconds(o.pause_ms),
                o.messages_per_operation,
                grouped(o.bytes_per_operation)
            ));
        }
        text.push('\n');
        for line in self.set_up().into_iter().chain(self.meaning()) {
            text.push_str(&line);
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.verdict());
        text
    }

    /// How it was measured, in lines that also fit under the picture.
    pub(super) fn set_up(&self) -> Vec<String> {
        let clusters = self.outcomes.iter();
        let clusters: Vec<String> = clusters
            .map(|o| format!("{} n={}", o.protocol, o.replicas))
            .collect();
        let seconds = self.span.as_secs();
        vec![
            format!(
                "Set-up: {}; each n survives one fault. TLS 1.3 over loopback, durability {}.",
                clusters.join(", "),
                self.durability
            ),
            format!(
                "All replicas, their client and the load share one process on a machine of {} cores.",
                self.cores
            ),
            format!(
                "Load: {CALLERS} callers of one client, one call in {READ_EVERY} a linearizable read, \
                 every answer checked; {seconds} s undisturbed."
            ),
            format!(
                "Crash pause: longest time without an answer in the {seconds} s after the leader stops; \
                 leaderless: client's replica."
            ),
        ]
    }

    /// What is counted, at more length than the picture has room for.
    fn meaning(&self) -> Vec<String> {
        [
            "A stopped replica's connections end at once, as after kill -9; a cut cable takes longer.",
            "Throughput, latency, messages and bytes are those of the undisturbed part.",
            "Messages: frames sent by all replicas, to each other on every lane and to the client, per",
            "operation answered; a frame carries many operations. Bytes: those of the same frames, without",
            "their 4-byte headers and TLS. What the client sends is not counted.",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// How the runs ended, one line each, and the end of it all.
    fn verdict(&self) -> String {
        let mut text = String::new();
        for o in &self.outcomes {
            text.push_str(&format!(
                "{:<8} {} operations answered, {} errors, {} wrong answers, {}\n",
                o.protocol,
                o.totals.operations,
                o.totals.errors,
                o.totals.wrong,
                if o.agree {
                    "digests equal"
                } else {
                    "DIGESTS DIFFER"
                }
            ));
        }
        text.push_str(if self.good() {
            "All replicas of every protocol agree."
        } else {
            "THIS SHOULD NOT HAVE HAPPENED."
        });
        text
    }
}

/// A whole number with its thousands apart.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds, to three figures or so.
pub(super) fn milliseconds(ms: f64) -> String {
    if ms < 100.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{} ms", grouped(ms))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::demo) fn outcome(protocol: &'static str, replicas: usize, scale: f64) -> Outcome {
        Outcome {
            protocol,
            replicas,
            ops_per_second: 12_345.4 * scale,
            p50_ms: 2.5 * scale,
            p99_ms: 9.8 * scale,
            pause_ms: 1_234.0 * scale,
            messages_per_operation: 0.125 * scale,
            bytes_per_operation: 456.0 * scale,
            totals: Totals {
                operations: 99_999,
                errors: 0,
                wrong: 0,
            },
            agree: true,
        }
    }

    pub(in crate::demo) fn comparison(outcomes: Vec<Outcome>) -> Comparison {
        Comparison {
            outcomes,
            span: Duration::from_secs(7),
            durability: "sync".to_owned(),
            cores: 3,
        }
    }

    pub(in crate::demo) fn three() -> Comparison {
        comparison(vec![
            outcome("pbft", 4, 1.0),
            outcome("raft", 3, 2.0),
            outcome("rabia", 3, 0.5),
        ])
    }

    #[test]
    fn the_table_has_a_line_of_figures_for_every_protocol() {
        let table = three().table();
        let line = |name: &str| {
            let line = table.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("no line of {name} in\n{table}"));
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            line("pbft "),
            "pbft 4 12,345 2.5 ms 9.8 ms 1,234 ms 0.125 456"
        );
        assert_eq!(
            line("raft "),
            "raft 3 24,691 5.0 ms 19.6 ms 2,468 ms 0.250 912"
        );
        assert_eq!(
            line("rabia "),
            "rabia 3 6,173 1.2 ms 4.9 ms 617 ms 0.062 228"
        );
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[..4].iter().all(|line| line.len() == lines[0].len()),
            "{table}"
        );
    }

    #[test]
    fn the_caption_states_durability_cores_and_the_set_up() {
        let table = three().table();
        for fact in [
            "pbft n=4, raft n=3, rabia n=3",
            "TLS 1.3",
            "durability sync",
            "3 cores",
            "64 callers",
            "7 s undisturbed",
            "frames sent by all replicas",
        ] {
            assert!(table.contains(fact), "no `{fact}` in\n{table}");
        }
        assert!(table.lines().all(|line| line.len() <= 110), "{table}");
    }

    #[test]
    fn one_bad_run_spoils_the_verdict() {
        assert!(three().good());
        assert!(three().table().ends_with("agree."));
        let spoils: [fn(&mut Outcome); 4] = [
            |o| o.agree = false,
            |o| o.totals.errors = 1,
            |o| o.totals.wrong = 1,
            |o| o.totals.operations = 0,
        ];
        for spoil in spoils {
            let mut comparison = three();
            spoil(&mut comparison.outcomes[1]);
            assert!(!comparison.good());
            assert!(
                comparison
                    .table()
                    .ends_with("THIS SHOULD NOT HAVE HAPPENED.")
            );
        }
        assert!(!comparison(Vec::new()).good());
    }

    #[test]
    fn thousands_stand_apart() {
        let numbers = [0.0, 999.4, 1000.0, 12_345.0, 1_234_567.0];
        assert_eq!(
            numbers.map(grouped),
            ["0", "999", "1,000", "12,345", "1,234,567"]
        );
        assert_eq!(milliseconds(0.0), "0.0 ms");
        assert_eq!(milliseconds(1500.2), "1,500 ms");
    }

    #[test]
    fn without_a_leader_the_replica_that_serves_the_client_is_the_victim() {
        let sample = |asked: [u64; 3]| Sample {
            asked: asked.to_vec(),
            ..Sample::default()
        };
        let before = sample([900, 10, 10]);
        let after = sample([910, 15, 500]);
        assert_eq!(after.serves_most_since(&before), NodeId(2));
    }
}
