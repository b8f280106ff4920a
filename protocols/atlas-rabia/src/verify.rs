//! The checks that depend on no state: senders and sizes. In a crash cluster nobody lies, but what a
//! confused peer sends must neither stop a replica nor fill its memory.

use crate::config::RabiaConfig;
use crate::message::{Message, Said, Spread};
use atlas_common::NodeId;
use atlas_core::{Membership, Reject};

/// Items of one message at most.
pub(crate) const ITEMS_MAX: usize = 1024;
/// Batches of one message at most.
pub(crate) const BATCHES_MAX: usize = 4;
/// Decisions of one message at most.
pub(crate) const DECISIONS_MAX: usize = 64;
/// Stamps are below this: some 35 thousand years of them.
pub(crate) const STAMP_MAX: u64 = 1 << 60;

pub(crate) fn message(
    config: &RabiaConfig,
    membership: &Membership,
    from: NodeId,
    message: &Message,
) -> Result<(), Reject> {
    match message {
        Message::Round(round) => {
            if round.items.len() > ITEMS_MAX || round.batches.len() > BATCHES_MAX {
                return Err(Reject::TooLarge);
            }
            if !round.items.is_empty() && !membership.is_voter(from) {
                return Err(Reject::NotAMember);
            }
            if round.items.iter().any(|item| is_malformed(&item.said)) {
                return Err(Reject::Malformed);
            }
            round
                .batches
                .iter()
                .try_for_each(|spread| self::spread(config, membership, spread))
        }
        Message::Decisions(decisions) if decisions.len() > DECISIONS_MAX => Err(Reject::TooLarge),
        Message::Answer { .. } if !membership.is_voter(from) => Err(Reject::NotAMember),
        Message::Decisions(_)
        | Message::Ask(_)
        | Message::Question { .. }
        | Message::Answer { .. } => Ok(()),
    }
}

const fn is_malformed(said: &Said) -> bool {
    !matches!(said, Said::Proposal(_)) && said.phase() == 0
}

fn spread(config: &RabiaConfig, membership: &Membership, spread: &Spread) -> Result<(), Reject> {
    if membership.member(spread.origin).is_none() {
        Err(Reject::NotAMember)
    } else if spread.batch.raw().len() > config.batch_bytes_max {
        Err(Reject::TooLarge)
    } else if spread.stamp >= STAMP_MAX {
        Err(Reject::FutureTime)
    } else if spread.batch.is_null() {
        Err(Reject::Malformed)
    } else {
        Ok(())
    }
}
