use super::*;

fn write(storage: &SimStorage, name: &str, bytes: &[u8]) -> Box<dyn StorageFile> {
    let mut file = storage.open(name).unwrap();
    file.write_at(0, bytes).unwrap();
    file
}

#[test]
fn a_crash_keeps_what_was_synced_and_nothing_else_is_certain() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let storage = SimStorage::new();
        let mut file = write(&storage, "a", &[1; 2000]);
        file.sync().unwrap();
        storage.sync_dir().unwrap();
        file.write_at(1000, &[2; 2000]).unwrap();
        drop(write(&storage, "b", b"name never synced"));
        let after = storage.crash(&mut SeededRng::new(seed));
        let bytes = after.live_bytes("a").unwrap();
        assert_eq!(bytes[..1000], [1; 1000], "seed {seed}");
        assert_eq!(after.durable_bytes("a").as_ref(), Some(&bytes));
        match bytes.iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            2000 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 20 && lost > 20 && torn > 20, "{kept} {lost} {torn}");
}

#[test]
fn a_name_needs_its_directory_synced() {
    let storage = SimStorage::new();
    write(&storage, "a", b"x").sync().unwrap();
    assert_eq!(storage.durable_bytes("a"), None);
    storage.sync_dir().unwrap();
    storage.rename("a", "b").unwrap();
    let after = storage.crash_losing_all();
    assert_eq!(after.list().unwrap(), ["a"]);
    assert_eq!(after.counters().losses, 1);
}

#[test]
fn old_handles_die_with_their_life() {
    let storage = SimStorage::new();
    let mut file = write(&storage, "a", b"x");
    let after = storage.kill();
    assert!(file.write_at(0, b"y").is_err());
    assert!(storage.list().is_err());
    assert_eq!(after.live_bytes("a").unwrap(), b"x");
}

#[test]
fn what_a_failed_sync_left_behind_is_never_written_by_a_later_one() {
    let storage = SimStorage::new();
    let mut file = write(&storage, "a", b"old");
    file.sync().unwrap();
    storage.sync_dir().unwrap();
    file.write_at(0, b"new").unwrap();
    storage.inject(Fault::SyncFails, 1);
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert_eq!(storage.live_bytes("a").unwrap(), b"new");
    assert_eq!(storage.durable_bytes("a").unwrap(), b"old");
    assert_eq!(storage.counters().faults, 1);
}

#[test]
fn a_full_disk_takes_half_a_write_and_no_more() {
    let storage = SimStorage::new();
    let mut file = write(&storage, "a", b"1234");
    storage.inject(Fault::DiskFull, 2);
    file.write_at(4, b"5678").unwrap();
    assert!(file.write_at(8, b"9abc").unwrap_err().is_full());
    assert!(file.write_at(10, b"zz").unwrap_err().is_full());
    file.write_at(0, b"0000").unwrap();
    assert!(storage.open("b").unwrap_err().is_full());
    storage.free_space();
    file.write_at(10, b"bc").unwrap();
    assert_eq!(storage.live_bytes("a").unwrap(), b"000056789abc");
}

#[test]
fn a_power_cut_interrupts_and_stays() {
    let storage = SimStorage::new();
    let mut file = write(&storage, "a", b"1");
    storage.inject(Fault::PowerCut, 1);
    file.sync().unwrap_err();
    assert!(storage.is_without_power());
    assert!(storage.list().is_err());
    let after = storage.crash_losing_all();
    assert!(after.list().unwrap().is_empty());
}
