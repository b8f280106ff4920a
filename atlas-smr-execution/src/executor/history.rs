//! How a state that cannot fork gets rid of the writes of an operation that failed: it is made again.

use crate::application::Application;
use crate::context::ExecutionContext;
use crate::state::DivisibleState;
use bytes::Bytes;

/// The state as it once was, and what was done to it since.
///
/// It is moved up at every checkpoint and after every failure, so that it holds no more operations
/// than a checkpoint interval has, and none is run again more than once.
pub(super) struct History<S> {
    base: S,
    runs: Vec<Run>,
}

/// Operations that came one after the other, of one session.
struct Run {
    /// Of the first of them.
    cx: ExecutionContext,
    requests: Vec<Bytes>,
}

impl<S: DivisibleState> History<S> {
    /// For a state that needs one.
    pub(super) fn of(state: &S) -> Option<Self> {
        state.fork().is_none().then(|| Self {
            base: state.clone(),
            runs: Vec::new(),
        })
    }

    /// An operation was carried out.
    pub(super) fn ran(&mut self, cx: &ExecutionContext, request: &Bytes) {
        match self.runs.last_mut() {
            Some(run) if cx.follows(&run.cx, run.requests.len() as u64) => {
                run.requests.push(request.clone());
            }
            _ => self.runs.push(Run {
                cx: cx.anew(),
                requests: vec![request.clone()],
            }),
        }
    }

    /// The state without the operation that failed: all that were carried out, on what was before.
    ///
    /// # Panics
    /// When one of them panics, which it did not the first time: the application is not deterministic.
    pub(super) fn restore<A>(self, application: &A, limit_bytes: usize) -> S
    where
        A: Application<State = S>,
    {
        let mut state = self.base;
        for run in self.runs {
            let mut cx = run.cx;
            for request in run.requests {
                if let Ok(request) = A::decode_request(&request, limit_bytes) {
                    application.update(&mut state, request, &mut cx);
                }
                cx.turn_to_next();
            }
        }
        state
    }
}
