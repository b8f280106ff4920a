//! What comes in: frames of replicas and clients, and news of the node's other threads.

use super::Driver;
use super::checking::Checked;
use super::events::{Events, InstallOutcome};
use crate::store::StoreEvent;
use atlas_common::ClientId;
use atlas_common::wire;
use atlas_communication::{ClientInbound, Inbound};
use atlas_core::{Installed, OrderingProtocol, Reject};
use atlas_smr_core::client_message::{ClientMessage, Reply, StatusReport};
use atlas_smr_core::core::CoreInput;
use atlas_smr_core::message::SystemMessage;
use atlas_smr_core::transfer::FetchedState;
use atlas_smr_execution::Progress;
use bytes::Bytes;
use std::sync::Arc;

impl<P: OrderingProtocol> Driver<P> {
    /// Frames of replicas. What does not decode or breaks a rule is dropped and counted; the connection
    /// stays, since a correct peer of another version may send what this one cannot read.
    pub(super) fn on_frames(&mut self, inbounds: Vec<Inbound>) {
        let limit = self.shared.limits.frame_bytes_max;
        let mut messages = Vec::new();
        for inbound in inbounds {
            for frame in inbound.frames {
                match wire::decode::<SystemMessage<P>>(&frame, limit) {
                    Ok(message) => messages.push((inbound.from, frame.len(), message)),
                    Err(_) => self.core.count_rejected(Reject::Malformed),
                }
            }
        }
        if !messages.is_empty() {
            let checked = self.checking.messages(messages);
            self.take_checked(checked);
        }
    }

    /// Has long frames checked elsewhere. Gives the others.
    pub(super) fn hand_over_long(&self, mut inbounds: Vec<Inbound>) -> Vec<Inbound> {
        for inbound in &mut inbounds {
            let frames = std::mem::take(&mut inbound.frames).into_iter();
            let short =
                frames.filter_map(|frame| self.checking.transfer(inbound.from, frame).err());
            inbound.frames = short.collect();
        }
        inbounds
    }

    /// Frames of clients.
    pub(super) fn on_client_frames(&mut self, inbounds: Vec<ClientInbound>) {
        let mut bundles: Vec<(ClientId, Bytes)> = Vec::new();
        let limit = self.shared.limits.frame_bytes_max;
        for inbound in inbounds {
            for frame in inbound.frames {
                match wire::decode::<ClientMessage>(&frame, limit) {
                    Ok(ClientMessage::Bundle(raw)) => bundles.push((inbound.from, raw)),
                    Ok(ClientMessage::Read(read)) => self.on_read(inbound.from, read),
                    Ok(ClientMessage::Status(id)) => self.report_status(inbound.from, id),
                    Err(_) => self.core.count_rejected(Reject::Malformed),
                }
            }
        }
        if !bundles.is_empty() {
            let checked = self.checking.bundles(bundles);
            self.take_checked(checked);
        }
    }

    pub(super) fn take_checked(&mut self, checked: Vec<Checked<P>>) {
        for one in checked {
            match one {
                Checked::Bundles(bundles) => self.step(CoreInput::Requests(bundles)),
                Checked::Message(from, message) => self.step(CoreInput::Peer { from, message }),
                Checked::Refused(reason) => self.core.count_rejected(reason),
            }
        }
    }

    pub(super) fn take_events(&mut self, events: Events) {
        if let Some(why) = events.failed {
            self.stop(why);
            return;
        }
        if let Some(lsn) = events.durable {
            self.step(CoreInput::Durable(lsn));
        }
        if let Some(Progress {
            seq,
            sessions,
            last_given,
        }) = events.executed
        {
            self.step(CoreInput::Executed {
                seq,
                sessions,
                last_given,
            });
        }
        for event in events.store {
            self.on_store_event(event);
        }
        for outcome in events.installed {
            self.on_install_outcome(outcome);
        }
    }

    fn on_store_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Written(id) => self.step(CoreInput::CheckpointTaken(id)),
            StoreEvent::Certified(certificate) => {
                self.step(CoreInput::CertificateSaved(certificate));
            }
            StoreEvent::Installed(state) => self.install(state),
            StoreEvent::NotInstalled { seq, why } => {
                self.on_install_outcome(InstallOutcome::Refused { seq, why });
            }
            StoreEvent::LookedUp(found) => self.step(CoreInput::LookedUp(found)),
            StoreEvent::Kept(bytes) => self.step(CoreInput::PartsKept(bytes)),
            StoreEvent::Scrubbed => self.step(CoreInput::Scrubbed),
            StoreEvent::Damaged(parts) => self.step(CoreInput::Damaged(parts)),
            StoreEvent::Read { to, messages } => self.step(CoreInput::StoreRead { to, messages }),
            StoreEvent::Failed(error) => {
                let advice = match error.remedy() {
                    Some(remedy) => format!("\nwhat helps: {}", remedy.advice()),
                    None => String::new(),
                };
                self.stop(format!("the checkpoint store failed: {error}{advice}"));
            }
        }
    }

    /// A state from peers is on the disk: the executor takes it over from there.
    fn install(&mut self, state: FetchedState) {
        let id = state.certificate.id;
        self.state.installing = Some(Installed {
            certificate: Arc::new(state.certificate),
            frontier: state.frontier,
        });
        let source = Arc::new(self.store.keeper().source_of_fetched());
        self.executor.install_parts(id, state.descriptor, source);
    }

    fn on_install_outcome(&mut self, outcome: InstallOutcome) {
        match outcome {
            InstallOutcome::Done { seq, progress } => {
                let Progress {
                    sessions,
                    last_given,
                    ..
                } = progress;
                let installed = self.state.installing.take();
                if let Some(installed) = installed.filter(|installed| installed.seq() == seq) {
                    self.step(CoreInput::Sessions {
                        sessions,
                        last_given,
                    });
                    self.step(CoreInput::StateInstalled(installed));
                }
            }
            InstallOutcome::Refused { seq, why } => {
                tracing::error!(
                    replica = self.me().0,
                    "a fetched state was not installed: {why}"
                );
                self.state.installing = None;
                self.step(CoreInput::InstallFailed(seq));
            }
        }
    }

    pub(super) fn is_local(&self, client: &ClientId) -> bool {
        self.shared.local.knows(client)
    }

    /// Answers when the digest of the present state has been computed, on another thread.
    fn report_status(&self, client: ClientId, id: u64) {
        let core = self.core.status();
        let (shared, connected) = (Arc::clone(&self.shared), self.network.connected());
        let replica = self.me();
        self.executor.state_digest(Box::new(move |digest| {
            let Some((executed, state)) = digest else {
                return;
            };
            let report = StatusReport {
                replica,
                view: core.protocol.view,
                leader: core.protocol.leader,
                decided: core.protocol.decided,
                executed,
                checkpoint: core.checkpoint,
                state,
                view_changes: core.protocol.view_changes,
                forgot_votes: core.protocol.forgot_votes,
                catching_up: core.catching_up,
                fetching: core.fetching,
                connected,
            };
            shared.reply(&client, Reply::Status { id, report });
        }));
    }
}
