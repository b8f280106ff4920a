//! The checks that depend on no state: senders, sizes, and that an append could be a leader's.

use crate::config::RaftConfig;
use crate::message::{Append, Body, ENTRIES_PER_APPEND_MAX, Message};
use atlas_common::{NodeId, View};
use atlas_core::{Membership, Reject};

/// No log reaches this place: numbers above it are no places.
const PLACE_MAX: u64 = 1 << 62;

pub(crate) fn message(
    config: &RaftConfig,
    membership: &Membership,
    from: NodeId,
    message: &Message,
) -> Result<(), Reject> {
    if message.epoch != membership.epoch() {
        return Err(Reject::WrongEpoch);
    }
    if for_voters_only(&message.body) && !membership.is_voter(from) {
        return Err(Reject::WrongSender);
    }
    match &message.body {
        Body::Append(append) => self::append(config, message.term, append),
        _ => Ok(()),
    }
}

/// What only a leader, a candidate or one who votes has to say.
fn for_voters_only(body: &Body) -> bool {
    match body {
        Body::Append(_)
        | Body::Behind { .. }
        | Body::RequestVote(_)
        | Body::Vote { .. }
        | Body::TimeoutNow
        | Body::ReadAnswer { .. }
        | Body::Recall { .. }
        | Body::Recalled { .. }
        | Body::Renew => true,
        Body::Accepted(_)
        | Body::Rejected(_)
        | Body::Heard { .. }
        | Body::Outdated
        | Body::ReadAsk { .. } => false,
    }
}

/// Terms never fall along a log, and none is above its leader's (section 3.5).
fn append(config: &RaftConfig, term: View, append: &Append) -> Result<(), Reject> {
    let entries = &append.entries;
    let large = |batch: &atlas_core::Batch| batch.raw().len() > config.batch_bytes_max;
    if entries.len() > ENTRIES_PER_APPEND_MAX || entries.iter().any(|entry| large(&entry.batch)) {
        return Err(Reject::TooLarge);
    }
    if append.previous.0.0 > PLACE_MAX {
        return Err(Reject::OutOfWindow);
    }
    let mut last = append.previous.1;
    for entry in entries {
        if entry.term < last {
            return Err(Reject::Malformed);
        }
        last = entry.term;
    }
    if last > term {
        return Err(Reject::Malformed);
    }
    Ok(())
}
