//! One operation: from the bytes of a request to its result, whatever the application does.

use crate::application::ApplicationData;
use atlas_smr_core::client_message::OperationResult;
use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Decodes a request; or gives the result that it has by itself.
pub(super) fn decode<A: ApplicationData>(
    request: &[u8],
    limit_bytes: usize,
) -> Result<A::Request, OperationResult> {
    match catch_unwind(|| A::decode_request(request, limit_bytes)) {
        Ok(Ok(request)) => Ok(request),
        Ok(Err(_)) => Err(OperationResult::InvalidRequest),
        Err(_panic) => Err(OperationResult::ApplicationFailed),
    }
}

/// Carries a request out and encodes the reply. A panic, and a reply that has no encoding, are a
/// failure.
///
/// What the closure wrote before it failed is still there: the caller takes it back.
pub(super) fn carry_out<A: ApplicationData>(
    request: A::Request,
    limit_bytes: usize,
    scratch: &mut Vec<u8>,
    carry_out: impl FnOnce(A::Request) -> A::Reply,
) -> OperationResult {
    scratch.clear();
    let run = AssertUnwindSafe(|| {
        let reply = carry_out(request);
        match A::encode_reply(&reply, scratch) {
            Ok(()) if scratch.len() > limit_bytes => OperationResult::ReplyTooLarge,
            Ok(()) => OperationResult::Ok(Bytes::copy_from_slice(scratch)),
            Err(_) => OperationResult::ApplicationFailed,
        }
    });
    let result = catch_unwind(run).unwrap_or(OperationResult::ApplicationFailed);
    if scratch.capacity() > limit_bytes {
        *scratch = Vec::new();
    }
    result
}

/// Whether what the operation wrote stays: it was carried out, even if its reply is too large to send.
pub(super) const fn keeps_writes(result: &OperationResult) -> bool {
    matches!(
        result,
        OperationResult::Ok(_) | OperationResult::ReplyTooLarge
    )
}
