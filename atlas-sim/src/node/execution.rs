//! What a replica executes, and how it answers.

use super::{Name, Node};
use crate::checkers::Violation;
use crate::checkers::history::Balances;
use crate::faults::FaultKind;
use crate::machine::Executed;
use crate::network::exponential;
use crate::protocol::SimProtocol;
use crate::shared::{Event, Shared};
use atlas_common::{ClientId, OpNumber, SeqNo, SessionId};
use atlas_core::Installed;
use atlas_smr_core::client_message::{ReadRequest, Reply};
use atlas_smr_core::core::{CoreInput, Decision};
use atlas_smr_core::transfer::FetchedState;
use atlas_smr_replica::store::StoreJob;
use std::sync::Arc;

/// Work of the executor, in order.
#[derive(Debug)]
pub(super) enum Job {
    /// Execute these.
    Execute(Vec<Decision>),
    /// Answer from the session table.
    Retransmit {
        client: ClientId,
        session: SessionId,
        first: OpNumber,
        last: OpNumber,
    },
    /// Say that a session is closed.
    Expired {
        client: ClientId,
        session: SessionId,
    },
    /// Read, once this decision is executed.
    Read {
        client: ClientId,
        read: ReadRequest,
        after: SeqNo,
    },
    /// Take this state over.
    Install(Box<FetchedState>),
}

impl<P: SimProtocol> Node<P> {
    /// Hands decisions to the executor; the oracles look at them on the way.
    pub(super) fn execute(&mut self, decisions: Vec<Decision>, shared: &mut Shared<P>) {
        for decision in &decisions {
            let (seq, batch) = (decision.seq, &decision.batch);
            shared.trace.mix(seq.0);
            shared.trace.mix_digest(&batch.digest());
            let count = batch.bundles().len();
            let line = format_args!("decides #{seq} {:?} of {count}", batch.digest());
            shared.line(Name(self.id), line);
            if self.is_correct() {
                let first = shared
                    .oracles
                    .agreement
                    .decided(self.id, seq, batch.digest());
                if shared.note(first) == Some(true) {
                    let valid = shared.oracles.validity.decided(seq, batch);
                    shared.note(valid);
                }
            }
        }
        self.enqueue(Job::Execute(decisions), shared);
    }

    pub(super) fn enqueue(&mut self, job: Job, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        running.jobs.push_back(job);
        if running.jobs.len() == 1 {
            self.schedule_execution(shared);
        }
    }

    fn schedule_execution(&mut self, shared: &mut Shared<P>) {
        let delay = exponential(shared.plan.execution, &mut self.rng);
        let (node, life) = (self.id, self.life);
        shared.queue.after(delay, Event::Executed { node, life });
    }

    /// The executor does the first piece of its work.
    pub(super) fn on_executed(&mut self, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(job) = running.jobs.pop_front() else {
            return;
        };
        match job {
            Job::Execute(decisions) => {
                let executed = running.machine.execute(&decisions);
                self.after_execution(executed, shared);
            }
            Job::Retransmit {
                client,
                session,
                first,
                last,
            } => {
                for reply in running.machine.retransmit(client, session, first, last) {
                    self.reply(client, reply, shared);
                }
            }
            Job::Expired { client, session } => {
                self.reply(client, Reply::SessionExpired(session), shared);
            }
            Job::Read {
                client,
                read,
                after,
            } => self.execute_read(client, read, after, shared),
            Job::Install(state) => self.store_later(StoreJob::Install(*state), shared),
        }
        if self
            .running
            .as_ref()
            .is_some_and(|running| !running.jobs.is_empty())
        {
            self.schedule_execution(shared);
        }
    }

    fn after_execution(&mut self, executed: Executed, shared: &mut Shared<P>) {
        let replica = self.id;
        if self.is_correct() {
            for (seq, ran) in executed.ran {
                let same = shared.oracles.execution.executed(replica, seq, ran);
                shared.note(same);
            }
            if let Some((seq, found)) = executed.unbalanced {
                shared.note::<()>(Err(Violation::Money {
                    replica,
                    seq,
                    found,
                    expected: Balances::default().total(),
                }));
            }
        }
        for (client, reply) in executed.replies {
            self.reply(client, reply, shared);
        }
        for snapshot in executed.checkpoints {
            self.store_later(StoreJob::Write(snapshot), shared);
        }
        self.run_reads(shared);
        self.input(
            CoreInput::Executed {
                seq: executed.seq,
                sessions: executed.sessions,
                last_given: executed.last_given,
            },
            shared,
        );
    }

    /// A state from peers is on the disk: the application takes it over.
    pub(super) fn install(&mut self, state: FetchedState, shared: &mut Shared<P>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let (id, keeper) = (state.certificate.id, &running.disk.keeper);
        let source = keeper.source_of_fetched();
        let seq = id.seq;
        let taken = running.machine.install(&id, &state.descriptor, &source);
        if let Err(reason) = taken {
            return self.install_failed(seq, &reason.to_string(), shared);
        }
        shared.line(
            Name(self.id),
            format_args!("installs the state of decision {seq}"),
        );
        let sessions = running.machine.sessions();
        if self.is_correct() {
            shared.oracles.agreement.installs(self.id, seq);
            let same = shared.oracles.agreement.state(self.id, seq, id.state);
            shared.note(same);
        }
        self.run_reads(shared);
        self.input(sessions, shared);
        let installed = Installed {
            certificate: Arc::new(state.certificate),
            frontier: state.frontier,
        };
        self.input(CoreInput::StateInstalled(installed), shared);
    }

    pub(super) fn install_failed(&mut self, seq: SeqNo, reason: &str, shared: &mut Shared<P>) {
        shared.line(
            Name(self.id),
            format_args!("cannot install state {seq}: {reason}"),
        );
        self.input(CoreInput::InstallFailed(seq), shared);
    }

    /// Says when a clock that runs at another speed was used.
    pub(crate) fn count_skew(&self, shared: &mut Shared<P>) {
        if self.clock != crate::plan::Clock::TRUE {
            shared.counts.count(FaultKind::Skew);
        }
    }
}
