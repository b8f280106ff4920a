//! Practical Byzantine Fault Tolerance as a state machine without I/O.
//!
//! The protocol of M. Castro and B. Liskov, *Practical Byzantine Fault Tolerance* (OSDI 1999), with
//! what *Practical Byzantine Fault Tolerance and Proactive Recovery* (TOCS 20(4), 2002) adds on
//! status messages and view changes. It decides the same batches in the same order on all correct
//! replicas while at most f = ⌊(n−1)/3⌋ of n lie, and goes on deciding while messages between a
//! quorum of correct ones arrive in the end. A quorum is ⌈(n+f+1)/2⌉, which is 2f+1 for n = 3f+1:
//! any two share a correct replica, for every n.
//!
//! # Which section is where
//!
//! | file | subject | section |
//! |---|---|---|
//! | [`message`] | messages, and what each signature covers | OSDI 4.2–4.4 |
//! | [`mod@sealed`] | content that is signed as it was received | |
//! | `verify` | checks that depend on no state | OSDI 4.2, 4.4 |
//! | `slot`, `normal` | proposals, votes, *prepared*, *committed-local*, decisions | OSDI 4.2 |
//! | `view_change` | leaving a view, joining at f+1, beginning and entering one, back-off | OSDI 4.4, 4.5.2 |
//! | `new_view` | what a view begins with | OSDI 4.4 |
//! | `recovery` | restart from records, garbage collection at checkpoints | OSDI 4.3, TOCS 4 |
//! | `amnesia` | a replica that has lost its log | (TOCS 4 recovers otherwise) |
//! | `status` | retransmission | TOCS 5.2 |
//! | [`record`] | what is durable | |
//!
//! Checkpoints (OSDI 4.3) are agreed on above this crate; certificates come in as
//! [`Input::Checkpointed`](atlas_core::Input::Checkpointed).
//!
//! # Where we differ
//!
//! 1. **The leader's signed proposal is its prepare vote**, and any quorum of equal prepare votes is
//!    a prepared certificate. The paper wants the proposal and 2f prepares of others: the same number
//!    of replicas, counted in one way.
//! 2. **f+1 equal prepare votes replace the leader's own message.** One of them is a correct
//!    replica's, so the batch was proposed; whoever holds the body, or has fetched it by digest, votes
//!    too. It votes once in a view and slot all the same, and that is all that safety needs.
//! 3. **A new view carries no proposals.** They are a function of its view changes, which every
//!    replica evaluates: there is nothing that a leader could omit, alter or put out of order.
//! 4. **Commit votes of earlier views still decide.** A quorum of commit votes proves a quorum of
//!    prepared certificates, whatever view the reader is in by then.
//! 5. **Signatures instead of MACs**, so that votes, certificates and decisions can be shown to third
//!    parties, and view changes need no acknowledgements.
//! 6. **Status messages are the only retransmission.** A replica that waits says where it stands, at
//!    most ten times in a status interval; who is further sends what it lacks, at most twice as often,
//!    at most 32 slots and about one full batch at a time.
//! 7. **A replica follows the view that it left** until another begins: it keeps bodies and counts
//!    commit votes, without voting. One that was wrong to distrust the leader stays up to date.
//! 8. **A replica without memory** asks a quorum of the others, none of them itself, where they stand.
//!    It changes no view until its own certified checkpoint is at least the highest `decided` of the
//!    answers plus the window, and votes in no view up to the highest of the answers. The argument
//!    stands at the head of `amnesia.rs`: up to there it may have voted, above it cannot have.
//! 9. **Slots decided long ago are not voted for again.** A replica votes in a new view only in slots that it
//!    has not decided, and the last few; who lacks more is sent the proofs of the decisions. A view may
//!    begin with thousands of slots, and one that takes longer to begin than its time-out never does.
//! 10. **A replica that starts below the checkpoint that its log was cut at**, because that one is damaged,
//!     neither votes nor changes views until its own certified checkpoint is there again.
//!
//! # What is durable before what
//!
//! Every message waits for the records persisted before it, but for status messages.
//!
//! | before this leaves | this is durable ([`Record`](record::Record)) |
//! |---|---|
//! | a proposal or prepare vote | `Body`, `Prepare` |
//! | a commit vote | `Prepared`, with the certificate; and so the body |
//! | a view change | `ViewChange`, with all its certificates |
//! | a vote in a new view | `Entered` |
//! | anything of a replica without memory | `Amnesiac` |
//! | the loss of records at a checkpoint | `Cut`, with the checkpoint's number |
//! | a decision that this replica's own vote was needed for | `Prepared` |
//!
//! A decision by a quorum of *others* waits for nothing: their records are durable. (Where reads are not
//! ordered it waits for its own `Committed`,
//! [`with_durable_decisions`](PbftConfig::with_durable_decisions): a client's write counts with a quorum of
//! replicas that have executed it, and a power cut must not take it from them until they have decided it
//! again.) A checkpoint drops
//! the records of the slots below it, after `Entered`, `ViewChange`, `Cut` and the like have been written
//! anew; compaction must not overtake the records that were persisted before it.
//!
//! # Why it is safe
//!
//! *Within a view.* A correct replica persists its prepare vote before it sends it and never votes
//! again in that view and slot, in any of its lives. Two prepared certificates for one view and slot
//! share a correct voter, so they hold one digest.
//!
//! *Across views.* Let a batch be committed in view v and slot s: a quorum has sent commit votes,
//! and each correct one of these holds a durable prepared certificate. A later view begins with a
//! quorum of view changes, one of them by a correct replica of the first quorum, made after its commit
//! vote (afterwards it votes no more in v). Either a certified checkpoint that it knows of, its own or
//! the one that its last view began at, has passed s, and then the view begins above s, where *nobody
//! votes at or below the checkpoint that the view began at*; or it carries a certificate for s of view
//! v or later. By induction over the views between, every certificate for s of a view ≥ v holds the
//! committed digest; those of lower views lose against it; so the view begins with that digest in s,
//! and in that view no other is voted for.
//!
//! *Certificates are checked, not believed*: every signature in a view change, a new view and a proof
//! is verified over the cluster's genesis digest, epoch, view and slot, and voters count once.
//!
//! # Why it is live
//!
//! The deadline of a leader is that of the request that has waited longest, or of the slot that is to
//! be decided next; the progress of others moves neither. A replica that misses it wants the next
//! view; f+1 that want higher views take the rest along (f cannot); with a quorum for a view or beyond
//! it, its leader has a time-out, doubled after each view change up to a cap, until a view has decided all
//! that waited as it began (one decision is not enough: under more load than the cluster bears, views
//! would end before they have caught up, and cost the next ones their beginnings).
//! Correct replicas that all wait therefore come to share a view for as long as it takes, with a
//! correct leader at least every f+1 views. What got lost is sent again on status messages: proposals
//! and votes of the view, decisions, the new view itself; bodies are fetched by digest; a replica far
//! behind fetches state, and blames no leader meanwhile.
//!
//! # Limits of memory
//!
//! Slots: two windows at most (above the own checkpoint, and above that of the view; what lies between
//! is let go when the view begins, and every view change carries the certificate that allows it), each
//! with two votes per member, and the bodies of its proposal, prepared and decided batch. View changes:
//! the newest of each member, of at most two windows of certificates. Peers: one entry each. A new view
//! holds a quorum of view changes; with a checkpoint interval of 1024 and n = 4 that is about 1 MB,
//! and grows with n² times the slots above the checkpoint. [`PbftConfig::new`] refuses a window with
//! which it may not fit a frame, and larger clusters begin with a smaller one
//! ([`limits_for`](atlas_core::OrderingProtocol::limits_for)).
//!
//! # Example
//!
//! Four replicas, one step each at a time; the disk is instant and the network loses nothing.
//!
//! ```
#![doc = include_str!("../examples/four.rs")]
//! ```
//!
//! # Deliberate defects
//!
//! With the feature `seeded-bugs`, `PbftConfig::with_bug` plants one of
//! [`SeededBug`](bugs::SeededBug): a checker that has not caught each of them has not been tested.
//! Production is never built with it. The tests here catch all of them; the one that lets the oldest
//! certificate win shows in the scenario `certificates-of-two-views`: two thousand random runs did not meet it.
//!
//! # Which row of the fault catalogue is tested where
//!
//! In `src/tests/`; tests carry the number of the row, or the section of the paper. The simulator
//! (`atlas-sim`) has a scenario for each row besides.
//!
//! | row | test |
//! |---|---|
//! | 1 two proposals | `normal::row_1_…` |
//! | 2 censored client | `views::row_2_…` |
//! | 5 oversized batch | `normal::row_5_…` |
//! | 6 proposal reaches few | `normal::row_6_…` (two) |
//! | 7 votes before the proposal | `normal::row_7_…`, `views::votes_of_a_view_that_came_before_its_new_view_count` |
//! | 8, 9 foreign, forged, replayed votes | `recovery::row_9_…`, `normal::votes_are_counted_per_member…`, `normal::prepares_are_compared_by_digest` |
//! | 10 far future | `normal::row_10_…`, `views::row_10_…` |
//! | 11, 12 certificates mixed or fabricated | `views::row_11_…`, `views::row_12_…` |
//! | 13 new views | `views::row_13_…` (two), `new_view::tests` |
//! | 14 decide by digest | `normal::row_14_…` |
//! | 15 two paths | `normal::row_15_…` |
//! | 16 decision races view change | `views::row_16_…` |
//! | 17 storms and back-off | `views::row_17_…` (two) |
//! | 18 partition | `views::row_18_…` |
//! | 19 timers out of step | `views::row_19_…` |
//! | 24 split first slot | `views::row_24_…` |
//! | 26 restart | `recovery::row_26_…` (two) |
//! | 41 a damaged checkpoint | `recovery::row_41_…` |
//! | 45 lost disk | `recovery::a_replica_without_memory_…`, `recovery::stale_and_inflated_answers…` |

mod amnesia;
pub mod bugs;
mod config;
pub mod message;
mod new_view;
mod normal;
mod pbft;
pub mod record;
mod recovery;
pub mod sealed;
mod slot;
mod status;
#[cfg(test)]
mod tests;
mod verify;
mod view_change;

pub use config::{ConfigError, PbftConfig};
pub use pbft::{Pbft, Timer};
