//! The client that programs use.

use crate::config::{ConfigError, CoreConfig};
use crate::core::ClientCore;
use crate::driver::Driver;
use crate::error::{CallError, Doubt, NotReady, RequestId};
use crate::handover::{Kind, NewCall, Phase, Shared};
use atlas_common::crypto::{KeyPair, Signer};
use atlas_common::quorum::{ClusterSizeError, FaultModel, Quorums};
use atlas_common::{ClientId, Digest, NodeId, OpNumber, SessionId, wire};
use atlas_communication::{
    ClientLimits, ClientNetwork, ConnectionLimits, Inbound, Member, NetworkError, TlsClientConfig,
    TlsClientNetwork,
};
use atlas_core::Limits;
use atlas_smr_core::client_message::{Consistency, StatusReport};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// What a client over TLS needs.
#[derive(Debug)]
pub struct ClientConfig {
    /// The client's identity.
    pub key: KeyPair,
    /// The voting replicas: number, key and address of each.
    pub replicas: Vec<Member>,
    /// What the client knows of the cluster, and its time-outs and bounds.
    pub core: CoreConfig,
    /// The deadlines of connections.
    pub connections: ConnectionLimits,
}

impl ClientConfig {
    /// A configuration with the default time-outs and bounds, for a cluster with default limits; the
    /// fields may be changed afterwards.
    ///
    /// # Errors
    /// When no cluster has so many replicas, or there is no randomness for the client's instance
    /// number.
    pub fn new(
        key: KeyPair,
        genesis: Digest,
        model: FaultModel,
        replicas: Vec<Member>,
    ) -> Result<Self, ConnectError> {
        let quorums = Quorums::new(model, replicas.len())?;
        let core = CoreConfig::new(genesis, quorums, random_instance()?);
        Ok(Self {
            key,
            replicas,
            core,
            connections: ConnectionLimits::default(),
        })
    }
}

/// A number that no other program under the same key has: 64 random bits.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn random_instance() -> Result<u64, ConnectError> {
    getrandom::u64().map_err(|error| ConnectError::Randomness(error.to_string()))
}

/// A client could not be started.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// A setting that cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No cluster has so many replicas.
    #[error(transparent)]
    Size(#[from] ClusterSizeError),
    /// The network does not start.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The network is that of another client than the configuration says.
    #[error("the network belongs to {network:?}, the configuration and the key to {configured:?}")]
    WrongNetwork {
        /// Whose network it is.
        network: ClientId,
        /// Whose configuration it is.
        configured: ClientId,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes for the client's instance number: {0}")]
    Randomness(String),
}

/// A client of a cluster. Cheap to clone: clones are the same client, share its session, and their
/// concurrent calls share bundles. When the last clone is dropped, or by [`Client::close`], it ends.
///
/// A call that is dropped before it is done may be executed all the same.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// Ends the task when the last client is dropped.
struct Handle {
    shared: Arc<Shared>,
    network: Arc<dyn ClientNetwork>,
    reply_bytes_max: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Client {
    /// Begins to connect to a cluster over TLS, on the current tokio runtime. Calls may be made at
    /// once; [`Client::ready`] waits until they will be served.
    ///
    /// # Errors
    /// [`ConnectError`] for a configuration that cannot work, or without a runtime.
    pub fn connect(config: ClientConfig) -> Result<Self, ConnectError> {
        config.core.validate()?;
        let key: Arc<dyn Signer> = Arc::new(config.key.clone());
        let (network, inbox) = TlsClientNetwork::start(TlsClientConfig {
            key: config.key,
            instance: config.core.instance,
            genesis: config.core.genesis,
            replicas: config.replicas,
            limits: network_limits(&config.core.limits),
            connections: config.connections,
        })?;
        Self::over(network, inbox, config.core, key)
    }

    /// A client over a network that exists already, such as one of a
    /// [`MemoryHub`](atlas_communication::MemoryHub) in the replica's own process. Runs on the
    /// current tokio runtime.
    ///
    /// # Errors
    /// [`ConnectError`] for a configuration that cannot work or that is not the network's client, or
    /// without a runtime.
    pub fn over(
        network: Arc<dyn ClientNetwork>,
        inbox: mpsc::Receiver<Inbound>,
        config: CoreConfig,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, ConnectError> {
        let runtime = Runtime::try_current().map_err(|_| NetworkError::NoRuntime)?;
        let shared = Arc::new(Shared::new(config.calls_waiting_max));
        let (voters, reply_bytes_max) = (config.quorums.n(), config.limits.frame_bytes_max);
        let core = ClientCore::new(config, signer)?;
        if core.id() != network.id() {
            let (network, configured) = (network.id(), core.id());
            return Err(ConnectError::WrongNetwork {
                network,
                configured,
            });
        }
        let sizes = (voters, reply_bytes_max);
        let (net, share) = (Arc::clone(&network), Arc::clone(&shared));
        runtime.spawn(Driver::new(core, net, inbox, share, sizes).run());
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                network,
                reply_bytes_max,
            }),
        })
    }

    /// Who this client is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.handle.network.id()
    }

    /// What the client's connections have counted.
    #[must_use]
    pub fn network(&self) -> &Arc<dyn ClientNetwork> {
        &self.handle.network
    }

    /// Has an operation executed once, in the order that all replicas agree on, and gives the
    /// application's reply.
    ///
    /// # Errors
    /// See [`CallError`], and [`CallError::is_retry_safe`].
    pub async fn call(&self, operation: Bytes) -> Result<Bytes, CallError> {
        self.submit(Kind::Ordered, operation, None).await
    }

    /// As [`Client::call`], within this time instead of the configuration's `call_timeout`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_within(
        &self,
        operation: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        self.submit(Kind::Ordered, operation, Some(timeout)).await
    }

    /// Has a read answered, without ordering it where the cluster offers that. The application must
    /// also be able to execute it in order, without an effect.
    ///
    /// # Errors
    /// See [`CallError`]. To try a read again is always safe.
    pub async fn read(
        &self,
        operation: Bytes,
        consistency: Consistency,
    ) -> Result<Bytes, CallError> {
        self.submit(Kind::Read(consistency), operation, None).await
    }

    /// As [`Client::read`], within this time instead of the configuration's `call_timeout`.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn read_within(
        &self,
        operation: Bytes,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        self.submit(Kind::Read(consistency), operation, Some(timeout))
            .await
    }

    /// As [`Client::call`], of a request and with a reply in Atlas's encoding.
    ///
    /// # Errors
    /// As [`Client::call`]; [`CallError::Encode`] and [`CallError::Decode`] besides.
    pub async fn call_typed<Request, Reply>(&self, request: &Request) -> Result<Reply, CallError>
    where
        Request: Serialize + ?Sized,
        Reply: DeserializeOwned,
    {
        let operation = wire::encode(request).map_err(CallError::Encode)?;
        self.decoded(self.call(operation.into()).await?)
    }

    /// As [`Client::read`], of a request and with a reply in Atlas's encoding.
    ///
    /// # Errors
    /// As [`Client::read`]; [`CallError::Encode`] and [`CallError::Decode`] besides.
    pub async fn read_typed<Request, Reply>(
        &self,
        request: &Request,
        consistency: Consistency,
    ) -> Result<Reply, CallError>
    where
        Request: Serialize + ?Sized,
        Reply: DeserializeOwned,
    {
        let operation = wire::encode(request).map_err(CallError::Encode)?;
        self.decoded(self.read(operation.into(), consistency).await?)
    }

    /// Asks every replica how it is. Gives the reports that came within this time, by replica, as soon
    /// as all have answered; nobody vouches for them but the replica itself.
    pub async fn status(&self, within: Duration) -> Vec<StatusReport> {
        let replicas = self.handle.network.replicas().len();
        let (answers, mut reports) = mpsc::channel(replicas.max(1));
        self.handle.shared.ask_status(answers);
        let mut heard = Vec::with_capacity(replicas);
        let deadline = Instant::now() + within;
        while heard.len() < replicas
            && let Ok(Some(report)) = timeout_at(deadline, reports.recv()).await
        {
            heard.push(report);
        }
        heard.sort_by_key(|report: &StatusReport| report.replica);
        heard
    }

    /// Waits until the cluster has opened a session for this client: from then on calls are served.
    ///
    /// # Errors
    /// [`NotReady::TimedOut`] names the replicas that could not be reached; [`NotReady::Closed`].
    pub async fn ready(&self, within: Duration) -> Result<(), NotReady> {
        let mut phase = self.handle.shared.phase.subscribe();
        self.handle.shared.want_session();
        let settled = timeout(within, phase.wait_for(|phase| *phase != Phase::Opening)).await;
        match settled.map(|phase| phase.map(|phase| *phase)) {
            Ok(Ok(Phase::Open)) => Ok(()),
            Ok(_) => Err(NotReady::Closed),
            Err(_) => Err(self.not_ready(within)),
        }
    }

    /// Ends the client, for all its clones, and waits until it has ended: calls not sent fail as
    /// [`CallError::Closed`], those sent as [`CallError::UnknownOutcome`].
    pub async fn close(&self) {
        self.handle.shared.close();
        let mut phase = self.handle.shared.phase.subscribe();
        // The other side of the channel is in our own hands: it does not go away.
        drop(phase.wait_for(|phase| *phase == Phase::Closed).await);
    }

    async fn submit(
        &self,
        kind: Kind,
        operation: Bytes,
        timeout: Option<Duration>,
    ) -> Result<Bytes, CallError> {
        let (reply, answer) = oneshot::channel();
        self.handle.shared.push(NewCall {
            kind,
            operation,
            timeout,
            reply,
        })?;
        // The task tells every call its end even when it is torn down; only a panic can keep it from
        // that, and then nothing is known.
        answer.await.unwrap_or_else(|_| {
            let (session, operation) = (SessionId::ZERO, OpNumber::ZERO);
            let request = RequestId {
                client: self.id(),
                session,
                operation,
            };
            Err(CallError::UnknownOutcome {
                request,
                doubt: Doubt::Closed,
            })
        })
    }

    fn decoded<Reply: DeserializeOwned>(&self, reply: Bytes) -> Result<Reply, CallError> {
        wire::decode(&reply, self.handle.reply_bytes_max).map_err(CallError::Decode)
    }

    fn not_ready(&self, waited: Duration) -> NotReady {
        let reachable = self.handle.network.connected();
        let all = self.handle.network.replicas().iter().copied();
        let unreachable: Vec<NodeId> = all.filter(|id| !reachable.contains(id)).collect();
        NotReady::TimedOut {
            waited,
            reachable,
            unreachable,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

fn network_limits(limits: &Limits) -> ClientLimits {
    let frame = limits.bundle_bytes_max + Limits::ENVELOPE_BYTES;
    let defaults = ClientLimits::default();
    ClientLimits {
        frame_bytes_max: frame,
        reply_bytes_max: limits.frame_bytes_max,
        queue_bytes_max: defaults.queue_bytes_max.max(2 * frame),
        ..defaults
    }
}
