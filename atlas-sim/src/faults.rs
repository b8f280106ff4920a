//! What can go wrong in a run, and how often it did.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultKind {
            $($(#[$doc])* $kind,)*
        }

        impl FaultKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A message was lost.
    Loss = "messages lost",
    /// A message arrived twice.
    Duplicate = "messages duplicated",
    /// A message overtook an earlier one of its link.
    Reorder = "messages reordered",
    /// A message was stopped by a partition.
    Partition = "messages cut by partitions",
    /// A message met a replica that was down.
    Down = "messages to crashed replicas",
    /// The power of a replica was cut, or its process killed.
    Crash = "crashes",
    /// A crash really lost bytes that had not been synced.
    LostWrites = "crashes that lost writes",
    /// A replica lost its disk.
    Wipe = "wiped disks",
    /// A power cut in the middle of a write.
    TornWrite = "power cuts during a write",
    /// A part of a stored checkpoint was found to be damaged.
    DamagedPart = "damaged parts of checkpoints",
    /// A bit flipped in what a replica had stored, and it found that when it came back.
    Damage = "damaged disks",
    /// A crash lost records that had been handed to the log and were not durable.
    LostRecord = "records lost before they were durable",
    /// A decision came by log transfer to a replica that had come to it otherwise.
    TwoPaths = "decisions that came by transfer too",
    /// A replica's state was changed behind its back.
    Corruption = "states changed behind a replica's back",
    /// A replica found that its state is not the certified one, and stopped.
    Diverged = "replicas that stopped over a wrong state",
    /// A replica came back.
    Restart = "restarts",
    /// A replica stood still and went on later.
    Pause = "pauses",
    /// A disk was slow.
    SlowDisk = "slow disk phases",
    /// A sync failed, and the replica stopped.
    SyncFailed = "failed syncs",
    /// A disk was full, and the replica stopped.
    DiskFull = "full disks",
    /// A wall clock jumped.
    ClockJump = "jumps of wall clocks",
    /// A replica's clock ran at another speed.
    Skew = "skewed clocks",
    /// Something outside distrusted the leader.
    Suspicion = "suspicions from outside",
    /// A leader sent different proposals for one slot.
    Equivocation = "equivocating proposals",
    /// A replica held back a message.
    Mute = "messages withheld",
    /// A replica delayed its messages.
    Slow = "messages delayed by a slow replica",
    /// A leader left out a client's requests.
    Censorship = "requests censored",
    /// A leader proposed what no client signed, or what it repeats or reorders.
    BadProposal = "bad proposals",
    /// A message larger than its limit.
    Oversized = "oversized messages",
    /// A proposal went to some replicas only.
    PartialProposal = "proposals sent to some only",
    /// A proposal that came after the votes for it.
    LateProposal = "proposals behind their votes",
    /// A forged or altered vote.
    ForgedVote = "forged votes",
    /// Votes for different content in one slot.
    DoubleVote = "contradicting votes",
    /// A message of another time, view or sender.
    Replay = "replayed messages",
    /// A message of another cluster or epoch.
    ForeignDomain = "messages of another cluster or epoch",
    /// A sequence number or view far ahead.
    FarFuture = "far-future messages",
    /// A certificate that was made up.
    FakeCertificate = "made-up certificates",
    /// A new view that does not follow from its certificates.
    BadNewView = "bad new views",
    /// A view change for no reason.
    ViewChangeStorm = "needless view changes",
    /// A wrong checkpoint vote.
    BadCheckpoint = "wrong checkpoint votes",
    /// A lie in a log or state transfer.
    BadTransfer = "lies in transfers",
    /// A part of a state that is one, but not one that was asked for.
    WrongPart = "parts that were not asked for",
    /// A description of a state whose lengths or counts do not fit.
    WrongLength = "states with wrong lengths",
    /// A read answered from a state that is over.
    StaleRead = "reads answered late on purpose",
    /// A wrong reply to a client.
    ForgedReply = "forged replies",
    /// Bytes that are no message.
    Garbage = "garbage",
    /// A client sent different payloads under one operation number.
    ClientEquivocation = "client equivocations",
    /// A client left gaps, jumped ahead, repeated numbers or flooded sessions.
    ClientDisorder = "disorderly client numbers",
    /// A client sent something that is no request.
    ClientGarbage = "client garbage",
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each kind of fault really happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultCounts([u64; FaultKind::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; FaultKind::ALL.len()])
    }
}

impl FaultCounts {
    /// One more.
    pub fn count(&mut self, kind: FaultKind) {
        self.add(kind, 1);
    }

    /// So many more.
    pub fn add(&mut self, kind: FaultKind, times: u64) {
        self.0[kind as usize] += times;
    }

    /// How often.
    #[must_use]
    pub fn get(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize]
    }

    /// All faults together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// The kinds that happened, with how often.
    #[must_use]
    pub fn happened(&self) -> BTreeMap<FaultKind, u64> {
        let all = FaultKind::ALL.iter().map(|kind| (*kind, self.get(*kind)));
        all.filter(|(_, times)| *times > 0).collect()
    }
}
