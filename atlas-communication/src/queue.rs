//! The bounded queue between whoever sends and the task that writes to a connection.

use crate::counters::TrafficMeter;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// How much a queue holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) frames_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) frame_bytes_max: usize,
}

/// Frames that wait for one connection.
///
/// Any thread pushes; one task takes. A push wakes that task only when it sleeps on an empty queue,
/// so a burst of pushes costs one wake-up.
#[derive(Debug)]
pub(crate) struct SendQueue {
    limits: QueueLimits,
    meter: TrafficMeter,
    /// What this connection and others hold together.
    total: Arc<AtomicUsize>,
    state: Mutex<State>,
    /// The peer has dialled this node.
    call: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// What the connection holds: frames that wait or are being written, and what it has read of frames
    /// that are not whole.
    held: usize,
    reading: usize,
    /// Whether there is a connection that takes frames.
    linked: bool,
    closed: bool,
    sleeper: Option<Waker>,
}

impl State {
    fn fits(&self, frame: &Bytes, limits: &QueueLimits) -> bool {
        self.frames.len() < limits.frames_max && self.bytes + frame.len() <= limits.bytes_max
    }

    /// Drops the oldest frames until this one fits, and gives how many frames and bytes that was.
    fn make_room(&mut self, frame: &Bytes, limits: &QueueLimits) -> (u64, u64) {
        let mut dropped = (0, 0);
        while !self.fits(frame, limits) {
            let Some(oldest) = self.frames.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            dropped.0 += 1;
            dropped.1 += oldest.len() as u64;
        }
        dropped
    }
}

impl SendQueue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self::counting_in(limits, Arc::default())
    }

    /// One that counts what it holds in a total of many.
    pub(crate) fn counting_in(limits: QueueLimits, total: Arc<AtomicUsize>) -> Self {
        Self {
            limits,
            meter: TrafficMeter::default(),
            total,
            state: Mutex::default(),
            call: Notify::new(),
        }
    }

    /// Says that the peer has dialled this node, so that it can be dialled.
    pub(crate) fn note_call(&self) {
        self.call.notify_one();
    }

    /// Waits for the peer to dial this node; not at all when it has since the last time.
    pub(crate) async fn called(&self) {
        self.call.notified().await;
    }

    /// Bytes that the connection holds, of frames that leave and of those that come.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().held
    }

    /// Frames that were taken are written, or lost.
    pub(crate) fn let_go(&self, bytes: usize) {
        self.hold(&mut self.state.lock(), 0, bytes);
    }

    /// So many bytes are held for frames that come in.
    pub(crate) fn set_reading(&self, bytes: usize) {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.reading, bytes);
        self.hold(&mut state, bytes, before);
    }

    fn hold(&self, state: &mut State, more: usize, less: usize) {
        // What a closed connection still holds goes with its tasks, which end now.
        if state.closed {
            return;
        }
        let before = state.held;
        state.held = (before + more).saturating_sub(less);
        if state.held > before {
            self.total.fetch_add(state.held - before, Ordering::Relaxed);
        } else {
            self.total.fetch_sub(before - state.held, Ordering::Relaxed);
        }
    }

    /// What went over this queue's connections, both ways.
    pub(crate) const fn meter(&self) -> &TrafficMeter {
        &self.meter
    }

    /// Adds a frame, or drops what does not fit: this frame while a connection drains the queue (what
    /// waits already is in order and about to leave), the oldest while there is none (what a peer
    /// needs when it comes back is the present).
    pub(crate) fn push(&self, frame: Bytes) {
        // An empty frame would be a length alone, which the other side takes for garbage.
        let sendable = !frame.is_empty()
            && frame.len() <= self.limits.frame_bytes_max.min(self.limits.bytes_max);
        let mut dropped = (1, frame.len() as u64);
        let mut state = self.state.lock();
        if sendable && !state.closed && (!state.linked || state.fits(&frame, &self.limits)) {
            dropped = state.make_room(&frame, &self.limits);
            state.bytes += frame.len();
            self.hold(&mut state, frame.len(), dropped.1 as usize);
            state.frames.push_back(frame);
        }
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        if dropped.0 > 0 {
            self.meter.dropped(dropped.0, dropped.1);
        }
    }

    /// Waits for frames and moves those that wait into `batch`, in order, up to `bytes_max` bytes but
    /// at least one; they count until [`SendQueue::let_go`]. False when the queue was closed.
    pub(crate) async fn take(&self, batch: &mut VecDeque<Bytes>, bytes_max: usize) -> bool {
        poll_fn(|cx| self.poll_take(cx, batch, bytes_max)).await
    }

    fn poll_take(
        &self,
        cx: &Context<'_>,
        batch: &mut VecDeque<Bytes>,
        bytes_max: usize,
    ) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.closed {
            return Poll::Ready(false);
        }
        if state.frames.is_empty() {
            state.sleep(cx);
            return Poll::Pending;
        }
        if state.bytes <= bytes_max && batch.is_empty() {
            std::mem::swap(&mut state.frames, batch);
            state.bytes = 0;
            return Poll::Ready(true);
        }
        let mut taken = 0;
        while let Some(frame) = state.frames.pop_front() {
            taken += frame.len();
            batch.push_back(frame);
            if taken >= bytes_max {
                break;
            }
        }
        state.bytes -= taken;
        Poll::Ready(true)
    }

    /// Waits until there is something to take. False when the queue was closed.
    pub(crate) async fn filled(&self) -> bool {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.frames.is_empty() && !state.closed {
                state.sleep(cx);
                return Poll::Pending;
            }
            Poll::Ready(!state.closed)
        })
        .await
    }

    /// Says whether there is a connection now.
    pub(crate) fn set_linked(&self, linked: bool) {
        let mut state = self.state.lock();
        state.linked = linked && !state.closed;
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.state.lock().linked
    }

    /// Drops what waits and takes nothing more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        let held = state.held;
        self.hold(&mut state, 0, held);
        state.closed = true;
        state.linked = false;
        let frames = std::mem::take(&mut state.frames);
        let bytes = std::mem::take(&mut state.bytes);
        let sleeper = state.sleeper.take();
        drop(state);
        self.meter.dropped(frames.len() as u64, bytes as u64);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl State {
    fn sleep(&mut self, cx: &Context<'_>) {
        match &mut self.sleeper {
            Some(sleeper) => sleeper.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    fn queue(frames_max: usize, bytes_max: usize) -> SendQueue {
        SendQueue::new(QueueLimits {
            frames_max,
            bytes_max,
            frame_bytes_max: 8,
        })
    }

    fn frame(byte: u8, len: usize) -> Bytes {
        vec![byte; len].into()
    }

    struct CountWakes(AtomicU64);

    impl Wake for CountWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(queue: &SendQueue, cx: &Context<'_>, bytes_max: usize) -> Vec<Bytes> {
        let mut batch = VecDeque::new();
        match queue.poll_take(cx, &mut batch, bytes_max) {
            Poll::Ready(open) => assert!(open),
            Poll::Pending => assert!(batch.is_empty()),
        }
        batch.into()
    }

    #[test]
    fn a_linked_queue_drops_the_new_and_an_unlinked_one_the_old() {
        let cx = Context::from_waker(Waker::noop());
        for (linked, kept) in [(true, [0, 1, 2]), (false, [2, 3, 4])] {
            let queue = queue(3, 100);
            queue.set_linked(linked);
            for byte in 0..5 {
                queue.push(frame(byte, 2));
            }
            assert_eq!(take(&queue, &cx, 100), kept.map(|byte| frame(byte, 2)));
            let counted = queue.meter().snapshot();
            assert_eq!((counted.frames_dropped, counted.bytes_dropped), (2, 4));
        }
    }

    #[test]
    fn the_bound_in_bytes_holds_too_and_long_or_empty_frames_are_never_queued() {
        let cx = Context::from_waker(Waker::noop());
        let queue = queue(100, 10);
        queue.push(frame(0, 9));
        queue.push(frame(0, 0));
        assert_eq!(queue.meter().snapshot().frames_dropped, 2);
        for byte in 0..4 {
            queue.push(frame(byte, 4));
        }
        assert_eq!(take(&queue, &cx, 100), [frame(2, 4), frame(3, 4)]);
    }

    #[test]
    fn a_batch_ends_at_its_bytes_and_order_is_kept() {
        let cx = Context::from_waker(Waker::noop());
        let queue = queue(100, 100);
        for byte in 0..5 {
            queue.push(frame(byte, 3));
        }
        assert_eq!(take(&queue, &cx, 4), [frame(0, 3), frame(1, 3)]);
        assert_eq!(take(&queue, &cx, 1), [frame(2, 3)]);
        assert_eq!(take(&queue, &cx, 9), [frame(3, 3), frame(4, 3)]);
        assert!(take(&queue, &cx, 9).is_empty());
    }

    #[test]
    fn a_burst_wakes_the_sleeper_once() {
        let wakes = Arc::new(CountWakes(AtomicU64::new(0)));
        let waker = Waker::from(Arc::clone(&wakes));
        let cx = Context::from_waker(&waker);
        let queue = queue(100, 100);
        assert!(take(&queue, &cx, 10).is_empty());
        for byte in 0..5 {
            queue.push(frame(byte, 1));
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_closed_queue_counts_what_it_drops() {
        let cx = Context::from_waker(Waker::noop());
        let queue = queue(10, 100);
        queue.push(frame(0, 3));
        queue.close();
        queue.push(frame(0, 4));
        assert_eq!(queue.meter().snapshot().bytes_dropped, 7);
        let mut batch = VecDeque::new();
        assert_eq!(queue.poll_take(&cx, &mut batch, 9), Poll::Ready(false));
    }
}
