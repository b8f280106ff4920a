//! An application of numbered cells, on a state that can fork and on one that cannot.

use crate::common::*;
use atlas_common::SeqNo;
use atlas_core::Limits;
use atlas_smr_core::client_message::OperationResult;
use atlas_smr_execution::map::OrdMap;
use atlas_smr_execution::{
    Application, ApplicationData, DivisibleMap, DivisibleState, Execute, ExecutionContext,
    Executor, ReadWriteSet,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use std::marker::PhantomData;

pub(crate) trait Cells: DivisibleState {
    fn empty() -> Self;
    fn cell(&self, at: u8) -> u64;
    fn set(&mut self, at: u8, value: u64);
}

impl Cells for DivisibleMap {
    fn empty() -> Self {
        Self::with_part_bytes(64)
    }

    fn cell(&self, at: u8) -> u64 {
        self.get_as(&[at]).unwrap().unwrap_or(0)
    }

    fn set(&mut self, at: u8, value: u64) {
        // Zero is no entry, so that entries come and go.
        if value == 0 {
            self.remove(&[at]);
        } else {
            self.put_as(&[at], &value).unwrap();
        }
    }
}

/// Serde's, and so monolithic.
pub(crate) type Plain = OrdMap<u8, u64>;

impl Cells for Plain {
    fn empty() -> Self {
        Self::new()
    }

    fn cell(&self, at: u8) -> u64 {
        self.get(&at).copied().unwrap_or(0)
    }

    fn set(&mut self, at: u8, value: u64) {
        self.insert(at, value);
    }
}

/// Adds what the cells `from` hold, and `amount`, to each of the cells `to`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    pub(crate) amount: u64,
    pub(crate) end: End,
    /// Whether it says what it reads and writes.
    pub(crate) declared: bool,
}

/// How a change ends, once its first cells are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    #[default]
    Well,
    /// Panics before it writes the last cell.
    Panic,
    /// Its reply has no encoding.
    Unencodable,
    /// Its reply is too large.
    Large,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Told {
    Sum(u64),
    Large(Bytes),
    #[serde(serialize_with = "refuse")]
    Unencodable(u8),
}

fn refuse<S: Serializer>(_: &u8, _: S) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom("as it was asked to"))
}

pub(crate) struct App<S>(pub(crate) PhantomData<S>);

impl<S: Cells> ApplicationData for App<S> {
    type Request = Change;
    type Reply = Told;
}

impl<S: Cells> Application for App<S> {
    type State = S;

    fn initial_state(&self) -> S {
        S::empty()
    }

    fn update(&self, state: &mut S, change: Change, cx: &mut ExecutionContext) -> Told {
        let sum = change.from.iter().map(|at| state.cell(*at));
        let mut sum = sum.fold(change.amount, u64::wrapping_add);
        for (index, at) in change.to.iter().enumerate() {
            if change.end == End::Panic && index + 1 == change.to.len() {
                panic!("as it was asked to");
            }
            // What the context says must be the same in parallel.
            sum = sum.wrapping_add(cx.random().below(2) + cx.index());
            state.set(*at, state.cell(*at).wrapping_add(sum) % 1000);
        }
        match change.end {
            End::Large => Told::Large(vec![0; 300].into()),
            End::Unencodable => Told::Unencodable(0),
            End::Well | End::Panic => Told::Sum(sum),
        }
    }

    fn keys(&self, change: &Change) -> ReadWriteSet {
        if !change.declared {
            return ReadWriteSet::Unknown;
        }
        let reads = change.from.iter();
        let set = reads.fold(ReadWriteSet::nothing(), |set, at| set.read(&[*at]));
        change.to.iter().fold(set, |set, at| set.write(&[*at]))
    }

    fn read(&self, state: &S, change: Change) -> Told {
        Told::Sum(change.from.iter().map(|at| state.cell(*at)).sum())
    }
}

pub(crate) fn cells<S: Cells>(limits: Limits) -> Executor<App<S>> {
    Executor::new(App(PhantomData), config(limits))
}

pub(crate) fn change_bytes(change: &Change) -> Bytes {
    let mut bytes = Vec::new();
    App::<Plain>::encode_request(change, &mut bytes).unwrap();
    bytes.into()
}

/// Changes as the next decision, under session 1 and client 1, from operation `first` on.
pub(crate) fn run(
    executor: &mut dyn Execute,
    first: u64,
    changes: &[Change],
) -> Vec<OperationResult> {
    let operations: Vec<_> = changes.iter().map(change_bytes).collect();
    let next = executor.executed().0 + 1;
    assert!(executor.executed() > SeqNo::ZERO, "the session is open");
    let decision = decision(next, 0, &[raw_bundle(1, 1, first, &operations)]);
    let replies = executor.apply(&decision).replies;
    let results = replies.into_iter().map(|(_, reply)| match reply {
        atlas_smr_core::client_message::Reply::Results { results, .. } => results,
        other => panic!("{other:?}"),
    });
    results.flatten().collect()
}
