//! What the node's threads share: how to reach a client, and who leads.

use atlas_common::{ClientId, NodeId, wire};
use atlas_communication::{Inbound, ReplicaNetwork};
use atlas_core::Limits;
use atlas_smr_core::client_message::{LeaderHint, Reply, ReplyMessage};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Shared by the core's task and the executor's thread.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    /// Whether replicas may lie, so that messages are signed and clients compare replies.
    pub(crate) signed: bool,
    pub(crate) unordered_reads: bool,
    pub(crate) local: LocalClients,
    network: Arc<dyn ReplicaNetwork>,
    hint: Mutex<LeaderHint>,
}

impl Shared {
    pub(crate) fn new(
        limits: Limits,
        signed: bool,
        unordered_reads: bool,
        network: Arc<dyn ReplicaNetwork>,
    ) -> Self {
        Self {
            limits,
            signed,
            unordered_reads,
            local: LocalClients::default(),
            network,
            hint: Mutex::new(LeaderHint::default()),
        }
    }

    pub(crate) fn set_hint(&self, hint: LeaderHint) {
        *self.hint.lock() = hint;
    }

    /// Sends a reply to wherever the client is: a socket, or this process.
    pub(crate) fn reply(&self, client: &ClientId, reply: Reply) {
        let message = ReplyMessage {
            hint: *self.hint.lock(),
            reply,
        };
        // A reply is numbers and byte strings, which always encode.
        let Ok(frame) = wire::encode(&message) else {
            return;
        };
        if !self.local.deliver(client, &frame) {
            self.network.reply(client, frame.into());
        }
    }
}

/// Clients inside this process.
#[derive(Default)]
pub(crate) struct LocalClients {
    any: AtomicBool,
    inboxes: RwLock<BTreeMap<ClientId, mpsc::Sender<Inbound>>>,
}

impl LocalClients {
    pub(crate) fn add(&self, client: ClientId, inbox: mpsc::Sender<Inbound>) {
        self.inboxes.write().insert(client, inbox);
        self.any.store(true, Ordering::Release);
    }

    pub(crate) fn remove(&self, client: &ClientId) {
        self.inboxes.write().remove(client);
    }

    pub(crate) fn knows(&self, client: &ClientId) -> bool {
        self.any.load(Ordering::Acquire) && self.inboxes.read().contains_key(client)
    }

    /// Whether the client is here. A full inbox drops the reply, as a socket's queue would; the
    /// client asks again.
    fn deliver(&self, client: &ClientId, frame: &[u8]) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let inboxes = self.inboxes.read();
        let Some(inbox) = inboxes.get(client) else {
            return false;
        };
        let frames = vec![Bytes::copy_from_slice(frame)];
        drop(inbox.try_send(Inbound::new(NodeId(0), frames)));
        true
    }
}
