//! Raft as a state machine without I/O.
//!
//! The protocol of D. Ongaro, *Consensus: Bridging Theory and Practice* (PhD thesis, Stanford 2014);
//! section and figure numbers here, in the code and in the tests' names are the thesis's. It decides
//! the same batches in the same order on all replicas while a majority of the voters' disks live, and
//! goes on deciding while a majority of the voters run and hear each other. Replicas crash and come
//! back; they do not lie.
//!
//! # Which section is where
//!
//! | file | subject | section |
//! |---|---|---|
//! | [`message`] | messages, entries | 3.5, 3.6 |
//! | `verify` | checks that depend on no state | |
//! | `election` | time-outs, pre-vote, votes, stickiness, distrust | 3.4, 3.6.1, 4.2.3, 9.6 |
//! | `leader`, `peer` | proposals, pipelined replication, commitment, check-quorum | 3.5, 3.6.2, 6.2, 10.2.1 |
//! | `follower`, `log` | the log, conflicts and hints | 3.5 |
//! | `reads` | ReadIndex, leases, reads at followers | 6.4 |
//! | `transfer` | handing over leadership | 3.10 |
//! | `recovery` | restart from records, compaction, states from peers | 3.8, 5.1 |
//! | `amnesia` | a replica that has lost its log | (none) |
//! | [`record`] | what is durable | 3.8 |
//!
//! Members change by epochs, above this crate; section 4's rules for changing them are not needed.
//!
//! # Where we differ
//!
//! 1. **A cluster forwards requests.** A follower hands them to the leader it knows
//!    ([`Effect::Leader`](atlas_core::Effect::Leader)); sessions (6.3) are the framework's.
//! 2. **Snapshots are the framework's checkpoints** (5.1 to 5.3): a leader does not send its own. A
//!    follower that lacks entries which the leader has dropped is told so, and fetches decisions or a
//!    state from anybody. A decision carries its entry's term ([`message::Proof`]), so that what is
//!    fetched belongs into the log like anything else. Nothing is acknowledged before it is installed.
//! 3. **A follower has room for two windows** above its checkpoint, says how far it goes, and is sent
//!    no more. Empty entries need no room: the entry that begins a term must always fit.
//! 4. **A round of heartbeats is answered twice** by a follower whose disk is busy: at once, that it
//!    has seen the round (reads and leases wait for that), and when its log is durable, how far.
//! 5. **A follower that distrusts a leader that it hears** no longer sticks to it: on
//!    [`Input::Suspect`](atlas_core::Input::Suspect), or when a request has waited for eight long
//!    election time-outs in which nothing at all was decided. It takes a majority of such followers to
//!    replace the leader. Where leases are on, followers stick to their leader whatever they think of
//!    it. A leader that is distrusted hands over.
//! 6. **A candidate waits for its own disk** before it tries again, so that slow disks do not pile up
//!    terms; it gives the others as long as its own vote took.
//! 7. **A replica without memory** neither votes nor counts until a rule of our own is fulfilled; see
//!    below.
//!
//! # What is durable before what
//!
//! | before this leaves | this is durable ([`Record`](record::Record)) |
//! |---|---|
//! | a vote, and the request for one | `Hard`, with term and vote |
//! | an acknowledgement | `Entries`, all of them up to what it says |
//! | anything of a replica without memory | `Hard`, which says that it is one |
//!
//! The leader's appends overtake its own disk (10.2.1): it counts itself for an entry when the record
//! that holds the entry *now* is durable. So do answers to rounds, and questions of readers, which
//! promise nothing. Decisions wait for no disk: what is committed is on a majority's. A checkpoint
//! that is durable stands for the entries below it, whether their records are durable or not. Where the
//! log begins is written down after an installation, and again at each start: a power cut may leave the
//! state and lose the record, and what follows must not be read as following on the entries before it.
//!
//! # Why it is safe
//!
//! The thesis's argument (3.6.3), in short. *One leader in a term*: a voter gives one vote in a term, in
//! all its lives, since the vote is durable before it leaves. *Log matching*: a follower takes entries
//! only behind the one that they follow at the leader, by place and term, and a leader never changes
//! its own. *Leader completeness*: an entry is committed when a majority holds it durably and an entry
//! of the term of whoever counts is held so with it; any later leader has the votes of a majority, one
//! of which is from a replica that held the entry when it voted, and votes go to logs that are at least
//! as up-to-date. So what is committed is in every later leader's log, and is never replaced.
//!
//! *Reads.* A leader that has committed an entry of its own term knows everything that was committed
//! before that term began. When a majority has answered a round that began after the read came, no
//! later leader had been elected when it began; so nothing was committed by then that is not in the
//! leader's commit index, or came after the read. *Leases*: who answers a round helps nobody to be
//! elected for `election_min` after it heard the leader, and a restart counts as having heard it; so
//! none is elected within the lease after the round began, as long as clocks drift apart by less than
//! `election_min − lease` in that time. A leader that has asked another to take over has no lease for
//! the rest of its term.
//!
//! # A replica that has lost its log
//!
//! It may have promised, in a term that it does not remember, to take nothing from earlier leaders
//! (its vote), and to keep an entry (its acknowledgement). The rule, for such a replica W:
//!
//! > W follows whoever leads, but gives no vote and asks for none, and says with every acknowledgement
//! > that it does not count: neither towards a commit nor towards a round. It asks all other voters
//! > for their terms, with a number that it draws when it starts. Let m be the highest term among the
//! > answers of a majority's worth of *others*. Once an entry of a term T > m is committed in W's log,
//! > W counts again, and votes in terms above T. While the term is m or lower, W asks the leader to
//! > begin a new one, which the leader does by standing for election itself.
//!
//! Why it suffices. Let W ask at moment t. The replicas that answered, Q, meet every majority V
//! outside of W.
//!
//! 1. *A leader of a term above m is elected after t.* Its majority has a member in Q other than W that
//!    was at m or below when it answered, after t, and voted later.
//! 2. *What W had acknowledged and was committed* is of a term ≤ m, by 1. The leader of T has it: its
//!    majority and the one that committed the entry share a replica other than W, or W itself, voting
//!    for it when it still remembered. So W has it again when it has the committed entry of T.
//! 3. *What W had voted for*, C in term U. If U ≤ T, W does nothing more in a term below T, and in T
//!    it follows only. If U > T, then C cannot be elected with that vote: C asked for it before t, so
//!    by 1 the last entry of its log is of a term ≤ m < T. The entry of T was committed by a majority A
//!    that W was not counted in. Any majority for C shares with A a replica other than W, which either
//!    voted in U first, and then took nothing of T, or holds the entry of T, and then refuses C. Without
//!    that vote C is a candidate like any other, and W's new vote in U is its only one that matters.
//! 4. *One that has lost its log several times*, or several of them, are no different: who has no memory
//!    answers nobody, and by 3 a leader elected with a forgotten vote is of a term ≤ T, so that who
//!    votes again is at that term at least, and answers so.
//!
//! With n = 3, both others must answer, and be up until W counts again: W's disk was the one fault that
//! the cluster survives. With n ≤ 2 the rule is never fulfilled; what is lost then is lost.
//!
//! # Why it is live
//!
//! Time-outs differ, so that in the end one candidate is alone; terms begin only when a majority would
//! elect (9.6), so that replicas that were cut off, or whose logs are short, disturb nobody; a leader
//! that cannot reach a majority steps down (6.2), so that nobody sticks to it; and one of a term that is
//! over hears of the newer one, so that a replica that is ahead of the others is not locked out. What
//! is lost on the way is found out by heartbeats, which carry the place after what was sent last: a
//! follower that lacks it says so. Votes and readers' questions are sent again.
//!
//! # Limits of memory
//!
//! The log: two windows above the checkpoint; a leader keeps up to a window below it for members that
//! are alive and need it; and empty entries, one for each leader that was elected since something was
//! decided last, of about a hundred bytes each. A log transfer may add what it brings before the next
//! checkpoint. In flight to each member: `entries_in_flight_max`, `bytes_in_flight_max`. Reads: 65,536
//! that wait at each replica, the rest is refused.
//!
//! # Example
//!
//! Three replicas, one step each at a time; the disk is instant and the network loses nothing.
//!
//! ```
#![doc = include_str!("../examples/three_under_raft.rs")]
//! ```
//!
//! # Deliberate defects
//!
//! With the feature `seeded-bugs`, `RaftConfig::with_bug` plants one of
//! [`SeededBug`](bugs::SeededBug): a checker that has not caught each of them has not been tested.
//! Production is never built with it. Random runs of the tests here catch all of them but the commit of
//! an old term, which shows in a scenario of its own, figure 3.7.
//!
//! # Which trap and which row of the fault catalogue is tested where
//!
//! In `src/tests/`; the simulator (`atlas-sim`) has scenarios besides.
//!
//! | trap or row | test |
//! |---|---|
//! | commit of earlier terms, indices that fall (PySyncObj #166–169) | `replication::figure_3_7_…` (two), `figure_3_2_…` |
//! | a stale append erases (raftos #26) | `replication::section_3_5_a_stale_append_…` |
//! | votes and acknowledgements before their sync (robustmq #2039, tikv #994, noraft #27) | `elections::section_3_6_…` (three), `replication::section_3_5_an_entry_is_…` |
//! | pre-vote and check-quorum (raft-rs #84, etcd #8334) | `elections::section_9_6_…` (three) |
//! | partial connectivity (openraft #2080), row 39 | `elections::row_39_…` (two), `section_6_2_…` |
//! | an election forced on a leader (openraft #1839) | `elections::section_4_2_3_…` |
//! | ReadIndex before an own commit (etcd #7331, tikv #6340) | `reads::section_6_4_a_leader_refuses_…` |
//! | reads of a paused leader (etcd #20418), row 47 | `reads::row_47_…`, `section_6_4_only_rounds_…` |
//! | asynchronous appends, ABA | `replication::asynchronous_appends_aba_…` |
//! | state over a conflicting log, crash while installing (hashicorp/raft #697, dgraph #2707) | `recovery::section_5_1_…` |
//! | a wiped disk votes (nats-server #7038), row 45; a checkpoint below the log's beginning, row 41 | `memory::row_45_…`, `memory::row_41_…` |
//! | row 15 two paths | `recovery::row_15_…` |
//! | row 40 slow peer | `recovery::row_40_…`, `entries_that_a_slow_follower_needs_…` |
//! | row 43 power cuts | `recovery::row_43_…` (two) |
//! | row 46 away for long | `recovery::row_46_…` |

mod amnesia;
pub mod bugs;
mod config;
mod election;
mod follower;
mod leader;
mod log;
pub mod message;
mod peer;
mod raft;
mod reads;
pub mod record;
mod recovery;
#[cfg(test)]
mod tests;
mod transfer;
mod verify;

pub use config::{ConfigError, RaftConfig, RaftSettings};
pub use raft::{Raft, Timer};
