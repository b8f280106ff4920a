//! Long frames of a transfer, decoded and checked on a thread of their own.
//!
//! What a transfer brings is copied out of its frames and digested, a gibibyte where a state has one. On
//! the core's thread, which also decrypts it, that would be half of the work, and all other messages
//! would wait for it.

use super::checking::{Checked, Results, check};
use atlas_common::{NodeId, wire};
use atlas_core::{OrderingProtocol, Reject};
use atlas_smr_core::message::{MessageChecker, SystemMessage};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// A frame that is shorter is not worth waking a thread for.
const LONG_BYTES: usize = 64 << 10;
/// Bytes of frames that may wait. One more may be added to fewer.
pub(crate) const LONG_FRAMES_BYTES_MAX: usize = 32 << 20;

/// The thread, and the queue to it.
pub(super) struct LongFrames {
    queue: Option<Sender<(NodeId, Bytes)>>,
    /// Bytes that wait or are being checked.
    held: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl LongFrames {
    /// Starts the thread, which leaves what it has checked in `results`.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(super) fn start<P: OrderingProtocol>(
        name: &str,
        checker: Arc<MessageChecker<P>>,
        results: Arc<Results<P>>,
        frame_bytes_max: usize,
    ) -> std::io::Result<Self> {
        let (queue, frames) = unbounded();
        let held = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&held);
        let thread = std::thread::Builder::new()
            .name(format!("{name}-frames"))
            .spawn(move || run(&frames, &counter, &checker, &results, frame_bytes_max))?;
        Ok(Self {
            queue: Some(queue),
            held,
            thread: Some(thread),
        })
    }

    /// Takes a frame of a transfer; or gives it back, to be checked by the caller.
    pub(super) fn take(&self, from: NodeId, frame: Bytes) -> Result<(), Bytes> {
        let fits = self.held.load(Ordering::Acquire) < LONG_FRAMES_BYTES_MAX;
        let Some(queue) = self.queue.as_ref().filter(|_| fits) else {
            return Err(frame);
        };
        let bytes = frame.len();
        if bytes < LONG_BYTES {
            return Err(frame);
        }
        self.held.fetch_add(bytes, Ordering::AcqRel);
        queue.send((from, frame)).map_err(|refused| refused.0.1)
    }
}

impl Drop for LongFrames {
    /// Waits for what is queued.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic on the thread was reported when it happened.
            drop(thread.join());
        }
    }
}

fn run<P: OrderingProtocol>(
    frames: &Receiver<(NodeId, Bytes)>,
    held: &AtomicUsize,
    checker: &MessageChecker<P>,
    results: &Results<P>,
    frame_bytes_max: usize,
) {
    for (from, frame) in frames {
        let bytes = frame.len();
        let checked = match wire::decode::<SystemMessage<P>>(&frame, frame_bytes_max) {
            Ok(message) => check(checker, from, message),
            Err(_) => Checked::Refused(Reject::Malformed),
        };
        // Before the frame is let go: what comes of it is as large.
        results.push([checked]);
        drop(frame);
        held.fetch_sub(bytes, Ordering::AcqRel);
    }
}
