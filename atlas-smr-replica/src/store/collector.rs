//! The thread that collects the store's garbage, where processors have the time.

use super::{JobError, StoreEvent};
use crate::background::{Background, Executed, InSteps};
use atlas_persistent_log::{Collection, PartStore, StoreError};
use std::thread::JoinHandle;

impl InSteps for Collection {
    type Error = StoreError;

    fn step(&mut self) -> Result<usize, StoreError> {
        Self::step(self)
    }
}

/// The thread. What is removed from the store is collected by it, from its start until it is dropped.
#[derive(Debug)]
pub(super) struct Collector {
    store: PartStore,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts the thread; `report` is called on it, when the store fails.
    pub(super) fn start(
        name: &str,
        store: PartStore,
        executed: Executed,
        report: impl Fn(StoreEvent) + Send + 'static,
    ) -> std::io::Result<Self> {
        let left = Left::to_this(store);
        let store = left.0.clone();
        let thread = std::thread::Builder::new()
            .name(format!("{name}-garbage"))
            .spawn(move || {
                if let Err(error) = run(&left, &executed) {
                    report(StoreEvent::Failed(JobError::Store(error)));
                }
            });
        Ok(Self {
            store,
            thread: Some(thread?),
        })
    }
}

impl Drop for Collector {
    /// Waits for the step that is being done.
    fn drop(&mut self) {
        self.store.leave_collections(false);
        if let Some(thread) = self.thread.take() {
            // A panic on the thread was reported when it happened.
            drop(thread.join());
        }
    }
}

/// A store whose collections are left to the thread that has this; whatever ends the thread, they are left
/// to nobody then.
struct Left(PartStore);

impl Left {
    fn to_this(store: PartStore) -> Self {
        store.leave_collections(true);
        Self(store)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.0.leave_collections(false);
    }
}

fn run(Left(store): &Left, executed: &Executed) -> Result<(), StoreError> {
    let mut background = Background::new();
    while let Some(collection) = store.wait_for_collection() {
        let schedule = executed.before_the_next(collection.urgent());
        background.run(collection, schedule)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::parts::PartRef;
    use atlas_common::{Digest, SeqNo};
    use atlas_persistent_log::storage::Fault;
    use atlas_persistent_log::{CheckpointMeta, SimStorage, StoreOptions};
    use bytes::Bytes;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn store(disk: &SimStorage) -> PartStore {
        let options = StoreOptions::new(Digest::of(b"genesis"));
        PartStore::open(Arc::new(disk.clone()), options).unwrap()
    }

    fn part(seq: u64) -> (PartRef, Bytes) {
        let bytes = Bytes::from(vec![seq as u8; 5000]);
        (PartRef::of(&bytes), bytes)
    }

    fn write(store: &PartStore, seq: u64) {
        let meta = CheckpointMeta {
            seq: SeqNo(seq),
            ..CheckpointMeta::default()
        };
        store.write(meta, &mut std::iter::once(part(seq))).unwrap();
    }

    fn garbage(store: &PartStore) -> bool {
        store.stats().packs > store.list().unwrap().len() as u64
    }

    #[test]
    fn the_thread_collects_garbage_until_its_end_and_then_who_makes_it() {
        let store = store(&SimStorage::new());
        let executed = Executed::new(100);
        let none = |event| panic!("{event:?}");
        let collector = Collector::start("test", store.clone(), executed, none).unwrap();
        let began = Instant::now();
        for seq in 1..=5 {
            write(&store, seq);
            store.prune(1).unwrap();
            while garbage(&store) {
                assert!(began.elapsed() < PATIENCE, "{:?}", store.stats());
                thread::yield_now();
            }
        }
        drop(collector);
        write(&store, 6);
        store.prune(1).unwrap();
        assert!(!garbage(&store));
        assert_eq!(
            store.read_part(&part(6).0.digest).unwrap().bytes(),
            &part(6).1
        );
    }

    #[test]
    fn row_42_a_disk_that_fails_under_a_collection_is_reported() {
        let disk = SimStorage::new();
        let store = store(&disk);
        let (reports, reported) = mpsc::channel();
        let report = move |event| reports.send(event).unwrap();
        let _collector =
            Collector::start("test", store.clone(), Executed::new(100), report).unwrap();
        (1..=3).for_each(|seq| write(&store, seq));
        // Nothing is collected while it is written.
        let writing = store.begin(SeqNo(4)).unwrap();
        store.prune(1).unwrap();
        disk.inject(Fault::SyncFails, 1);
        drop(writing);
        let event = reported.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(event, StoreEvent::Failed(_)), "{event:?}");
    }
}
