//! Scenarios, and random sequences against the invariants.

mod random;

use super::*;
use crate::bundle::UnsignedBundle;
use crate::session::SessionUpdate;
use atlas_common::ReplicaSet;
use atlas_common::crypto::{KeyPair, Signer};
use bytes::Bytes;

pub(super) struct Client {
    key: KeyPair,
    pub(super) id: ClientId,
    pub(super) session: SessionId,
}

impl Client {
    pub(super) fn new(number: u8, session: u64) -> Self {
        let key = KeyPair::from_seed(&[number; 32]);
        let id = ClientId {
            key: key.public_key(),
            instance: 0,
        };
        Self {
            key,
            id,
            session: SessionId(session),
        }
    }

    /// Operations `first..first + sizes.len()` of these sizes.
    pub(super) fn bundle_of(&self, first: u64, sizes: &[usize]) -> RequestBundle {
        let operations: Vec<Bytes> = sizes.iter().map(|n| Bytes::from(vec![7; *n])).collect();
        let says = UnsignedBundle {
            client: self.id,
            session: self.session,
            first: OpNumber(first),
            acknowledged: OpNumber::ZERO,
            repliers: ReplicaSet::default(),
            operations: &operations,
        };
        RequestBundle::new(&says, &Digest::of(b"cluster"), &self.key)
    }

    pub(super) fn bundle(&self, first: u64, count: usize) -> RequestBundle {
        self.bundle_of(first, &vec![8; count])
    }

    fn open(&self) -> RequestBundle {
        RequestBundle::open(self.id, &Digest::of(b"cluster"), &self.key)
    }
}

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn open(session: u64, last: u64) -> SessionUpdate {
    SessionUpdate::Open {
        session: SessionId(session),
        last: OpNumber(last),
    }
}

/// A pool to which sessions 1, 2, … of clients 1, 2, … are known.
fn pool_and_clients(limits: &Limits, clients: u8) -> (RequestPool, Vec<Client>) {
    let mut pool = RequestPool::new(limits);
    let made: Vec<Client> = (1..=clients).map(|i| Client::new(i, i.into())).collect();
    let updates: Vec<_> = (1..=clients).map(|i| open(i.into(), 0)).collect();
    pool.executed(&updates, SessionId(clients.into()), at(0));
    (pool, made)
}

fn small() -> Limits {
    Limits {
        bundle_bytes_max: 2000,
        batch_bytes_max: 3000,
        pool_bytes_max: 16_000,
        ..Limits::default()
    }
}

/// Names the bundles of a batch, shorter to read than their bytes.
fn raws(batch: Option<Batch>) -> Vec<Digest> {
    let batch = batch.unwrap_or_else(Batch::null);
    batch.bundles().iter().map(|raw| Digest::of(raw)).collect()
}

fn raw(bundles: &[&RequestBundle]) -> Vec<Digest> {
    bundles.iter().map(|one| Digest::of(one.raw())).collect()
}

const WALL: AgreedTime = AgreedTime::from_unix_millis(5);

#[test]
fn trap_an_over_full_proposer_takes_the_oldest_first() {
    let (mut pool, clients) = pool_and_clients(&small(), 4);
    let bundles: Vec<_> = clients
        .iter()
        .map(|client| client.bundle_of(1, &[1350]))
        .collect();
    for (i, bundle) in bundles.iter().enumerate() {
        assert_eq!(pool.insert(bundle.clone(), at(i as u64)), Insertion::Queued);
    }
    let first = raws(pool.next_batch(WALL));
    assert_eq!(first, raw(&[&bundles[0], &bundles[1]]));
    // More arrives; what waits goes first all the same.
    let late = clients[0].bundle(2, 1);
    pool.insert(late.clone(), at(9));
    assert_eq!(
        raws(pool.next_batch(WALL)),
        raw(&[&bundles[2], &bundles[3]])
    );
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&late]));
    assert!(pool.next_batch(WALL).is_none() && !pool.has_ready());
    pool.check();
}

#[test]
fn a_small_bundle_does_not_overtake_one_that_does_not_fit() {
    let (mut pool, clients) = pool_and_clients(&small(), 3);
    let [a, b] = [0, 1].map(|i| clients[i].bundle_of(1, &[1600]));
    let c = clients[2].bundle(1, 1);
    for bundle in [&a, &b, &c] {
        pool.insert(bundle.clone(), at(0));
    }
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&a]));
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&b, &c]));
}

#[test]
fn bundles_of_a_session_are_proposed_in_order_and_never_over_a_gap() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 1);
    let [a, b, c] = [(1, 2), (3, 1), (4, 3)].map(|(first, n)| clients[0].bundle(first, n));
    assert_eq!(pool.insert(c.clone(), at(1)), Insertion::Held);
    assert_eq!(pool.insert(b.clone(), at(2)), Insertion::Held);
    assert!(!pool.has_ready());
    assert_eq!(pool.waiting(), None);
    assert_eq!(pool.insert(a.clone(), at(3)), Insertion::Queued);
    pool.check();
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&a, &b, &c]));
}

#[test]
fn a_held_bundle_never_counts_as_waiting_and_counts_from_when_its_gap_is_filled() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 2);
    let late = clients[0].bundle(2, 1);
    pool.insert(late.clone(), at(0));
    let other = clients[1].bundle(1, 1);
    pool.insert(other.clone(), at(50));
    assert_eq!(pool.waiting().unwrap().oldest, other.digest());
    let filler = clients[0].bundle(1, 1);
    pool.insert(filler.clone(), at(5000));
    pool.decided([&other, &filler]);
    let waiting = pool.waiting().unwrap();
    assert_eq!((waiting.oldest, waiting.since), (late.digest(), at(5000)));
}

#[test]
fn row_2_progress_of_others_does_not_touch_the_time_of_the_oldest() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 2);
    let censored = clients[0].bundle(1, 1);
    pool.insert(censored.clone(), at(10));
    for n in 1..50 {
        let bundle = clients[1].bundle(n, 1);
        pool.insert(bundle.clone(), at(10 + n));
        pool.decided([&bundle]);
        pool.executed(&[open(2, n)], SessionId(2), at(10 + n));
        if n == 20 {
            assert!(pool.next_batch(WALL).is_some());
        }
        if n == 30 {
            pool.view_changed();
        }
        let waiting = pool.waiting().unwrap();
        assert_eq!((waiting.oldest, waiting.since), (censored.digest(), at(10)));
    }
    pool.decided([&censored]);
    assert_eq!(pool.waiting(), None);
    assert!(pool.is_empty() && pool.bytes() == 0);
}

#[test]
fn duplicates_executed_and_expired_bundles_are_told_apart() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 2);
    let bundle = clients[0].bundle(1, 3);
    assert_eq!(pool.insert(bundle.clone(), at(0)), Insertion::Queued);
    assert_eq!(pool.insert(bundle.clone(), at(0)), Insertion::Duplicate);
    pool.executed(&[open(1, 3)], SessionId(2), at(1));
    assert!(pool.is_empty());
    assert_eq!(pool.insert(bundle, at(2)), Insertion::Executed);
    // Half of it is new: it runs from there.
    assert_eq!(
        pool.insert(clients[0].bundle(3, 2), at(2)),
        Insertion::Queued
    );
    pool.insert(clients[1].bundle(1, 1), at(2));
    pool.executed(&[SessionUpdate::Closed(SessionId(2))], SessionId(2), at(3));
    assert_eq!(pool.len(), 1);
    let expired = Insertion::Expired(SessionId(2));
    assert_eq!(pool.insert(clients[1].bundle(1, 1), at(4)), expired);
    assert_eq!(
        pool.insert(Client::new(9, 3).bundle(1, 1), at(4)),
        Insertion::Held
    );
    pool.check();
}

#[test]
fn a_session_that_becomes_known_frees_what_was_held_for_it() {
    let (mut pool, _) = pool_and_clients(&Limits::default(), 1);
    let client = Client::new(2, 2);
    let bundle = client.bundle(1, 1);
    assert_eq!(pool.insert(bundle.clone(), at(0)), Insertion::Held);
    pool.executed(&[open(2, 0)], SessionId(2), at(7));
    assert_eq!(pool.waiting().unwrap().since, at(7));
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&bundle]));
    // One that was given out and closed before it was heard of here.
    pool.insert(Client::new(3, 3).bundle(1, 1), at(0));
    pool.executed(&[], SessionId(3), at(8));
    assert_eq!(pool.len(), 1);
}

#[test]
fn sessions_that_a_new_state_lacks_are_closed() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 3);
    for client in &clients {
        pool.insert(client.bundle(1, 1), at(0));
    }
    pool.reset_sessions(&[open(2, 0), open(3, 5)], SessionId(9), at(1));
    pool.check();
    assert_eq!(
        raws(pool.next_batch(WALL)),
        raw(&[&clients[1].bundle(1, 1)])
    );
    let expired = Insertion::Expired(SessionId(1));
    assert_eq!(pool.insert(clients[0].bundle(1, 1), at(2)), expired);
}

#[test]
fn row_29_two_bundles_under_one_number_are_both_ordered() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 1);
    let (a, b) = (clients[0].bundle(1, 2), clients[0].bundle(1, 3));
    let next = clients[0].bundle(4, 1);
    for bundle in [&a, &b, &next] {
        assert_eq!(pool.insert(bundle.clone(), at(0)), Insertion::Queued);
    }
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&a, &b, &next]));
    pool.decided([&a]);
    pool.executed(&[open(1, 3)], SessionId(1), at(1));
    assert_eq!(pool.len(), 1);
    pool.check();
}

#[test]
fn a_bundle_in_anothers_session_is_not_in_its_owners_way() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 1);
    let stranger = Client::new(9, 1);
    pool.insert(stranger.bundle(1, 100), at(0));
    pool.insert(stranger.bundle(101, 100), at(0));
    let owner = clients[0].bundle(1, 1);
    assert_eq!(pool.insert(owner.clone(), at(1)), Insertion::Queued);
    assert_eq!(pool.insert(clients[0].bundle(3, 1), at(1)), Insertion::Held);
    let batch = pool.next_batch(WALL);
    assert_eq!(raws(batch).len(), 3);
    pool.decided([&stranger.bundle(1, 100), &stranger.bundle(101, 100), &owner]);
    assert_eq!(
        pool.insert(clients[0].bundle(2, 1), at(2)),
        Insertion::Queued
    );
    pool.check();
}

#[test]
fn trap_a_client_that_floods_competes_with_itself() {
    let (mut pool, clients) = pool_and_clients(&small(), 3);
    let mut flood = 0;
    while pool.insert(clients[0].bundle_of(flood + 1, &[500]), at(flood)) != Insertion::Full {
        flood += 1;
    }
    assert!(flood > 10, "one client alone may use the whole pool");
    let first = raws(pool.next_batch(WALL));
    for other in &clients[1..] {
        for n in 1..=3 {
            let bundle = other.bundle_of(n, &[500]);
            assert_eq!(pool.insert(bundle, at(100)), Insertion::Queued);
            assert!(pool.bytes() <= small().pool_bytes_max);
            pool.check();
        }
    }
    assert!(pool.counters().evicted >= 5 && pool.counters().full == 1);
    // What was in flight is still there, and the flooder's oldest keep their place.
    pool.view_changed();
    assert_eq!(raws(pool.next_batch(WALL)), first);
    let next = clients[0].bundle_of(first.len() as u64 + 1, &[500]);
    assert_eq!(raws(pool.next_batch(WALL))[0], Digest::of(next.raw()));
}

#[test]
fn what_is_held_is_bounded_per_session_and_client() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 2);
    let mut held = 0;
    while pool.insert(clients[0].bundle(2 + held, 1), at(0)) == Insertion::Held {
        held += 1;
    }
    assert_eq!(held, HELD_PER_SESSION_MAX as u64);
    let mut pool = RequestPool::new(&small());
    let sessions = (1..20).map(|session| Client::new(1, session));
    let verdicts: Vec<_> = sessions
        .map(|client| pool.insert(client.bundle(1, 1), at(0)))
        .collect();
    assert_eq!(
        verdicts.iter().filter(|v| **v == Insertion::Held).count(),
        1
    );
    assert_eq!(
        pool.insert(Client::new(2, 1).bundle(1, 1), at(0)),
        Insertion::Held
    );
    pool.check();
}

#[test]
fn one_request_to_open_a_session_per_client() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 1);
    let open = clients[0].open();
    assert_eq!(pool.insert(open.clone(), at(0)), Insertion::Queued);
    assert_eq!(pool.insert(open.clone(), at(0)), Insertion::Duplicate);
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&open]));
    pool.decided([&open]);
    assert!(pool.is_empty());
    assert_eq!(pool.insert(open, at(0)), Insertion::Queued);
}

#[test]
fn a_view_change_frees_what_was_in_flight_and_restores_what_was_dropped() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 2);
    let mine = clients[0].bundle(1, 1);
    pool.insert(mine.clone(), at(1));
    assert!(pool.next_batch(WALL).is_some());
    let foreign = clients[1].bundle(1, 1);
    pool.restore(vec![foreign.clone(), mine.clone()], at(9));
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&mine, &foreign]));
    pool.view_changed();
    pool.check();
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&mine, &foreign]));
    assert_eq!(pool.waiting().unwrap().since, at(1));
}

#[test]
fn each_bundle_is_forwarded_once_per_view() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 1);
    let (a, gap) = (clients[0].bundle(1, 1), clients[0].bundle(3, 1));
    pool.insert(a.clone(), at(0));
    pool.insert(gap, at(0));
    assert_eq!(pool.unforwarded(), vec![a.clone()]);
    assert!(pool.unforwarded().is_empty());
    let b = clients[0].bundle(2, 1);
    pool.insert(b.clone(), at(0));
    assert_eq!(pool.unforwarded().len(), 2, "the gap is filled");
    pool.view_changed();
    assert_eq!(pool.unforwarded()[..2], [a, b]);
}

#[test]
fn a_leader_that_orders_a_bundle_over_a_gap_costs_the_rest_only_their_turn() {
    let (mut pool, clients) = pool_and_clients(&Limits::default(), 1);
    let bundles: Vec<_> = (1..=4).map(|n| clients[0].bundle(n, 1)).collect();
    for bundle in &bundles {
        pool.insert(bundle.clone(), at(0));
    }
    // Number 2 is decided before number 1: it will be skipped at execution.
    pool.decided([&bundles[1]]);
    pool.check();
    assert_eq!(raws(pool.next_batch(WALL)), raw(&[&bundles[0]]));
    pool.decided([&bundles[0]]);
    pool.executed(&[open(1, 1)], SessionId(1), at(1));
    assert!(!pool.has_ready());
    assert_eq!(pool.insert(bundles[1].clone(), at(2)), Insertion::Queued);
    assert_eq!(
        raws(pool.next_batch(WALL)),
        raw(&[&bundles[1], &bundles[2], &bundles[3]])
    );
    pool.check();
}

impl RequestPool {
    /// The invariants between the indexes.
    pub(super) fn check(&self) {
        let in_line = self.line.len();
        assert!(self.bytes() <= self.bytes_max);
        assert_eq!(self.by_digest.len(), self.entries.len());
        assert_eq!(self.proposable.len() + self.in_flight.len(), in_line);
        assert!(self.proposable.is_disjoint(&self.in_flight));
        assert!(
            self.unforwarded
                .iter()
                .all(|rank| self.line.contains_key(rank))
        );
        let charge: usize = self.entries.values().map(|entry| entry.charge).sum();
        assert_eq!(charge, self.bytes());
        let held = self.entries.values().filter(|e| e.place == Place::Held);
        let (held, held_bytes) = held.fold((0, 0), |(n, bytes), e| (n + 1, bytes + e.charge));
        assert_eq!((held, held_bytes), (self.held(), self.held_bytes));
        for (session, queues) in &self.queues {
            for (client, queue) in queues {
                assert_eq!(queue.line.len() + queue.held.len(), queue.by_last.len());
                assert!(!queue.by_last.is_empty());
                let Some(mut reach) = self.base(*session, *client) else {
                    assert!(
                        queue.line.is_empty(),
                        "nothing of an unknown session is in line"
                    );
                    continue;
                };
                for id in queue.line.values() {
                    let bundle = &self.entries[id].bundle;
                    assert!(bundle.first() <= reach.next(), "a gap in line");
                    reach = reach.max(bundle.last());
                }
            }
        }
    }
}
