//! Raft in outline (Ongaro's thesis): a leader that replicates before its own disk, ReadIndex, a
//! snapshot with its last term, leadership transfer.

use super::{Driver, batch, three};
use atlas_common::quorum::FaultModel;
use atlas_common::{Digest, Lsn, NodeId, SeqNo, View};
use atlas_core::{
    Admin, Batch, CheckpointCertificate, CheckpointId, Context, Effect, Input, Installed,
    Membership, OrderingProtocol, ProtocolStatus, ReadId, Recipients, RecoverError, Recovery,
    Reject,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Message {
    Append {
        term: View,
        previous: (SeqNo, View),
        entry: Batch,
    },
    Accepted {
        term: View,
        up_to: SeqNo,
    },
    Heard {
        read: u64,
    },
    TimeoutNow,
}

#[derive(Debug)]
struct Raft {
    me: NodeId,
    term: View,
    /// The last entry that a snapshot replaced, and its term.
    base: (SeqNo, View),
    log: BTreeMap<SeqNo, (View, Batch)>,
    durable: SeqNo,
    accepted: BTreeMap<NodeId, SeqNo>,
    committed: SeqNo,
    reads: Vec<ReadId>,
}

impl Raft {
    fn last(&self) -> SeqNo {
        self.log
            .last_key_value()
            .map_or(self.base.0, |(seq, _)| *seq)
    }

    fn term_at(&self, seq: SeqNo) -> View {
        self.log.get(&seq).map_or(self.base.1, |(term, _)| *term)
    }

    fn commit(&mut self, cx: &mut Context<'_, Self>) {
        let mut at: Vec<SeqNo> = self
            .accepted
            .values()
            .copied()
            .chain([self.durable])
            .collect();
        at.sort_unstable();
        // The middle one of three: a majority has it. Only entries of the own term (section 3.6.2).
        let majority = at[at.len() / 2];
        while self.committed < majority && self.term_at(majority) == self.term {
            self.committed = self.committed.next();
            let (_, entry) = self.log[&self.committed].clone();
            // A majority's disks hold it, whatever this one does.
            cx.decide_unguarded(self.committed, entry, ());
        }
    }
}

impl OrderingProtocol for Raft {
    const NAME: &'static str = "raft-outline";
    const FAULT_MODEL: FaultModel = FaultModel::Crash;
    type Config = ();
    type Message = Message;
    type Record = (SeqNo, View, Batch);
    type Proof = ();
    type Timer = ();

    fn recover(_: (), _: Arc<Membership>, from: Recovery<Self>) -> Result<Self, RecoverError> {
        let base = from
            .installed
            .as_ref()
            .map_or((SeqNo::ZERO, View::ZERO), based_on);
        let log = from
            .records
            .into_iter()
            .map(|(_, (seq, term, entry))| (seq, (term, entry)));
        let (term, committed) = (View(1), base.0);
        let (accepted, reads) = (
            [1, 2].map(|id| (NodeId(id), SeqNo::ZERO)).into(),
            Vec::new(),
        );
        let (me, log) = (from.me, log.collect());
        Ok(Self {
            me,
            term,
            base,
            log,
            durable: base.0,
            accepted,
            committed,
            reads,
        })
    }

    fn verify(_: &(), _: &Membership, _: NodeId, _: &Message) -> Result<(), Reject> {
        Ok(())
    }

    fn batches(message: &Message) -> Vec<&Batch> {
        match message {
            Message::Append { entry, .. } => vec![entry],
            _ => Vec::new(),
        }
    }

    fn verify_decision(_: &(), _: &Membership, _: SeqNo, _: &Digest, _: &()) -> Result<(), Reject> {
        Ok(())
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<'_, Self>) {
        match input {
            Input::Propose(entry) => {
                let (term, last) = (self.term, self.last());
                let previous = (last, self.term_at(last));
                self.log.insert(last.next(), (term, entry.clone()));
                cx.persist((last.next(), term, entry.clone()));
                // The leader's own write in parallel with replication (section 10.2.1): it counts
                // itself only when its record is durable.
                cx.send_unguarded(
                    Recipients::Others,
                    Message::Append {
                        term,
                        previous,
                        entry,
                    },
                );
            }
            Input::Durable(lsn) => {
                self.durable = SeqNo(self.base.0.0 + lsn.0);
                self.commit(cx);
            }
            Input::Message { from, message } => match message.into_inner() {
                Message::Accepted { up_to, .. } => {
                    self.accepted.insert(from, up_to);
                    self.commit(cx);
                }
                // ReadIndex (section 6.4): a majority has heard this leader since the read came.
                Message::Heard { read } => {
                    self.reads.retain(|waiting| *waiting != ReadId(read));
                    cx.read_at(ReadId(read), self.committed);
                }
                Message::Append { .. } | Message::TimeoutNow => {}
            },
            Input::Read(id) if self.term_at(self.committed) == self.term => self.reads.push(id),
            Input::Read(id) => cx.read_refused(id), // no commit in the own term yet
            Input::Admin(Admin::TransferLeadership { to }) => cx.send_to(to, Message::TimeoutNow),
            Input::StateInstalled(installed) => {
                self.base = based_on(&installed);
                self.log = self.log.split_off(&self.base.0.next());
                self.committed = self.committed.max(self.base.0);
            }
            _ => {}
        }
    }

    fn body(&self, _: &Digest) -> Option<Batch> {
        None
    }

    /// The last term travels with a snapshot (section 5.1).
    fn frontier(&self, seq: SeqNo) -> Bytes {
        Bytes::copy_from_slice(&self.term_at(seq).0.to_le_bytes())
    }

    fn status(&self) -> ProtocolStatus {
        let (view, leader) = (self.term, Some(self.me));
        ProtocolStatus {
            view,
            leader,
            decided: self.committed,
            ..ProtocolStatus::default()
        }
    }
}

fn based_on(installed: &Installed) -> (SeqNo, View) {
    let term = installed
        .frontier
        .as_ref()
        .try_into()
        .map_or(0, u64::from_le_bytes);
    (installed.seq(), View(term))
}

fn leader(installed: Option<Installed>) -> Driver<Raft> {
    let (me, origin) = (NodeId(0), atlas_core::Origin::Genesis);
    let recovery = Recovery {
        me,
        origin,
        installed,
        records: Vec::new(),
    };
    Driver::new(Raft::recover((), three(), recovery).unwrap(), ())
}

fn snapshot(seq: u64, term: u64) -> Installed {
    let id = CheckpointId {
        epoch: Default::default(),
        seq: SeqNo(seq),
        state: Digest::default(),
    };
    let frontier = Bytes::copy_from_slice(&term.to_le_bytes());
    Installed {
        certificate: Arc::new(CheckpointCertificate::unsigned(id)),
        frontier,
    }
}

#[test]
fn section_10_2_1_the_leader_sends_before_its_disk_and_counts_itself_after() {
    let mut leader = leader(None);
    let effects = leader.step(Input::Propose(batch("x")));
    assert!(matches!(effects[0], Effect::Persist { lsn: Lsn(1), .. }));
    assert!(matches!(
        effects[1],
        Effect::Send {
            after: Lsn::ZERO,
            ..
        }
    ));
    let accepted = Message::Accepted {
        term: View(1),
        up_to: SeqNo(1),
    };
    assert!(
        leader.message(1, accepted).is_empty(),
        "one follower is no majority"
    );
    let effects = leader.step(Input::Durable(Lsn(1)));
    assert!(matches!(effects[0], Effect::Decide { seq: SeqNo(1), .. }));
}

#[test]
fn section_6_4_a_read_waits_for_a_commit_in_the_own_term_and_for_a_majority() {
    let mut leader = leader(None);
    let refused = leader.step(Input::Read(ReadId(1)));
    assert!(matches!(refused[0], Effect::ReadRefused(ReadId(1))));
    leader.step(Input::Propose(batch("x")));
    leader.step(Input::Durable(Lsn(1)));
    leader.message(
        1,
        Message::Accepted {
            term: View(1),
            up_to: SeqNo(1),
        },
    );
    assert!(leader.step(Input::Read(ReadId(2))).is_empty());
    let heard = leader.message(1, Message::Heard { read: 2 });
    assert!(matches!(
        heard[0],
        Effect::ReadAt {
            id: ReadId(2),
            seq: SeqNo(1)
        }
    ));
}

#[test]
fn section_5_1_a_snapshot_brings_the_term_of_its_last_entry() {
    let mut leader = leader(Some(snapshot(7, 3)));
    let effects = leader.step(Input::Propose(batch("x")));
    let Effect::Send {
        message: Message::Append { previous, .. },
        ..
    } = &effects[1]
    else {
        panic!("{effects:?}");
    };
    assert_eq!(*previous, (SeqNo(7), View(3)));
    leader.step(Input::StateInstalled(snapshot(9, 4)));
    assert_eq!(
        leader.protocol.frontier(SeqNo(9)),
        4u64.to_le_bytes().as_slice()
    );
}

#[test]
fn section_3_10_leadership_is_handed_over_on_request() {
    let to = NodeId(2);
    let effects = leader(None).step(Input::Admin(Admin::TransferLeadership { to }));
    let Effect::Send {
        to: Recipients::One(NodeId(2)),
        message,
        ..
    } = &effects[0]
    else {
        panic!("{effects:?}");
    };
    assert!(matches!(message, Message::TimeoutNow));
}
