use super::*;
use crate::storage::{StorageError, StorageFile};
use parking_lot::Mutex;
use std::fmt;

/// States of so many parts, no two of which have one in common, each filling four packs and some of a fifth.
fn others(seq: u64) -> Vec<Bytes> {
    let part = |i: u64| Bytes::from([seq << 32 | i; 25].map(u64::to_le_bytes).concat());
    (0..50).map(part).collect()
}

fn write_others(store: &PartStore, seq: u64) {
    let parts = others(seq);
    let mut parts = parts.iter().map(|part| (PartRef::of(part), part.clone()));
    store.write(meta(seq), &mut parts).unwrap();
    store.prune(2).unwrap();
}

/// The files to write over.
fn spares(disk: &SimStorage) -> Vec<String> {
    let files = disk.list().unwrap().into_iter();
    files.filter(|file| file.ends_with(".tmp")).collect()
}

#[test]
fn packs_are_written_over_those_that_went_and_the_disk_takes_no_more() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    let (mut all, mut unused) = (Vec::new(), 0);
    for seq in 1..=9 {
        let before = spares(&disk);
        write_others(&store, seq);
        if seq > 3 {
            assert_eq!(before.len(), 4, "{seq}: {before:?}");
            unused += before
                .iter()
                .filter(|file| spares(&disk).contains(file))
                .count();
        }
        all.push(store.stats().pack_bytes + store.stats().spare_bytes);
        assert_eq!(store.verify(SeqNo(seq)).unwrap(), []);
        assert_eq!(read(&store, seq).unwrap(), others(seq));
    }
    assert_eq!(unused, 0);
    // Pages have other lengths each time.
    assert!(
        all[3..].iter().all(|bytes| bytes.abs_diff(all[3]) < 2000),
        "{all:?}"
    );
    let stats = store.stats();
    assert!(stats.spare_bytes > 4 * 3000 && 2 * stats.spare_bytes < stats.pack_bytes);
    for disk in [disk.duplicate(), disk.crash_losing_all()] {
        let store = open(&disk).unwrap();
        assert_eq!((store.stats().spare_bytes, spares(&disk)), (0, vec![]));
        assert_eq!(store.damage_found(), []);
        for seq in [8, 9] {
            assert_eq!(store.verify(SeqNo(seq)).unwrap(), []);
            assert_eq!(read(&store, seq).unwrap(), others(seq));
        }
    }
}

/// The next checkpoint is taken to write as much as the last one.
#[test]
fn no_more_files_are_kept_than_packs_were_filled() {
    let disk = SimStorage::new();
    let store = open(&disk).unwrap();
    (1..=4).for_each(|seq| write_others(&store, seq));
    assert_eq!(spares(&disk).len(), 4);
    // One that fills no pack uses one file, and then none is wanted any more.
    let few = [Bytes::from_static(b"few")];
    let mut parts = few.iter().map(|part| (PartRef::of(part), part.clone()));
    store.write(meta(5), &mut parts).unwrap();
    store.prune(2).unwrap();
    assert_eq!((spares(&disk).len(), store.stats().spare_bytes), (0, 0));
    assert_eq!(read(&store, 4).unwrap(), others(4));
    assert_eq!(read(&store, 5).unwrap(), few);
}

/// A file of a disk that was opened before it got another name, as one of the operating system's is.
struct Held {
    disk: SimStorage,
    /// Before the next read of this file, something is done; then another file is what is read.
    next: Mutex<Option<(String, Act)>>,
}

type Act = Box<dyn FnOnce() -> String + Send>;

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl Storage for Held {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> Result<Box<dyn StorageFile>, StorageError> {
        self.disk.open(name)
    }

    fn length(&self, name: &str) -> Result<u64, StorageError> {
        self.disk.length(name)
    }

    fn read(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes, StorageError> {
        let act = self.next.lock().take_if(|(file, _)| file == name);
        let now = act.map_or_else(|| name.to_owned(), |(_, act)| act());
        self.disk.read(&now, offset, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.disk.rename(from, to)
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        self.disk.delete(name)
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        self.disk.sync_dir()
    }

    fn salt(&self) -> u64 {
        self.disk.salt()
    }
}

/// Who reads a blob while its pack goes and the file is written over finds no damage: a blob that is in use
/// has another place by then, and one that is not is gone.
#[test]
fn who_reads_while_a_file_is_written_over_finds_no_damage() {
    for in_use in [true, false] {
        let disk = SimStorage::new();
        let held = Arc::new(Held {
            disk: disk.clone(),
            next: Mutex::default(),
        });
        let store = PartStore::open(Arc::clone(&held) as Arc<dyn Storage>, options()).unwrap();
        write_others(&store, 1);
        let first = disk.list().unwrap().into_iter();
        let first = first
            .filter(|file| file.starts_with("pack-"))
            .min()
            .unwrap();
        write_others(&store, 2);
        let (wanted, old) = (others(1)[0].clone(), others(1));
        let act = {
            let (disk, store, gone) = (disk.clone(), store.clone(), first.clone());
            move || {
                // One part of each of five packs goes on, of which the first is written anew then.
                let lasting = [&old[0], &old[13], &old[26], &others(2)[0], &others(2)[13]];
                let lasting = lasting.map(Bytes::clone).into_iter();
                let lasting = lasting.filter(|_| in_use);
                let parts: Vec<Bytes> = lasting.chain(others(3)).take(45).collect();
                let mut parts = parts.iter().map(|part| (PartRef::of(part), part.clone()));
                store.write(meta(3), &mut parts).unwrap();
                store.prune(1).unwrap();
                let there = disk.list().unwrap();
                assert!(
                    !there.contains(&gone) && !spares(&disk).is_empty(),
                    "{in_use}: {gone} {there:?}"
                );
                write_others(&store, 4);
                let new = |file: &String| file.starts_with("pack-") && !there.contains(file);
                disk.list().unwrap().into_iter().find(new).unwrap()
            }
        };
        *held.next.lock() = Some((first.clone(), Box::new(act)));
        let read = store.read_part(&Digest::of(&wanted));
        assert!(held.next.lock().is_none(), "nothing was read of {first}");
        match read {
            Ok(blob) => assert!(in_use && *blob.bytes() == wanted),
            Err(StoreError::NoSuchBlob { .. }) => assert!(!in_use),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(store.stats().damaged_blobs, 0);
    }
}
