//! The log in memory: the entries above the base, which a checkpoint stands in for.

use crate::message::{ENTRIES_PER_APPEND_MAX, Entry, EntryId};
use atlas_common::{Lsn, SeqNo, View};
use atlas_core::Batch;
use std::collections::VecDeque;

/// The entries above [`Log::base`], without gaps. Their terms never fall (section 3.5), and neither
/// do the numbers of the records that hold them.
#[derive(Debug)]
pub(crate) struct Log {
    base: EntryId,
    base_end: u64,
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    term: View,
    batch: Batch,
    lsn: Lsn,
    /// Bytes of all entries up to this one, since the log was made.
    end: u64,
}

impl Log {
    pub(crate) fn new(base: EntryId) -> Self {
        Self {
            base,
            base_end: 0,
            slots: VecDeque::new(),
        }
    }

    /// The last entry that is only in the checkpoint.
    pub(crate) fn base(&self) -> EntryId {
        self.base
    }

    pub(crate) fn last(&self) -> SeqNo {
        self.base.0.plus(self.slots.len() as u64)
    }

    pub(crate) fn last_id(&self) -> EntryId {
        let term = self.slots.back().map_or(self.base.1, |slot| slot.term);
        (self.last(), term)
    }

    fn slot(&self, seq: SeqNo) -> Option<&Slot> {
        let above = seq.0.checked_sub(self.base.0.0)?.checked_sub(1)?;
        self.slots.get(usize::try_from(above).ok()?)
    }

    pub(crate) fn batch(&self, seq: SeqNo) -> Option<&Batch> {
        self.slot(seq).map(|slot| &slot.batch)
    }

    /// The term of an entry; `None` when it is above the log, or below the base.
    pub(crate) fn term_at(&self, seq: SeqNo) -> Option<View> {
        if seq == self.base.0 {
            return Some(self.base.1);
        }
        self.slot(seq).map(|slot| slot.term)
    }

    pub(crate) fn holds(&self, (seq, term): EntryId) -> bool {
        self.term_at(seq) == Some(term)
    }

    pub(crate) fn append(&mut self, entry: Entry, lsn: Lsn) {
        debug_assert!(self.last_id().1 <= entry.term, "terms never fall");
        let end = self.end_of(self.last()) + entry.batch.raw().len() as u64;
        let Entry { term, batch } = entry;
        self.slots.push_back(Slot {
            term,
            batch,
            lsn,
            end,
        });
    }

    /// Drops the entries from `seq` on.
    pub(crate) fn truncate_from(&mut self, seq: SeqNo) {
        let keep = seq.prev().since(self.base.0);
        self.slots
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Moves the base up to `seq`, which the log holds.
    pub(crate) fn drop_to(&mut self, seq: SeqNo) {
        while self.base.0 < seq
            && let Some(slot) = self.slots.pop_front()
        {
            self.base = (self.base.0.next(), slot.term);
            self.base_end = slot.end;
        }
    }

    /// A state takes the place of the log up to `base`: the rest stays if the log held that entry
    /// (section 5.1). Gives whether it did.
    pub(crate) fn install(&mut self, base: EntryId) -> bool {
        let held = self.holds(base);
        if held {
            self.drop_to(base.0);
        } else {
            *self = Self::new(base);
        }
        held
    }

    /// The first record that holds an entry above the base.
    pub(crate) fn first_lsn(&self) -> Option<Lsn> {
        self.slots.front().map(|slot| slot.lsn)
    }

    /// The record that holds an entry.
    pub(crate) fn lsn_of(&self, seq: SeqNo) -> Option<Lsn> {
        self.slot(seq).map(|slot| slot.lsn)
    }

    fn end_of(&self, seq: SeqNo) -> u64 {
        self.slot(seq).map_or(self.base_end, |slot| slot.end)
    }

    /// Bytes of the entries above `after`, up to `to`.
    pub(crate) fn bytes_between(&self, after: SeqNo, to: SeqNo) -> u64 {
        self.end_of(to).saturating_sub(self.end_of(after))
    }

    /// The entries from `from` to `to`, as many as fit into one message: one at least.
    pub(crate) fn entries(&self, from: SeqNo, to: SeqNo, bytes_max: usize) -> Vec<Entry> {
        let first = from.prev().since(self.base.0);
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let count = usize::try_from(to.next().since(from)).unwrap_or(usize::MAX);
        let before = self.end_of(from.prev());
        let mut entries = Vec::new();
        let slots = self.slots.iter().skip(first);
        for slot in slots.take(count.min(ENTRIES_PER_APPEND_MAX)) {
            if !entries.is_empty() && slot.end.saturating_sub(before) > bytes_max as u64 {
                break;
            }
            let (term, batch) = (slot.term, slot.batch.clone());
            entries.push(Entry { term, batch });
        }
        entries
    }

    /// The last place up to `seq` whose term is not above `term`; the base at least.
    pub(crate) fn last_not_above(&self, seq: SeqNo, term: View) -> SeqNo {
        let below = self.slots.partition_point(|slot| slot.term <= term);
        self.base.0.plus(below as u64).min(seq).max(self.base.0)
    }

    #[cfg(test)]
    pub(crate) fn len_without_nulls(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| !slot.batch.is_null())
            .count()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::AgreedTime;
    use bytes::Bytes;

    fn log(base: u64, terms: &[u64]) -> Log {
        let mut log = Log::new((SeqNo(base), View(1)));
        for (i, term) in (1..).zip(terms) {
            let bundle = Bytes::from(vec![0; 100]);
            let batch = Batch::new(AgreedTime::default(), &[bundle]);
            let term = View(*term);
            log.append(Entry { term, batch }, Lsn(i));
        }
        log
    }

    #[test]
    fn places_and_terms_count_from_the_base() {
        let mut log = log(10, &[1, 1, 3, 3, 7]);
        assert_eq!(log.last_id(), (SeqNo(15), View(7)));
        assert_eq!(log.term_at(SeqNo(10)), Some(View(1)));
        assert_eq!(log.term_at(SeqNo(9)), None);
        assert_eq!(log.term_at(SeqNo(16)), None);
        log.drop_to(SeqNo(12));
        assert_eq!((log.base(), log.len()), ((SeqNo(12), View(1)), 3));
        log.truncate_from(SeqNo(14));
        assert_eq!(log.last_id(), (SeqNo(13), View(3)));
        log.truncate_from(SeqNo(3));
        assert_eq!(log.last_id(), (SeqNo(12), View(1)));
    }

    #[test]
    fn entries_are_bounded_by_bytes_and_one_at_least() {
        let log = log(0, &[1; 5]);
        let size = log.bytes_between(SeqNo(0), SeqNo(1)) as usize;
        assert_eq!(log.bytes_between(SeqNo(2), SeqNo(5)), 3 * size as u64);
        let count = |from, to, bytes| log.entries(SeqNo(from), SeqNo(to), bytes).len();
        assert_eq!(count(1, 5, usize::MAX), 5);
        assert_eq!(count(2, 3, usize::MAX), 2);
        assert_eq!(count(2, 5, 2 * size), 2);
        assert_eq!(count(2, 5, 1), 1);
        assert_eq!(count(6, 9, 1), 0);
    }

    #[test]
    fn section_3_5_hints_skip_whole_terms() {
        let log = log(10, &[1, 1, 3, 3, 7]);
        let at = |seq, term| log.last_not_above(SeqNo(seq), View(term)).0;
        assert_eq!(at(15, 7), 15);
        assert_eq!(at(15, 6), 14);
        assert_eq!(at(15, 2), 12);
        assert_eq!(at(11, 5), 11);
        assert_eq!(at(14, 0), 10);
    }

    #[test]
    fn section_5_1_a_state_keeps_what_follows_it_only_if_the_log_held_its_last_entry() {
        let mut same = log(0, &[1, 1, 2, 2]);
        assert!(same.install((SeqNo(3), View(2))));
        assert_eq!(same.last_id(), (SeqNo(4), View(2)));
        let mut other = log(0, &[1, 1, 2, 2]);
        assert!(!other.install((SeqNo(3), View(3))));
        assert_eq!(other.last_id(), (SeqNo(3), View(3)));
        let mut short = log(0, &[1]);
        assert!(!short.install((SeqNo(9), View(3))));
        assert_eq!(short.last(), SeqNo(9));
    }
}
