//! Catching up: what the core does with log and state transfer.

use super::{CoreEffect, Moment, ReplicaCore};
use crate::message::SystemMessage;
use crate::transfer::{
    FetchedState, LogTransferEffect, LogTransferMessage, StateTransferEffect, StateTransferMessage,
    StateTransferProtocol,
};
use atlas_common::{NodeId, SeqNo};
use atlas_core::{Batch, Input, Installed, OrderingProtocol};
use std::sync::Arc;

impl<P: OrderingProtocol> ReplicaCore<P> {
    /// Others have decisions up to `at_least`.
    pub(super) fn fetch_up_to(&mut self, at_least: SeqNo, at: Moment) {
        let decided = self.protocol.decided();
        if at_least > decided {
            self.log_transfer.want(at.now, decided, at_least);
        }
    }

    pub(super) fn on_log_transfer(
        &mut self,
        from: NodeId,
        message: LogTransferMessage<P::Proof>,
        at: Moment,
    ) {
        if let LogTransferMessage::Request {
            from: first,
            to: last,
        } = message
        {
            let decided = self.protocol.decided();
            let checkpoint = self.checkpoints.stable().map(|certificate| &**certificate);
            let (store, wanted) = (&self.decisions, (first, last));
            let transfer = &mut self.log_transfer;
            let answer = transfer.answer(at.now, from, wanted, store, decided, checkpoint);
            if let Some(answer) = answer {
                self.send_to(from, SystemMessage::LogTransfer(answer));
            }
        } else {
            self.log_transfer.on_message(at.now, from, message);
        }
    }

    pub(super) fn on_state_transfer(
        &mut self,
        from: NodeId,
        message: StateTransferMessage,
        at: Moment,
    ) {
        self.state_transfer.process_message(at.now, from, message);
    }

    pub(super) fn on_state_transfer_deadline(&mut self, at: Moment) {
        self.state_transfer.handle_timeout(at.now);
    }

    /// Carries out what the transfers want, as long as they want something.
    pub(super) fn drive_transfers(&mut self, at: Moment) {
        if self.log_transfer.is_active() || self.state_transfer.is_active() {
            let decided = self.protocol.decided();
            self.log_transfer.on_progress(at.now, decided);
            self.state_transfer.on_progress(decided);
        }
        for effect in self.log_transfer.drain() {
            match effect {
                LogTransferEffect::Send { to, message } => {
                    self.send_to(to, SystemMessage::LogTransfer(message));
                }
                LogTransferEffect::Deliver { first, decisions } => self.learn(first, decisions, at),
                // One that is being installed is not fetched a second time.
                LogTransferEffect::NeedState { .. } if self.installing.is_some() => {}
                LogTransferEffect::NeedState { .. } => {
                    let decided = self.protocol.decided();
                    self.state_transfer.request_latest_state(at.now, decided);
                }
            }
        }
        while let Some(effect) = self.state_transfer.poll() {
            self.carry_out_state_transfer(effect);
        }
    }

    /// Hands the protocol what it missed. Their executions go to the executor in one piece, at the
    /// end of the flush.
    fn learn(&mut self, first: SeqNo, decisions: Vec<(Batch, P::Proof)>, at: Moment) {
        for (seq, (batch, proof)) in (0..).map(|i| first.plus(i)).zip(decisions) {
            self.counters.decisions_transferred += 1;
            self.inbox.push_back(Input::Decided { seq, batch, proof });
        }
        self.run_protocol(at);
        let decided = self.protocol.decided();
        self.log_transfer.on_progress(at.now, decided);
    }

    fn carry_out_state_transfer(&mut self, effect: StateTransferEffect) {
        let effect = match effect {
            StateTransferEffect::Send { to, message } => {
                return self.send_to(to, SystemMessage::StateTransfer(message));
            }
            StateTransferEffect::Fetched(state) => return self.install(state),
            StateTransferEffect::Begin(target) => CoreEffect::TransferTarget(Some(target)),
            StateTransferEffect::End => CoreEffect::TransferTarget(None),
            StateTransferEffect::Lookup(question) => CoreEffect::LookUpParts(question),
            StateTransferEffect::Keep { blobs } => CoreEffect::KeepParts(blobs),
            StateTransferEffect::Repair { blobs } => CoreEffect::RepairParts(blobs),
            StateTransferEffect::Unrepairable { digests } => CoreEffect::Unrepairable(digests),
            StateTransferEffect::ServeOffer { to, above } => CoreEffect::ServeOffer { to, above },
            StateTransferEffect::ServeParts { to, digests } => {
                CoreEffect::ServeParts { to, digests }
            }
        };
        self.out.push(effect);
    }

    /// A state that is no newer than what was decided meanwhile is of no use.
    fn install(&mut self, state: FetchedState) {
        let seq = state.certificate.id.seq;
        if seq <= self.protocol.decided() || self.installing.is_some() {
            self.out.push(CoreEffect::TransferTarget(None));
            return;
        }
        self.installing = Some(seq);
        self.hand_over_decisions();
        self.out.push(CoreEffect::InstallState(Box::new(state)));
    }

    pub(super) fn on_state_installed(&mut self, installed: Installed, at: Moment) {
        let seq = installed.seq();
        self.installing = None;
        self.counters.states_installed += 1;
        self.executed = self.executed.max(seq);
        self.ready.retain(|decision| decision.seq > seq);
        self.checkpoints
            .installed(Arc::clone(&installed.certificate));
        self.forget_below(seq);
        self.inbox.push_back(Input::StateInstalled(installed));
        self.run_protocol(at);
        self.log_transfer
            .on_progress(at.now, self.protocol.decided());
    }

    pub(super) fn on_install_failed(&mut self, seq: SeqNo, at: Moment) {
        if self.installing == Some(seq) {
            self.installing = None;
            let decided = self.protocol.decided();
            self.state_transfer.request_latest_state(at.now, decided);
        }
    }

    /// An answer that the driver has read from the checkpoint store.
    pub(super) fn on_store_read(
        &mut self,
        to: NodeId,
        messages: Vec<StateTransferMessage>,
        at: Moment,
    ) {
        let bytes = messages.iter().map(StateTransferMessage::bytes).sum();
        self.state_transfer.served(at.now, to, bytes);
        for message in messages {
            self.send_to(to, SystemMessage::StateTransfer(message));
        }
    }
}
