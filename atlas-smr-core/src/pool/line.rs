//! The line, and what is held beside it.

use super::{Entry, Insertion, Place, Queue, RequestPool};
use crate::bundle::RequestBundle;
use atlas_common::{ClientId, OpNumber, SessionId, Time};

impl RequestPool {
    pub(super) fn add(&mut self, bundle: RequestBundle, charge: usize, now: Time) -> Insertion {
        let id = self.next_id;
        self.next_id += 1;
        let (client, session) = (bundle.client(), bundle.session());
        let (first, last) = (bundle.first(), bundle.last());
        self.by_digest.insert(bundle.digest(), id);
        self.shares.add(client.key, charge);
        let opens = bundle.opens_session();
        self.entries.insert(
            id,
            Entry {
                bundle,
                charge,
                place: Place::Held,
            },
        );
        if opens {
            self.opens.insert(client, id);
            self.line_up(id, OpNumber::ZERO, now);
            return Insertion::Queued;
        }
        let reach = self.reach(session, client);
        let of_session = self.queues.entry(session).or_default();
        let queue = of_session.entry(client).or_default();
        queue.by_last.insert((last, id));
        match reach.filter(|reach| first <= reach.next()) {
            Some(reach) => {
                queue.reach = reach.max(last);
                self.line_up(id, reach, now);
                self.promote(session, client, now);
                Insertion::Queued
            }
            None => {
                queue.held.insert((first, id));
                self.held_bytes += charge;
                self.shares.hold(client.key, id, charge);
                Insertion::Held
            }
        }
    }

    /// Puts held bundles in line that leave no gap any more.
    pub(super) fn promote(&mut self, session: SessionId, client: ClientId, now: Time) {
        let Some(mut reach) = self.reach(session, client) else {
            return;
        };
        loop {
            let Some(queue) = self.queue(session, client) else {
                return;
            };
            queue.reach = reach;
            let Some((first, id)) = queue.held.first().copied() else {
                return;
            };
            if first > reach.next() {
                return;
            }
            queue.held.remove(&(first, id));
            let Some(entry) = self.entries.get(&id) else {
                return;
            };
            let (charge, last) = (entry.charge, entry.bundle.last());
            self.held_bytes -= charge;
            self.shares.unhold(client.key, id, charge);
            self.line_up(id, reach, now);
            reach = reach.max(last);
        }
    }

    pub(super) fn queue(&mut self, session: SessionId, client: ClientId) -> Option<&mut Queue> {
        self.queues.get_mut(&session)?.get_mut(&client)
    }

    pub(super) fn line_up(&mut self, id: u64, reach_before: OpNumber, now: Time) {
        let rank = self.next_rank;
        self.next_rank += 1;
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.place = Place::InLine {
            rank,
            since: now,
            in_flight: false,
            reach_before,
        };
        let (client, session) = (entry.bundle.client(), entry.bundle.session());
        self.line.insert(rank, id);
        self.proposable.insert(rank);
        self.unforwarded.insert(rank);
        self.shares.line_up(client.key, rank);
        if let Some(queue) = self.queue(session, client) {
            queue.line.insert(rank, id);
        }
    }

    pub(super) fn leave_line(&mut self, client: ClientId, session: SessionId, rank: u64) {
        self.line.remove(&rank);
        self.proposable.remove(&rank);
        self.in_flight.remove(&rank);
        self.unforwarded.remove(&rank);
        self.shares.leave_line(client.key, rank);
        if let Some(queue) = self.queue(session, client) {
            queue.line.remove(&rank);
        }
    }

    /// Takes an entry out of everything. Bundles in line behind it that now leave a gap are held.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(Entry {
            bundle,
            charge,
            place,
        }) = self.entries.remove(&id)
        else {
            return;
        };
        let (client, session) = (bundle.client(), bundle.session());
        self.by_digest.remove(&bundle.digest());
        if bundle.opens_session() {
            self.opens.remove(&client);
        }
        if let Some(queue) = self.queue(session, client) {
            queue.by_last.remove(&(bundle.last(), id));
            queue.held.remove(&(bundle.first(), id));
        }
        match place {
            Place::Held => {
                self.held_bytes -= charge;
                self.shares.unhold(client.key, id, charge);
            }
            Place::InLine {
                rank, reach_before, ..
            } => {
                self.leave_line(client, session, rank);
                if !bundle.opens_session() {
                    self.close_ranks(session, client, rank, reach_before, bundle.last());
                }
            }
        }
        self.shares.sub(client.key, charge);
        self.forget_if_empty(session, client);
    }

    /// What stood in line behind a removed bundle stays there if it still leaves no gap.
    pub(super) fn close_ranks(
        &mut self,
        session: SessionId,
        client: ClientId,
        removed: u64,
        reach_before: OpNumber,
        removed_last: OpNumber,
    ) {
        let base = self.base(session, client).unwrap_or_default();
        if removed_last <= base {
            return;
        }
        let mut reach = reach_before.max(base);
        let Some(queue) = self.queue(session, client) else {
            return;
        };
        let behind: Vec<(u64, u64)> = queue
            .line
            .range(removed..)
            .map(|(rank, id)| (*rank, *id))
            .collect();
        let mut dropped = Vec::new();
        for (rank, id) in behind {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let (first, last, charge) = (entry.bundle.first(), entry.bundle.last(), entry.charge);
            if first <= reach.next() {
                if let Place::InLine { reach_before, .. } = &mut entry.place {
                    *reach_before = reach;
                }
                reach = reach.max(last);
                continue;
            }
            let bundle = entry.bundle.clone();
            entry.place = Place::Held;
            self.leave_line(client, session, rank);
            let room = self.may_hold(&bundle, charge);
            self.held_bytes += charge;
            self.shares.hold(client.key, id, charge);
            if let Some(queue) = self.queue(session, client) {
                queue.held.insert((first, id));
            }
            if !room {
                dropped.push(id);
            }
        }
        if let Some(queue) = self.queue(session, client) {
            queue.reach = reach;
        }
        for id in dropped {
            self.counters.held_full += 1;
            self.remove(id);
        }
    }

    pub(super) fn forget_if_empty(&mut self, session: SessionId, client: ClientId) {
        let Some(queues) = self.queues.get_mut(&session) else {
            return;
        };
        if queues
            .get(&client)
            .is_some_and(|queue| queue.by_last.is_empty())
        {
            queues.remove(&client);
        }
        if queues.is_empty() {
            self.queues.remove(&session);
        }
    }

    pub(super) fn rank(&self, id: u64) -> Option<u64> {
        match self.entries.get(&id)?.place {
            Place::InLine { rank, .. } => Some(rank),
            Place::Held => None,
        }
    }

    pub(super) fn take_back(&mut self, rank: u64) {
        if !self.in_flight.remove(&rank) {
            return;
        }
        let entry = self.line.get(&rank).and_then(|id| self.entries.get_mut(id));
        if let Some(entry) = entry {
            if let Place::InLine { in_flight, .. } = &mut entry.place {
                *in_flight = false;
            }
            self.shares.line_up(entry.bundle.client().key, rank);
            self.proposable.insert(rank);
        }
    }
}
