//! The checkpoint store's thread: everything about checkpoints that touches the disk, so that neither
//! the core nor the executor waits for it.
//!
//! What the thread does with each job ([`carry_out`]) is also what the simulator does, on its
//! simulated disks.

use crate::recovery::{StoredCertificate, read_certified};
use atlas_common::{NodeId, SeqNo, wire};
use atlas_core::{CheckpointCertificate, CheckpointId};
use atlas_persistent_log::{CheckpointError, CheckpointMeta, CheckpointStore};
use atlas_smr_core::manifest::Manifest;
use atlas_smr_core::transfer::StateTransferMessage;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Certified checkpoints kept: the newest, and the one before it in case the newest is damaged.
const KEPT: usize = 2;
/// Jobs that may wait. Offers and chunks for peers are dropped beyond; they ask again.
const JOBS_MAX: usize = 64;

/// A whole state on its way to the disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// What replicas vote on.
    pub id: CheckpointId,
    /// How the state is cut.
    pub manifest: Manifest,
    /// The chunks, in order.
    pub chunks: Vec<Bytes>,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum StoreJob {
    /// Write the executor's own checkpoint.
    Write(Image),
    /// Keep a certificate with a written checkpoint.
    Certify {
        /// The certificate.
        certificate: Arc<CheckpointCertificate>,
        /// The protocol's bytes that travel with it.
        frontier: Bytes,
    },
    /// Write a state that came from peers, with its certificate.
    Install {
        /// The certificate.
        certificate: Arc<CheckpointCertificate>,
        /// The protocol's bytes that travel with it.
        frontier: Bytes,
        /// The state.
        image: Image,
    },
    /// Read the newest certified checkpoint above `above` for a peer.
    Offer {
        /// Who asked.
        to: NodeId,
        /// It has everything up to here.
        above: SeqNo,
    },
    /// Read a chunk for a peer.
    Chunk {
        /// Who asked.
        to: NodeId,
        /// Which checkpoint.
        seq: SeqNo,
        /// Which chunk.
        index: u32,
    },
    /// End the thread.
    Stop,
}

/// What became of a job.
#[derive(Debug)]
pub enum StoreEvent {
    /// The executor's checkpoint is durable.
    Written(CheckpointId),
    /// The certificate is durable.
    Certified(Arc<CheckpointCertificate>),
    /// The state from peers is durable: the executor may take it over.
    Installed {
        /// The certificate.
        certificate: Arc<CheckpointCertificate>,
        /// The protocol's bytes that travel with it.
        frontier: Bytes,
        /// The state.
        image: Image,
    },
    /// The answer for a peer.
    Read {
        /// Who asked.
        to: NodeId,
        /// What to send.
        message: StateTransferMessage,
    },
    /// The store has failed: the replica must stop, since what it promises to keep is not kept.
    Failed(CheckpointError),
}

/// The thread, and the queue to it.
#[derive(Debug)]
pub(crate) struct StoreThread {
    jobs: Sender<StoreJob>,
    thread: Option<JoinHandle<()>>,
}

impl StoreThread {
    /// Starts the thread; `report` is called on it.
    pub(crate) fn start(
        name: &str,
        store: Arc<CheckpointStore>,
        report: impl Fn(StoreEvent) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = bounded(JOBS_MAX);
        let run = move || run(&store, &queue, &report);
        let thread = std::thread::Builder::new()
            .name(format!("{name}-store"))
            .spawn(run)?;
        Ok(Self {
            jobs,
            thread: Some(thread),
        })
    }

    /// Queues a job that must not be lost; waits for room. There are never more of them than
    /// checkpoints in the window.
    pub(crate) fn queue(&self, job: StoreJob) {
        // Only a thread that has ended refuses a job, and it ends when the replica does.
        drop(self.jobs.send(job));
    }

    /// Queues a job that may be lost.
    pub(crate) fn offer(&self, job: StoreJob) {
        match self.jobs.try_send(job) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// A way to queue jobs from another thread.
    pub(crate) fn sender(&self) -> Sender<StoreJob> {
        self.jobs.clone()
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.queue(StoreJob::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic on the thread was reported when it happened.
            drop(thread.join());
        }
    }
}

fn run(store: &CheckpointStore, queue: &Receiver<StoreJob>, report: &impl Fn(StoreEvent)) {
    while let Ok(job) = queue.recv() {
        if matches!(job, StoreJob::Stop) {
            return;
        }
        match carry_out(store, job) {
            Ok(Some(event)) => report(event),
            Ok(None) => {}
            Err(error) => {
                report(StoreEvent::Failed(error));
                return;
            }
        }
    }
}

/// Does one job, on the calling thread. [`StoreJob::Stop`] has no outcome.
///
/// # Errors
/// When the store fails, or a certificate comes for a checkpoint that was never written.
pub fn carry_out(
    store: &CheckpointStore,
    job: StoreJob,
) -> Result<Option<StoreEvent>, CheckpointError> {
    Ok(match job {
        StoreJob::Write(image) => {
            write(store, &image, Bytes::new())?;
            Some(StoreEvent::Written(image.id))
        }
        StoreJob::Certify {
            certificate,
            frontier,
        } => {
            let seq = certificate.id.seq;
            // A state that was installed meanwhile is newer, and this one was removed with the old.
            let list = store.list()?;
            if !list.contains(&seq) && list.iter().any(|stored| *stored > seq) {
                return Ok(None);
            }
            store.set_certificate(seq, encode(&certificate, &frontier))?;
            prune(store, seq)?;
            Some(StoreEvent::Certified(certificate))
        }
        StoreJob::Install {
            certificate,
            frontier,
            image,
        } => {
            write(store, &image, encode(&certificate, &frontier))?;
            prune(store, certificate.id.seq)?;
            Some(StoreEvent::Installed {
                certificate,
                frontier,
                image,
            })
        }
        StoreJob::Offer { to, above } => Some(read(to, offer(store, above)?)),
        StoreJob::Chunk { to, seq, index } => Some(read(to, chunk(store, seq, index))),
        StoreJob::Stop => None,
    })
}

const fn read(to: NodeId, message: StateTransferMessage) -> StoreEvent {
    StoreEvent::Read { to, message }
}

#[expect(
    clippy::expect_used,
    reason = "a certificate is numbers and byte strings"
)]
fn encode(certificate: &CheckpointCertificate, frontier: &Bytes) -> Bytes {
    let certificate = certificate.clone();
    let stored = StoredCertificate {
        certificate,
        frontier: frontier.clone(),
    };
    wire::encode(&stored)
        .expect("numbers and byte strings encode")
        .into()
}

#[expect(clippy::expect_used, reason = "a manifest is numbers and digests")]
fn write(
    store: &CheckpointStore,
    image: &Image,
    certificate: Bytes,
) -> Result<(), CheckpointError> {
    // After a restart the executor comes again to checkpoints that it had written, uncertified.
    if store.list()?.contains(&image.id.seq) {
        store.remove(image.id.seq)?;
    }
    let mut writer = store.begin(image.id.seq)?;
    for chunk in &image.chunks {
        writer.write(chunk)?;
    }
    let info = wire::encode(&image.manifest)
        .expect("numbers and digests encode")
        .into();
    let seq = image.id.seq;
    writer.commit(CheckpointMeta {
        seq,
        certificate,
        frontier: Bytes::new(),
        info,
    })?;
    Ok(())
}

/// Keeps the newest certified checkpoints up to `certified`, and all above it, which still wait for
/// their certificate.
fn prune(store: &CheckpointStore, certified: SeqNo) -> Result<(), CheckpointError> {
    let mut old = store.list()?;
    old.retain(|seq| *seq <= certified);
    old.sort_unstable();
    for seq in old.iter().rev().skip(KEPT) {
        store.remove(*seq)?;
    }
    Ok(())
}

fn offer(store: &CheckpointStore, above: SeqNo) -> Result<StateTransferMessage, CheckpointError> {
    for seq in store.list()?.into_iter().rev().filter(|seq| *seq > above) {
        if let Ok(Some(found)) = read_certified(store, seq) {
            let StoredCertificate {
                certificate,
                frontier,
            } = found.stored;
            let manifest = found.manifest;
            return Ok(StateTransferMessage::Offer {
                certificate,
                frontier,
                manifest,
            });
        }
    }
    Ok(StateTransferMessage::Gone { seq: above })
}

/// A chunk that cannot be read is as good as gone: the peer asks another.
fn chunk(store: &CheckpointStore, seq: SeqNo, index: u32) -> StateTransferMessage {
    match store.read_chunk(seq, u64::from(index)) {
        Ok(bytes) => StateTransferMessage::Chunk { seq, index, bytes },
        Err(_) => StateTransferMessage::Gone { seq },
    }
}
