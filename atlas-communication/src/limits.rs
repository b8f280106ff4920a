//! Every bound of the transport, in one place.

use crate::error::NetworkError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What one read gives at most, in bytes, but for the end of a frame that is longer: the most that
/// arrives as one [`Inbound`](crate::Inbound) besides one long frame.
pub(crate) const READ_BYTES_MAX: usize = 64 << 10;

/// What one write to a connection takes from its queue at most, in bytes, but for one long frame.
pub(crate) const WRITE_BYTES_MAX: usize = 256 << 10;

/// What a frame costs beyond its bytes while it waits (its handle and its allocation), so that a
/// flood of tiny frames meets the budgets too.
pub(crate) const FRAME_OVERHEAD_BYTES: usize = 64;

/// The queues of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicaLimits {
    /// The longest frame between replicas, in bytes.
    pub frame_bytes_max: usize,
    /// The longest frame that a client may send, in bytes.
    pub client_frame_bytes_max: usize,
    /// How many frames wait for one peer on one lane.
    pub queue_frames_max: usize,
    /// How many bytes wait for one peer on one lane. At least `frame_bytes_max`.
    pub queue_bytes_max: usize,
    /// How many replies wait for one client.
    pub client_queue_frames_max: usize,
    /// How many bytes of replies wait for one client; also the longest reply.
    pub client_queue_bytes_max: usize,
    /// How many reads wait in one lane's inbox, and in that of the clients.
    pub inbox_reads_max: usize,
    /// How many bytes wait in one lane's inbox, and in that of the clients. What one read gives
    /// (64 KiB or one frame) passes even where it is more.
    pub inbox_bytes_max: usize,
    /// How many clients are connected at once.
    pub clients_max: usize,
    /// How many bytes are held for all clients together: replies that wait to be written, and frames that
    /// have come in part. Beyond it the client for which the most is held is disconnected.
    pub clients_bytes_max: usize,
}

impl Default for ReplicaLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 16 << 20,
            client_frame_bytes_max: 1 << 20,
            queue_frames_max: 32 << 10,
            queue_bytes_max: 32 << 20,
            client_queue_frames_max: 4 << 10,
            client_queue_bytes_max: 4 << 20,
            inbox_reads_max: 1 << 10,
            inbox_bytes_max: 64 << 20,
            clients_max: 4 << 10,
            clients_bytes_max: 512 << 20,
        }
    }
}

impl ReplicaLimits {
    pub(crate) fn validate(&self) -> Result<(), NetworkError> {
        positive("client_queue_frames_max", self.client_queue_frames_max)?;
        positive("client_queue_bytes_max", self.client_queue_bytes_max)?;
        frame_length("client_frame_bytes_max", self.client_frame_bytes_max)?;
        positive("clients_max", self.clients_max)?;
        let one_client = self.client_queue_bytes_max.max(self.client_frame_bytes_max);
        within(
            "clients_bytes_max",
            self.clients_bytes_max,
            one_client,
            usize::MAX >> 4,
        )?;
        validate_queue(
            self.frame_bytes_max,
            self.queue_frames_max,
            self.queue_bytes_max,
        )?;
        validate_inbox(self.inbox_reads_max, self.inbox_bytes_max)
    }
}

/// The queues of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientLimits {
    /// The longest frame that is sent, in bytes. Replicas end the connection of a client that sends
    /// longer ones than their `client_frame_bytes_max`.
    pub frame_bytes_max: usize,
    /// The longest reply that is accepted, in bytes.
    pub reply_bytes_max: usize,
    /// How many frames wait for one replica.
    pub queue_frames_max: usize,
    /// How many bytes wait for one replica. At least `frame_bytes_max`.
    pub queue_bytes_max: usize,
    /// How many reads wait in the inbox.
    pub inbox_reads_max: usize,
    /// How many bytes wait in the inbox. What one read gives (64 KiB or one frame) passes even where
    /// it is more.
    pub inbox_bytes_max: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 1 << 20,
            reply_bytes_max: 4 << 20,
            queue_frames_max: 32 << 10,
            queue_bytes_max: 32 << 20,
            inbox_reads_max: 1 << 10,
            inbox_bytes_max: 64 << 20,
        }
    }
}

impl ClientLimits {
    pub(crate) fn validate(&self) -> Result<(), NetworkError> {
        frame_length("reply_bytes_max", self.reply_bytes_max)?;
        validate_queue(
            self.frame_bytes_max,
            self.queue_frames_max,
            self.queue_bytes_max,
        )?;
        validate_inbox(self.inbox_reads_max, self.inbox_bytes_max)
    }
}

/// The deadlines of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionLimits {
    /// How long a connection may take to be set up: TCP, TLS and greeting together.
    pub handshake_ms_max: u64,
    /// How long 256 KiB may take to be written before the connection is given up: a peer that reads
    /// slower than this is as good as away.
    pub stall_ms_max: u64,
    /// The longest pause between two attempts to connect. The first pauses are of some 20 ms.
    pub reconnect_ms_max: u64,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            handshake_ms_max: 5_000,
            stall_ms_max: 10_000,
            reconnect_ms_max: 2_000,
        }
    }
}

impl ConnectionLimits {
    pub(crate) fn validate(&self) -> Result<(), NetworkError> {
        positive("handshake_ms_max", self.handshake_ms_max as usize)?;
        positive("stall_ms_max", self.stall_ms_max as usize)?;
        positive("reconnect_ms_max", self.reconnect_ms_max as usize)
    }

    pub(crate) const fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms_max)
    }

    pub(crate) const fn stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms_max)
    }
}

pub(crate) fn positive(field: &'static str, found: usize) -> Result<(), NetworkError> {
    within(field, found, 1, usize::MAX >> 4)
}

/// A frame's length must fit the four bytes that carry it, with room to spare.
fn frame_length(field: &'static str, found: usize) -> Result<(), NetworkError> {
    within(field, found, 1, 1 << 30)
}

fn validate_queue(frame_bytes: usize, frames: usize, bytes: usize) -> Result<(), NetworkError> {
    frame_length("frame_bytes_max", frame_bytes)?;
    positive("queue_frames_max", frames)?;
    within("queue_bytes_max", bytes, frame_bytes, usize::MAX >> 4)
}

fn validate_inbox(reads: usize, bytes: usize) -> Result<(), NetworkError> {
    positive("inbox_reads_max", reads)?;
    within("inbox_bytes_max", bytes, 1, 1 << 31)
}

fn within(field: &'static str, found: usize, low: usize, high: usize) -> Result<(), NetworkError> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(NetworkError::Config {
        field,
        found: found.to_string(),
        expected: format!("a number from {low} to {high}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_frame_must_fit_its_queue() {
        ReplicaLimits::default().validate().unwrap();
        ClientLimits::default().validate().unwrap();
        ConnectionLimits::default().validate().unwrap();
        let wrong = ReplicaLimits {
            queue_bytes_max: 10,
            frame_bytes_max: 11,
            ..ReplicaLimits::default()
        };
        let error = wrong.validate().unwrap_err().to_string();
        assert!(error.starts_with("queue_bytes_max is 10; expected a number from 11"));
    }
}
