//! What a replica remembers of its earlier lives: how a damaged memory is told from a whole one, and
//! what becomes of it.
//!
//! A log is this replica's memory: nothing is said before its record is durable. A log with a damaged
//! record may lack a vote, and which one cannot be known, so that **a replica with a damaged log is a
//! replica without memory**: it rejoins by its protocol's rule for a lost disk, which assumes nothing of
//! what is lost and so holds for a part of it as for the whole. What is still readable in the log is not
//! used: votes without those between them would only look like knowledge. The certified checkpoint is:
//! it says what a quorum decided, and nothing of what this replica said. No other replica is stopped by
//! this, and no more than the tolerated number may be without memory at a time.
//!
//! # What a crash leaves of it
//!
//! The log's segments are renamed, not deleted, and renames may become durable in any order. A log that
//! had lost its last segments this way would look whole and shorter. Therefore:
//!
//! 1. [`LOST`] becomes durable: a log here without a record is not one that never voted.
//! 2. [`ASIDE`] becomes durable: whatever segments there are, they are to be put aside.
//! 3. Segments are renamed, the directory is synced.
//! 4. [`ASIDE`] is deleted, the directory is synced. Only now a new log is begun, whose first record
//!    says that the replica has no memory. From then on the log tells.
//!
//! # Small files
//!
//! `started`, [`LOST`] and [`ASIDE`] count by being there; no bit in them matters. A birth record that is
//! damaged does not count: with it, a replica without records cannot know that it never voted, and says
//! so ([`LOST`]) before the record is written anew. Nothing depends on it once there are records.

use super::OpenError;
use atlas_common::Digest;
use atlas_core::Origin;
use atlas_persistent_log::birth::{self, Birth};
use atlas_persistent_log::log::{SET_ASIDE, set_aside};
use atlas_persistent_log::{
    LogError, LogOptions, LogWriter, Recovered, SealedError, Storage, StorageError,
};
use bytes::Bytes;
use std::sync::Arc;

/// The file that says that the replica has taken part before.
const STARTED: &str = "started";
/// The file that says that what the replica said before the first record of its log is not known.
pub(super) const LOST: &str = "memory-lost";
/// The file that says that the log is to be put aside.
pub(super) const ASIDE: &str = "log-damaged";

/// What the birth record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Born {
    /// There is none.
    No,
    /// The replica was born on this disk.
    Yes,
    /// It is damaged.
    Unsure,
}

/// Reads the birth record.
///
/// # Errors
/// When it is of another cluster or version, or cannot be read.
pub(super) fn born(
    storage: &dyn Storage,
    genesis: &Digest,
    notes: &mut Vec<String>,
) -> Result<Born, OpenError> {
    match birth::read(storage) {
        Ok(None) => Ok(Born::No),
        Ok(Some(birth)) if birth.genesis == *genesis => Ok(Born::Yes),
        Ok(Some(birth)) => Err(OpenError::OtherCluster {
            found: birth.genesis,
            expected: *genesis,
        }),
        Err(error @ SealedError::Damaged { .. }) => {
            notes.push(format!("the birth record: {error}; it is written anew"));
            Ok(Born::Unsure)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens the log; one that is damaged is put aside for an empty one.
///
/// # Errors
/// When the log is of another cluster or version, or the storage fails.
pub(super) fn open_log(
    storage: &Arc<dyn Storage>,
    options: &LogOptions,
    notes: &mut Vec<String>,
) -> Result<(LogWriter, Recovered), OpenError> {
    if exists(&**storage, ASIDE)? {
        // A crash came in between, the last time.
        put_aside(&**storage, notes)?;
    }
    match LogWriter::open(Arc::clone(storage), options.clone()) {
        Err(error @ LogError::Damaged { .. }) => {
            notes.push(format!(
                "{error}. It is put aside, and this replica rejoins as one that has forgotten its votes"
            ));
            // What is kept of damaged logs is bounded: the last one.
            forget_earlier(&**storage)?;
            put_aside(&**storage, notes)?;
            Ok(LogWriter::open(Arc::clone(storage), options.clone())?)
        }
        opened => Ok(opened?),
    }
}

fn forget_earlier(storage: &dyn Storage) -> Result<(), StorageError> {
    if exists(storage, ASIDE)? {
        return Ok(());
    }
    for name in storage.list()? {
        if name.starts_with(SET_ASIDE) {
            storage.delete(&name)?;
        }
    }
    Ok(())
}

fn put_aside(storage: &dyn Storage, notes: &mut Vec<String>) -> Result<(), StorageError> {
    mark(storage, LOST)?;
    mark(storage, ASIDE)?;
    let files = set_aside(storage)?;
    if !files.is_empty() {
        notes.push(format!("the damaged log is kept as {}", files.join(", ")));
    }
    storage.delete(ASIDE)?;
    storage.sync_dir()
}

/// How the replica came to be, which is written down.
///
/// # Errors
/// When the storage fails.
pub(super) fn origin(
    storage: &Arc<dyn Storage>,
    genesis: &Digest,
    born: Born,
    recovered: &Recovered,
) -> Result<Origin, OpenError> {
    let storage = &**storage;
    if born == Born::Unsure {
        if recovered.last.0 == 0 {
            mark(storage, LOST)?;
        }
        let (genesis, info) = (*genesis, Bytes::new());
        birth::rewrite(storage, &Birth { genesis, info })?;
    }
    let lost = exists(storage, LOST)?;
    let started = exists(storage, STARTED)?;
    if !started {
        storage.write_atomically(STARTED, b"this replica has taken part\n")?;
    }
    Ok(tell(born == Born::Yes, started, lost, recovered))
}

/// A log without a record remembers that the replica never voted: a vote leaves only when its record is
/// durable. Where there is no log at all, a replica is new only if it was born and has never started;
/// one that started may have voted, and lost its votes with its disk (or, in mode `memory`, with its
/// process). Where the log was lost, only its records tell what became of that.
const fn tell(born: bool, started: bool, lost: bool, recovered: &Recovered) -> Origin {
    match (recovered.existed, born, started) {
        _ if lost && recovered.last.0 == 0 => Origin::Amnesiac,
        (true, true, _) => Origin::Restart,
        (true, false, _) if recovered.last.0 > 0 => Origin::Restart,
        (false, true, false) => Origin::Genesis,
        _ => Origin::Amnesiac,
    }
}

fn mark(storage: &dyn Storage, name: &str) -> Result<(), StorageError> {
    storage.write_atomically(name, b"that this file is there says it all\n")
}

fn exists(storage: &dyn Storage, name: &str) -> Result<bool, StorageError> {
    match storage.length(name) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::Lsn;
    use atlas_common::rng::SeededRng;
    use atlas_persistent_log::SimStorage;
    use atlas_persistent_log::storage::Fault;

    fn genesis() -> Digest {
        Digest::of(b"genesis")
    }

    fn options() -> LogOptions {
        LogOptions {
            segment_bytes: 300,
            fill_bytes: 100,
            ..LogOptions::small(genesis())
        }
    }

    struct Life {
        origin: Origin,
        log: LogWriter,
        records: Vec<(Lsn, Bytes)>,
        notes: Vec<String>,
    }

    fn live(disk: &SimStorage) -> Result<Life, OpenError> {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut notes = Vec::new();
        let born = born(disk, &genesis(), &mut notes)?;
        let (log, recovered) = open_log(&storage, &options(), &mut notes)?;
        let origin = origin(&storage, &genesis(), born, &recovered)?;
        Ok(Life {
            origin,
            log,
            records: recovered.records,
            notes,
        })
    }

    /// A replica that was born and has voted nine times, in several segments, and was stopped.
    fn voted() -> SimStorage {
        let disk = SimStorage::new();
        super::super::give_birth(&disk, genesis()).unwrap();
        let mut life = live(&disk).unwrap();
        assert_eq!(life.origin, Origin::Genesis);
        for lsn in 1..10 {
            life.log.append(Lsn(lsn), b"a vote of some length").unwrap();
            life.log.commit().unwrap();
        }
        life.log.close().unwrap();
        assert_eq!(live(&disk).unwrap().origin, Origin::Restart);
        disk.kill()
    }

    fn segments(disk: &SimStorage) -> Vec<String> {
        let names = disk.list().unwrap();
        names
            .into_iter()
            .filter(|name| name.starts_with("log-0"))
            .collect()
    }

    #[test]
    fn row_41_a_damaged_log_is_kept_aside_and_its_replica_has_no_memory() {
        let disk = voted();
        let name = segments(&disk).remove(0);
        let before = disk.live_bytes(&name).unwrap();
        assert!(disk.flip_bit(&name, 140, 2));
        // What is left of a log that was damaged long ago gives way.
        let earlier = format!("{SET_ASIDE}0000000000000777");
        disk.write_atomically(&earlier, b"damaged long ago")
            .unwrap();
        let life = live(&disk).unwrap();
        assert!(!disk.list().unwrap().contains(&earlier));
        assert_eq!((life.origin, life.records.len()), (Origin::Amnesiac, 0));
        assert!(life.notes[0].contains(&name) && life.notes[0].contains("records from 1 on"));
        let aside = disk.live_bytes(&format!("damaged-{name}")).unwrap();
        assert_eq!(aside.len(), before.len());
        // A crash before its first record must not make a replica of it that never voted.
        drop(life);
        let disk = disk.crash_losing_all();
        let mut life = live(&disk).unwrap();
        assert_eq!(life.origin, Origin::Amnesiac);
        life.log.append(Lsn(1), b"I have no memory").unwrap();
        life.log.commit().unwrap();
        drop(life);
        let life = live(&disk.crash_losing_all()).unwrap();
        assert_eq!((life.origin, life.records.len()), (Origin::Restart, 1));
    }

    /// Whatever a crash leaves of putting the log aside: the replica remembers everything, or knows that
    /// it does not.
    #[test]
    fn a_power_cut_while_a_damaged_log_is_put_aside_never_gives_half_a_memory() {
        let damaged = voted();
        let name = segments(&damaged).remove(0);
        assert!(damaged.flip_bit(&name, 140, 2));
        let mut cases = 0;
        for at in 1.. {
            let mut done = false;
            for seed in 0..60 {
                let disk = damaged.duplicate();
                disk.inject(Fault::PowerCut, at);
                done = live(&disk).is_ok();
                let disk = disk.crash(&mut SeededRng::new(at << 8 | seed));
                let life = live(&disk).unwrap();
                assert_eq!(life.origin, Origin::Amnesiac, "cut at {at} seed {seed}");
                assert!(life.records.is_empty());
                cases += 1;
            }
            if done {
                break;
            }
        }
        println!("{cases} cases");
        assert!(cases > 600, "{cases}");
    }

    #[test]
    fn a_flipped_bit_anywhere_never_makes_a_replica_forget_in_silence() {
        let stopped = voted();
        let (mut places, mut forgot) = (0, 0);
        for name in stopped.list().unwrap() {
            for byte in 0..stopped.length(&name).unwrap() {
                let disk = stopped.duplicate();
                assert!(disk.flip_bit(&name, byte, (byte % 8) as u8));
                let life = live(&disk).unwrap();
                places += 1;
                if life.origin == Origin::Amnesiac {
                    forgot += 1;
                } else {
                    assert_eq!(life.origin, Origin::Restart);
                    assert_eq!(life.records.len(), 9, "{name} byte {byte}");
                }
            }
        }
        println!("{places} places, {forgot} of them cost the memory");
        assert!(forgot > 300, "{forgot}");
    }

    #[test]
    fn a_damaged_birth_record_is_no_proof_that_nothing_was_said() {
        let disk = SimStorage::new();
        super::super::give_birth(&disk, genesis()).unwrap();
        // The log may have been lost with the bit.
        let new = disk.duplicate();
        assert!(new.flip_bit("birth", 50, 1));
        assert_eq!(live(&new).unwrap().origin, Origin::Amnesiac);
        assert_eq!(
            live(&new.crash_losing_all()).unwrap().origin,
            Origin::Amnesiac
        );
        // Where there are records, they are what counts; the birth record is written anew.
        let old = voted();
        assert!(old.flip_bit("birth", 50, 1));
        let life = live(&old).unwrap();
        assert_eq!((life.origin, life.records.len()), (Origin::Restart, 9));
        assert!(life.notes[0].contains("birth"));
        assert!(live(&old).unwrap().notes.is_empty());
    }
}
