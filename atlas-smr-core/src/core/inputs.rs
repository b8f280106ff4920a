//! What the core takes, one handler for each kind.

use super::{CoreEffect, CoreTimer, Moment, ReplicaCore};
use crate::bundle::RequestBundle;
use crate::checkpoint::Outcome;
use crate::core::HaltReason;
use crate::message::{CheckedMessage, SystemMessage};
use crate::pool::Insertion;
use crate::session::SessionUpdate;
use crate::transfer::{LookedUp, StateTransferMessage};
use atlas_common::crypto::Signature;
use atlas_common::parts::PartRef;
use atlas_common::{Lsn, NodeId, SeqNo, SessionId};
use atlas_core::{
    Admin, CheckpointCertificate, CheckpointId, Input, Installed, OrderingProtocol, ReadId,
    Recipients, Reject,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How often unsettled checkpoint votes are sent again.
const VOTES_AGAIN: Duration = Duration::from_millis(500);

/// How often stored checkpoints are read on.
const SCRUB_EVERY: Duration = Duration::from_secs(1);

/// One input of [`ReplicaCore::step`].
#[derive(Debug)]
pub enum CoreInput<P: OrderingProtocol> {
    /// The first input, once.
    Start,
    /// A peer's message.
    Peer {
        /// The peer, by the key of its connection.
        from: NodeId,
        /// What it says, checked.
        message: CheckedMessage<P>,
    },
    /// Checked bundles that came from clients.
    Requests(Vec<RequestBundle>),
    /// A timer has run out.
    Timeout(CoreTimer<P::Timer>),
    /// Records up to here are durable.
    Durable(Lsn),
    /// The executor has executed decisions up to `seq`.
    Executed {
        /// The last of them.
        seq: SeqNo,
        /// Sessions that moved.
        sessions: Vec<SessionUpdate>,
        /// The session number given out last.
        last_given: SessionId,
    },
    /// The executor's checkpoint is durable in the checkpoint store.
    CheckpointTaken(CheckpointId),
    /// [`CoreEffect::SaveCertificate`] is done.
    CertificateSaved(Arc<CheckpointCertificate>),
    /// [`CoreEffect::InstallState`] is done: stored, and the executor has it. Its sessions come by
    /// [`CoreInput::Sessions`].
    StateInstalled(Installed),
    /// The state for [`CoreEffect::InstallState`] did not fit its certificate after all, or could
    /// not be stored.
    InstallFailed(SeqNo),
    /// Something outside distrusts the leader.
    Suspect,
    /// An operator's wish.
    Admin(Admin),
    /// A linearizable read wants to know after which decision it may run.
    Read(ReadId),
    /// The answer to [`CoreEffect::ServeOffer`] or [`CoreEffect::ServeParts`], from the checkpoint
    /// store.
    StoreRead {
        /// Who asked.
        to: NodeId,
        /// The messages to answer with.
        messages: Vec<StateTransferMessage>,
    },
    /// The answer to [`CoreEffect::LookUpParts`].
    LookedUp(LookedUp),
    /// [`CoreEffect::KeepParts`] or [`CoreEffect::RepairParts`] is done, for so many bytes.
    PartsKept(u64),
    /// [`CoreEffect::Scrub`] is done.
    Scrubbed,
    /// These blobs of the stored checkpoints are damaged: they are fetched from peers.
    Damaged(Vec<PartRef>),
    /// All sessions, after a restart or when a state was installed: what is not listed is closed.
    Sessions {
        /// All open sessions.
        sessions: Vec<SessionUpdate>,
        /// The session number given out last.
        last_given: SessionId,
    },
}

impl<P: OrderingProtocol> ReplicaCore<P> {
    pub(super) fn take(&mut self, input: CoreInput<P>, at: Moment) {
        match input {
            CoreInput::Start => self.on_start(at),
            CoreInput::Peer { from, message } => self.on_peer(from, message, at),
            CoreInput::Requests(bundles) => {
                for bundle in bundles {
                    self.on_request(bundle, true, at);
                }
            }
            CoreInput::Timeout(timer) => self.on_timeout(timer, at),
            CoreInput::Durable(lsn) => self.on_durable(lsn),
            CoreInput::Executed {
                seq,
                sessions,
                last_given,
            } => {
                self.executed = self.executed.max(seq);
                self.pool.executed(&sessions, last_given, at.now);
            }
            CoreInput::Sessions {
                sessions,
                last_given,
            } => {
                self.pool.reset_sessions(&sessions, last_given, at.now);
            }
            CoreInput::CheckpointTaken(id) => self.on_checkpoint_taken(id, at),
            CoreInput::CertificateSaved(certificate) => {
                self.forget_below(certificate.id.seq);
                self.inbox.push_back(Input::Checkpointed(certificate));
            }
            CoreInput::StateInstalled(installed) => self.on_state_installed(installed, at),
            CoreInput::InstallFailed(seq) => self.on_install_failed(seq, at),
            CoreInput::Suspect => self.inbox.push_back(Input::Suspect),
            CoreInput::Admin(wish) => self.inbox.push_back(Input::Admin(wish)),
            CoreInput::Read(id) => self.inbox.push_back(Input::Read(id)),
            CoreInput::StoreRead { to, messages } => self.on_store_read(to, messages, at),
            CoreInput::LookedUp(found) => self.state_transfer.looked_up(at.now, found),
            CoreInput::PartsKept(bytes) => self.state_transfer.kept(at.now, bytes),
            CoreInput::Scrubbed => self.scrub_later(at),
            CoreInput::Damaged(parts) => self.state_transfer.request_parts(at.now, &parts),
        }
    }

    fn on_start(&mut self, at: Moment) {
        self.inbox.push_back(Input::Start);
        self.set_timer_in(CoreTimer::CheckpointVotes, VOTES_AGAIN, at);
        self.scrub_later(at);
    }

    /// A second's worth a second after the last.
    fn scrub_later(&mut self, at: Moment) {
        if self.config.scrub_bytes_per_second > 0 {
            self.set_timer_in(CoreTimer::Scrub, SCRUB_EVERY, at);
        }
    }

    /// A bundle from its client, which wants an answer from here whomever else it named, or from a peer
    /// that passes it on.
    fn on_request(&mut self, bundle: RequestBundle, from_client: bool, at: Moment) {
        let (client, session) = (bundle.client(), bundle.session());
        let answer = CoreEffect::Retransmit {
            client,
            session,
            first: bundle.first(),
            last: bundle.last(),
        };
        let unnamed = from_client && !bundle.is_answered_by(self.me());
        let inserted = self.pool.insert(bundle, at.now);
        match inserted {
            Insertion::Executed => self.out.push(answer),
            Insertion::Expired(session) => {
                self.out.push(CoreEffect::Expired { client, session });
            }
            Insertion::Full | Insertion::Queued | Insertion::Duplicate | Insertion::Held => {
                if unnamed {
                    self.out.push(answer);
                }
            }
        }
        if inserted == Insertion::Full {
            self.counters.pool_full += 1;
        }
    }

    fn on_peer(&mut self, from: NodeId, message: CheckedMessage<P>, at: Moment) {
        match message {
            CheckedMessage::Protocol(message) => {
                self.inbox.push_back(Input::Message { from, message });
            }
            CheckedMessage::ForwardedRequests(bundles) => {
                for bundle in bundles {
                    self.on_request(bundle, false, at);
                }
            }
            CheckedMessage::FetchBody(digest) => self.serve_body(from, &digest),
            CheckedMessage::Body(batch) => self.on_body(from, batch),
            CheckedMessage::CheckpointVote { id, signature } => {
                self.on_checkpoint_vote(from, id, signature, at);
            }
            CheckedMessage::CheckpointCertificate(certificate) => {
                let outcome = self.checkpoints.certificate(certificate);
                self.on_checkpoint_outcome(outcome, at);
            }
            CheckedMessage::LogTransfer(message) => self.on_log_transfer(from, message, at),
            CheckedMessage::StateTransfer(message) => self.on_state_transfer(from, message, at),
            CheckedMessage::Parts(blobs) => self.state_transfer.take_parts(at.now, from, blobs),
        }
    }

    fn on_timeout(&mut self, timer: CoreTimer<P::Timer>, at: Moment) {
        self.timers_set.remove(&timer);
        match timer {
            CoreTimer::Protocol(timer) => self.inbox.push_back(Input::Timeout(timer)),
            CoreTimer::CheckpointVotes => {
                self.send_votes_again();
                self.set_timer_in(CoreTimer::CheckpointVotes, VOTES_AGAIN, at);
            }
            CoreTimer::Bodies => self.fetch_bodies_again(at),
            CoreTimer::LogTransfer => self.log_transfer.on_deadline(at.now),
            CoreTimer::StateTransfer => self.on_state_transfer_deadline(at),
            CoreTimer::Scrub => self.out.push(CoreEffect::Scrub {
                bytes: self.config.scrub_bytes_per_second,
            }),
        }
    }

    fn on_durable(&mut self, lsn: Lsn) {
        let sends: Vec<_> = self.sends.durable(lsn).collect();
        for (to, message) in sends {
            self.send(to, message);
        }
        let decides: Vec<_> = self.decides.durable(lsn).collect();
        for (seq, batch, proof) in decides {
            self.decided(seq, batch, proof);
        }
        self.inbox.push_back(Input::Durable(lsn));
    }

    /// The vote is published only when the decisions before it are durable, as every send is.
    fn on_checkpoint_taken(&mut self, id: CheckpointId, at: Moment) {
        let signature = id.sign(self.config.membership.genesis(), &*self.config.signer);
        if self.config.membership.quorums().signed() {
            let vote = SystemMessage::CheckpointVote { id, signature };
            self.send_after(self.last_lsn, Recipients::Others, vote);
        }
        let outcome = self.checkpoints.taken(self.me, id, signature);
        self.on_checkpoint_outcome(outcome, at);
    }

    fn on_checkpoint_vote(
        &mut self,
        from: NodeId,
        id: CheckpointId,
        signature: Signature,
        at: Moment,
    ) {
        let stable = self.checkpoints.stable();
        if let Some(certificate) = stable.filter(|stable| stable.id.seq >= id.seq) {
            // The sender still collects votes for what is certified here.
            let certificate = CheckpointCertificate::clone(certificate);
            self.send_to(from, SystemMessage::CheckpointCertificate(certificate));
            return;
        }
        let outcome = self.checkpoints.vote(from, id, signature);
        self.on_checkpoint_outcome(outcome, at);
    }

    fn on_checkpoint_outcome(&mut self, outcome: Outcome, at: Moment) {
        match outcome {
            Outcome::Pending => {}
            Outcome::Certified(certificate) => {
                let frontier: Bytes = self.protocol.frontier(certificate.id.seq);
                self.out.push(CoreEffect::SaveCertificate {
                    certificate,
                    frontier,
                });
            }
            Outcome::Ahead(seq) => self.fetch_up_to(seq, at),
            Outcome::Diverged { own, certified } => {
                self.halted = true;
                self.out
                    .push(CoreEffect::Halt(HaltReason::Diverged { own, certified }));
            }
            Outcome::Rejected(Reject::Duplicate | Reject::Stale) => {}
            Outcome::Rejected(reason) => {
                if reason == Reject::Equivocation {
                    self.counters.evidence += 1;
                }
                self.count_rejected(reason);
            }
        }
    }

    fn send_votes_again(&mut self) {
        let unsettled: Vec<_> = self.checkpoints.unsettled().copied().collect();
        for (id, signature) in unsettled {
            let vote = SystemMessage::CheckpointVote { id, signature };
            self.send_after(self.last_lsn, Recipients::Others, vote);
        }
    }

    /// Decisions of the last whole interval before the checkpoint stay, so that a replica a little
    /// behind needs no state.
    pub(super) fn forget_below(&mut self, checkpoint: SeqNo) {
        let keep = checkpoint
            .0
            .saturating_sub(self.config.limits.checkpoint_interval);
        self.decisions.prune_below(SeqNo(keep + 1));
    }
}
