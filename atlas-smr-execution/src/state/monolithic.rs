//! States that are encoded as one piece.

use super::{
    DivisibleState, FrozenState, PartBytes, PartReader, PartWriter, SnapshotError, ThawError,
};
use atlas_common::wire;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A state that is checkpointed and transferred as one piece. Every type that fits is one.
///
/// - Its encoding must follow from its value alone, since replicas compare digests of it: use ordered
///   maps and sets, never `HashMap`.
/// - It is cloned at every checkpoint on the thread that executes, so `Clone` should be cheap. A
///   persistent map ([`map::OrdMap`](crate::map::OrdMap)) clones in constant time however large it
///   is, and shares what does not change; a plain `BTreeMap` does for small states.
pub trait MonolithicState: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> MonolithicState for T {}

/// A clone of a [`MonolithicState`]. Its parts are cut from its encoding as that is written: as large
/// as a part may be, but for the last.
#[derive(Debug)]
pub struct FrozenMonolith<S>(S);

impl<S: MonolithicState> FrozenState for FrozenMonolith<S> {
    fn write_parts(&self, out: &mut PartWriter) -> Result<(), SnapshotError> {
        let mut stream = out.stream();
        wire::encode_into_writer(&self.0, &mut stream)?;
        stream.finish()
    }
}

impl<S: MonolithicState> DivisibleState for S {
    type Frozen = FrozenMonolith<S>;

    fn freeze(&self) -> FrozenMonolith<S> {
        FrozenMonolith(self.clone())
    }

    fn thaw(parts: &mut dyn PartReader) -> Result<Self, ThawError> {
        let total_bytes = parts.bytes_left();
        let mut bytes = PartBytes::new(parts);
        let decoded = wire::decode_from_reader(&mut bytes, total_bytes);
        bytes.end()?;
        Ok(decoded?)
    }
}
