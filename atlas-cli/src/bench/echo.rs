//! The application that is measured: it does next to nothing, so that the rest shows.

use atlas_smr::{Application, ApplicationData, ExecutionContext};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Counts operations, and answers each with its own bytes, repeated to the size of a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo {
    pub(crate) reply_bytes: usize,
}

impl Echo {
    pub(crate) fn answer(self, payload: &[u8]) -> Bytes {
        if payload.is_empty() {
            return vec![0; self.reply_bytes].into();
        }
        payload
            .iter()
            .copied()
            .cycle()
            .take(self.reply_bytes)
            .collect()
    }
}

/// An operation or a reply as it stands, without an encoding around it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plain(pub(super) Bytes);

impl ApplicationData for Echo {
    type Request = Plain;
    type Reply = Plain;

    fn decode_request(
        bytes: &[u8],
        _limit_bytes: usize,
    ) -> Result<Plain, atlas_smr::protocol::DecodeError> {
        Ok(Plain(Bytes::copy_from_slice(bytes)))
    }

    fn encode_reply(
        reply: &Plain,
        bytes: &mut Vec<u8>,
    ) -> Result<(), atlas_smr::protocol::EncodeError> {
        bytes.extend_from_slice(&reply.0);
        Ok(())
    }
}

impl Application for Echo {
    type State = u64;

    fn initial_state(&self) -> u64 {
        0
    }

    fn update(&self, operations: &mut u64, request: Plain, _: &mut ExecutionContext) -> Plain {
        *operations += 1;
        Plain(self.answer(&request.0))
    }

    fn read(&self, _: &u64, request: Plain) -> Plain {
        Plain(self.answer(&request.0))
    }
}
