//! A state of a user's own that knows its parts.

use crate::common::*;
use atlas_common::Digest;
use atlas_common::parts::Blob;
use atlas_smr_execution::{
    Application, ApplicationData, DivisibleState, Execute, ExecutionContext, Executor, FrozenState,
    InstallError, PartReader, PartWriter, SnapshotError, ThawError,
};
use bytes::Bytes;

/// Eight texts, each a part of its own; not `Serialize`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Texts([String; 8]);

impl DivisibleState for Texts {
    type Frozen = Texts;

    fn freeze(&self) -> Texts {
        self.clone()
    }

    fn thaw(parts: &mut dyn PartReader) -> Result<Self, ThawError> {
        let mut texts = Self::default();
        for (part, text) in (0..).zip(&mut texts.0) {
            let blob = parts.next_part()?;
            let bytes = blob.map(Blob::into_bytes).unwrap_or_default();
            let malformed = |_| ThawError::Malformed {
                part,
                fault: "is no text".to_owned(),
            };
            *text = String::from_utf8(bytes[1..].to_vec()).map_err(malformed)?;
        }
        Ok(texts)
    }
}

impl FrozenState for Texts {
    fn write_parts(&self, out: &mut PartWriter) -> Result<(), SnapshotError> {
        for text in &self.0 {
            out.part(Bytes::from(format!(":{text}")), None)?;
        }
        Ok(())
    }
}

struct Writer;

impl ApplicationData for Writer {
    type Request = (u8, String);
    type Reply = ();
}

impl Application for Writer {
    type State = Texts;

    fn initial_state(&self) -> Texts {
        Texts::default()
    }

    fn update(&self, texts: &mut Texts, (at, text): (u8, String), _: &mut ExecutionContext) {
        texts.0[usize::from(at)] = text;
    }

    fn read(&self, _texts: &Texts, _request: (u8, String)) {}
}

fn writer() -> Executor<Writer> {
    let mut executor = Executor::new(Writer, config(limits()));
    apply(&mut executor, &[open(1)]);
    executor
}

fn write(executor: &mut Executor<Writer>, at: u8, text: &str) {
    let mut request = Vec::new();
    Writer::encode_request(&(at, text.to_owned()), &mut request).unwrap();
    let next = executor.executed().0;
    apply(executor, &[raw_bundle(1, 1, next, &[request.into()])]);
}

fn state_parts(executor: &Executor<Writer>) -> Vec<Digest> {
    let image = executor.snapshot().into_image(64).unwrap();
    let parts = image.parts.iter().map(|(part, _)| part.digest);
    parts.skip(image.parts.len() - 8).collect()
}

#[test]
fn a_state_with_parts_of_its_own_changes_only_those_it_wrote() {
    let mut executor = writer();
    (0..8).for_each(|at| write(&mut executor, at, &format!("text {at}")));
    let before = state_parts(&executor);
    write(&mut executor, 3, "another");
    let after = state_parts(&executor);
    let changed: Vec<_> = (0..8).filter(|&i| before[i] != after[i]).collect();
    assert_eq!(changed, [3]);

    let image = executor.snapshot().into_image(64).unwrap();
    let mut copy = writer();
    assert_eq!(
        copy.install_parts(&image.id, &image.descriptor, &image.blobs()),
        Ok(())
    );
    assert_eq!(copy.state(), executor.state());
    assert_eq!(copy.state_digest(), executor.state_digest());
}

#[test]
fn a_part_that_is_larger_than_allowed_is_no_checkpoint() {
    let mut executor = writer();
    write(&mut executor, 0, &"x".repeat(64));
    let refused = executor.snapshot().into_image(64).map(|image| image.id);
    let (bytes, chunk_bytes) = (65, 64);
    assert_eq!(refused, Err(SnapshotError::PartSize { bytes, chunk_bytes }));
}

#[test]
fn a_panic_while_thawing_is_refused_and_nothing_changes() {
    let mut executor = writer();
    write(&mut executor, 0, "kept");
    let mut image = executor.snapshot().into_image(64).unwrap();
    image.parts.truncate(image.parts.len() - 7);
    let refs: Vec<_> = image.parts.iter().map(|(part, _)| *part).collect();
    (image.descriptor, image.pages) = atlas_common::parts::StateDescriptor::cut(&refs).unwrap();
    image.id.state = image.descriptor.root();
    let before = executor.state().clone();
    let refused = executor.install_parts(&image.id, &image.descriptor, &image.blobs());
    assert_eq!(refused, Err(InstallError::Panicked));
    assert_eq!(*executor.state(), before);
}

#[test]
fn parts_that_a_state_has_no_use_for_are_refused() {
    let executor = writer();
    let mut image = executor.snapshot().into_image(64).unwrap();
    image.parts.push(image.parts[image.parts.len() - 1].clone());
    let refs: Vec<_> = image.parts.iter().map(|(part, _)| *part).collect();
    (image.descriptor, image.pages) = atlas_common::parts::StateDescriptor::cut(&refs).unwrap();
    image.id.state = image.descriptor.root();
    let refused = writer().install_parts(&image.id, &image.descriptor, &image.blobs());
    let left_over = ThawError::LeftOver { bytes: 1 };
    assert_eq!(refused, Err(InstallError::State(left_over)));
}
