use super::*;
use crate::storage::{Fault, SimStorage, Storage};
use atlas_common::parts::{Blob, PartRef, StateDescriptor};
use atlas_common::rng::SeededRng;
use atlas_common::{Digest, SeqNo};
use bytes::Bytes;
use std::sync::Arc;

mod basic;
mod collecting;
mod crash;
mod damage;
mod growth;
mod reading;
mod spares;

fn options() -> StoreOptions {
    StoreOptions {
        pack_bytes: 3000,
        ..StoreOptions::new(Digest::of(b"genesis"))
    }
}

fn open(disk: &SimStorage) -> Result<PartStore, StoreError> {
    PartStore::open(Arc::new(disk.clone()), options())
}

const PARTS: u64 = 50;

/// A state of which from one number to the next about every fifth part changes.
fn state(seq: u64) -> Vec<Bytes> {
    let part = |i: u64| {
        let changes = |s: &u64| SeededRng::new(i << 32 | s).below(5) == 0;
        let last = (1..=seq).rev().find(changes).unwrap_or(0);
        let mut rng = SeededRng::new(i << 32 | last);
        let length = rng.between(1, 80);
        (0..length)
            .map(|_| rng.next_u64() as u8)
            .collect::<Vec<u8>>()
            .into()
    };
    (0..PARTS).map(part).collect()
}

fn refs(parts: &[Bytes]) -> Vec<PartRef> {
    parts.iter().map(|part| PartRef::of(part)).collect()
}

fn cut(parts: &[Bytes]) -> (StateDescriptor, Vec<Bytes>) {
    StateDescriptor::cut(&refs(parts)).unwrap()
}

fn meta(seq: u64) -> CheckpointMeta {
    CheckpointMeta {
        seq: SeqNo(seq),
        certificate: Bytes::new(),
        frontier: Bytes::from_static(b"frontier"),
        info: seq.to_le_bytes().to_vec().into(),
    }
}

fn write(store: &PartStore, seq: u64) -> Result<Written, StoreError> {
    let parts = state(seq);
    let mut parts = parts.iter().map(|part| (PartRef::of(part), part.clone()));
    store.write(meta(seq), &mut parts)
}

fn certify(store: &PartStore, seq: u64) -> Result<(), StoreError> {
    store.set_certificate(SeqNo(seq), Bytes::from_static(b"certified"))
}

fn read(store: &PartStore, seq: u64) -> Result<Vec<Bytes>, StoreError> {
    store.parts(SeqNo(seq))?.collect()
}

/// Every blob of a state, pages and parts.
fn blobs(seq: u64) -> Vec<Bytes> {
    let parts = state(seq);
    let (_, mut blobs) = cut(&parts);
    blobs.extend(parts);
    blobs
}

fn checked(blobs: &[Bytes]) -> Vec<Blob> {
    blobs.iter().cloned().map(Blob::of).collect()
}

fn digests(blobs: &[Bytes]) -> Vec<Digest> {
    blobs.iter().map(|blob| Digest::of(blob)).collect()
}
