//! Deliberate defects, each a line that somebody could have got wrong: a checker that has not caught
//! one of them has not been tested. Only with the feature `seeded-bugs`.

/// A defect of one's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "seeded-bugs"), allow(dead_code))]
pub enum SeededBug {
    /// A vote is given, and the term taken over, without a record.
    VoteNotPersisted,
    /// Entries are acknowledged before they are durable.
    AckBeforeDurable,
    /// A majority commits entries of any term, not only of the leader's own.
    CommitOldTerm,
    /// One vote or acknowledgement too few makes a majority.
    QuorumOneShort,
    /// An append that ends earlier than the log cuts off the rest.
    StaleAppendErases,
    /// A new leader answers reads before it has committed an entry of its term.
    ReadBeforeOwnCommit,
    /// A leader answers reads without asking whether it still leads.
    ReadWithoutRound,
    /// A replica that has lost its log votes at once.
    ForgetfulVoter,
    /// A vote is given to whoever asks first, however old its log.
    VoteForOldLogs,
}

impl SeededBug {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::VoteNotPersisted,
        Self::AckBeforeDurable,
        Self::CommitOldTerm,
        Self::QuorumOneShort,
        Self::StaleAppendErases,
        Self::ReadBeforeOwnCommit,
        Self::ReadWithoutRound,
        Self::ForgetfulVoter,
        Self::VoteForOldLogs,
    ];
}
