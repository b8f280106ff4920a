//! Reading what is stored again, little by little, to find damage while peers can still repair it.

use super::{StoreEvent, StoreKeeper};
use atlas_common::SeqNo;
use atlas_common::parts::PartRef;
use atlas_persistent_log::StoreError;

/// How far the reading has come: from the oldest checkpoint to the newest, and again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    seq: SeqNo,
    page: usize,
    part: usize,
}

impl StoreKeeper {
    /// Reads on, at least one blob and at most about `bytes`, and not beyond the end of a checkpoint.
    pub(super) fn scrub(&self, bytes: u64) -> Result<Vec<StoreEvent>, StoreError> {
        let mut cursor = self.cursor.lock();
        let (mut read, mut damaged) = (0, Vec::new());
        while read < bytes {
            let Some(part) = self.next_blob(&mut cursor, &mut damaged)? else {
                break;
            };
            self.read_again(part, &mut damaged)?;
            read += u64::from(part.bytes);
        }
        let damaged = (!damaged.is_empty()).then_some(StoreEvent::Damaged(damaged));
        Ok(damaged.into_iter().chain([StoreEvent::Scrubbed]).collect())
    }

    /// The next page or part of the checkpoint; `None` at its end, where the cursor goes on to the next
    /// one.
    fn next_blob(
        &self,
        cursor: &mut Cursor,
        damaged: &mut Vec<PartRef>,
    ) -> Result<Option<PartRef>, StoreError> {
        let list = self.store.list()?;
        let Some(seq) = list.iter().find(|seq| **seq >= cursor.seq).copied() else {
            *cursor = Cursor::default();
            return Ok(None);
        };
        if seq > cursor.seq {
            *cursor = Cursor {
                seq,
                ..Cursor::default()
            };
        }
        // Metadata are checked when the store is opened; these are in memory.
        let Ok(stored) = self.store.stored(seq) else {
            cursor.seq = seq.next();
            return Ok(None);
        };
        while let Some(page) = stored.descriptor.pages.get(cursor.page).copied() {
            if cursor.part == 0 {
                cursor.part = 1;
                return Ok(Some(page));
            }
            let parts = match self.store.read_part(&page.digest) {
                Ok(encoded) => stored.descriptor.page(cursor.page, encoded.bytes())?,
                // What a damaged page refers to is read when it is repaired.
                Err(StoreError::Damaged(_) | StoreError::NoSuchBlob { .. }) => {
                    damaged.push(page);
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            if let Some(part) = parts.get(cursor.part - 1) {
                cursor.part += 1;
                return Ok(Some(*part));
            }
            (cursor.page, cursor.part) = (cursor.page + 1, 0);
        }
        cursor.seq = seq.next();
        Ok(None)
    }

    fn read_again(&self, part: PartRef, damaged: &mut Vec<PartRef>) -> Result<(), StoreError> {
        match self.store.read_part(&part.digest) {
            Ok(_) => Ok(()),
            Err(StoreError::Damaged(_) | StoreError::NoSuchBlob { .. }) => {
                damaged.push(part);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
