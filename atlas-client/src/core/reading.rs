//! Reads that are not ordered: whom to ask, and what comes of the answers.

use super::{CallId, ClientCore};
use crate::leader::Target;
use crate::reads::ReadStep;
use crate::waiting::Call;
use atlas_common::quorum::FaultModel;
use atlas_common::{NodeId, Time};
use atlas_smr_core::client_message::{ClientMessage, Consistency, OperationResult};

impl ClientCore {
    pub(super) fn start_read(&mut self, now: Time, call: Call, consistency: Consistency) {
        let quorums = self.config.quorums;
        let (needed, asked) = match (consistency, quorums.model()) {
            // Any state that one correct replica vouches for.
            (Consistency::Stale, _) => {
                let needed = quorums.one_correct();
                (needed, Some(self.leader.readers(needed)))
            }
            // The replica itself makes sure that its answer is linearizable, the leader soonest.
            (Consistency::Linearizable, FaultModel::Crash) => match self.leader.read_target() {
                Target::One(replica) => (1, Some(vec![replica])),
                Target::All => (1, None),
            },
            // A quorum meets, in a correct replica, that of every write that was answered.
            (Consistency::Linearizable, FaultModel::Byzantine) => (quorums.quorum(), None),
        };
        let count = asked.as_ref().map_or(quorums.n(), Vec::len);
        let resend_at = now.after(self.timer.timeout());
        let request = self
            .reads
            .start(call, consistency, needed, count, resend_at);
        match asked {
            None => self.send(Target::All, ClientMessage::Read(request)),
            Some(replicas) => {
                for replica in replicas {
                    self.send(Target::One(replica), ClientMessage::Read(request.clone()));
                }
            }
        }
    }

    pub(super) fn read_answered(&mut self, from: NodeId, id: u64, result: Option<OperationResult>) {
        // No read of a correct replica comes to that.
        let result = result.filter(|result| *result != OperationResult::Forgotten);
        let step = self.reads.answer(from, CallId(id), result);
        self.read_step(step);
    }

    pub(super) fn read_step(&mut self, step: ReadStep) {
        match step {
            ReadStep::Wait => {}
            ReadStep::Done(call, result) => self.answered(call, result),
            ReadStep::AskAll(request) => self.send(Target::All, ClientMessage::Read(request)),
            // It was admitted as a read: it does not fail for want of room here.
            ReadStep::Order(call) => self.waiting.push(call),
        }
    }
}
