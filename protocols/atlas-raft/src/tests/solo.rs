//! One replica in the hands of a test, which plays its disk and all others.

use super::rig::{limits, membership, settings};
use crate::message::{Accepted, Append, Body, Entry, EntryId, Message, RequestVote};
use crate::record::Record;
use crate::{Raft, RaftConfig, RaftSettings, Timer};
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, Lsn, NodeId, SeqNo, Time, View};
use atlas_core::{
    Batch, Context, Effect, Input, Installed, Limits, Membership, OrderingProtocol, Origin, Outbox,
    ReadId, Recipients, Recovery, Verified,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Solo {
    pub(super) raft: Raft,
    pub(super) now: Time,
    membership: Arc<Membership>,
    config: RaftConfig,
    rng: SeededRng,
    last_lsn: Lsn,
    held: Outbox<(Recipients, Message)>,
    /// What has left.
    pub(super) out: Vec<(Recipients, Message)>,
    pub(super) log: BTreeMap<Lsn, Record>,
    pub(super) decided: Vec<(SeqNo, Batch)>,
    pub(super) reads: BTreeMap<ReadId, Option<SeqNo>>,
    pub(super) fetching: Option<SeqNo>,
    pub(super) wants_batch: bool,
    pub(super) stopped: usize,
}

pub(super) fn batch(text: &'static str) -> Batch {
    Batch::new(AgreedTime::default(), &[text.into()])
}

pub(super) fn entry(term: u64, text: &'static str) -> Entry {
    let (term, batch) = (View(term), batch(text));
    Entry { term, batch }
}

pub(super) fn id(seq: u64, term: u64) -> EntryId {
    (SeqNo(seq), View(term))
}

impl Solo {
    pub(super) fn new(n: usize) -> Self {
        Self::with(n, 0, &limits(), settings())
    }

    pub(super) fn with(n: usize, me: u32, limits: &Limits, settings: RaftSettings) -> Self {
        let config = RaftConfig::new(limits, settings).unwrap();
        let (membership, me) = (membership(n, 1), NodeId(me));
        let recovery = Recovery {
            me,
            origin: Origin::Genesis,
            installed: None,
            records: Vec::new(),
        };
        let raft = Raft::recover(config.clone(), Arc::clone(&membership), recovery).unwrap();
        let mut solo = Self {
            raft,
            now: Time::ZERO,
            membership,
            config,
            rng: SeededRng::new(7),
            last_lsn: Lsn::ZERO,
            held: Outbox::default(),
            out: Vec::new(),
            log: BTreeMap::new(),
            decided: Vec::new(),
            reads: BTreeMap::new(),
            fetching: None,
            wants_batch: false,
            stopped: 0,
        };
        solo.step(Input::Start);
        solo
    }

    pub(super) fn step(&mut self, input: Input<Raft>) {
        let mut effects = Vec::new();
        let (rng, lsn) = (&mut self.rng, &mut self.last_lsn);
        let wall = AgreedTime::default();
        self.raft.step(
            input,
            &mut Context::new(self.now, wall, rng, lsn, &mut effects),
        );
        for effect in effects {
            match effect {
                Effect::Persist { lsn, record } => drop(self.log.insert(lsn, record)),
                Effect::Send { to, message, after } => {
                    let leaves = self.held.push(after, (to, message));
                    self.out.extend(leaves);
                }
                Effect::Decide { seq, batch, .. } => self.decided.push((seq, batch)),
                Effect::ReadAt { id, seq } => drop(self.reads.insert(id, Some(seq))),
                Effect::ReadRefused(id) => drop(self.reads.insert(id, None)),
                Effect::FetchState { at_least } => self.fetching = Some(at_least),
                Effect::WantBatch => self.wants_batch = true,
                Effect::Stopped(batches) => self.stopped += batches.len(),
                _ => {}
            }
        }
    }

    /// The disk has written everything.
    pub(super) fn sync(&mut self) {
        self.sync_to(self.last_lsn);
    }

    pub(super) fn sync_to(&mut self, lsn: Lsn) {
        self.out.extend(self.held.durable(lsn));
        self.step(Input::Durable(lsn));
    }

    pub(super) fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    pub(super) fn pass(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    pub(super) fn hear(&mut self, from: u32, term: u64, body: Body) {
        let (from, term) = (NodeId(from), View(term));
        let message = Message::new(&self.membership, term, body);
        let any = &mut |_: &Batch| Ok(());
        let checked = Verified::check::<Raft>(&self.config, &self.membership, from, message, any);
        let message = checked.unwrap();
        self.step(Input::Message { from, message });
    }

    pub(super) fn append(
        &mut self,
        from: u32,
        term: u64,
        previous: EntryId,
        entries: Vec<Entry>,
        commit: u64,
    ) {
        let (commit, round) = (SeqNo(commit), 0);
        self.hear(
            from,
            term,
            Body::Append(Append {
                previous,
                entries,
                commit,
                round,
            }),
        );
    }

    pub(super) fn accept(&mut self, from: u32, term: u64, matched: u64, round: u64) {
        let (matched, room, counts) = (SeqNo(matched), SeqNo(u64::MAX), true);
        self.hear(
            from,
            term,
            Body::Accepted(Accepted {
                matched,
                room,
                round,
                counts,
            }),
        );
    }

    pub(super) fn request(&mut self, from: u32, term: u64, last: EntryId, pre: bool) {
        let forced = false;
        self.hear(
            from,
            term,
            Body::RequestVote(RequestVote { last, pre, forced }),
        );
    }

    pub(super) fn vote(&mut self, from: u32, term: u64, pre: bool) {
        let granted = true;
        self.hear(from, term, Body::Vote { pre, granted });
    }

    /// Lets the election time-out run out, and takes the votes of these.
    pub(super) fn elect(&mut self, voters: &[u32]) {
        let before = self.raft.term.0;
        self.pass(Duration::from_secs(1));
        self.step(Input::Timeout(Timer::Election));
        voters
            .iter()
            .for_each(|voter| self.vote(*voter, before, true));
        self.sync();
        voters
            .iter()
            .for_each(|voter| self.vote(*voter, before + 1, false));
        assert!(self.raft.leads());
        self.sync();
    }

    pub(super) fn read(&mut self, id: u64) {
        self.step(Input::Read(ReadId(id)));
    }

    /// Takes what has left.
    pub(super) fn sent(&mut self) -> Vec<Body> {
        let out = std::mem::take(&mut self.out);
        out.into_iter().map(|(_, message)| message.body).collect()
    }

    pub(super) fn granted(&mut self) -> Vec<bool> {
        let vote = |body| match body {
            Body::Vote { granted, .. } => Some(granted),
            _ => None,
        };
        self.sent().into_iter().filter_map(vote).collect()
    }

    pub(super) fn accepted(&mut self) -> Vec<u64> {
        let matched = |body| match body {
            Body::Accepted(accepted) => Some(accepted.matched.0),
            _ => None,
        };
        self.sent().into_iter().filter_map(matched).collect()
    }

    pub(super) fn appends(&mut self) -> Vec<Append> {
        let append = |body| match body {
            Body::Append(append) => Some(append),
            _ => None,
        };
        self.sent().into_iter().filter_map(append).collect()
    }

    /// The replica after a crash that kept what was durable.
    pub(super) fn restarted(self, durable: Lsn) -> Self {
        self.restarted_from(None, durable)
    }

    /// The same with a checkpoint.
    pub(super) fn restarted_from(self, installed: Option<Installed>, durable: Lsn) -> Self {
        let records: Vec<_> = self
            .log
            .range(..=durable)
            .map(|(l, r)| (*l, r.clone()))
            .collect();
        let recovery = Recovery {
            me: self.raft.me,
            origin: Origin::Restart,
            installed,
            records,
        };
        let membership = Arc::clone(&self.membership);
        let raft = Raft::recover(self.config.clone(), membership, recovery).unwrap();
        let mut solo = Self {
            raft,
            held: Outbox::new(durable),
            last_lsn: durable,
            out: Vec::new(),
            decided: Vec::new(),
            ..self
        };
        solo.log.retain(|lsn, _| *lsn <= durable);
        solo.step(Input::Start);
        solo
    }
}
