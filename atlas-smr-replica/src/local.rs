//! A client inside the replica's own process, without a socket.

use crate::shared::Shared;
use atlas_client::{Client, ConnectError, CoreConfig, random_instance};
use atlas_common::crypto::{KeyPair, Signer};
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::{ClientId, Digest, NodeId};
use atlas_communication::{ClientCounters, ClientInbound, ClientNetwork};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Replies that may wait for the client.
const REPLIES_MAX: usize = 1024;

/// The client sees one replica, its own, whose word it takes.
struct LocalNetwork {
    id: ClientId,
    replica: [NodeId; 1],
    requests: mpsc::Sender<ClientInbound>,
    shared: Arc<Shared>,
}

impl ClientNetwork for LocalNetwork {
    fn id(&self) -> ClientId {
        self.id
    }

    fn replicas(&self) -> &[NodeId] {
        &self.replica
    }

    fn send(&self, _to: NodeId, frame: Bytes) {
        // When the core is that far behind the client sends again.
        drop(
            self.requests
                .try_send(ClientInbound::new(self.id, vec![frame])),
        );
    }

    fn counters(&self) -> ClientCounters {
        ClientCounters::default()
    }

    fn connected(&self) -> Vec<NodeId> {
        self.replica.to_vec()
    }

    fn shutdown(&self) {
        self.shared.local.remove(&self.id);
    }
}

/// A client that signs with the replica's key and believes the replica. Runs on the current runtime.
pub(crate) fn client(
    key: &KeyPair,
    genesis: Digest,
    requests: mpsc::Sender<ClientInbound>,
    shared: &Arc<Shared>,
) -> Result<Client, ConnectError> {
    let one = Quorums::new(FaultModel::Crash, 1)?;
    let mut config = CoreConfig::new(genesis, one, random_instance()?);
    config.limits = shared.limits.clone();
    let id = ClientId {
        key: key.public_key(),
        instance: config.instance,
    };
    let (replies, inbox) = mpsc::channel(REPLIES_MAX);
    shared.local.add(id, replies);
    let network = LocalNetwork {
        id,
        replica: [NodeId(0)],
        requests,
        shared: Arc::clone(shared),
    };
    Client::over(Arc::new(network), inbox, config, Arc::new(key.clone()))
}
