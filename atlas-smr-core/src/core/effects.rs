//! What the core asks of its driver, and how it carries out what the protocol asks of it.

use super::{Moment, ReplicaCore};
use crate::bundle::RequestBundle;
use crate::message::SystemMessage;
use crate::transfer::{FetchedState, Lookup};
use atlas_common::parts::{Blob, StateDescriptor};
use atlas_common::{ClientId, Digest, Lsn, NodeId, OpNumber, SeqNo, SessionId, Time, View};
use atlas_core::{
    Batch, CheckpointCertificate, CheckpointId, Effect, OrderingProtocol, ReadId, Recipients,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// One effect of the core, to be carried out in order.
#[derive(Debug)]
pub enum CoreEffect<P: OrderingProtocol> {
    /// Append to the log; report [`CoreInput::Durable`](super::CoreInput::Durable).
    Append {
        /// The record's number.
        lsn: Lsn,
        /// The record.
        record: P::Record,
    },
    /// Records below this one may be deleted.
    CompactLog {
        /// The first that is still needed.
        below: Lsn,
    },
    /// Send now.
    Send {
        /// To whom.
        to: Recipients,
        /// What; encode it once for all recipients.
        message: SystemMessage<P>,
    },
    /// Execute these, in order, behind all earlier ones.
    Execute(Vec<Decision>),
    /// The client asks this replica itself: send it what is kept of these operations' replies, and the
    /// others when they are executed.
    Retransmit {
        /// The client that asked.
        client: ClientId,
        /// Its session.
        session: SessionId,
        /// The first operation.
        first: OpNumber,
        /// The last operation.
        last: OpNumber,
    },
    /// Tell the client that its session is closed.
    Expired {
        /// The client.
        client: ClientId,
        /// The session.
        session: SessionId,
    },
    /// Who leads has changed: for the hints in replies.
    Leader {
        /// The view.
        view: View,
        /// Its leader.
        leader: Option<NodeId>,
    },
    /// Wake me by [`CoreInput::Timeout`](super::CoreInput::Timeout) at this moment, instead of at an
    /// earlier set one.
    SetTimer {
        /// The timer.
        timer: CoreTimer<P::Timer>,
        /// When.
        at: Time,
    },
    /// Forget this timer.
    CancelTimer(CoreTimer<P::Timer>),
    /// Keep this certificate (and the protocol's frontier) with the stored checkpoint, durably; then
    /// report [`CoreInput::CertificateSaved`](super::CoreInput::CertificateSaved).
    SaveCertificate {
        /// The certificate.
        certificate: Arc<CheckpointCertificate>,
        /// The protocol's bytes that travel with it.
        frontier: Bytes,
    },
    /// A peer asks for the newest certified checkpoint above `above`: read it from the store and
    /// report [`CoreInput::StoreRead`](super::CoreInput::StoreRead), with no message when there is
    /// none.
    ServeOffer {
        /// Who asked.
        to: NodeId,
        /// It has everything up to here.
        above: SeqNo,
    },
    /// A peer asks for blobs of stored checkpoints; answered likewise, with what
    /// [`answer`](crate::transfer::state::answer) makes of them.
    ServeParts {
        /// Who asked.
        to: NodeId,
        /// Which blobs.
        digests: Vec<Digest>,
    },
    /// A state is being fetched (`None`: no more): keep what belongs to it.
    TransferTarget(Option<StateDescriptor>),
    /// Look into the store, behind all that was to be kept before; then report
    /// [`CoreInput::LookedUp`](super::CoreInput::LookedUp).
    LookUpParts(Lookup),
    /// Keep these blobs in the store, then report
    /// [`CoreInput::PartsKept`](super::CoreInput::PartsKept). At most
    /// [`IN_FLIGHT_MAX`](crate::transfer::state::IN_FLIGHT_MAX) bytes are on their way.
    KeepParts(Vec<Blob>),
    /// Put these blobs in the place of damaged ones, then report
    /// [`CoreInput::PartsKept`](super::CoreInput::PartsKept).
    RepairParts(Vec<Blob>),
    /// Read on through the stored checkpoints, about so many bytes; then report
    /// [`CoreInput::Scrubbed`](super::CoreInput::Scrubbed), and before it what is damaged by
    /// [`CoreInput::Damaged`](super::CoreInput::Damaged).
    Scrub {
        /// How many.
        bytes: u64,
    },
    /// No peer has these blobs, which are damaged here.
    Unrepairable(Vec<Digest>),
    /// This state is in the store: make it a checkpoint there, and put it in the executor's place,
    /// behind all decisions handed over before; then report
    /// [`CoreInput::StateInstalled`](super::CoreInput::StateInstalled), or
    /// [`CoreInput::InstallFailed`](super::CoreInput::InstallFailed).
    InstallState(Box<FetchedState>),
    /// The read may run once `seq` is executed.
    ReadAt {
        /// The read.
        id: ReadId,
        /// The decision to wait for.
        seq: SeqNo,
    },
    /// This replica cannot serve the read now.
    ReadRefused(ReadId),
    /// Proof that a member lied: keep it where an operator finds it.
    Evidence {
        /// The member.
        culprit: NodeId,
        /// Its two contradicting messages.
        messages: Box<(P::Message, P::Message)>,
    },
    /// Stop: going on would do harm.
    Halt(HaltReason),
}

/// A timer of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CoreTimer<T> {
    /// One of the protocol's.
    Protocol(T),
    /// Sends unsettled checkpoint votes again.
    CheckpointVotes,
    /// Asks another peer for missing bodies.
    Bodies,
    /// A log transfer's next deadline.
    LogTransfer,
    /// A state transfer's next deadline.
    StateTransfer,
    /// Reads stored checkpoints again.
    Scrub,
}

/// A decision on its way to the executor.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The slot.
    pub seq: SeqNo,
    /// What was decided.
    pub batch: Batch,
    /// Its bundles, where the core has decoded them already.
    pub bundles: Option<Arc<Vec<RequestBundle>>>,
}

/// Why a replica must not go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HaltReason {
    /// Its state differs from the one that a quorum certified.
    #[error(
        "the state of this replica after decision {seq} is {own}, but a quorum certified \
         {certified}: the application is not deterministic, or this replica's memory or disk is \
         damaged. Nothing was overwritten; wipe the replica's data and let it rejoin once the cause \
         is found",
        seq = own.seq, own = own.state, certified = certified.state
    )]
    Diverged {
        /// What this replica has.
        own: CheckpointId,
        /// What the quorum has.
        certified: CheckpointId,
    },
}

impl<P: OrderingProtocol> ReplicaCore<P> {
    pub(super) fn carry_out(&mut self, effect: Effect<P>, at: Moment) {
        match effect {
            Effect::Persist { lsn, record } => self.out.push(CoreEffect::Append { lsn, record }),
            Effect::Send { to, message, after } => {
                self.send_after(after, to, SystemMessage::Protocol(message));
            }
            Effect::SetTimer { timer, at } => self.set_timer(CoreTimer::Protocol(timer), at),
            Effect::CancelTimer(timer) => self.cancel_timer(CoreTimer::Protocol(timer)),
            Effect::WantBatch => self.wants_batch = true,
            Effect::Fetch(digest) => self.fetch_body(digest, at),
            Effect::Release(digest) => {
                self.bodies.release(&digest);
            }
            Effect::Decide {
                seq,
                batch,
                proof,
                after,
            } => self.decide(seq, batch, proof, after),
            Effect::Stopped(batches) => self.restore(&batches, at),
            Effect::ReadAt { id, seq } => self.out.push(CoreEffect::ReadAt { id, seq }),
            Effect::ReadRefused(id) => self.out.push(CoreEffect::ReadRefused(id)),
            Effect::Leader { view, leader } => {
                self.leader = (view, leader);
                self.wants_batch = false;
                self.pool.view_changed();
                self.out.push(CoreEffect::Leader { view, leader });
            }
            Effect::FetchState { at_least } => self.fetch_up_to(at_least, at),
            Effect::Compact { below } => self.out.push(CoreEffect::CompactLog { below }),
            Effect::Rejected { reason, .. } => self.count_rejected(reason),
            Effect::Evidence { culprit, messages } => {
                self.counters.evidence += 1;
                self.out.push(CoreEffect::Evidence { culprit, messages });
            }
        }
    }

    pub(super) fn send_after(&mut self, after: Lsn, to: Recipients, message: SystemMessage<P>) {
        if let Some((to, message)) = self.sends.push(after, (to, message)) {
            self.send(to, message);
        }
    }

    /// Decisions keep their order: one that could go at once waits behind one that cannot.
    fn decide(&mut self, seq: SeqNo, batch: Batch, proof: P::Proof, after: Lsn) {
        self.decides_after = self.decides_after.max(after);
        let after = self.decides_after;
        if let Some((seq, batch, proof)) = self.decides.push(after, (seq, batch, proof)) {
            self.decided(seq, batch, proof);
        }
    }

    pub(super) fn decided(&mut self, seq: SeqNo, batch: Batch, proof: P::Proof) {
        if seq <= self.executed {
            // It waited for the disk, and a state that was installed meanwhile holds its effects.
            return;
        }
        self.counters.decisions += 1;
        // Only a replica that waits for something has to look inside.
        let bundles = (!self.pool.is_empty()).then(|| {
            let bundles = Arc::new(self.decode(&batch));
            self.pool.decided(bundles.iter());
            bundles
        });
        self.decisions.push(seq, batch.clone(), proof);
        self.ready.push(Decision {
            seq,
            batch,
            bundles,
        });
    }

    fn decode(&self, batch: &Batch) -> Vec<RequestBundle> {
        let (genesis, limits) = (self.config.membership.genesis(), &self.config.limits);
        let decode = |raw: &Bytes| RequestBundle::decode(raw.clone(), genesis, limits).ok();
        batch.bundles().iter().filter_map(decode).collect()
    }

    fn restore(&mut self, batches: &[Batch], at: Moment) {
        let bundles = batches
            .iter()
            .flat_map(|batch| self.decode(batch))
            .collect();
        self.pool.restore(bundles, at.now);
    }

    pub(super) fn set_timer(&mut self, timer: CoreTimer<P::Timer>, at: Time) {
        if self.timers_set.insert(timer, at) != Some(at) {
            self.out.push(CoreEffect::SetTimer { timer, at });
        }
    }

    pub(super) fn set_timer_in(&mut self, timer: CoreTimer<P::Timer>, delay: Duration, at: Moment) {
        self.set_timer(timer, at.now.after(delay));
    }

    pub(super) fn cancel_timer(&mut self, timer: CoreTimer<P::Timer>) {
        if self.timers_set.remove(&timer).is_some() {
            self.out.push(CoreEffect::CancelTimer(timer));
        }
    }
}
