//! Prints what a large state costs from disk to disk, without a network: writing a checkpoint, starting
//! from it, and fetching it from a peer, with the processor time of each step. Where the system tells none,
//! that is 0.
//!
//! `cargo run --release -p atlas-smr-replica --example state_speed [MIB [DIRECTORY]]`; 1024 MiB in the
//! directory for temporary files unless said otherwise. Values are random bytes.

use atlas_common::crypto::{Ed25519, KeyPair, Signer};
use atlas_common::digest_map::MapKey;
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;
use atlas_common::{Digest, Epoch, NodeId, SeqNo, Time, wire};
use atlas_core::{Batch, CheckpointCertificate, CheckpointId, Limits, Member, Membership, Role};
use atlas_persistent_log::{FileStorage, PartStore, StoreOptions};
use atlas_smr_core::core::Decision;
use atlas_smr_core::transfer::{
    FetchedState, StateTransfer, StateTransferEffect, StateTransferMessage, StateTransferProtocol,
};
use atlas_smr_execution::state::DivisibleMap;
use atlas_smr_execution::{
    Application, ApplicationData, Execute, ExecutionContext, ExecutionPool, Executor,
    ExecutorConfig,
};
use atlas_smr_replica::store::{StoreEvent, StoreJob, StoreKeeper, StoreSource};
use mimalloc::MiMalloc;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

const VALUE_BYTES: usize = 240;
const KEY_BYTES: usize = 16;
const GENESIS: Digest = Digest([7; 32]);
const FETCHER: NodeId = NodeId(3);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A table that nobody changes.
struct Table(DivisibleMap);

impl ApplicationData for Table {
    type Request = ();
    type Reply = ();
}

impl Application for Table {
    type State = DivisibleMap;

    fn initial_state(&self) -> DivisibleMap {
        self.0.clone()
    }

    fn update(&self, _: &mut DivisibleMap, (): (), _: &mut ExecutionContext) {}

    fn read(&self, _: &DivisibleMap, (): ()) {}
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let mebibytes: u64 = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let directory = tempfile::tempdir_in(parent)?;
    let entries = (mebibytes << 20) / (KEY_BYTES + VALUE_BYTES) as u64;
    println!("{entries} entries of {KEY_BYTES} + {VALUE_BYTES} bytes");
    let mut whole = executor(table(entries)?)?;
    // A peer offers no checkpoint of a state to which nothing was done.
    whole.apply(&Decision {
        seq: SeqNo(1),
        batch: Batch::null(),
        bundles: None,
    });

    let server = directory.path().join("server");
    let keeper = open(&server)?;
    let snapshot = whole.snapshot();
    let events = timed("write a checkpoint", || {
        Ok(keeper.carry_out(StoreJob::Write(snapshot))?)
    })?;
    let [StoreEvent::Written(id)] = events[..] else {
        return Err("nothing was written".into());
    };
    let certificate = Arc::new(CheckpointCertificate::unsigned(id));
    keeper.carry_out(StoreJob::Certify {
        certificate,
        frontier: Default::default(),
    })?;
    drop((whole, keeper));

    let keeper = timed("open the store", || open(&server))?;
    start(&server, &keeper.source(), &id)?;
    let fetcher = directory.path().join("fetcher");
    let own = open(&fetcher)?;
    let fetched = fetch(&keeper, &own)?;
    let installed = timed("make it a checkpoint", || {
        Ok(own.carry_out(StoreJob::Install(fetched))?)
    })?;
    let [StoreEvent::Installed(_)] = &installed[..] else {
        return Err("what was fetched is not whole".into());
    };
    start(&fetcher, &own.source_of_fetched(), &id)?;
    start(&fetcher, &own.source(), &id)
}

fn table(entries: u64) -> Outcome<DivisibleMap> {
    let (mut map, mut rng) = (DivisibleMap::new(), SeededRng::new(7));
    let (mut key, mut value) = ([0; KEY_BYTES], [0; VALUE_BYTES]);
    for number in 0..entries {
        key[8..].copy_from_slice(&number.to_be_bytes());
        for eight in value.chunks_exact_mut(8) {
            eight.copy_from_slice(&rng.next_u64().to_le_bytes());
        }
        map.insert(&key, &value)?;
    }
    Ok(map)
}

fn executor(table: DivisibleMap) -> Outcome<Executor<Table>> {
    let config = ExecutorConfig {
        replica: FETCHER,
        genesis: GENESIS,
        epoch: Epoch(0),
        limits: Limits::default(),
    };
    Ok(Executor::new(Table(table), config).with_pool(ExecutionPool::new(None)?))
}

fn open(directory: &Path) -> Outcome<StoreKeeper> {
    let storage = Arc::new(FileStorage::open(directory)?);
    let store = PartStore::open(storage, StoreOptions::new(GENESIS))?;
    Ok(StoreKeeper::new(store, &Limits::default()))
}

/// What a replica does with its checkpoint when it starts.
fn start(directory: &Path, source: &StoreSource, id: &CheckpointId) -> Outcome<()> {
    let look = PartStore::look_at(
        Arc::new(FileStorage::look(directory)?),
        StoreOptions::new(GENESIS),
    )?;
    let stored = look.stored(id.seq)?;
    drop(look);
    let mut executor = executor(DivisibleMap::new())?;
    timed("take the state over from the store", || {
        Ok(executor.install_parts(id, &stored.descriptor, source)?)
    })?;
    Ok(())
}

/// Fetches the newest checkpoint of `server`, one step after the other on one thread.
fn fetch(server: &StoreKeeper, own: &StoreKeeper) -> Outcome<FetchedState> {
    let began = Instant::now();
    let (peers, limits, key) = (vec![NodeId(0)], Limits::default(), MapKey::new(7));
    let mut transfer = StateTransfer::new(membership()?, peers, &limits, 0, key);
    let mut costs = Costs::default();
    let now = || Time::ZERO.after(began.elapsed());
    transfer.request_latest_state(now(), SeqNo::ZERO);
    loop {
        let Some(effect) = transfer.poll() else {
            return Err("the transfer waits for nothing".into());
        };
        match effect {
            StateTransferEffect::Send { message, .. } => {
                for message in serve(server, message, &mut costs)? {
                    let sent = costs.of("encode and decode", || {
                        let room = 9 * message.blobs() + message.bytes() as usize;
                        let frame = wire::encode_with_room(&message, room)?;
                        Ok(wire::decode(&frame, wire::ENCODED_BYTES_MAX)?)
                    })?;
                    costs.of("fetcher's core", || {
                        transfer.process_message(now(), NodeId(0), sent);
                        Ok(())
                    })?;
                }
            }
            StateTransferEffect::Begin(target) => {
                own.carry_out(StoreJob::Target(Some(target)))?;
            }
            StateTransferEffect::Lookup(question) => {
                let events =
                    costs.of(
                        "look-ups",
                        || Ok(own.carry_out(StoreJob::LookUp(question))?),
                    )?;
                for event in events {
                    if let StoreEvent::LookedUp(found) = event {
                        costs.of("fetcher's core", || {
                            transfer.looked_up(now(), found);
                            Ok(())
                        })?;
                    }
                }
            }
            StateTransferEffect::Keep { blobs } => {
                let events = costs.of("keep", || Ok(own.carry_out(StoreJob::Keep(blobs))?))?;
                for event in events {
                    if let StoreEvent::Kept(bytes) = event {
                        costs.of("fetcher's core", || {
                            transfer.kept(now(), bytes);
                            Ok(())
                        })?;
                    }
                }
            }
            StateTransferEffect::Fetched(state) => {
                println!("{:>10.2?} fetch; processor time", began.elapsed());
                costs.print();
                return Ok(state);
            }
            other => return Err(format!("not expected: {other:?}").into()),
        }
    }
}

fn membership() -> Outcome<Arc<Membership>> {
    let member = |id: u32| Member {
        id: NodeId(id),
        key: KeyPair::from_seed(&[id as u8; 32]).public_key(),
        role: Role::Voter,
    };
    let members = (0..4).map(member).collect();
    let crash = FaultModel::Crash;
    let membership = Membership::new(GENESIS, Epoch(0), crash, members, Arc::new(Ed25519))?;
    Ok(Arc::new(membership))
}

fn serve(
    server: &StoreKeeper,
    message: StateTransferMessage,
    costs: &mut Costs,
) -> Outcome<Vec<StateTransferMessage>> {
    let job = match message {
        StateTransferMessage::RequestLatestState { above } => {
            StoreJob::Offer { to: FETCHER, above }
        }
        StateTransferMessage::RequestParts { digests } => StoreJob::Parts {
            to: FETCHER,
            digests,
        },
        other => return Err(format!("not expected: {other:?}").into()),
    };
    let events = costs.of("server's store", || Ok(server.carry_out(job)?))?;
    let messages = events.into_iter().flat_map(|event| match event {
        StoreEvent::Read { messages, .. } => messages,
        _ => Vec::new(),
    });
    Ok(messages.collect())
}

/// Processor time by what it went for.
#[derive(Default)]
struct Costs(BTreeMap<&'static str, Duration>);

impl Costs {
    fn of<T>(&mut self, what: &'static str, act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let before = processor_time("/proc/thread-self/schedstat");
        let result = act();
        let after = processor_time("/proc/thread-self/schedstat");
        *self.0.entry(what).or_default() += after.saturating_sub(before);
        result
    }

    fn print(&self) {
        for (what, time) in &self.0 {
            println!("{:>14.2?} {what}", time);
        }
    }
}

fn timed<T>(what: &str, act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let (began, before) = (Instant::now(), all_threads());
    let result = act()?;
    let worked = all_threads().saturating_sub(before);
    println!(
        "{:>10.2?} {what}: {worked:.2?} of processor time",
        began.elapsed()
    );
    Ok(result)
}

/// Time that all threads of this process worked.
fn all_threads() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let paths = threads
        .flatten()
        .map(|thread| thread.path().join("schedstat"));
    paths.map(processor_time).sum()
}

fn processor_time(file: impl AsRef<Path>) -> Duration {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let nanos = text
        .split_whitespace()
        .next()
        .and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}
