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
        queue.send((from, frame)).map_err(|refused| {
            // The thread has ended: nobody else counts it down.
            self.held.fetch_sub(bytes, Ordering::AcqRel);
            refused.0.1
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::EventQueue;
    use atlas_common::crypto::{Ed25519, KeyPair, Signer};
    use atlas_common::parts::Blob;
    use atlas_common::quorum::FaultModel;
    use atlas_common::{Digest, Epoch};
    use atlas_core::{Limits, Member, Membership, Role};
    use atlas_raft::{Raft, RaftConfig, RaftSettings};
    use atlas_smr_core::message::CheckedMessage;
    use atlas_smr_core::request_pre_processing::{BundleChecker, ClientAdmission};
    use atlas_smr_core::transfer::StateTransferMessage;

    const FROM: NodeId = NodeId(2);

    struct Rig {
        frames: LongFrames,
        results: Arc<Results<Raft>>,
        events: Arc<EventQueue>,
    }

    impl Rig {
        fn new() -> Self {
            let (limits, crash) = (Limits::default(), FaultModel::Crash);
            let member = |id: u32| Member {
                id: NodeId(id),
                key: KeyPair::from_seed(&[id as u8; 32]).public_key(),
                role: Role::Voter,
            };
            let (members, verifier) = ((0..3).map(member).collect(), Arc::new(Ed25519));
            let genesis = Digest::of(b"genesis");
            let membership = Membership::new(genesis, Epoch(0), crash, members, verifier).unwrap();
            let membership = Arc::new(membership);
            let bundles = BundleChecker::new(&membership, &limits, ClientAdmission::Any);
            let config = RaftConfig::new(&limits, RaftSettings::default()).unwrap();
            let checker = Arc::new(MessageChecker::new(config, membership, Arc::new(bundles)));
            let events = Arc::default();
            let results = Arc::new(Results::new(&events));
            let (theirs, longest) = (Arc::clone(&results), limits.frame_bytes_max);
            let frames = LongFrames::start("test", checker, theirs, longest).unwrap();
            Self {
                frames,
                results,
                events,
            }
        }

        async fn next(&self) -> Checked<Raft> {
            loop {
                self.events.ready().await;
                self.events.take();
                if let Some(checked) = self.results.take().pop() {
                    return checked;
                }
            }
        }
    }

    fn answer(blobs: Vec<Bytes>) -> Bytes {
        let message = StateTransferMessage::Parts { blobs };
        let message = SystemMessage::<Raft>::StateTransfer(message);
        wire::encode(&message).unwrap().into()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn blobs_of_a_long_answer_come_back_digested() {
        let rig = Rig::new();
        let blobs = [Bytes::from(vec![1; 40_000]), Bytes::from(vec![2; 50_000])];
        assert_eq!(rig.frames.take(FROM, answer(blobs.to_vec())), Ok(()));
        let Checked::Message(FROM, CheckedMessage::Parts(found)) = rig.next().await else {
            panic!("something else than blobs");
        };
        assert_eq!(found, blobs.map(Blob::of));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_long_and_no_message_is_refused() {
        let rig = Rig::new();
        let garbage = Bytes::from(vec![0xff; LONG_BYTES]);
        assert_eq!(rig.frames.take(FROM, garbage), Ok(()));
        let refused = rig.next().await;
        assert!(matches!(refused, Checked::Refused(Reject::Malformed)));
    }

    #[test]
    fn short_frames_and_more_than_may_wait_are_given_back() {
        let rig = Rig::new();
        let short = answer(vec![Bytes::from_static(b"short")]);
        assert_eq!(rig.frames.take(FROM, short.clone()), Err(short));
        let long = answer(vec![Bytes::from(vec![3; LONG_BYTES])]);
        rig.frames
            .held
            .store(LONG_FRAMES_BYTES_MAX, Ordering::Release);
        assert_eq!(rig.frames.take(FROM, long.clone()), Err(long));
    }
}
