//! Random sequences: order, bounds, and nobody starves.

use super::*;
use crate::client_message::OperationResult;
use crate::session::{Admission, SessionTable};
use atlas_common::SeqNo;
use atlas_common::rng::SeededRng;
use std::collections::VecDeque;

struct Model {
    rng: SeededRng,
    pool: RequestPool,
    clients: Vec<Client>,
    /// The bundles that each client has made, in order.
    made: Vec<Vec<RequestBundle>>,
    table: SessionTable,
    in_flight: VecDeque<Batch>,
    seq: SeqNo,
    now: u64,
    limits: Limits,
    batches: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut limits = small();
        limits.pool_bytes_max = 6000 + 1000 * (seed as usize % 20);
        let (pool, clients) = pool_and_clients(&limits, 4);
        let mut table = SessionTable::new(&limits);
        for client in &clients {
            table.admit(&client.open(), SeqNo(0));
        }
        let made = clients.iter().map(|_| Vec::new()).collect();
        let rng = SeededRng::new(seed);
        let (in_flight, seq, now, batches) = (VecDeque::new(), SeqNo::ZERO, 0, 0);
        Self {
            rng,
            pool,
            clients,
            made,
            table,
            in_flight,
            seq,
            now,
            limits,
            batches,
        }
    }

    fn make(&mut self) {
        let client = self.rng.below(self.clients.len() as u64) as usize;
        let first = self.made[client].last().map_or(1, |b| b.last().0 + 1);
        let count = self.rng.between(1, 3) as usize;
        let size = self.rng.below(500) as usize;
        let bundle = self.clients[client].bundle_of(first, &vec![size; count]);
        self.made[client].push(bundle);
        if self.rng.chance(0.8) {
            self.send(client, self.made[client].len() - 1);
        }
    }

    fn send(&mut self, client: usize, index: usize) {
        let bundle = self.made[client][index].clone();
        self.pool.insert(bundle, Time::from_millis(self.now));
    }

    fn resend(&mut self) {
        let client = self.rng.below(self.clients.len() as u64) as usize;
        if !self.made[client].is_empty() {
            let index = self.rng.below(self.made[client].len() as u64) as usize;
            self.send(client, index);
        }
    }

    fn propose(&mut self) {
        if let Some(batch) = self.pool.next_batch(WALL) {
            assert!(batch.raw().len() <= self.limits.batch_bytes_max);
            self.in_flight.push_back(batch);
            self.batches += 1;
        }
    }

    /// Decides the oldest batch and executes it by the real session table.
    fn decide(&mut self) {
        let Some(batch) = self.in_flight.pop_front() else {
            return;
        };
        self.seq = self.seq.next();
        let genesis = Digest::of(b"cluster");
        let decode = |raw: &Bytes| RequestBundle::decode(raw.clone(), &genesis, &self.limits);
        let bundles: Vec<_> = batch
            .bundles()
            .iter()
            .map(|raw| decode(raw).unwrap())
            .collect();
        self.pool.decided(&bundles);
        for bundle in &bundles {
            match self.table.admit(bundle, self.seq) {
                Admission::Run { from } => {
                    for _ in from.0..=bundle.last().0 {
                        self.table
                            .record(bundle.session(), OperationResult::InvalidRequest);
                    }
                }
                other => panic!("{bundle:?} was proposed and is {other:?} at execution"),
            }
        }
        if self.rng.chance(0.7) {
            self.executed();
        }
    }

    fn executed(&mut self) {
        let updates: Vec<_> = self.table.progress().collect();
        let now = Time::from_millis(self.now);
        self.pool.executed(&updates, self.table.last_given(), now);
    }

    fn change_view(&mut self) {
        self.pool.view_changed();
        self.in_flight.clear();
    }

    fn step(&mut self) {
        self.now += 1;
        match self.rng.below(100) {
            0..30 => self.make(),
            30..55 => self.resend(),
            55..75 => self.propose(),
            75..97 => self.decide(),
            97..99 => self.executed(),
            _ => self.change_view(),
        }
        self.pool.check();
        assert!(
            self.pool
                .waiting()
                .is_none_or(|w| w.since <= Time::from_millis(self.now))
        );
    }

    /// Every client sends what it lacks until it has it; everything is proposed and decided.
    fn drain(&mut self) {
        for round in 0..1000 {
            self.executed();
            let mut done = true;
            for client in 0..self.clients.len() {
                let last = self.table.last(self.clients[client].session).unwrap();
                let open = self.made[client]
                    .iter()
                    .position(|bundle| bundle.last() > last);
                if let Some(index) = open {
                    done = false;
                    self.send(client, index);
                }
            }
            if done {
                assert!(self.pool.is_empty(), "{} left over", self.pool.len());
                return;
            }
            self.now += 1;
            self.propose();
            self.decide();
            assert!(round < 999, "a client starves");
        }
    }
}

#[test]
fn order_bounds_and_progress_hold_for_random_sequences() {
    let mut batches = 0;
    for seed in 0..60 {
        println!("seed {seed}");
        let mut model = Model::new(seed);
        for _ in 0..400 {
            model.step();
        }
        model.drain();
        batches += model.batches;
    }
    assert!(batches > 1000, "only {batches} batches were made");
}

#[test]
fn the_same_calls_give_the_same_answers() {
    let run = |seed| {
        let mut model = Model::new(seed);
        let mut proposed = Vec::new();
        for _ in 0..300 {
            model.step();
            proposed.push((
                model.in_flight.back().map(Batch::digest),
                model.pool.waiting(),
            ));
        }
        proposed
    };
    assert_eq!(run(5), run(5));
}
