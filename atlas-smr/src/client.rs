//! Clients of a real cluster.

use atlas_client::{CallError, Client, ConnectError, CoreConfig, random_instance};
use atlas_common::quorum::Quorums;
use atlas_communication::{ConnectionLimits, Member};
use atlas_core::Role;
use atlas_smr_core::client_message::Consistency;
use atlas_smr_execution::ApplicationData;
use atlas_smr_replica::config::ClientConfig;
use bytes::Bytes;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// How a client of this cluster is set up: for whoever wants to change something before
/// [`Client::connect`].
///
/// # Errors
/// When the operating system has no randomness for the client's instance number.
pub fn client_config(config: &ClientConfig) -> Result<atlas_client::ClientConfig, ConnectError> {
    let cluster = &config.cluster;
    let voters = cluster
        .members()
        .iter()
        .filter(|member| member.role == Role::Voter);
    let replicas: Vec<Member> = voters
        .map(|m| Member {
            id: m.id,
            key: m.key,
            address: m.address.to_string(),
        })
        .collect();
    let quorums = Quorums::new(cluster.protocol().model, replicas.len())?;
    let mut core = CoreConfig::new(*cluster.genesis(), quorums, random_instance()?);
    core.limits = cluster.limits().clone();
    core.unordered_reads = cluster.unordered_reads();
    core.call_timeout = cluster.timeouts().call();
    core.retransmit_initial = cluster.timeouts().retransmit();
    core.retransmit_max = core.retransmit_max.max(core.retransmit_initial);
    Ok(atlas_client::ClientConfig {
        key: config.key.clone(),
        replicas,
        core,
        connections: ConnectionLimits::default(),
    })
}

/// Begins to connect to the cluster that a client file names, on the current tokio runtime.
///
/// # Errors
/// When the configuration cannot work, or without a runtime.
pub fn connect(config: &ClientConfig) -> Result<Client, ConnectError> {
    Client::connect(client_config(config)?)
}

/// A client that speaks an application's requests and replies. Cheap to clone.
pub struct ApplicationClient<A> {
    client: Client,
    reply_bytes_max: usize,
    application: PhantomData<fn() -> A>,
}

impl<A> Clone for ApplicationClient<A> {
    fn clone(&self) -> Self {
        let (client, reply_bytes_max) = (self.client.clone(), self.reply_bytes_max);
        Self {
            client,
            reply_bytes_max,
            application: PhantomData,
        }
    }
}

impl<A> fmt::Debug for ApplicationClient<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApplicationClient")
            .field(&self.client.id())
            .finish()
    }
}

impl<A: ApplicationData> ApplicationClient<A> {
    /// Speaks for `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let reply_bytes_max = atlas_common::wire::ENCODED_BYTES_MAX;
        Self {
            client,
            reply_bytes_max,
            application: PhantomData,
        }
    }

    /// The client underneath, which speaks bytes.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Has a request ordered and executed, exactly once.
    ///
    /// # Errors
    /// See [`CallError`]; [`CallError::is_retry_safe`] says whether the request may be made again.
    pub async fn call(&self, request: &A::Request) -> Result<A::Reply, CallError> {
        let reply = self.client.call(encode::<A>(request)?).await?;
        self.decode(&reply)
    }

    /// As [`Self::call`], for a request that changes nothing: where the cluster allows it, it is not
    /// ordered.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn read(
        &self,
        request: &A::Request,
        consistency: Consistency,
    ) -> Result<A::Reply, CallError> {
        let reply = self.client.read(encode::<A>(request)?, consistency).await?;
        self.decode(&reply)
    }

    /// Waits until calls will be served.
    ///
    /// # Errors
    /// When no session could be opened in this time; says which replicas could not be reached.
    pub async fn ready(&self, within: Duration) -> Result<(), atlas_client::NotReady> {
        self.client.ready(within).await
    }

    fn decode(&self, reply: &[u8]) -> Result<A::Reply, CallError> {
        A::decode_reply(reply, self.reply_bytes_max).map_err(CallError::Decode)
    }
}

fn encode<A: ApplicationData>(request: &A::Request) -> Result<Bytes, CallError> {
    let mut bytes = Vec::new();
    A::encode_request(request, &mut bytes).map_err(CallError::Encode)?;
    Ok(bytes.into())
}
