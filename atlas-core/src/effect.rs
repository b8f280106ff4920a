//! What a protocol asks of its driver.

use crate::batch::Batch;
use crate::input::ReadId;
use crate::protocol::OrderingProtocol;
use crate::verified::Reject;
use atlas_common::{Digest, Lsn, NodeId, SeqNo, Time, View};

/// One effect of [`OrderingProtocol::step`], to be carried out in order.
#[derive(Debug)]
pub enum Effect<P: OrderingProtocol> {
    /// Append this record to the log.
    Persist {
        /// Its number: one more than the last one's.
        lsn: Lsn,
        /// The record.
        record: P::Record,
    },
    /// Send this message once the log is durable up to `after`.
    Send {
        /// To whom.
        to: Recipients,
        /// What.
        message: P::Message,
        /// [`Lsn::ZERO`] for a message that may leave at once.
        after: Lsn,
    },
    /// Wake me by [`Input::Timeout`](crate::Input::Timeout) at this moment, instead of at the one
    /// set for this timer before.
    SetTimer {
        /// The timer's name.
        timer: P::Timer,
        /// When.
        at: Time,
    },
    /// Forget this timer.
    CancelTimer(P::Timer),
    /// I could propose now: hand me one batch as soon as there is one. Asking again before the
    /// answer changes nothing.
    WantBatch,
    /// I need the batch with this digest: ask the others, again and again, until
    /// [`Effect::Release`].
    Fetch(Digest),
    /// I no longer need the batch with this digest.
    Release(Digest),
    /// This slot is decided. Slots come in order, without gaps, each once.
    Decide {
        /// The slot.
        seq: SeqNo,
        /// What it holds; null for an empty slot.
        batch: Batch,
        /// Evidence that can be shown to anybody.
        proof: P::Proof,
        /// Act on it once the log is durable up to here.
        after: Lsn,
    },
    /// These proposals were dropped with their view: their requests wait again.
    Stopped(Vec<Batch>),
    /// Answer the read once decisions up to `seq` are executed.
    ReadAt {
        /// The read.
        id: ReadId,
        /// The decision to wait for.
        seq: SeqNo,
    },
    /// This replica cannot serve the read now: the client must ask another, or order it.
    ReadRefused(ReadId),
    /// The view changed; requests go to this leader (`None`: nobody leads now).
    Leader {
        /// The view.
        view: View,
        /// Its leader.
        leader: Option<NodeId>,
    },
    /// Decisions up to `at_least` exist, and I cannot get them by my own messages.
    FetchState {
        /// The decision that others have.
        at_least: SeqNo,
    },
    /// Records below this one are no longer needed for my recovery.
    Compact {
        /// The first record that is still needed.
        below: Lsn,
    },
    /// A checked message was dropped; count it.
    Rejected {
        /// Whose message it was.
        from: NodeId,
        /// Why.
        reason: Reject,
    },
    /// Two messages, both signed by `culprit`, that no correct replica could both have signed: keep
    /// them.
    Evidence {
        /// Who signed both.
        culprit: NodeId,
        /// The two messages.
        messages: Box<(P::Message, P::Message)>,
    },
}

/// Whom a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// One replica.
    One(NodeId),
    /// Every other member.
    Others,
}
