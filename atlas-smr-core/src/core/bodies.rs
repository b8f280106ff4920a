//! Batches that the protocol knows by digest only, and asks others for.

use super::{CoreTimer, Moment, ReplicaCore};
use crate::message::SystemMessage;
use crate::transfer::StateTransferProtocol;
use atlas_common::rng::SeededRng;
use atlas_common::{Digest, NodeId, Time};
use atlas_core::{Batch, Input, OrderingProtocol, Reject};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a peer has to send a body before another is asked.
const PATIENCE: Duration = Duration::from_millis(100);

/// Asks peers in turn for missing bodies. Bounded by the protocol, which asks for no more than its
/// window holds.
#[derive(Debug)]
pub(super) struct BodyFetcher {
    peers: Vec<NodeId>,
    rng: SeededRng,
    wanted: BTreeMap<Digest, Wanted>,
    /// The same by their deadlines: the first is asked for at every input.
    due: BTreeSet<(Time, Digest)>,
}

#[derive(Debug)]
struct Wanted {
    next_peer: usize,
    deadline: Time,
}

impl BodyFetcher {
    pub(super) const fn new(peers: Vec<NodeId>, rng: SeededRng) -> Self {
        Self {
            peers,
            rng,
            wanted: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Starts a search. Gives the first peer to ask, or `None` when the search is under way (or
    /// there is nobody to ask).
    fn want(&mut self, digest: Digest, now: Time) -> Option<NodeId> {
        if self.wanted.contains_key(&digest) || self.peers.is_empty() {
            return None;
        }
        let first = self.rng.below(self.peers.len() as u64) as usize;
        let deadline = now.after(PATIENCE);
        self.due.insert((deadline, digest));
        self.wanted.insert(
            digest,
            Wanted {
                next_peer: first + 1,
                deadline,
            },
        );
        Some(self.peers[first])
    }

    /// Ends a search. True when there was one.
    pub(super) fn release(&mut self, digest: &Digest) -> bool {
        let wanted = self.wanted.remove(digest);
        wanted.is_some_and(|wanted| self.due.remove(&(wanted.deadline, *digest)))
    }

    /// The searches whose peer was too slow, each with the next peer to ask.
    fn overdue(&mut self, now: Time) -> Vec<(Digest, NodeId)> {
        let mut late = BTreeSet::new();
        while let Some((deadline, digest)) = self.due.pop_first() {
            if deadline > now {
                self.due.insert((deadline, digest));
                break;
            }
            late.insert(digest);
        }
        let mut asks = Vec::with_capacity(late.len());
        for digest in late {
            if let Some(wanted) = self.wanted.get_mut(&digest) {
                asks.push((digest, self.peers[wanted.next_peer % self.peers.len()]));
                wanted.next_peer += 1;
                wanted.deadline = now.after(PATIENCE);
                self.due.insert((wanted.deadline, digest));
            }
        }
        asks
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(deadline, _)| *deadline)
    }
}

impl<P: OrderingProtocol> ReplicaCore<P> {
    pub(super) fn fetch_body(&mut self, digest: Digest, at: Moment) {
        if let Some(batch) = self.decisions.body(&digest) {
            self.inbox.push_back(Input::Body(batch));
        } else if let Some(peer) = self.bodies.want(digest, at.now) {
            self.send_to(peer, SystemMessage::FetchBody(digest));
        }
    }

    pub(super) fn fetch_bodies_again(&mut self, at: Moment) {
        for (digest, peer) in self.bodies.overdue(at.now) {
            self.send_to(peer, SystemMessage::FetchBody(digest));
        }
    }

    pub(super) fn serve_body(&mut self, to: NodeId, digest: &Digest) {
        let body = self
            .protocol
            .body(digest)
            .or_else(|| self.decisions.body(digest));
        if let Some(batch) = body {
            self.send_to(to, SystemMessage::Body(batch));
        }
    }

    pub(super) fn on_body(&mut self, _from: NodeId, batch: Batch) {
        if self.bodies.release(&batch.digest()) {
            self.counters.bodies_fetched += 1;
            self.inbox.push_back(Input::Body(batch));
        } else {
            self.count_rejected(Reject::Stale);
        }
    }

    pub(super) fn set_timers(&mut self, _at: Moment) {
        let deadlines = [
            (CoreTimer::Bodies, self.bodies.deadline()),
            (CoreTimer::LogTransfer, self.log_transfer.deadline()),
            (CoreTimer::StateTransfer, self.state_transfer.deadline()),
        ];
        for (timer, deadline) in deadlines {
            match deadline {
                Some(at) => self.set_timer(timer, at),
                None => self.cancel_timer(timer),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn each_peer_is_asked_in_its_turn_when_the_one_before_was_too_slow() {
        let peers = [1, 2, 3].map(NodeId);
        let mut fetcher = BodyFetcher::new(peers.to_vec(), SeededRng::new(3));
        let mut asked = vec![fetcher.want(digest(1), Time::ZERO).unwrap()];
        assert_eq!(fetcher.want(digest(1), Time::ZERO), None, "it is under way");
        for _ in 0..2 {
            let due = fetcher.deadline().unwrap();
            let early = Time::from_nanos(due.as_nanos() - 1);
            assert_eq!(fetcher.overdue(early), []);
            asked.extend(fetcher.overdue(due).iter().map(|(_, peer)| *peer));
        }
        asked.sort_unstable();
        assert_eq!(asked, peers);
        assert!(fetcher.release(&digest(1)) && !fetcher.release(&digest(1)));
        assert_eq!(fetcher.deadline(), None);
        assert!(
            BodyFetcher::new(Vec::new(), SeededRng::new(3))
                .want(digest(1), Time::ZERO)
                .is_none()
        );
    }

    /// Against one deadline for each search, looked through every time.
    #[test]
    fn searches_are_due_when_their_own_deadlines_are() {
        let seed = 0x00B0_D135;
        let mut rng = SeededRng::new(seed);
        let mut fetcher = BodyFetcher::new(vec![NodeId(1), NodeId(2)], SeededRng::new(seed));
        let (mut model, mut now) = (BTreeMap::new(), Time::ZERO);
        for step in 0..5000 {
            now = Time::from_nanos(now.as_nanos() + rng.below(20_000_000));
            let one = digest(rng.below(30));
            match rng.below(3) {
                0 => {
                    let began = fetcher.want(one, now).is_some();
                    assert_eq!(began, !model.contains_key(&one), "seed {seed}, step {step}");
                    model.entry(one).or_insert(now.after(PATIENCE));
                }
                1 => assert_eq!(fetcher.release(&one), model.remove(&one).is_some()),
                _ => {
                    let late = model.iter_mut().filter(|(_, due)| **due <= now);
                    let expected: Vec<Digest> = late
                        .map(|(digest, due)| {
                            *due = now.after(PATIENCE);
                            *digest
                        })
                        .collect();
                    let asked = fetcher.overdue(now).into_iter().map(|(digest, _)| digest);
                    assert_eq!(
                        asked.collect::<Vec<_>>(),
                        expected,
                        "seed {seed}, step {step}"
                    );
                }
            }
            let first = model.values().min().copied();
            assert_eq!(fetcher.deadline(), first, "seed {seed}, step {step}");
        }
    }
}
