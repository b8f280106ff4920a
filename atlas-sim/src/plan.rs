//! What is run: a cluster, its clients, and what goes wrong when.
//!
//! A [`Plan`] is data. One is drawn from a seed ([`Plan::draw`]), or built by hand for a scenario;
//! together with its seed it fixes a run entirely.

use crate::faults::FaultKind;
use crate::network::Quality;
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::{NodeId, Time};
use atlas_core::Limits;
use std::fmt;
use std::time::Duration;

mod draw;

pub use draw::Choices;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of everything that is random.
    pub seed: u64,
    /// A name for reports.
    pub name: String,
    /// How many replicas there are.
    pub replicas: usize,
    /// The cluster's limits.
    pub limits: Limits,
    /// Whether real ed25519 signs instead of the stand-in.
    pub real_signatures: bool,
    /// Whether every message is encoded and decoded on its way.
    pub through_codec: bool,
    /// How long requests may wait before replicas suspect their leader.
    pub patience: Duration,
    /// The network at the start.
    pub quality: Quality,
    /// The network after [`Action::Heal`].
    pub healed: Quality,
    /// How long a disk takes to sync: at least, and on average on top of it.
    pub sync: (Duration, Duration),
    /// How long inputs gather before a replica carries out what follows from them, on average; zero:
    /// not at all.
    pub grouping: Duration,
    /// How long a batch takes to execute.
    pub execution: Duration,
    /// Each replica's clock.
    pub clocks: Vec<Clock>,
    /// Replicas under an adversary, by the adversary's name.
    pub adversaries: Vec<(NodeId, &'static str)>,
    /// What happens when.
    pub schedule: Vec<(Time, Action)>,
    /// The correct clients.
    pub clients: Vec<ClientPlan>,
    /// The others.
    pub bad_clients: Vec<BadClient>,
    /// How many keys the clients fight over.
    pub keys: u64,
    /// How many calls are about accounts, and of those, how many are of the kind that fails.
    pub banking: (f64, f64),
    /// Whether every other replica runs what can run in parallel in an order of its own.
    pub parallel: bool,
    /// How long after its state was taken a read is answered, on average; zero: at once.
    pub reading: Duration,
    /// Bytes after which a pack of checkpoints is full; few, and packs go and are written over.
    pub pack_bytes: u64,
    /// Whether clients have reads answered by a quorum, unordered, although replicas may lie.
    pub quorum_reads: bool,
    /// From here on nothing new goes wrong (adversaries stay).
    pub heal_at: Time,
    /// How long after the healing all calls must be answered.
    pub answered_within: Duration,
    /// Faults that must happen, or the run shows nothing.
    pub must_happen: Vec<FaultKind>,
    /// A deliberate defect, by name, that the run is to show.
    pub bug: Option<&'static str>,
}

/// A replica's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// How fast its monotonic clock runs, in millionths of the true speed.
    pub rate_ppm: u64,
    /// How far its wall clock is ahead, in milliseconds.
    pub wall_ahead_ms: u64,
}

impl Clock {
    /// A clock that is right. Wall clocks start at ten minutes, so that one may lag.
    pub const TRUE: Self = Self {
        rate_ppm: 1_000_000,
        wall_ahead_ms: 600_000,
    };

    /// What the monotonic clock says, so long after the replica started.
    #[must_use]
    pub fn local(&self, since_start: Duration) -> Time {
        let nanos = since_start.as_nanos() * u128::from(self.rate_ppm) / 1_000_000;
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long after the start of the replica its clock says `local`.
    #[must_use]
    pub fn global(&self, local: Time) -> Duration {
        let nanos = u128::from(local.as_nanos()) * 1_000_000 / u128::from(self.rate_ppm);
        // Rounded up: the clock must have reached the moment.
        Duration::from_nanos(u64::try_from(nanos + 1).unwrap_or(u64::MAX))
    }
}

/// A correct client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// How many answers it wants.
    pub operations: u64,
    /// How many calls it has outstanding at most.
    pub outstanding: usize,
    /// How many calls it makes at a time.
    pub burst: u64,
    /// The mean time between two bursts, while fewer calls are outstanding.
    pub pause: Duration,
    /// How long a call may take before its outcome counts as unknown; `None`: for ever.
    pub timeout: Option<Duration>,
}

/// What a Byzantine client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadClient {
    /// Sends different payloads under one operation number.
    Equivocates,
    /// Leaves gaps, jumps, repeats numbers, uses others' sessions, opens many.
    Disorderly,
    /// Sends what is no request.
    Garbage,
}

/// How a replica goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// Power cut: unsynced writes are lost, torn or kept at random.
    PowerCut,
    /// Power cut in the middle of a write.
    DuringWrite,
    /// Power cut that keeps nothing unsynced.
    LosingAll,
    /// The process dies; the operating system keeps what was written.
    Kill,
    /// The disk is lost with all that was on it, and replaced by an empty one. Until the replica has
    /// caught up it counts as a faulty one.
    Wipe,
    /// The replica is stopped in good order, and bits flip in what it has stored. Until it has caught up
    /// it counts as a faulty one.
    Damage(Flip),
}

/// Which stored bit flips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// One drawn, in the log.
    Log,
    /// One drawn, in what the newest checkpoint says of itself: the replica starts from the one before,
    /// with a log that was cut at this one.
    Checkpoint,
    /// The one at so many 2⁻³² of everything that is stored.
    At(u32),
}

/// How a disk fails its replica, which must stop at once. It may come back when it is restarted: a
/// failed sync has lost something by then, a full disk has got room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// A sync reports an error.
    SyncFails,
    /// There is no room left.
    Full,
    /// The power of the replica fails in its nth operation on the disk from now, the first being 1.
    PowerCut {
        /// In which.
        nth: u64,
    },
}

/// Which replica something happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This one.
    Replica(NodeId),
    /// Whoever most correct replicas take for the leader at that moment.
    Leader,
}

/// Something that happens in a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// All links get this quality.
    Quality(Quality),
    /// Only ends of the same group talk to each other; ends in no group talk to all.
    Partition(Vec<Vec<usize>>),
    /// These directions of links are cut as well.
    Cut(Vec<(usize, usize)>),
    /// One replica is cut off from all other replicas, in both directions or only as a sender.
    Isolate {
        /// Which.
        target: Target,
        /// Whether it still hears the others.
        still_hears: bool,
    },
    /// All links are mended; their quality stays.
    Mend,
    /// A replica goes down. One that is down is left alone.
    Crash(Target, CrashKind),
    /// All replicas go down at once.
    CrashAll(CrashKind),
    /// A replica comes back; one that is up is left alone.
    Restart(NodeId),
    /// All replicas that are down come back.
    RestartAll,
    /// A replica stands still.
    Pause(Target),
    /// All that stand still go on.
    ResumeAll,
    /// A replica's disk takes so many times as long from now on.
    SlowDisk(NodeId, u32),
    /// A replica's disk fails it.
    DiskFault(Target, DiskFault),
    /// Bits flip in the parts of checkpoints that a replica has stored, while it runs or is down.
    DamageParts(Target),
    /// A replica's state is changed behind its back. From then on until it restarts it counts as a faulty
    /// one.
    Corrupt(Target),
    /// A replica's wall clock is so many milliseconds ahead from now on.
    SetWall(NodeId, u64),
    /// Correct replicas' monitors distrust the leader.
    Suspect,
    /// Everything is repaired.
    Heal,
}

impl Plan {
    /// A calm run to build scenarios on: no faults, four clients with 50 calls each on five keys.
    ///
    /// `replicas` must be a possible cluster size.
    #[must_use]
    pub fn calm(name: &str, replicas: usize, seed: u64) -> Self {
        let client = ClientPlan {
            operations: 50,
            outstanding: 8,
            burst: 2,
            pause: Duration::from_millis(40),
            timeout: None,
        };
        Self {
            seed,
            name: name.to_owned(),
            replicas,
            limits: Self::small_limits(16),
            real_signatures: false,
            through_codec: false,
            patience: Duration::from_millis(300),
            quality: Quality::good(),
            healed: Quality::good(),
            sync: (Duration::from_micros(200), Duration::from_micros(300)),
            grouping: Duration::ZERO,
            execution: Duration::from_micros(50),
            clocks: vec![Clock::TRUE; replicas],
            adversaries: Vec::new(),
            schedule: Vec::new(),
            clients: vec![client; 4],
            bad_clients: Vec::new(),
            keys: 5,
            banking: (0.25, 0.0),
            parallel: false,
            reading: Duration::ZERO,
            pack_bytes: 64 << 20,
            quorum_reads: false,
            heal_at: Time::ZERO,
            answered_within: Duration::from_secs(30),
            must_happen: Vec::new(),
            bug: None,
        }
    }

    /// Limits with a checkpoint every so many decisions and twice to four times that for a window,
    /// and messages of a size that the simulation's requests can exceed.
    #[must_use]
    pub fn small_limits(checkpoint_interval: u64) -> Limits {
        Limits {
            operation_bytes_max: 512,
            bundle_operations_max: 16,
            bundle_bytes_max: 4 << 10,
            batch_bytes_max: 16 << 10,
            frame_bytes_max: 1 << 20,
            checkpoint_interval,
            window: checkpoint_interval * 3,
            in_flight_max: 8,
            sessions_max: 32,
            session_replies_max: 64,
            replies_bytes_max: 8 << 10,
            // An eighth of a quarter of it is what one client's bundles may wait in that came out of
            // order.
            pool_bytes_max: 512 << 10,
            chunk_bytes: 1024,
            clock_skew_ms_max: 60_000,
        }
    }

    /// Adds something that happens so many milliseconds after the start.
    #[must_use]
    pub fn at(mut self, millis: u64, action: Action) -> Self {
        self.schedule.push((Time::from_millis(millis), action));
        self
    }

    /// Everything is repaired so many milliseconds after the start.
    #[must_use]
    pub fn heal_at(mut self, millis: u64) -> Self {
        self.heal_at = Time::from_millis(millis);
        self.at(millis, Action::Heal)
    }

    /// Puts a replica under an adversary.
    #[must_use]
    pub fn adversary(mut self, replica: u32, name: &'static str) -> Self {
        self.adversaries.push((NodeId(replica), name));
        self
    }

    /// How many answers the clients want together.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.clients.iter().map(|client| client.operations).sum()
    }

    /// The number of a client's end of the network.
    #[must_use]
    pub const fn client_end(&self, client: usize) -> usize {
        self.replicas + client
    }

    /// All ends of the network.
    #[must_use]
    pub fn ends(&self) -> usize {
        self.replicas + self.clients.len() + self.bad_clients.len()
    }

    /// The cluster's quorum sizes. One impossible size is as good as another: a cluster of one.
    #[must_use]
    pub fn quorums(&self, model: FaultModel) -> Option<Quorums> {
        Quorums::new(model, self.replicas).ok()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, replicas, .. } = self;
        write!(
            f,
            "{name}: {replicas} replicas, {} clients",
            self.clients.len()
        )?;
        if !self.bad_clients.is_empty() {
            write!(f, " and {} bad ones", self.bad_clients.len())?;
        }
        for (replica, adversary) in &self.adversaries {
            write!(f, ", replica {replica} {adversary}")?;
        }
        if self.real_signatures {
            f.write_str(", ed25519")?;
        }
        if self.through_codec {
            f.write_str(", codec")?;
        }
        if let Some(bug) = self.bug {
            write!(f, ", bug {bug}")?;
        }
        Ok(())
    }
}
