//! Decided bundles: which of their operations run, how, and what their clients are told.

use super::operation::{carry_out, decode, keeps_writes};
use super::parallel::{self, Operation, Parallel};
use super::{Executor, History};
use crate::application::Application;
use crate::context::ExecutionContext;
use crate::execute::Applied;
use crate::state::DivisibleState;
use atlas_common::{OpNumber, SessionId};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{OperationResult, Reply};
use atlas_smr_core::session::{Admission, SessionUpdate};
use bytes::Bytes;

impl<A: Application> Executor<A> {
    /// Executes bundles one after the other, or, if that is worth it, those in parallel that cannot
    /// change what becomes of each other.
    pub(super) fn bundles(
        &mut self,
        bundles: &[&RequestBundle],
        cx: &mut ExecutionContext,
        out: &mut Applied,
    ) {
        let operations = bundles.iter().map(|bundle| bundle.operations().len()).sum();
        let pool = self.pool.clone();
        let parallel = self.history.is_none() && pool.chooses_parallel(operations);
        pool.timed(parallel, operations, || {
            if parallel {
                self.in_groups(bundles, cx, out);
            } else {
                self.one_by_one(bundles, cx, out);
            }
        });
    }

    fn one_by_one(
        &mut self,
        bundles: &[&RequestBundle],
        cx: &mut ExecutionContext,
        out: &mut Applied,
    ) {
        for bundle in bundles {
            let admission = self.sessions.admit(bundle, cx.seq());
            if let Admission::Run { from } = admission {
                self.run(bundle, from, cx, out);
            }
            self.answer(bundle, admission, out);
        }
    }

    fn in_groups(
        &mut self,
        mut bundles: &[&RequestBundle],
        cx: &mut ExecutionContext,
        out: &mut Applied,
    ) {
        while !bundles.is_empty() {
            let (group, rest) = bundles.split_at(parallel::group(bundles));
            self.group(group, cx, out);
            bundles = rest;
        }
    }

    fn group(&mut self, group: &[&RequestBundle], cx: &mut ExecutionContext, out: &mut Applied) {
        let (mut admissions, mut operations) = (Vec::new(), Vec::new());
        for bundle in group {
            let admission = self.sessions.admit(bundle, cx.seq());
            admissions.push(admission);
            let Admission::Run { from } = admission else {
                continue;
            };
            for (number, request) in bundle.numbered().filter(|(number, _)| *number >= from) {
                let index = (out.operations + operations.len()) as u64;
                cx.turn_to(index, bundle.client(), bundle.session(), number);
                operations.push(Operation {
                    cx: cx.clone(),
                    request: request.clone(),
                });
            }
        }
        let limit_bytes = self.config.limits.operation_bytes_max;
        let (application, pool) = (&*self.application, &self.pool);
        #[allow(unused_mut, reason = "the seeded bug below changes it")]
        let mut run = Parallel::new(application, pool, limit_bytes, &mut self.state);
        #[cfg(feature = "seeded-bugs")]
        {
            run.blind = self.ignores_conflicts;
        }
        let mut results = run.run(operations).into_iter();
        for (bundle, admission) in group.iter().zip(admissions) {
            if let Admission::Run { from } = admission {
                for (number, _) in bundle.numbered() {
                    if number < from {
                        self.counters.duplicates += 1;
                    } else if let Some(result) = results.next() {
                        self.record(bundle.session(), result, out);
                    }
                }
            }
            self.answer(bundle, admission, out);
        }
    }

    fn run(
        &mut self,
        bundle: &RequestBundle,
        from: OpNumber,
        cx: &mut ExecutionContext,
        out: &mut Applied,
    ) {
        for (number, request) in bundle.numbered() {
            if number < from {
                self.counters.duplicates += 1;
                continue;
            }
            let index = out.operations as u64;
            cx.turn_to(index, bundle.client(), bundle.session(), number);
            let result = self.operation(request, cx);
            self.record(bundle.session(), result, out);
        }
    }

    fn operation(&mut self, request: &Bytes, cx: &mut ExecutionContext) -> OperationResult {
        let limit_bytes = self.config.limits.operation_bytes_max;
        let decoded = match decode::<A>(request, limit_bytes) {
            Ok(decoded) => decoded,
            Err(result) => return result,
        };
        let (application, scratch) = (&self.application, &mut self.scratch);
        let Some(mut fork) = self.state.fork() else {
            let update = |request| application.update(&mut self.state, request, cx);
            let result = carry_out::<A>(decoded, limit_bytes, scratch, update);
            self.remember(request, cx, &result);
            return result;
        };
        let update = |request| application.update(&mut fork, request, cx);
        let result = carry_out::<A>(decoded, limit_bytes, scratch, update);
        if keeps_writes(&result) {
            self.state.merge(fork);
        }
        result
    }

    /// Notes an operation on a state that cannot fork, or undoes it.
    fn remember(&mut self, request: &Bytes, cx: &ExecutionContext, result: &OperationResult) {
        if keeps_writes(result) {
            if let Some(history) = &mut self.history {
                history.ran(cx, request);
            }
        } else if let Some(history) = self.history.take() {
            let limit_bytes = self.config.limits.operation_bytes_max;
            self.state = history.restore(&*self.application, limit_bytes);
            self.history = History::of(&self.state);
        }
    }

    fn record(&mut self, session: SessionId, result: OperationResult, out: &mut Applied) {
        out.operations += 1;
        self.counters.operations += 1;
        match &result {
            OperationResult::Ok(_) | OperationResult::Forgotten => {}
            OperationResult::InvalidRequest => self.counters.invalid_requests += 1,
            OperationResult::ApplicationFailed => self.counters.application_failures += 1,
            OperationResult::ReplyTooLarge => self.counters.replies_too_large += 1,
        }
        self.sessions.record(session, result);
    }

    /// Tells a bundle's client what became of it.
    fn answer(&mut self, bundle: &RequestBundle, admission: Admission, out: &mut Applied) {
        let (client, session) = (bundle.client(), bundle.session());
        match admission {
            Admission::Opened { session, closed } => {
                if let Some(closed) = closed {
                    self.claims.forget(closed);
                    out.sessions.push(SessionUpdate::Closed(closed));
                }
                self.moved(session, out);
                out.replies.push((client, Reply::Opened(session)));
            }
            Admission::Run { .. } => {
                self.moved(session, out);
                let claimed = self.claims.take(session, bundle.first(), bundle.last());
                if claimed || bundle.is_answered_by(self.config.replica) {
                    let replies = self.kept_replies(session, bundle.first(), bundle.last());
                    out.replies
                        .extend(replies.into_iter().map(|reply| (client, reply)));
                }
            }
            Admission::Gap => self.counters.gaps += 1,
            Admission::Expired => {
                self.counters.expired += 1;
                out.replies.push((client, Reply::SessionExpired(session)));
            }
            Admission::NotTheirs => self.counters.invalid_bundles += 1,
        }
    }

    fn moved(&self, session: SessionId, out: &mut Applied) {
        if let Some(last) = self.sessions.last(session) {
            out.sessions.push(SessionUpdate::Open { session, last });
        }
    }
}
