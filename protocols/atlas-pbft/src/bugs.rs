//! Deliberate defects, each a line that somebody could have got wrong: a checker that has not caught
//! one of them has not been tested. Only with the feature `seeded-bugs`.

/// A defect of one's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "seeded-bugs"), allow(dead_code))]
pub enum SeededBug {
    /// Votes leave before they are durable.
    VoteBeforeDurable,
    /// One vote too few makes a quorum.
    QuorumOneShort,
    /// A view change carries only the first prepared slot.
    DropPreparedSlots,
    /// A slot is decided with whatever batch is at hand, not with the one of the decided digest.
    ExecuteWithoutBody,
    /// The new view takes the certificate of the lowest view instead of the highest.
    OldestCertificateWins,
}

impl SeededBug {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::VoteBeforeDurable,
        Self::QuorumOneShort,
        Self::DropPreparedSlots,
        Self::ExecuteWithoutBody,
        Self::OldestCertificateWins,
    ];
}
