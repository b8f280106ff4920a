//! The request pool: bundles that wait to be ordered.
//!
//! A bundle is *in line* when its operations follow, without a gap, on what its session has executed
//! or on other bundles in line; otherwise it is *held* until they do. Only bundles in line are
//! proposed, forwarded, or hold a leader to account: a client that leaves gaps delays itself and
//! nobody else. A bundle's place in line, and the time it counts from, are those of the moment when it
//! joined the line.
//!
//! - **Oldest first.** A batch takes from the head of the line and never skips a bundle, so nobody is
//!   overtaken for ever and the bundles of a session keep their order.
//! - **Bounded.** All bundles together, with what they cost in memory, stay within
//!   [`Limits::pool_bytes_max`]; held ones within a quarter of it, 256 per session, and an eighth of
//!   that quarter per client.
//! - **Fair.** A full pool takes a bundle of a client that uses little by dropping the newest of the
//!   client that uses most; a client that floods competes with itself. What is in flight is never
//!   dropped.
//! - **Deterministic.** The same calls give the same answers. Each takes O(log n) per bundle.

mod line;
mod sessions;
mod shares;
#[cfg(test)]
mod tests;

use crate::bundle::RequestBundle;
use atlas_common::{AgreedTime, ClientId, Digest, OpNumber, SessionId, Time};
use atlas_core::{Batch, Limits, Waiting};
use serde::Serialize;
use shares::Shares;
use std::collections::{BTreeMap, BTreeSet};

/// Held bundles of one session at most.
const HELD_PER_SESSION_MAX: usize = 256;
/// What a bundle costs in memory besides its bytes, and each of its operations.
const BUNDLE_OVERHEAD_BYTES: usize = 512;
const OPERATION_OVERHEAD_BYTES: usize = 40;
/// What a bundle adds to a batch besides its bytes (its length), and a batch to its bundles.
const LENGTH_BYTES_MAX: usize = 9;
const BATCH_HEADER_BYTES_MAX: usize = 18;

/// What became of a bundle that was given to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// It is in line.
    Queued,
    /// It is in the pool already (or another request of the same client to open a session is).
    Duplicate,
    /// All of its operations are executed: answer from the reply cache.
    Executed,
    /// Its session is closed: tell the client.
    Expired(SessionId),
    /// It is kept until what is missing before it arrives, or its session becomes known here.
    Held,
    /// There is no room for it: dropped. The client will send it again.
    Full,
}

/// What the pool dropped, by reason, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolCounters {
    /// No room, and others use less than this client.
    pub full: u64,
    /// No room for another held bundle.
    pub held_full: u64,
    /// Made room for a client that uses less.
    pub evicted: u64,
    /// In the pool already.
    pub duplicate: u64,
    /// Executed already.
    pub executed: u64,
    /// Of a closed session.
    pub expired: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    bundle: RequestBundle,
    charge: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Held,
    InLine {
        rank: u64,
        since: Time,
        in_flight: bool,
        reach_before: OpNumber,
    },
}

/// The bundles that one client has sent in one session. Sessions of others may be named by mistake or
/// malice; keeping those apart keeps them from standing in the owner's way.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// The last operation covered by what is executed, decided or in line.
    reach: OpNumber,
    line: BTreeMap<u64, u64>,
    held: BTreeSet<(OpNumber, u64)>,
    by_last: BTreeSet<(OpNumber, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    executed: OpNumber,
    /// Decided and soon executed, as far as this client's bundles go.
    decided: Option<(ClientId, OpNumber)>,
}

/// Request bundles that wait to be ordered.
#[derive(Clone, Debug)]
pub struct RequestPool {
    bytes_max: usize,
    batch_bytes_max: usize,
    held_bytes_max: usize,
    entries: BTreeMap<u64, Entry>,
    by_digest: BTreeMap<Digest, u64>,
    opens: BTreeMap<ClientId, u64>,
    queues: BTreeMap<SessionId, BTreeMap<ClientId, Queue>>,
    sessions: BTreeMap<SessionId, Progress>,
    last_given: SessionId,
    /// Rank to entry: everything in line, in flight or not.
    line: BTreeMap<u64, u64>,
    proposable: BTreeSet<u64>,
    in_flight: BTreeSet<u64>,
    unforwarded: BTreeSet<u64>,
    shares: Shares,
    held_bytes: usize,
    next_id: u64,
    next_rank: u64,
    counters: PoolCounters,
}

impl RequestPool {
    /// An empty pool, to which no session is known.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            bytes_max: limits.pool_bytes_max,
            batch_bytes_max: limits.batch_bytes_max,
            held_bytes_max: limits.pool_bytes_max / 4,
            entries: BTreeMap::new(),
            by_digest: BTreeMap::new(),
            opens: BTreeMap::new(),
            queues: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_given: SessionId::ZERO,
            line: BTreeMap::new(),
            proposable: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            unforwarded: BTreeSet::new(),
            shares: Shares::default(),
            held_bytes: 0,
            next_id: 0,
            next_rank: 0,
            counters: PoolCounters::default(),
        }
    }

    /// Takes a bundle whose signature was checked.
    pub fn insert(&mut self, bundle: RequestBundle, now: Time) -> Insertion {
        let known = self.by_digest.contains_key(&bundle.digest())
            || (bundle.opens_session() && self.opens.contains_key(&bundle.client()));
        if known {
            self.counters.duplicate += 1;
            return Insertion::Duplicate;
        }
        let reach = match self.standing(&bundle) {
            Ok(reach) => reach,
            Err(verdict) => return verdict,
        };
        let in_line = reach.is_some_and(|reach| bundle.first() <= reach.next());
        let charge = self.charge(&bundle);
        if !in_line && !self.may_hold(&bundle, charge) {
            self.counters.held_full += 1;
            return Insertion::Full;
        }
        if !self.make_room(&bundle, charge) {
            self.counters.full += 1;
            return Insertion::Full;
        }
        // Making room may have dropped what this bundle follows on.
        self.add(bundle, charge, now)
    }

    /// Up to where the bundle's session is covered (`None`: not known here), or why the bundle is of
    /// no use.
    fn standing(&mut self, bundle: &RequestBundle) -> Result<Option<OpNumber>, Insertion> {
        let session = bundle.session();
        if bundle.opens_session() {
            return Ok(Some(OpNumber::ZERO));
        }
        match self.sessions.get(&session) {
            Some(progress) if bundle.last() <= progress.executed => {
                self.counters.executed += 1;
                Err(Insertion::Executed)
            }
            None if session <= self.last_given => {
                self.counters.expired += 1;
                Err(Insertion::Expired(session))
            }
            _ => Ok(self.reach(session, bundle.client())),
        }
    }

    /// Never more than the pool holds, so that an empty pool takes any bundle.
    fn charge(&self, bundle: &RequestBundle) -> usize {
        let overhead = BUNDLE_OVERHEAD_BYTES + bundle.operations().len() * OPERATION_OVERHEAD_BYTES;
        (bundle.raw().len() + overhead).min(self.bytes_max)
    }

    fn may_hold(&self, bundle: &RequestBundle, charge: usize) -> bool {
        let queues = self.queues.get(&bundle.session());
        let queue = queues.and_then(|queues| queues.get(&bundle.client()));
        let own = self
            .shares
            .of(&bundle.client().key)
            .map_or(0, |share| share.held_bytes);
        // One bundle may be held whatever its size: a client's share is not cut below that.
        let own_max = (self.held_bytes_max / 8).max(charge);
        queue.is_none_or(|queue| queue.held.len() < HELD_PER_SESSION_MAX)
            && own + charge <= own_max
            && self.held_bytes + charge <= self.held_bytes_max
    }

    /// Drops the newest bundles of whoever uses most, as long as that is more than the bundle's client
    /// would use.
    fn make_room(&mut self, bundle: &RequestBundle, charge: usize) -> bool {
        let key = bundle.client().key;
        while self.shares.bytes() + charge > self.bytes_max {
            let own = self.shares.of(&key).map_or(0, |share| share.bytes);
            let Some((bytes, largest)) = self.shares.largest() else {
                return false;
            };
            if largest == key || bytes <= own + charge {
                return false;
            }
            let Some(share) = self.shares.of(&largest) else {
                return false;
            };
            let newest_in_line = || self.line.get(share.proposable.last()?).copied();
            let Some(newest) = share.held.last().copied().or_else(newest_in_line) else {
                return false; // all of it is in flight
            };
            self.remove(newest);
            self.counters.evicted += 1;
        }
        true
    }

    /// The bundles of slots that a view change dropped wait again, those that the pool does not have
    /// as if they had arrived now.
    pub fn restore(&mut self, bundles: Vec<RequestBundle>, now: Time) {
        for bundle in bundles {
            match self
                .by_digest
                .get(&bundle.digest())
                .and_then(|id| self.rank(*id))
            {
                Some(rank) => self.take_back(rank),
                None => {
                    self.insert(bundle, now);
                }
            }
        }
    }

    /// A batch of the oldest bundles in line that are not in flight, proposed at `wall`: as many as
    /// fit. They are in flight from then on. `None` when there are none.
    pub fn next_batch(&mut self, wall: AgreedTime) -> Option<Batch> {
        let mut bytes = BATCH_HEADER_BYTES_MAX;
        let mut raws = Vec::new();
        while let Some(rank) = self.proposable.first().copied() {
            let id = self.line.get(&rank)?;
            let entry = self.entries.get_mut(id)?;
            let size = entry.bundle.raw().len() + LENGTH_BYTES_MAX;
            if !raws.is_empty() && bytes + size > self.batch_bytes_max {
                break;
            }
            bytes += size;
            raws.push(entry.bundle.raw().clone());
            if let Place::InLine { in_flight, .. } = &mut entry.place {
                *in_flight = true;
            }
            self.shares.leave_line(entry.bundle.client().key, rank);
            self.proposable.remove(&rank);
            self.in_flight.insert(rank);
        }
        (!raws.is_empty()).then(|| Batch::new(wall, &raws))
    }

    /// Whether [`Self::next_batch`] has something to give.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.proposable.is_empty()
    }

    /// A new view: nothing is in flight in it yet, nor forwarded to its leader.
    pub fn view_changed(&mut self) {
        for rank in std::mem::take(&mut self.in_flight) {
            self.in_flight.insert(rank);
            self.take_back(rank);
        }
        self.unforwarded = self.proposable.clone();
    }

    /// The bundle that has been in line longest, in flight or not, and since when. A held bundle never
    /// counts, or a client could force view changes by leaving gaps.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        let (_, id) = self.line.first_key_value()?;
        let entry = self.entries.get(id)?;
        match entry.place {
            Place::InLine { since, .. } => Some(Waiting {
                oldest: entry.bundle.digest(),
                since,
            }),
            Place::Held => None,
        }
    }

    /// The bundles in line that were not given out by this method in this view and are not in flight:
    /// for the leader. Each is given once per view; a client whose request was lost on the way sends
    /// it to the leader itself.
    pub fn unforwarded(&mut self) -> Vec<RequestBundle> {
        let ranks = std::mem::take(&mut self.unforwarded);
        ranks
            .iter()
            .filter(|rank| self.proposable.contains(rank))
            .filter_map(|rank| self.entries.get(self.line.get(rank)?))
            .map(|entry| entry.bundle.clone())
            .collect()
    }

    /// How many bundles are in the pool.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the pool is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the bundles in the pool cost in memory, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.shares.bytes()
    }

    /// How many bundles are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.entries.len() - self.line.len()
    }

    /// What was dropped.
    #[must_use]
    pub const fn counters(&self) -> &PoolCounters {
        &self.counters
    }
}
