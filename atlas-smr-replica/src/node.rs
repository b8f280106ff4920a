//! Composing a node: disk, executor, core and network, in the order in which they depend on each
//! other.

use crate::background::Executed;
use crate::clock::Clock;
use crate::config::{Clients, ConfigError, NodeConfig};
use crate::driver::{Checking, Command, Driver, EventQueue, State, Stopped, default_workers};
use crate::evidence::EvidenceFiles;
use crate::recovery::{self, OpenError, OpenOptions, Opened};
use crate::registry::{ProtocolSettings, SettingsError};
use crate::shared::Shared;
use crate::sink::Sink;
use crate::store::{StoreKeeper, StoreThread};
use crate::verified::CachingVerifier;
use atlas_client::ConnectError;
use atlas_common::crypto::{KnownKeys, Signer, Verifier, random_number};
use atlas_common::parts::StateDescriptor;
use atlas_communication::{ClientInbound, NetworkError, ReplicaInbox, ReplicaNetwork};
use atlas_core::{Installed, Membership, OrderingProtocol, RecoverError, Recovery};
use atlas_persistent_log::{
    Durability, FileStorage, LogError, LogEvents, LogHandle, LogOptions, Remedy, SimStorage,
    Storage, StoreOptions,
};
use atlas_smr_core::core::{CoreConfig, CoreInput, ReplicaCore};
use atlas_smr_core::message::MessageChecker;
use atlas_smr_core::request_pre_processing::{BundleChecker, ClientAdmission};
use atlas_smr_execution::{
    Execute, ExecutionPool, ExecutorConfig, ExecutorOptions, ExecutorThread, InstallError,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::mpsc;

/// Bytes of decided batches kept in memory for replicas that are behind.
pub(crate) const DECISIONS_BYTES_MAX: usize = 256 << 20;
/// Commands that may wait for the core.
const COMMANDS_MAX: usize = 64;
/// Reads of in-process clients that may wait for the core.
const LOCAL_READS_MAX: usize = 1024;

/// A replica could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The cluster file names a protocol that is not registered.
    #[error("protocol `{0}` is not registered")]
    UnknownProtocol(&'static str),
    /// The protocol cannot work with the cluster's settings.
    #[error("the protocol's settings: {0}")]
    Protocol(#[source] SettingsError),
    /// The disk cannot be used as it is.
    #[error("{directory}: {cause}")]
    Disk {
        /// The data directory.
        directory: String,
        /// What is wrong with it.
        cause: Box<OpenError>,
    },
    /// The protocol does not understand its records.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The stored state does not fit the application.
    #[error("the stored state: {0}")]
    State(#[from] InstallError),
    /// The network cannot start.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// No configuration was given.
    #[error("a replica needs a configuration: call `config` or `config_file` before `start`")]
    NoConfig,
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The client for calls through the replica's handle cannot be made.
    #[error(transparent)]
    Client(#[from] ConnectError),
    /// The system gives no thread.
    #[error("the system gives no thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread ended before it was ready.
    #[error("the replica's thread ended before it was ready")]
    Ended,
}

impl StartError {
    /// What to do about it, where the disk is the reason.
    #[must_use]
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Disk { cause, .. } => Some(cause.remedy()),
            _ => None,
        }
    }
}

/// Makes the executor of an application that only the builder knows by type.
pub(crate) type MakeExecutor =
    Box<dyn FnOnce(ExecutorConfig, ExecutionPool) -> Box<dyn Execute> + Send>;

/// Everything a core is composed of, before its protocol is known by type.
pub(crate) struct CoreSeat {
    pub(crate) node: Arc<NodeConfig>,
    pub(crate) network: Arc<dyn ReplicaNetwork>,
    pub(crate) inbox: ReplicaInbox,
    pub(crate) executor: MakeExecutor,
    pub(crate) keys: Keys,
    pub(crate) storages: Storages,
}

/// What takes the place of the files in the data directory.
#[derive(Debug, Default)]
pub(crate) struct Storages {
    pub(crate) files: Option<Arc<dyn Storage>>,
    pub(crate) checkpoints: Option<Arc<dyn Storage>>,
}

/// What a replica signs and checks signatures with.
pub(crate) struct Keys {
    verifier: Arc<CachingVerifier>,
    signer: Arc<dyn Signer>,
}

impl Keys {
    pub(crate) fn new(node: &NodeConfig) -> Self {
        let window = node.cluster.limits().window;
        let members = node.cluster.members().len() as u64;
        let keys = Arc::new(KnownKeys::default());
        let verifier = Arc::new(CachingVerifier::new(keys, window, members));
        let signer = verifier.signer(Arc::new(node.key.clone()));
        Self { verifier, signer }
    }
}

/// A composed core, ready to run on the runtime that holds its sockets.
pub(crate) struct Seated {
    pub(crate) run: Pin<Box<dyn Future<Output = Stopped>>>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) local: mpsc::Sender<ClientInbound>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) notes: Vec<String>,
}

impl CoreSeat {
    fn membership(&self) -> Arc<Membership> {
        self.node
            .cluster
            .membership(Arc::clone(&self.keys.verifier) as Arc<dyn Verifier>)
    }

    pub(crate) fn settings(&self) -> ProtocolSettings {
        ProtocolSettings {
            membership: self.membership(),
            limits: self.node.cluster.limits().clone(),
            timeouts: *self.node.cluster.timeouts(),
            signer: Arc::clone(&self.keys.signer),
            lease_reads: self.node.cluster.lease_reads(),
            unordered_reads: self.node.cluster.unordered_reads(),
        }
    }

    fn open<P: OrderingProtocol>(&self) -> Result<Opened<P>, StartError> {
        let node = &self.node;
        let at = |cause| disk_error(node, cause);
        let open_files = || FileStorage::open(&node.data_dir).map_err(OpenError::from);
        let files: Arc<dyn Storage> = match &self.storages.files {
            Some(files) => Arc::clone(files),
            None => Arc::new(open_files().map_err(at)?),
        };
        let checkpoints: Arc<dyn Storage> = match (&self.storages.checkpoints, node.durability) {
            (Some(checkpoints), _) => Arc::clone(checkpoints),
            // In mode `memory` checkpoints stay in memory too; they are there for peers.
            (None, Durability::Memory) => Arc::new(SimStorage::new()),
            (None, Durability::Sync | Durability::Async) => Arc::clone(&files),
        };
        let genesis = *node.cluster.genesis();
        let log = LogOptions {
            segment_bytes: node.log_segment_bytes,
            ..LogOptions::new(genesis)
        };
        let options = OpenOptions {
            genesis,
            log: log.durability(node.durability),
            limits: node.cluster.limits().clone(),
            store: StoreOptions {
                retention: node.checkpoints_kept,
                compression: node.checkpoint_compression,
                ..StoreOptions::new(genesis)
            },
            initial_state: node.cluster.initial_state(),
        };
        recovery::open::<P>(&files, checkpoints, &options).map_err(at)
    }
}

fn disk_error(node: &NodeConfig, cause: OpenError) -> StartError {
    StartError::Disk {
        directory: node.data_dir.display().to_string(),
        cause: Box::new(cause),
    }
}

/// Without a checkpoint a restored cluster's replica begins with the state it was restored from, and with
/// no other: all checkpoints may turn out to be damaged when that state is long gone.
fn begin(
    node: &NodeConfig,
    executor: &mut dyn Execute,
    base: Option<&StateDescriptor>,
    keeper: &StoreKeeper,
) -> Result<(), StartError> {
    match (base, node.cluster.initial_state()) {
        (Some(base), _) => Ok(executor.begin_from(base, &keeper.source())?),
        (None, Some(root)) => Err(disk_error(node, OpenError::NoInitialState { root })),
        (None, None) => Ok(()),
    }
}

/// Composes a core of protocol `P`.
pub(crate) fn seat<P: OrderingProtocol>(
    seat: CoreSeat,
    config: P::Config,
) -> Result<Seated, StartError> {
    let opened = seat.open::<P>()?;
    let (node, membership) = (Arc::clone(&seat.node), seat.membership());
    let (limits, name) = (node.cluster.limits().clone(), format!("atlas-{}", node.id));
    let events = Arc::new(EventQueue::default());
    let shared = Arc::new(Shared::new(
        limits.clone(),
        membership.quorums().signed(),
        node.cluster.unordered_reads(),
        Arc::clone(&seat.network),
    ));
    let keeper = StoreKeeper::new(opened.store, &limits);
    let executed = Executed::new(limits.checkpoint_interval);
    let store = {
        let events = Arc::clone(&events);
        let report = move |event| events.store(event);
        StoreThread::start(&name, keeper.clone(), executed.clone(), report)?
    };
    let sink = Sink::new(
        Arc::clone(&shared),
        Arc::clone(&events),
        keeper.clone(),
        executed,
    );
    let executor_config = ExecutorConfig {
        replica: node.id,
        genesis: *membership.genesis(),
        epoch: membership.epoch(),
        limits: limits.clone(),
    };
    let pool = ExecutionPool::new(node.execution_threads)?;
    let mut executor = (seat.executor)(executor_config, pool);
    let mut notes = opened.notes;
    let checkpoint = recovery::restore(opened.certified, &mut notes, |found| {
        let id = &found.stored.certificate.id;
        executor.install_parts(id, &found.descriptor, &keeper.source())
    })?;
    if checkpoint.is_none() {
        begin(&node, &mut *executor, opened.base.as_ref(), &keeper)?;
    }
    let progress = executor.progress();
    let options = ExecutorOptions::of(&limits);
    let executor = ExecutorThread::start(&name, executor, Arc::new(sink), &options)?;
    let log = start_log(opened.log, &events)?;
    let admission = admission(&node);
    let bundles = Arc::new(BundleChecker::new(&membership, &limits, admission));
    let core_config = CoreConfig {
        membership: Arc::clone(&membership),
        limits,
        signer: Arc::clone(&seat.keys.signer),
        // It spreads load and time-outs, and keeps from peers what would make maps slow.
        seed: random_number(),
        decisions_bytes_max: DECISIONS_BYTES_MAX,
        transfer_bytes_per_second: node.transfer_bytes_per_second,
        scrub_bytes_per_second: node.scrub_bytes_per_second,
        last_lsn: opened.last_lsn,
    };
    let recovery: Recovery<P> = Recovery {
        me: node.id,
        origin: opened.origin,
        installed: checkpoint.map(|found| Installed {
            certificate: Arc::new(found.stored.certificate),
            frontier: found.stored.frontier,
        }),
        records: opened.records,
    };
    let mut core = ReplicaCore::recover(core_config, config.clone(), recovery)?;
    let clock = Clock::start();
    let (sessions, last_given) = (progress.sessions, progress.last_given);
    core.step(
        CoreInput::Sessions {
            sessions,
            last_given,
        },
        clock.moment(),
    );
    let checker = MessageChecker::new(config, membership, bundles);
    let workers = node.worker_threads.unwrap_or_else(default_workers);
    let threads = (workers, node.cluster.limits().frame_bytes_max);
    let checking = Checking::start(&name, checker, threads, &events)?;
    let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
    let (local, local_queue) = mpsc::channel(LOCAL_READS_MAX);
    let evidence = EvidenceFiles::open(opened.files, *node.cluster.genesis(), P::NAME)
        .map_err(OpenError::from)
        .map_err(|cause| disk_error(&node, cause))?;
    let driver = Driver {
        core,
        evidence,
        checking,
        network: seat.network,
        log,
        executor: executor.handle(),
        _executor: executor,
        store,
        clock,
        shared: Arc::clone(&shared),
        events,
        state: State::default(),
    };
    let run = Box::pin(driver.run(seat.inbox, local_queue, command_queue));
    Ok(Seated {
        run,
        commands,
        local,
        shared,
        notes,
    })
}

fn start_log(
    writer: atlas_persistent_log::LogWriter,
    events: &Arc<EventQueue>,
) -> Result<LogHandle, StartError> {
    let (durable, failed) = (Arc::clone(events), Arc::clone(events));
    let events = LogEvents {
        durable: Box::new(move |lsn| durable.durable(lsn)),
        failed: Box::new(move |error: LogError| failed.failed(log_failure(&error))),
    };
    LogHandle::start(writer, events)
        .map_err(|error| StartError::Thread(std::io::Error::other(error.to_string())))
}

/// Why a replica stops whose log has failed.
pub(crate) fn log_failure(error: &LogError) -> String {
    format!(
        "the log failed: {error}\nwhat helps: {}",
        error.remedy().advice()
    )
}

/// Members may be clients too: that is what calls through a replica's handle are signed with.
fn admission(node: &NodeConfig) -> ClientAdmission {
    match node.cluster.clients() {
        Clients::Any => ClientAdmission::Any,
        Clients::Listed(listed) => {
            let members = node.cluster.members().iter().map(|member| member.key);
            ClientAdmission::Listed(
                listed
                    .iter()
                    .map(|client| client.key)
                    .chain(members)
                    .collect(),
            )
        }
    }
}
