//! Asking peers for blobs by their digests, and judging what they send.

use super::bandwidth::Bandwidth;
use super::serve::ANSWER_DIGESTS_MAX;
use super::{Out, StateTransferMessage};
use crate::transfer::patience::Patience;
use atlas_common::digest_map::{DigestMap, MapKey};
use atlas_common::parts::{Blob, PartRef};
use atlas_common::{Digest, NodeId, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Requests to one peer at a time.
const REQUESTS_PER_PEER: usize = 8;
/// Bytes asked of one peer at a time: at first, when it is slow, and when it is fast.
const WINDOW_FIRST: u64 = 1 << 20;
const WINDOW_MIN: u64 = 128 << 10;
const WINDOW_MAX: u64 = 8 << 20;
/// Bytes of parts asked of all peers together, and received but not yet in the store; one answer more
/// may be on its way.
pub const IN_FLIGHT_MAX: u64 = 32 << 20;
/// Few blobs are not split further among the peers.
const SHARE_MIN: usize = 8;
/// A peer that was too slow this often in a row is left alone for a while.
const STRIKES_MAX: u32 = 3;
/// Of each peer, how many of the blobs that it was asked for last are remembered, and in how many requests:
/// more than are asked at a time, since the network may bring an answer late or twice.
const ASKED_MAX: usize = 2 * REQUESTS_PER_PEER * ANSWER_DIGESTS_MAX;
const ASKED_REQUESTS_MAX: usize = 8 * REQUESTS_PER_PEER;

#[derive(Debug)]
struct Request {
    /// What has not come yet, in the order in which it was asked for, and should come.
    open: VecDeque<PartRef>,
    /// The sizes together.
    bytes: u64,
    deadline: Time,
}

#[derive(Debug)]
struct Peer {
    patience: Patience,
    strikes: u32,
    /// It may be asked now.
    source: bool,
    window: u64,
    requests: Vec<Request>,
    asked: Asked,
    /// Blobs that it says it has not got.
    lacks: BTreeSet<Digest>,
}

impl Request {
    fn settle(&mut self, index: usize) {
        if let Some(part) = self.open.remove(index) {
            self.bytes = self.bytes.saturating_sub(u64::from(part.bytes));
        }
    }
}

/// What a peer was asked for last, also what it has sent.
#[derive(Debug, Default)]
struct Asked {
    /// The digests of each request, the oldest request first.
    requests: VecDeque<Vec<Digest>>,
    digests: usize,
}

impl Asked {
    fn remember(&mut self, digests: Vec<Digest>) {
        self.digests += digests.len();
        self.requests.push_back(digests);
        while self.digests > ASKED_MAX || self.requests.len() > ASKED_REQUESTS_MAX {
            let Some(oldest) = self.requests.pop_front() else {
                return;
            };
            self.digests -= oldest.len();
        }
    }

    /// One by one: it is asked of a blob that came late, twice or unasked.
    fn contains(&self, digest: &Digest) -> bool {
        self.requests.iter().flatten().any(|asked| asked == digest)
    }

    fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            patience: Patience::default(),
            strikes: 0,
            source: false,
            window: WINDOW_FIRST,
            requests: Vec::new(),
            asked: Asked::default(),
            lacks: BTreeSet::new(),
        }
    }
}

impl Peer {
    fn in_flight(&self) -> u64 {
        self.requests.iter().map(|request| request.bytes).sum()
    }

    fn has_room(&self) -> bool {
        self.source && self.requests.len() < REQUESTS_PER_PEER && self.in_flight() < self.window
    }

    /// Ends the wait for a blob. True when it was waited for.
    fn settle(&mut self, digest: &Digest) -> bool {
        let is_it = |part: &PartRef| part.digest == *digest;
        // What comes in order is the next of some request.
        let next = |request: &Request| request.open.front().is_some_and(is_it);
        if let Some(request) = self.requests.iter_mut().find(|request| next(request)) {
            request.settle(0);
            return true;
        }
        for request in &mut self.requests {
            if let Some(index) = request.open.iter().position(is_it) {
                request.settle(index);
                return true;
            }
        }
        false
    }

    /// Forgets requests that are answered whole. True when there were any.
    fn close_requests(&mut self) -> bool {
        let before = self.requests.len();
        self.requests.retain(|request| !request.open.is_empty());
        self.requests.len() < before
    }

    fn give_up_requests(&mut self) -> Vec<PartRef> {
        let requests = std::mem::take(&mut self.requests);
        references(requests.into_iter()).collect()
    }
}

fn references(requests: impl Iterator<Item = Request>) -> impl Iterator<Item = PartRef> {
    requests.flat_map(|request| request.open)
}

/// Fetches blobs that are wanted from the peers that may be asked.
#[derive(Debug)]
pub(super) struct Download {
    answer_bytes_max: usize,
    bandwidth: Bandwidth,
    peers: BTreeMap<NodeId, Peer>,
    /// What is wanted and not here, with the sizes.
    wanted: DigestMap<u32>,
    /// Of that, what nobody is being asked for; some of it may have come late.
    queue: VecDeque<PartRef>,
    /// Bytes on their way to the store.
    unkept: u64,
}

impl Download {
    pub(super) fn new(
        peers: Vec<NodeId>,
        answer_bytes_max: usize,
        bytes_per_second: u64,
        key: MapKey,
    ) -> Self {
        Self {
            answer_bytes_max,
            bandwidth: Bandwidth::new(bytes_per_second),
            peers: peers.into_iter().map(|id| (id, Peer::default())).collect(),
            wanted: DigestMap::new(key),
            queue: VecDeque::new(),
            unkept: 0,
        }
    }

    /// A blob to be fetched, before others where `first`.
    pub(super) fn want(&mut self, part: PartRef, first: bool) {
        if self.wanted.insert(part.digest, part.bytes).is_some() {
            return;
        }
        if first {
            self.queue.push_front(part);
        } else {
            self.queue.push_back(part);
        }
    }

    /// Wants nothing any more, of nobody.
    pub(super) fn clear(&mut self) {
        self.wanted.clear();
        self.queue.clear();
        for peer in self.peers.values_mut() {
            peer.source = false;
            peer.strikes = 0;
            peer.requests.clear();
            peer.lacks.clear();
        }
    }

    /// The members that may be heard: not those that are left alone.
    pub(super) fn hears(&self, id: NodeId, now: Time) -> bool {
        let peer = self.peers.get(&id);
        peer.is_some_and(|peer| peer.patience.shunned(now).is_none())
    }

    /// Those that are heard and are no sources yet.
    pub(super) fn others(&self, now: Time) -> Vec<NodeId> {
        let idle = |(id, peer): (&NodeId, &Peer)| {
            (!peer.source && peer.patience.shunned(now).is_none()).then_some(*id)
        };
        self.peers.iter().filter_map(idle).collect()
    }

    pub(super) fn add_source(&mut self, id: NodeId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.source = true;
        }
    }

    /// Whether a peer has said that it has not got something that was asked for.
    pub(super) fn lacks_something(&self, id: NodeId) -> bool {
        self.peers
            .get(&id)
            .is_some_and(|peer| !peer.lacks.is_empty())
    }

    pub(super) fn sources(&self) -> Vec<NodeId> {
        let sources = self.peers.iter().filter(|(_, peer)| peer.source);
        sources.map(|(id, _)| *id).collect()
    }

    pub(super) fn has_sources(&self) -> bool {
        self.peers.values().any(|peer| peer.source)
    }

    /// Asks this peer no more; others get its requests.
    pub(super) fn drop_source(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.source = false;
        peer.strikes = 0;
        let given_up = peer.give_up_requests();
        self.queue_again(given_up);
    }

    pub(super) fn blame(&mut self, now: Time, id: NodeId, out: &mut Out) {
        self.drop_source(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.patience.shun(now);
            peer.window = WINDOW_MIN;
        }
        out.counters.peers_blamed += 1;
    }

    fn queue_again(&mut self, parts: Vec<PartRef>) {
        for part in parts.into_iter().rev() {
            if self.wanted.contains(&part.digest) {
                self.queue.push_front(part);
            }
        }
    }

    /// Bytes asked for, and on their way to the store.
    pub(super) fn in_flight(&self) -> u64 {
        self.unkept + self.peers.values().map(Peer::in_flight).sum::<u64>()
    }

    /// The store has taken so many bytes.
    pub(super) fn kept(&mut self, bytes: u64) {
        self.unkept = self.unkept.saturating_sub(bytes);
    }

    /// Spreads what is wanted over the sources, as far as windows and bandwidth go.
    pub(super) fn ask(&mut self, now: Time, out: &mut Out) {
        let mut useless = BTreeSet::new();
        while !self.queue.is_empty()
            && self.in_flight() < IN_FLIGHT_MAX
            && self.bandwidth.is_open(now)
        {
            // The least busy source first; of equals, the lowest number. One that was too slow last comes after
            // the others: it would be asked for the same again, and given more time at each turn.
            let sources = self.peers.iter();
            let sources = sources.filter(|(id, peer)| peer.has_room() && !useless.contains(*id));
            let Some((id, _)) = sources.min_by_key(|(_, peer)| (peer.strikes, peer.in_flight()))
            else {
                return;
            };
            let id = *id;
            let parts = self.take_for(id);
            if parts.is_empty() {
                useless.insert(id);
            } else {
                self.request(now, id, parts, out);
            }
        }
    }

    /// The next blobs for a peer, from the front of the queue: its share of what waits.
    fn take_for(&mut self, id: NodeId) -> Vec<PartRef> {
        let sources = self.peers.values().filter(|peer| peer.source).count();
        let share = self.queue.len().div_ceil(sources.max(1)).max(SHARE_MIN);
        let Some(peer) = self.peers.get(&id) else {
            return Vec::new();
        };
        let room = peer.window.saturating_sub(peer.in_flight());
        let room = room.min(self.answer_bytes_max as u64);
        let (mut taken, mut passed, mut bytes) = (Vec::new(), Vec::new(), 0);
        while taken.len() < share.min(ANSWER_DIGESTS_MAX)
            && let Some(part) = self.queue.pop_front()
        {
            if !self.wanted.contains(&part.digest) {
                continue; // it came late
            }
            let fits = taken.is_empty() || bytes + u64::from(part.bytes) <= room;
            if peer.lacks.contains(&part.digest) {
                passed.push(part);
            } else if fits {
                bytes += u64::from(part.bytes);
                taken.push(part);
            } else {
                self.queue.push_front(part);
                break;
            }
        }
        self.queue_again(passed);
        taken
    }

    fn request(&mut self, now: Time, id: NodeId, parts: Vec<PartRef>, out: &mut Out) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let digests: Vec<Digest> = parts.iter().map(|part| part.digest).collect();
        peer.asked.remember(digests.clone());
        let bytes = parts.iter().map(|part| u64::from(part.bytes)).sum();
        peer.requests.push(Request {
            open: parts.into(),
            bytes,
            deadline: peer.patience.deadline(now),
        });
        self.bandwidth.take(bytes);
        out.send(id, StateTransferMessage::RequestParts { digests });
    }

    /// Takes a peer's blobs. Gives those that were wanted, each checked; they are to be kept, and
    /// [`Self::kept`] called then.
    pub(super) fn on_parts(
        &mut self,
        now: Time,
        from: NodeId,
        blobs: Vec<Blob>,
        out: &mut Out,
    ) -> Vec<Blob> {
        if !self.hears(from, now) {
            return Vec::new();
        }
        let Some(peer) = self.peers.get_mut(&from) else {
            return Vec::new();
        };
        let bytes: usize = blobs.iter().map(|blob| blob.bytes().len()).sum();
        let too_much = blobs.len() > ANSWER_DIGESTS_MAX || bytes > self.answer_bytes_max;
        if too_much || peer.asked.is_empty() {
            out.counters.parts_rejected += blobs.len() as u64;
            self.blame(now, from, out);
            return Vec::new();
        }
        let (mut good, mut bad) = (Vec::new(), 0);
        for blob in blobs {
            let (digest, bytes) = (blob.digest(), blob.bytes().len() as u64);
            if !peer.settle(&digest) && !peer.asked.contains(&digest) {
                bad += 1;
                continue;
            }
            // What is not wanted came late, or twice.
            if self.wanted.remove(&digest).is_some() {
                self.unkept += bytes;
                out.counters.parts_fetched += 1;
                out.counters.bytes_fetched += bytes;
                good.push(blob);
            }
        }
        if peer.close_requests() {
            peer.patience.served();
            peer.strikes = 0;
            peer.window = (2 * peer.window).min(WINDOW_MAX);
        }
        if bad > 0 {
            out.counters.parts_rejected += bad;
            self.blame(now, from, out);
        }
        good
    }

    /// A peer says that it has not got these. Gives those that it was being asked for; others will be
    /// asked for them.
    pub(super) fn on_gone(&mut self, from: NodeId, digests: &[Digest]) -> Vec<Digest> {
        let Some(peer) = self.peers.get_mut(&from) else {
            return Vec::new();
        };
        let mut gone = digests.to_vec();
        gone.retain(|digest| peer.settle(digest));
        peer.lacks.extend(&gone);
        peer.close_requests();
        let sized = |digest: &Digest| {
            let bytes = *self.wanted.get(digest)?;
            let digest = *digest;
            Some(PartRef { digest, bytes })
        };
        let again = gone.iter().filter_map(sized).collect();
        self.queue_again(again);
        gone
    }

    /// Whether all peers say that they have not got this blob.
    pub(super) fn is_nowhere(&self, digest: &Digest) -> bool {
        let mut peers = self.peers.values();
        peers.all(|peer| peer.lacks.contains(digest))
    }

    /// A blob is wanted no more.
    pub(super) fn forget(&mut self, digest: &Digest) {
        self.wanted.remove(digest);
        for peer in self.peers.values_mut() {
            peer.lacks.remove(digest);
        }
    }

    /// Gives up requests that are overdue, and peers that are too slow too often.
    pub(super) fn on_deadline(&mut self, now: Time, out: &mut Out) {
        let (mut again, mut hopeless) = (Vec::new(), Vec::new());
        for (id, peer) in &mut self.peers {
            let late = peer.requests.extract_if(.., |r| r.deadline <= now);
            let late: Vec<PartRef> = references(late).collect();
            if late.is_empty() {
                continue;
            }
            again.extend(late);
            peer.patience.too_slow();
            peer.window = (peer.window / 2).max(WINDOW_MIN);
            peer.strikes += 1;
            if peer.strikes >= STRIKES_MAX {
                hopeless.push(*id);
            }
        }
        self.queue_again(again);
        for id in hopeless {
            self.blame(now, id, out);
        }
    }

    /// When [`Self::on_deadline`] or [`Self::ask`] is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        let requests = self.peers.values().flat_map(|peer| &peer.requests);
        let late = requests.map(|request| request.deadline).min();
        let waits = !self.queue.is_empty() && self.in_flight() < IN_FLIGHT_MAX;
        let opens = waits.then(|| self.bandwidth.opens_at()).flatten();
        late.into_iter().chain(opens).min()
    }
}
