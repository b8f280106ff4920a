//! How much memory and disk a replica takes at most, from its configuration alone.
//!
//! `docs/bounds.md` has the same table in words. Each term is what a queue, window or cache may hold when
//! everything goes against the replica at once; what is shared between two of them is counted once where
//! that is certain, and twice where it is not. Not counted is what the allocator keeps for later.

use crate::builder::network_limits;
use crate::config::NodeConfig;
use crate::driver::{LONG_FRAMES_BYTES_MAX, READS_BYTES_MAX, default_workers};
use crate::evidence;
use crate::node::DECISIONS_BYTES_MAX;
use crate::verified;
use atlas_persistent_log::SPARES_MAX;
use atlas_smr_execution::ExecutorOptions;
use std::thread::available_parallelism;

/// A queue, window, cache or set of files, and what it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What it is.
    pub what: &'static str,
    /// How the number comes about, in the names of settings and limits.
    pub formula: String,
    /// The number.
    pub bytes: u64,
}

/// What one replica takes at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of memory.
    pub memory: Vec<Bound>,
    /// Of the disk.
    pub disk: Vec<Bound>,
}

/// Lanes between two replicas, and inboxes of a replica: one for each lane and one for clients.
const LANES: u64 = 4;
const INBOXES: u64 = LANES + 1;
/// Of each lane, memory of long frames that is kept for the next ones: 8 × 21 × 64 KiB, and a bit.
const FRAMES_KEPT_BYTES: u64 = 11 << 20;
/// A client's connection besides frames: TLS, and buffers at their smallest.
const CONNECTION_BYTES: u64 = 256 << 10;
/// A session besides its replies.
const SESSION_BYTES: u64 = 512;
/// Bundles and messages of peers wait for each worker, and their results for the core.
const WORKER_BYTES: u64 = 2 * 2 * (32 << 20);
/// Bundles that were found valid: 65,536 of 150 bytes.
const BUNDLES_VERIFIED_BYTES: u64 = 10 << 20;
/// The log's queue, the group that is being written, and a buffer for each of two segments.
const LOG_QUEUE_BYTES: u64 = (64 << 20) + (8 << 20) + 2 * (1 << 20);
/// Of a transfer: what is on its way, here and to the store, what is gathered for four packs that are
/// written at a time, and answers for each peer.
const TRANSFER_BYTES: u64 = 2 * (32 << 20) + (4 << 20);
const SERVING_BYTES: u64 = 16 << 20;
/// Parts that were read ahead while a state is taken over, and what each thread reads just then.
const READ_AHEAD_BYTES: u64 = 16 << 20;
const READING_BYTES: u64 = 4 << 20;
/// The part store at work: lists of what is in four packs of 64 MiB, twice (96 B for each 1 KiB), pages
/// that wait to be written (1 MiB), and memory that is read into (5 × 2 MiB).
const STORE_BYTES: u64 = 40 << 20;
/// Pages are at most so large a share of a state whose parts have 256 bytes or more.
const PAGES_SHARE: u64 = 7;
/// What the store keeps in mind of a blob, and how small blobs are taken to be on average.
const BLOB_INDEX_BYTES: u64 = 150;
const BLOB_BYTES: u64 = 1 << 10;
/// The program: code, stacks, the runtime.
const PROGRAM_BYTES: u64 = 64 << 20;
/// A slot in the log besides its batch, for each member: votes and their frames.
const VOTES_BYTES: u64 = 1 << 10;
/// Snapshots that wait to be written (two) or are being written (one).
const SNAPSHOTS: u64 = 3;
/// The state itself, the snapshots, and the one from which failed operations are undone where the state
/// cannot fork.
const STATES: u64 = 1 + SNAPSHOTS + 1;
/// Parts of the store that may be garbage, at most: a pack that is a third live is not rewritten.
const STORE_FACTOR: u64 = 3;
/// The certificate and the protocol's bytes with a checkpoint.
const CERTIFICATE_BYTES: u64 = 1 << 20;

impl Bounds {
    /// The bounds of a replica with an application whose state takes `state_bytes`, in memory or encoded,
    /// whichever is more.
    #[must_use]
    pub fn of(node: &NodeConfig, state_bytes: u64) -> Self {
        let sizes = Sizes::of(node, state_bytes);
        Self {
            memory: sizes.memory(),
            disk: sizes.disk(),
        }
    }

    /// All of the memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        total(&self.memory)
    }

    /// All of the disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        total(&self.disk)
    }
}

fn total(bounds: &[Bound]) -> u64 {
    let bytes = bounds.iter().map(|bound| bound.bytes);
    bytes.fold(0, u64::saturating_add)
}

/// A product that does not overflow.
fn times(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |all, one| all.saturating_mul(*one))
}

fn sum(terms: &[u64]) -> u64 {
    terms.iter().fold(0, |all, one| all.saturating_add(*one))
}

struct Table(Vec<Bound>);

impl Table {
    fn add(&mut self, what: &'static str, formula: impl Into<String>, bytes: u64) {
        let formula = formula.into();
        self.0.push(Bound {
            what,
            formula,
            bytes,
        });
    }
}

/// How many windows of slots a protocol keeps, and how many batches in each slot.
#[derive(Clone, Copy)]
struct Slots {
    windows: u64,
    batches: u64,
}

/// Everything that the terms are made of.
struct Sizes<'a> {
    node: &'a NodeConfig,
    state_bytes: u64,
    members: u64,
    workers: u64,
    executing: u64,
    slots: Slots,
}

impl<'a> Sizes<'a> {
    fn of(node: &'a NodeConfig, state_bytes: u64) -> Self {
        let cores = available_parallelism().map_or(1, |cores| cores.get().min(8));
        Self {
            node,
            state_bytes,
            members: node.cluster.members().len() as u64,
            workers: node.worker_threads.unwrap_or_else(default_workers) as u64,
            executing: node.execution_threads.unwrap_or(cores) as u64,
            slots: match node.cluster.protocol().name {
                // A follower two above its checkpoint, a leader one below it.
                "raft" => Slots {
                    windows: 3,
                    batches: 1,
                },
                // What waits to be decided is in the queue of batches, which has its own bound.
                "rabia" => Slots {
                    windows: 1,
                    batches: 1,
                },
                // The batch of the present proposal and the prepared one of an earlier view.
                _ => Slots {
                    windows: 2,
                    batches: 2,
                },
            },
        }
    }

    fn peers(&self) -> u64 {
        self.members.saturating_sub(1)
    }

    fn links(&self) -> u64 {
        times(&[self.peers(), LANES])
    }

    /// The session table as a checkpoint has it.
    fn head_bytes(&self) -> u64 {
        let limits = self.node.cluster.limits();
        let sessions = times(&[limits.sessions_max as u64, SESSION_BYTES]);
        sum(&[limits.replies_bytes_max as u64, sessions])
    }

    fn checkpoint_bytes(&self) -> u64 {
        sum(&[self.state_bytes, self.head_bytes(), CERTIFICATE_BYTES])
    }

    fn stored_bytes(&self) -> u64 {
        let limits = self.node.cluster.limits();
        // Those that are taken and not certified yet lie within the window.
        let uncertified = limits.window / limits.checkpoint_interval.max(1);
        let kept = sum(&[self.node.checkpoints_kept as u64, uncertified]);
        // The target of a transfer counts as one more.
        times(&[STORE_FACTOR, kept + 1, self.checkpoint_bytes()])
    }

    fn memory(&self) -> Vec<Bound> {
        let mut table = Table(Vec::new());
        self.network(&mut table);
        self.ordering(&mut table);
        self.execution(&mut table);
        self.storage(&mut table);
        table.add(
            "the program",
            "64 MiB for code, stacks and the runtime",
            PROGRAM_BYTES,
        );
        table.0
    }

    fn network(&self, table: &mut Table) {
        let limits = network_limits(self.node);
        let (n, links) = (self.peers(), self.links());
        let (queue, frame) = (limits.queue_bytes_max as u64, limits.frame_bytes_max as u64);
        table.add(
            "frames that wait for peers",
            format!("{n} peers × {LANES} lanes × max(32 MiB, 2 × frame_bytes_max)"),
            times(&[links, queue]),
        );
        table.add(
            "frames being read from peers and written to them",
            format!("{n} peers × {LANES} lanes × (3 × frame_bytes_max + 11 MiB)"),
            times(&[links, sum(&[times(&[3, frame]), FRAMES_KEPT_BYTES])]),
        );
        table.add(
            "inboxes",
            format!("{INBOXES} × max(64 MiB, 2 × frame_bytes_max)"),
            times(&[INBOXES, limits.inbox_bytes_max as u64]),
        );
        table.add(
            "frames of clients, and replies that wait for them",
            "max(512 MiB, 8 × frame_bytes_max) for all clients",
            limits.clients_bytes_max as u64,
        );
        table.add(
            "connections of clients",
            "clients_max × 256 KiB",
            times(&[limits.clients_max as u64, CONNECTION_BYTES]),
        );
    }

    fn ordering(&self, table: &mut Table) {
        let limits = self.node.cluster.limits();
        let (batch, frame) = (limits.batch_bytes_max as u64, limits.frame_bytes_max as u64);
        table.add(
            "checks that wait",
            format!("worker_threads ({}) × 128 MiB", self.workers),
            times(&[self.workers, WORKER_BYTES]),
        );
        table.add(
            "signatures found valid",
            "256 B × window × (2 × members + 1), at most 16 MiB, and 10 MiB for bundles",
            sum(&[
                verified::bytes_max(limits.window, self.members),
                BUNDLES_VERIFIED_BYTES,
            ]),
        );
        table.add(
            "requests that wait",
            "pool_bytes_max",
            limits.pool_bytes_max as u64,
        );
        let Slots { windows, batches } = self.slots;
        table.add(
            "batches of open slots and of those since the last checkpoint",
            format!("{windows} × window × {batches} × batch_bytes_max"),
            times(&[windows, limits.window, batches, batch]),
        );
        if self.node.cluster.protocol().name == "rabia" {
            table.add(
                "batches that wait to be proposed",
                "pool_bytes_max",
                limits.pool_bytes_max as u64,
            );
        }
        table.add(
            "decisions for replicas that are behind",
            "256 MiB + batch_bytes_max",
            sum(&[DECISIONS_BYTES_MAX as u64, batch]),
        );
        table.add(
            "decisions being fetched",
            "4 × frame_bytes_max",
            times(&[4, frame]),
        );
    }

    fn execution(&self, table: &mut Table) {
        let limits = self.node.cluster.limits();
        let operation = limits.operation_bytes_max as u64;
        let sessions = times(&[limits.sessions_max as u64, SESSION_BYTES]);
        table.add(
            "the state",
            format!(
                "{STATES} × its size: itself, what {SNAPSHOTS} snapshots hold still, a base to undo"
            ),
            times(&[STATES, self.state_bytes]),
        );
        table.add(
            "sessions and kept replies",
            "(4 × sessions_max × 512 B) + 7 × replies_bytes_max: kept, of the present decision, on \
             their way, held still by 3 snapshots, encoded",
            sum(&[
                times(&[4, sessions]),
                times(&[7, limits.replies_bytes_max as u64]),
            ]),
        );
        let group = if self.executing > 1 {
            limits.bundle_operations_max.max(1024) as u64
        } else {
            1
        };
        table.add(
            "results of operations that run in parallel",
            format!(
                "{group} × operation_bytes_max (execution_threads: {})",
                self.executing
            ),
            times(&[group, operation]),
        );
        let reads = ExecutorOptions::of(limits).reads_bytes_max as u64;
        table.add(
            "reads that wait, and their answers",
            "64 MiB + max(64 MiB, 4 × operation_bytes_max) + 4 MiB + 5 × operation_bytes_max",
            sum(&[
                READS_BYTES_MAX as u64,
                reads,
                4 << 20,
                times(&[5, operation]),
            ]),
        );
    }

    fn storage(&self, table: &mut Table) {
        let limits = self.node.cluster.limits();
        let (chunk, frame) = (limits.chunk_bytes as u64, limits.frame_bytes_max as u64);
        table.add(
            "records that wait for the log",
            "74 MiB + 2 × batch_bytes_max",
            sum(&[LOG_QUEUE_BYTES, times(&[2, limits.batch_bytes_max as u64])]),
        );
        table.add(
            "parts being fetched and served",
            format!(
                "68 MiB + {} peers × 16 MiB + 4 × chunk_bytes + frame_bytes_max",
                self.peers()
            ),
            sum(&[
                TRANSFER_BYTES,
                times(&[self.peers(), SERVING_BYTES]),
                times(&[4, chunk]),
                frame,
            ]),
        );
        table.add(
            "long frames of transfers being checked",
            "2 × (32 MiB + frame_bytes_max)",
            times(&[2, sum(&[LONG_FRAMES_BYTES_MAX as u64, frame])]),
        );
        table.add(
            "a state being fetched",
            "its size, and its pages: it becomes the state",
            sum(&[self.state_bytes, self.state_bytes / PAGES_SHARE]),
        );
        table.add(
            "parts being read, to take a state over",
            "16 MiB + execution_threads × (4 MiB + 2 × chunk_bytes)",
            sum(&[
                READ_AHEAD_BYTES,
                times(&[self.executing, sum(&[READING_BYTES, times(&[2, chunk])])]),
            ]),
        );
        table.add(
            "the part store at work",
            "40 MiB for lists of four packs and what is read and gathered",
            STORE_BYTES,
        );
        table.add(
            "the index of stored parts",
            "150 B for each 1 KiB that is stored at most",
            times(&[self.stored_bytes() / BLOB_BYTES, BLOB_INDEX_BYTES]),
        );
    }

    fn disk(&self) -> Vec<Bound> {
        let limits = self.node.cluster.limits();
        let mut table = Table(Vec::new());
        let windows = self.slots.windows.max(2);
        let slot = sum(&[
            limits.batch_bytes_max as u64,
            times(&[self.members, VOTES_BYTES]),
        ]);
        // The first and the last one in part, and those that wait to be written over.
        let segments = 2 + SPARES_MAX as u64;
        let log = sum(&[
            times(&[windows, limits.window, slot]),
            times(&[segments, self.node.log_segment_bytes]),
        ]);
        let log_formula = format!(
            "{windows} × window × (batch_bytes_max + {} × 1 KiB) + {segments} × log_segment_bytes",
            self.members
        );
        table.add("the log", log_formula, log);
        table.add(
            "the last log that was damaged, put aside",
            "as the log",
            log,
        );
        table.add(
            "checkpoints",
            "3 × (checkpoints_kept + window / checkpoint_interval + 1) × (the state + \
             replies_bytes_max + sessions_max × 512 B + 1 MiB)",
            self.stored_bytes(),
        );
        table.add(
            "the checkpoint being written",
            "the state + replies_bytes_max + sessions_max × 512 B + 1 MiB",
            self.checkpoint_bytes(),
        );
        table.add(
            "the indexes of stored parts",
            "48 B for each 1 KiB that is stored at most",
            times(&[self.stored_bytes() / BLOB_BYTES, 48]),
        );
        table.add(
            "evidence against other replicas",
            format!("{} × 2 × frame_bytes_max", evidence::KEPT_MAX),
            times(&[evidence::KEPT_MAX as u64, 2, limits.frame_bytes_max as u64]),
        );
        table.0
    }
}
