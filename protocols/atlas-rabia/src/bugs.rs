//! Deliberate defects, each a line that somebody could have got wrong: a checker that has not caught
//! one of them has not been tested. Only with the feature `seeded-bugs`.

/// A defect of one's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "seeded-bugs"), allow(dead_code))]
pub enum SeededBug {
    /// Each replica flips a coin of its own.
    PrivateCoin,
    /// The first proposal seen becomes the slot's, without the exchange among a majority.
    SkipExchange,
    /// Votes leave before they are durable.
    VoteBeforeDurable,
    /// One message too few makes a quorum.
    QuorumOneShort,
    /// A slot decided 1 takes this replica's own proposal, whatever the digest.
    DecideOwnProposal,
    /// A replica joins a slot only when it has something to propose itself.
    JoinOnlyWithBatch,
    /// A replica that lost its disk takes part at once.
    ForgetAmnesia,
}

impl SeededBug {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::PrivateCoin,
        Self::SkipExchange,
        Self::VoteBeforeDurable,
        Self::QuorumOneShort,
        Self::DecideOwnProposal,
        Self::JoinOnlyWithBatch,
        Self::ForgetAmnesia,
    ];
}
