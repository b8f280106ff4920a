//! The application of a large state: a table of entries that are overwritten.

use super::echo::Plain;
use atlas_smr::map::OrdMap;
use atlas_smr::protocol::{DecodeError, EncodeError};
use atlas_smr::{Application, ApplicationData, DivisibleMap, DivisibleState, ExecutionContext};
use bytes::{Buf, BufMut, Bytes};
use std::fmt;
use std::marker::PhantomData;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 16;
/// The most entries of one [`fill`].
pub(super) const FILL_MAX: u32 = 4096;
/// The largest value.
pub(super) const VALUE_BYTES_MAX: u32 = 64 << 10;

type Key = [u8; KEY_BYTES];

const FILL: u8 = 0;
const PUT: u8 = 1;
/// What a request is answered that is none.
const REFUSED: &[u8] = b"no operation of the table";

/// How the state is kept.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateKind {
    /// In parts, of which a checkpoint writes those that have changed
    Divisible,
    /// As one piece, which every checkpoint writes whole
    Monolithic,
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Divisible => "divisible",
            Self::Monolithic => "monolithic",
        })
    }
}

/// A state that holds the table's entries.
pub(crate) trait Entries: DivisibleState + Default {
    /// Sets a key. Whether it was there.
    fn put(&mut self, key: &Key, value: &[u8]) -> bool;
    fn get(&self, key: &Key) -> Option<&[u8]>;
}

impl Entries for DivisibleMap {
    fn put(&mut self, key: &Key, value: &[u8]) -> bool {
        // Neither is too large.
        self.insert(key, value).is_ok_and(|old| old.is_some())
    }

    fn get(&self, key: &Key) -> Option<&[u8]> {
        self.get(key)
    }
}

impl Entries for OrdMap<Key, Bytes> {
    fn put(&mut self, key: &Key, value: &[u8]) -> bool {
        // A copy: what comes in lies in a whole batch's bytes.
        self.insert(*key, Bytes::copy_from_slice(value)).is_some()
    }

    fn get(&self, key: &Key) -> Option<&[u8]> {
        self.get(key).map(|value| &**value)
    }
}

/// Overwrites entries, and answers each write with what is stored then.
pub(crate) struct Table<S>(PhantomData<fn() -> S>);

/// The table as a state in parts.
pub(crate) type DivisibleTable = Table<DivisibleMap>;
/// The table as a state of one piece.
pub(crate) type MonolithicTable = Table<OrdMap<Key, Bytes>>;

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<S: Entries> ApplicationData for Table<S> {
    type Request = Plain;
    type Reply = Plain;

    fn decode_request(bytes: &[u8], _limit_bytes: usize) -> Result<Plain, DecodeError> {
        Ok(Plain(Bytes::copy_from_slice(bytes)))
    }

    fn encode_reply(reply: &Plain, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        bytes.extend_from_slice(&reply.0);
        Ok(())
    }
}

impl<S: Entries> Application for Table<S> {
    type State = S;

    fn initial_state(&self) -> S {
        S::default()
    }

    fn update(&self, state: &mut S, request: Plain, _: &mut ExecutionContext) -> Plain {
        let reply = carry_out(state, request.0);
        Plain(reply.unwrap_or(Bytes::from_static(REFUSED)))
    }

    fn read(&self, _: &S, _: Plain) -> Plain {
        Plain(Bytes::from_static(REFUSED))
    }
}

fn carry_out(state: &mut impl Entries, mut request: Bytes) -> Option<Bytes> {
    match request.try_get_u8().ok()? {
        FILL => {
            let first = request.try_get_u64().ok()?;
            let count = request.try_get_u32().ok()?.min(FILL_MAX);
            let bytes = request.try_get_u32().ok()?.min(VALUE_BYTES_MAX);
            let mut value = Vec::new();
            for index in first..first.saturating_add(u64::from(count)) {
                write_value(&mut value, index, bytes);
                state.put(&key(index), &value);
            }
            Some(filled(first, count))
        }
        PUT if request.len() >= KEY_BYTES => {
            let key = request.split_to(KEY_BYTES);
            let key: Key = (*key).try_into().ok()?;
            let existed = state.put(&key, &request);
            Some(stored(existed, state.get(&key)?))
        }
        _ => None,
    }
}

/// The key of an entry; neighbours are neighbours.
fn key(index: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&mixed(index).to_be_bytes());
    key
}

/// Puts a value of so many bytes in place of what `value` holds: another one for each `stamp`.
fn write_value(value: &mut Vec<u8>, stamp: u64, bytes: u32) {
    value.clear();
    let bytes = bytes as usize;
    let mut word = mixed(stamp);
    while value.len() < bytes {
        value.extend_from_slice(&word.to_le_bytes());
        word = mixed(word);
    }
    value.truncate(bytes);
}

/// SplitMix64's next number.
const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn stored(existed: bool, value: &[u8]) -> Bytes {
    let end = &value[value.len().saturating_sub(8)..];
    let mut reply = Vec::with_capacity(1 + end.len());
    reply.push(existed.into());
    reply.extend_from_slice(end);
    reply.into()
}

fn filled(first: u64, count: u32) -> Bytes {
    let mut reply = Vec::with_capacity(12);
    reply.put_u64(first);
    reply.put_u32(count);
    reply.into()
}

/// An operation that makes `count` entries from `first` on, at most [`FILL_MAX`], and its reply.
pub(super) fn fill(first: u64, count: u32, value_bytes: u32) -> (Bytes, Bytes) {
    let mut operation = Vec::with_capacity(17);
    operation.put_u8(FILL);
    operation.put_u64(first);
    operation.put_u32(count);
    operation.put_u32(value_bytes);
    (operation.into(), filled(first, count))
}

/// An operation that overwrites an entry that is there with the value of `stamp`, and its reply.
pub(super) fn put(index: u64, stamp: u64, value_bytes: u32) -> (Bytes, Bytes) {
    let mut value = Vec::with_capacity(value_bytes as usize + 8);
    write_value(&mut value, stamp, value_bytes);
    let mut operation = Vec::with_capacity(1 + KEY_BYTES + value.len());
    operation.push(PUT);
    operation.extend_from_slice(&key(index));
    operation.extend_from_slice(&value);
    let reply = stored(true, &value);
    (operation.into(), reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<S: Entries>() {
        let mut state = S::default();
        let mut run = |operation: Bytes| carry_out(&mut state, operation);
        let (operation, reply) = fill(10, 20, 30);
        assert_eq!(run(operation), Some(reply));
        for (index, existed) in [(10, true), (29, true), (30, false)] {
            let (operation, reply) = put(index, 7, 30);
            let answered = run(operation).unwrap();
            assert_eq!(answered[0], u8::from(existed), "{index}");
            assert_eq!(answered[1..], reply[1..]);
        }
        let mut value = Vec::new();
        write_value(&mut value, 11, 30);
        assert_eq!(state.get(&key(11)), Some(&value[..]));
        write_value(&mut value, 7, 30);
        assert_eq!(state.get(&key(10)), Some(&value[..]));
    }

    #[test]
    fn both_kinds_of_state_hold_what_was_filled_and_overwritten() {
        check::<DivisibleMap>();
        check::<OrdMap<Key, Bytes>>();
    }

    #[test]
    fn what_is_no_operation_is_refused() {
        let mut state = DivisibleMap::new();
        for bytes in [&[][..], &[FILL, 1], &[PUT, 1, 2], &[9; 40]] {
            assert_eq!(carry_out(&mut state, Bytes::copy_from_slice(bytes)), None);
        }
        let (operation, _) = fill(u64::MAX - 1, u32::MAX, 8);
        assert!(carry_out(&mut state, operation).is_some());
        assert!(state.len() <= 1);
    }
}
