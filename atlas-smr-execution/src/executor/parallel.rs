//! Operations of one decision in parallel, with the results that they have one after the other.
//!
//! Operations that share a key which one of them writes make a chain, and so do those that are linked
//! through others; a chain runs in its order, each operation on a fork of the one before. Chains read
//! nothing that another one writes, so that it does not matter which runs when. The forks are then
//! merged in the order of the operations, whatever the chains: a state that depends on the order of
//! its writes too (how a map is cut) comes out the same.
//!
//! Only sessions decide what is run, and those are asked before: the bundles of a group are of
//! different sessions and open none, so that none of them changes what becomes of another.

use super::operation::{carry_out, decode, keeps_writes};
use crate::access::ReadWriteSet;
use crate::application::Application;
use crate::context::ExecutionContext;
use crate::pool::ExecutionPool;
use crate::state::DivisibleState;
use atlas_common::SessionId;
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::OperationResult;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An operation that is to be run, in its place in the order.
pub(super) struct Operation {
    pub(super) cx: ExecutionContext,
    pub(super) request: Bytes,
}

/// The results of a group are in memory together until the last of them is there, so a group ends at so
/// many operations, or is one bundle.
const GROUP_OPERATIONS_MAX: usize = 1024;

/// How many of the bundles, from the first on, can be admitted before any of them is run.
pub(super) fn group(bundles: &[&RequestBundle]) -> usize {
    let mut sessions = BTreeSet::<SessionId>::new();
    let mut operations = 0;
    let joins = |bundle: &&&RequestBundle| {
        operations += bundle.operations().len();
        operations <= GROUP_OPERATIONS_MAX
            && !bundle.opens_session()
            && sessions.insert(bundle.session())
    };
    bundles.iter().take_while(joins).count().max(1)
}

/// Runs operations of a group, with the results in their order.
pub(super) struct Parallel<'a, A: Application> {
    pub(super) application: &'a A,
    pub(super) pool: &'a ExecutionPool,
    pub(super) limit_bytes: usize,
    pub(super) state: &'a mut A::State,
    pub(super) results: Vec<OperationResult>,
    waiting: Vec<Job<A>>,
    /// The defect: operations that share a key run as if they did not.
    #[cfg(feature = "seeded-bugs")]
    pub(super) blind: bool,
}

/// A request that was decoded.
struct Job<A: Application> {
    /// Where its result goes.
    index: usize,
    cx: ExecutionContext,
    request: A::Request,
    keys: ReadWriteSet,
}

/// What came of a job, and the fork with its writes.
struct Done<S> {
    index: usize,
    result: OperationResult,
    fork: Option<S>,
}

impl<'a, A: Application> Parallel<'a, A> {
    pub(super) fn new(
        application: &'a A,
        pool: &'a ExecutionPool,
        limit_bytes: usize,
        state: &'a mut A::State,
    ) -> Self {
        Self {
            application,
            pool,
            limit_bytes,
            state,
            results: Vec::new(),
            waiting: Vec::new(),
            #[cfg(feature = "seeded-bugs")]
            blind: false,
        }
    }

    pub(super) fn run(mut self, operations: Vec<Operation>) -> Vec<OperationResult> {
        for (index, operation) in operations.into_iter().enumerate() {
            let Operation { cx, request } = operation;
            let request = match decode::<A>(&request, self.limit_bytes) {
                Ok(request) => request,
                Err(result) => {
                    self.results.push(result);
                    continue;
                }
            };
            // To be replaced.
            self.results.push(OperationResult::ApplicationFailed);
            let ask = AssertUnwindSafe(|| self.application.keys(&request));
            let keys = catch_unwind(ask).unwrap_or(ReadWriteSet::Unknown);
            let alone = keys.keys().is_none();
            let job = Job {
                index,
                cx,
                request,
                keys,
            };
            if alone {
                self.run_waiting();
                self.run_jobs(vec![vec![job]]);
            } else {
                self.waiting.push(job);
            }
        }
        self.run_waiting();
        self.results
    }

    fn run_waiting(&mut self) {
        let jobs = std::mem::take(&mut self.waiting);
        #[cfg(feature = "seeded-bugs")]
        if self.blind {
            return self.run_jobs(jobs.into_iter().map(|job| vec![job]).collect());
        }
        self.run_jobs(chains(jobs));
    }

    fn run_jobs(&mut self, chains: Vec<Vec<Job<A>>>) {
        let (application, limit_bytes, state) = (self.application, self.limit_bytes, &*self.state);
        let run = |chain| run_chain(application, limit_bytes, state, chain);
        let done = self.pool.map(chains, run);
        let mut done: Vec<_> = done.into_iter().flatten().collect();
        done.sort_by_key(|one| one.index);
        for one in done {
            self.results[one.index] = one.result;
            if let Some(fork) = one.fork {
                self.state.merge(fork);
            }
        }
    }
}

/// Runs operations one after the other, each on a fork of the last that did not fail.
fn run_chain<A: Application>(
    application: &A,
    limit_bytes: usize,
    state: &A::State,
    chain: Vec<Job<A>>,
) -> Vec<Done<A::State>> {
    let mut done: Vec<Done<A::State>> = Vec::with_capacity(chain.len());
    let mut scratch = Vec::new();
    for job in chain {
        let last = done.iter().rev().find_map(|done| done.fork.as_ref());
        // States that cannot fork are not run in parallel.
        let Some(mut fork) = last.unwrap_or(state).fork() else {
            break;
        };
        let mut cx = job.cx;
        let update = |request| application.update(&mut fork, request, &mut cx);
        let result = carry_out::<A>(job.request, limit_bytes, &mut scratch, update);
        done.push(Done {
            index: job.index,
            fork: keeps_writes(&result).then_some(fork),
            result,
        });
    }
    for fork in done.iter_mut().filter_map(|done| done.fork.as_mut()) {
        fork.detach();
    }
    done
}

/// Sorts jobs into chains: two are in one when they share a key that either writes.
fn chains<A: Application>(jobs: Vec<Job<A>>) -> Vec<Vec<Job<A>>> {
    let mut accesses = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let keys = job.keys.keys().unwrap_or_default();
        accesses.extend(keys.iter().map(|access| (access.key, index, access.writes)));
    }
    accesses.sort_unstable();
    let mut links = Links::new(jobs.len());
    for same in accesses.chunk_by(|one, other| one.0 == other.0) {
        if same.iter().any(|access| access.2) {
            for pair in same.windows(2) {
                links.join(pair[0].1, pair[1].1);
            }
        }
    }
    let mut chains: Vec<Vec<Job<A>>> = Vec::new();
    let mut chain_of = vec![None; jobs.len()];
    for (index, job) in jobs.into_iter().enumerate() {
        let root = links.root(index);
        let chain = *chain_of[root].get_or_insert_with(|| {
            chains.push(Vec::new());
            chains.len() - 1
        });
        chains[chain].push(job);
    }
    chains
}

/// Which jobs are linked: a forest, the root of each tree standing for all in it.
struct Links(Vec<usize>);

impl Links {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.0[index] != index {
            let above = self.0[self.0[index]];
            self.0[index] = above;
            index = above;
        }
        index
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.0[one.max(other)] = one.min(other);
    }
}
