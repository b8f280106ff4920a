//! Rabia as a state machine without I/O.
//!
//! The protocol of H. Pan, J. Tuglu, N. Zhou, T. Wang, Y. Shen, X. Zheng, J. Tassarotti, L. Tseng and
//! R. Palmieri, *Rabia: Simplifying State-Machine Replication Through Randomization* (SOSP 2021). No
//! replica leads: each makes batches of what its own clients send and spreads them, and all agree slot
//! by slot which batch comes next, or that none does. It decides the same everywhere while at most
//! f = ⌊(n−1)/2⌋ of n replicas crash (and come back with their disks), and goes on with probability 1
//! while a majority can talk. There is no election to wait for when a replica fails.
//!
//! # Which part of the paper is where
//!
//! | file | subject | in the paper |
//! |---|---|---|
//! | `agreement` | batches spread, slots joined; exchange of proposals, states and votes | Rabia's replicas; Weak-MVC with its exchange stage and its randomised binary consensus stage |
//! | [`coin`] | the common coin | `CommonCoinFlip` |
//! | `queue` | the batches that wait, in an order that is the same everywhere | the priority queue of pending requests |
//! | `slot` | what has been said in a slot | |
//! | `decisions` | null slots, batches decided but not in hand, delivery in order | forfeiting a slot; `FindReturnValue` |
//! | `resend` | retransmission, catching up | (reliable channels are assumed) |
//! | `recovery` | garbage collection; restart from a log | log compaction; recovery is ours |
//! | `questions` | linearizable reads; a replica that lost its disk | ours |
//! | [`message`], [`record`], `verify` | what is said, what is durable, what is refused | |
//!
//! # One slot
//!
//! A replica that takes part **proposes** a batch by its digest, or nothing. It waits for n − f
//! proposals, its own included; if a majority of all replicas names one batch its **state** is 1 (with
//! that digest), else 0. Then phases of two rounds: states are exchanged, and who sees n − f equal ones
//! **votes** for that value, everybody else votes `?`; votes are exchanged, f + 1 equal ones decide;
//! who sees one takes its value as the next state, who sees only `?` takes the coin's. Where all
//! propose the same, a slot takes three message delays.
//!
//! # Where we differ
//!
//! 1. **1 carries its digest.** Two majorities of proposals share a replica, which proposes once, so at
//!    most one batch can be a slot's; states and votes of 1 name it (and so does `?`, whose sender has
//!    seen a 1). A decision binds the digest, and nobody has to search its own proposals for what was
//!    decided. The batch itself is fetched if it is not here.
//! 2. **A joining replica prefers what others propose** in the slot to the head of its queue. The paper
//!    proposes the head; any choice is safe, and this one makes equal proposals likely. A batch that
//!    somebody proposes in an undecided slot is not at the head of anybody's queue who knows; nobody
//!    proposes a batch in two undecided slots, so none is decided twice, however many are in flight.
//! 3. **A little patience.** With n − f proposals, where one more could make a majority, a replica waits
//!    a moment for those that have answered lately; and before it joins for a batch that is proposed
//!    and has not arrived. Both end with `patience`.
//! 4. **One batch of each maker at a time.** A maker's next batch is formed when the last is decided:
//!    bundles of one session keep their order, and batches grow with the load. In flight are at most n
//!    batches (and what crashed makers left), in slots up to `in_flight_max` above the decided ones.
//! 5. **Stamps are hybrid clocks** instead of wall clocks (the queue's page says how): skewed clocks
//!    starve nobody.
//! 6. **Even n is allowed**: n − f is a majority for every n, f + 1 meets every n − f.
//! 7. **Recovery from a log, repeated sends and lost disks** are ours; below.
//!
//! # What is durable before what
//!
//! | before this leaves | this is durable ([`Record`](record::Record)) |
//! |---|---|
//! | a proposal | `Body` of its batch (once, however often it is proposed), `Said` |
//! | a state, a vote | `Said`, with the digest where it is 1 or `?` |
//! | a decision handed over | every `Said` before it: the own vote may be one of those that decided |
//! | anything of a replica without memory | `Amnesiac` |
//!
//! Spreading a batch writes nothing. Status, questions, answers and requests for batches commit to
//! nothing and wait for nothing. A decision is logged behind what is sent, for the replica's own
//! restart; a checkpoint drops the records of the slots below it, and leaves a `Floor`: even with an
//! older checkpoint than the log once had, a replica takes no part at or below it.
//!
//! # Why it is safe
//!
//! *A restarted replica is a slow one.* Everything that it ever said is on its disk before it is said,
//! so in no life does it contradict another; what it had *heard* is lost, which is as if it had not
//! arrived yet, and is sent again.
//!
//! *Agreement.* Within a phase n − f equal states are a majority, so all votes that are not `?` are
//! equal, v. If f + 1 votes are v, everybody's n − f votes hold one of them, so all states of the next
//! phase are v, and so are all votes from then on: whoever decides, in whatever phase, decides v. The
//! coin plays no part in this. For v = 1 the batch is the one a majority proposed.
//!
//! *Validity.* If nobody's state is 1 at first, all vote 0. So what is decided was proposed by a
//! majority, each of which has it on its disk: whichever majority is alive, one of them can hand it out.
//!
//! *Lost disks*: the rule and its argument stand at the head of `questions.rs`. In short: a replica
//! without memory asks, and takes part again above the highest slot that any of f + 1 **others** has
//! reached, plus `in_flight_max`. Nobody begins a slot further than that above its decided ones, each
//! decided slot has seen n − f replicas take part, n − f − 1 of them others, and f + 1 others include
//! one of these.
//!
//! # Why it is live, and what that is worth
//!
//! Slots end with probability 1 (Ben-Or, with a common coin). Let the network choose who hears what,
//! without looking at the coin. After a phase whose votes are not all alike, states are v (from votes)
//! or the coin; with probability at least 1/2 the coin is v (or all took the coin), all states are
//! equal, and the next phase decides. So a slot takes more than 1 + k further phases with probability
//! at most 2⁻ᵏ, and on average at most 3 phases, of two message delays each. Where a majority's heads
//! are equal it takes one. The coin is a hash that anybody can compute: a network that looks at it can
//! delay a slot for as long as it likes (a test does so), and still split no decision.
//!
//! Null slots are no progress. After one, every batch proposed in it is free again, and whoever does
//! not know it asks for it; queues that have come together have one head, and stamps keep new batches
//! behind it. A slot that one replica has begun all others join, on any message of it; one that nobody
//! has told them about they begin themselves after a `resend` interval, if somebody has heard of a
//! later one. Until a slot moves, its last words are sent again to those who have not answered, at
//! intervals that grow eightfold at most; they answer with what is missing or with what was decided.
//! Nothing waits for anything else: a replica that crashes holds up at most the `patience` of the
//! others, once.
//!
//! # Reads
//!
//! A read asks n − f replicas for the highest slot that each has taken part in, and runs once the
//! highest of the answers is decided and executed here: `questions.rs` has the argument. One question
//! serves all reads that came before it. Any replica serves any client; requests are never forwarded.
//!
//! # Limits of memory
//!
//! Slots: the window above the own checkpoint, however many of them stay empty. An open one holds a
//! proposal of each voter, 80 bytes for each phase from the last on (64 at most), and two bytes for
//! each phase that it has gone through. Batches: those of the queue (`pool_bytes_max`, shared equally
//! among the members, 16 of each at most), and the decided ones of the window. Digests of decided
//! batches: two windows. One answer to a peer in a quarter of a `resend` interval.
//!
//! # Example
//!
//! Three replicas, one step each at a time; the disk is instant and the network loses nothing.
//!
//! ```
#![doc = include_str!("../examples/three_under_rabia.rs")]
//! ```
//!
//! # Deliberate defects
//!
//! With the feature `seeded-bugs`, `RabiaConfig::with_bug` plants one of
//! [`SeededBug`](bugs::SeededBug): a checker that has not caught each of them has not been tested.
//! Production is never built with it.
//!
//! # Which trap and which row is tested where
//!
//! In `src/tests/`; the simulator (`atlas-sim`) has scenarios besides.
//!
//! | trap or row of the fault catalogue | test |
//! |---|---|
//! | the coin is a pure function, never private | `scheduler::trap_the_coin_…`, and the rig compares all coins |
//! | a scheduler biased against the coin | `scheduler::a_scheduler_…` (two) |
//! | decided 1 without the batch in hand | `traps::trap_decided_1_…` |
//! | join on any message | `traps::trap_a_replica_joins_…` |
//! | count oneself | `traps::trap_a_replica_counts_itself_…` |
//! | a decision binds the digest | `traps::trap_a_decision_binds_…` |
//! | back to the queue, no starvation | `traps::trap_requests_return_…`, `traps::trap_nobody_starves_…`, `traps::queues_that_differ_…` |
//! | lost messages after a reconnection | `traps::trap_messages_lost_…` |
//! | words survive a crash | `recovery::trap_what_was_said_…`, and the rig checks every send |
//! | late messages of a compacted slot | `traps::trap_late_messages_…` |
//! | storms of null slots | `traps::trap_memory_is_bounded_…` |
//! | proposals that never reach a majority; 39 | `traps::row_39_…` (two) |
//! | a lagging replica that fetches slots | `traps::a_lagging_replica_…` |
//! | 43, 46, 47 crashes | `recovery::row_43_…`, `row_46_…`, `row_47_…` |
//! | 45 lost disk | `recovery::row_45_…` (five) |
//! | 48 clocks | `traps::row_48_…` |
//! | 50 garbage collection | `traps::row_50_…` |

mod agreement;
pub mod bugs;
pub mod coin;
mod config;
mod decisions;
pub mod message;
mod questions;
mod queue;
mod rabia;
pub mod record;
mod recovery;
mod resend;
mod slot;
#[cfg(test)]
mod tests;
mod verify;

pub use config::{ConfigError, RabiaConfig};
pub use rabia::{Counters, Flip, Rabia, Timer};
