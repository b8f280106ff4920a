//! Reads: from the state, or from a clone of it.

use super::operation::{carry_out, decode};
use crate::application::Application;
use crate::execute::ReadView;
use atlas_smr_core::client_message::OperationResult;
use std::sync::Arc;

/// A clone of the state, and what answers from it.
pub(super) struct View<A: Application> {
    pub(super) application: Arc<A>,
    pub(super) state: A::State,
    pub(super) limit_bytes: usize,
}

impl<A: Application> ReadView for View<A> {
    fn read(&self, operation: &[u8]) -> OperationResult {
        read(&*self.application, &self.state, operation, self.limit_bytes)
    }
}

pub(super) fn read<A: Application>(
    application: &A,
    state: &A::State,
    operation: &[u8],
    limit_bytes: usize,
) -> OperationResult {
    let read = |request| {
        let read = |request| application.read(state, request);
        carry_out::<A>(request, limit_bytes, &mut Vec::new(), read)
    };
    decode::<A>(operation, limit_bytes).map_or_else(|result| result, read)
}
