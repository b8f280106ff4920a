//! A running replica, from outside.

use crate::admin::AdminServer;
use crate::driver::{Command, Stopped};
use crate::status::ReplicaStatus;
use atlas_client::Client;
use atlas_common::NodeId;
use atlas_core::Admin;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// The replica does not answer any more: it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the replica has stopped")]
pub struct ReplicaStopped;

/// A running replica. It stops when this is dropped.
#[derive(Debug)]
pub struct ReplicaHandle {
    pub(crate) id: NodeId,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) admin: Option<AdminServer>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) client: Client,
    pub(crate) thread: Option<JoinHandle<()>>,
    pub(crate) stopped: Option<oneshot::Receiver<Stopped>>,
    pub(crate) notes: Vec<String>,
}

impl ReplicaHandle {
    /// Which member it is.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// Where it listens, unless it is on a network without addresses.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where it serves `/metrics` and `/status`, if it does.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::address)
    }

    /// What an operator should know about the start: a torn tail that was cut, a damaged checkpoint
    /// passed over.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A client inside this process, without a socket. It trusts this replica, which is its own, and
    /// takes its word; calls are ordered like any other's.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Where the replica stands.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn status(&self) -> Result<ReplicaStatus, ReplicaStopped> {
        let (answer, status) = oneshot::channel();
        self.commands
            .send(Command::Status(answer))
            .await
            .map_err(|_| ReplicaStopped)?;
        status.await.map_err(|_| ReplicaStopped)
    }

    /// Asks the protocol to replace its leader.
    ///
    /// # Errors
    /// When the replica has stopped.
    pub async fn suspect_leader(&self) -> Result<(), ReplicaStopped> {
        self.commands
            .send(Command::Suspect)
            .await
            .map_err(|_| ReplicaStopped)
    }

    /// Tells the protocol an operator's wish.
    ///
    /// # Errors
    /// When the replica has stopped.
    pub async fn admin(&self, wish: Admin) -> Result<(), ReplicaStopped> {
        self.commands
            .send(Command::Admin(wish))
            .await
            .map_err(|_| ReplicaStopped)
    }

    /// Waits until the replica stops by itself, and says why.
    pub async fn stopped(&mut self) -> Stopped {
        match self.stopped.take() {
            Some(stopped) => stopped
                .await
                .unwrap_or_else(|_| Stopped::Failed("its thread ended".to_owned())),
            None => Stopped::Asked,
        }
    }

    /// Stops the replica: what is queued for the log becomes durable, connections end.
    pub async fn shutdown(mut self) {
        // A replica that is gone already needs no asking.
        drop(self.commands.send(Command::Stop).await);
        drop(self.stopped().await);
    }
}

impl Drop for ReplicaHandle {
    fn drop(&mut self) {
        drop(self.commands.try_send(Command::Stop));
        if let Some(thread) = self.thread.take() {
            // A panic on the thread was reported when it happened.
            drop(thread.join());
        }
    }
}
