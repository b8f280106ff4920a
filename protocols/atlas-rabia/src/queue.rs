//! The batches that wait for a slot.
//!
//! Every replica keeps the batches of all, sorted by (stamp, origin). A **stamp** is a hybrid logical
//! clock: its maker's wall clock in 1024ths of a millisecond, or one more than the highest stamp that
//! it has seen, whichever is later. So
//!
//! - batches made one after the other by clocks that agree come in that order, which is how replicas
//!   come to propose the same thing;
//! - whoever has received a batch makes only later ones: once a batch is everywhere, nothing new is put
//!   before it, however skewed the clocks are, and nobody starves.
//!
//! Clients that ask several replicas can make several of them form the same batch. Its place is the
//! earliest that any of its makers gave it: who hears of a later one answers with the earlier, so that
//! all come to the same order.
//!
//! A batch is **free** while no undecided slot is known in which somebody proposes it; only free ones
//! are proposed anew.
//!
//! Bounded in bytes, shared equally among the members, and in batches per member. Of a member that
//! has more than its share the oldest batches stay, the same everywhere, so that heads still meet;
//! what was dropped is asked for again when it is proposed or decided.

use crate::message::Spread;
use atlas_common::{Digest, NodeId, SeqNo};
use atlas_core::Batch;
use std::collections::{BTreeMap, BTreeSet};

/// Batches of one member at most. It makes one at a time; others are left over from earlier lives.
const PER_ORIGIN_MAX: usize = 16;

/// A batch's place in the queue.
type Key = (u64, NodeId, Digest);

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    share_bytes_max: usize,
    batches: BTreeMap<Digest, Spread>,
    free: BTreeSet<Key>,
    /// The undecided slots in which a batch is proposed, whether it is here or not.
    proposed_in: BTreeMap<Digest, BTreeSet<SeqNo>>,
    shares: BTreeMap<NodeId, Share>,
}

/// What one member has made.
#[derive(Debug, Default)]
struct Share {
    batches: BTreeSet<Key>,
    bytes: usize,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Insertion {
    Queued,
    Known,
    /// It is known here, in an earlier place.
    Later,
    Full,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize, members: usize) -> Self {
        Self {
            share_bytes_max: bytes_max / members.max(1),
            batches: BTreeMap::new(),
            free: BTreeSet::new(),
            proposed_in: BTreeMap::new(),
            shares: BTreeMap::new(),
        }
    }

    /// Takes a batch that was sent here. `own` is the one that this replica waits for itself.
    pub(crate) fn insert(&mut self, spread: Spread, own: Option<Digest>) -> Insertion {
        if let Some(known) = self.batches.get(&spread.batch.digest()) {
            let (known, given) = (key(known), key(&spread));
            if known < given {
                return Insertion::Later;
            }
            if given < known {
                self.move_up(spread);
            }
            return Insertion::Known;
        }
        while !self.has_room(&spread) {
            // What is younger makes room, if it is not on its way.
            let share = self.shares.get(&spread.origin);
            let younger = share.and_then(|share| {
                let mut younger = share.batches.range(key(&spread)..).rev();
                younger.find(|key| self.free.contains(key) && Some(key.2) != own)
            });
            match younger.copied() {
                Some((_, _, digest)) => self.remove(&digest),
                None => return Insertion::Full,
            };
        }
        self.insert_own(spread);
        Insertion::Queued
    }

    /// Takes a batch of this replica's own making, for which there is always room: it makes one at a
    /// time.
    pub(crate) fn insert_own(&mut self, spread: Spread) {
        let (key, digest) = (key(&spread), spread.batch.digest());
        let share = self.shares.entry(spread.origin).or_default();
        if share.batches.insert(key) {
            share.bytes += spread.batch.raw().len();
        }
        if !self.proposed_in.contains_key(&digest) {
            self.free.insert(key);
        }
        self.batches.insert(digest, spread);
    }

    /// A batch that is here has another maker, or an earlier life of its maker, who made it before.
    /// It counts to that maker's share from now on, even beyond it: all shares together stay bounded.
    fn move_up(&mut self, spread: Spread) {
        self.remove(&spread.batch.digest());
        self.insert_own(spread);
    }

    /// One batch has room whatever its size.
    fn has_room(&self, spread: &Spread) -> bool {
        self.shares.get(&spread.origin).is_none_or(|share| {
            let bytes = share.bytes + spread.batch.raw().len();
            share.batches.is_empty()
                || (share.batches.len() < PER_ORIGIN_MAX && bytes <= self.share_bytes_max)
        })
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<&Spread> {
        self.batches.get(digest)
    }

    /// Takes a batch out for good.
    pub(crate) fn remove(&mut self, digest: &Digest) -> Option<Batch> {
        let spread = self.batches.remove(digest)?;
        self.free.remove(&key(&spread));
        if let Some(share) = self.shares.get_mut(&spread.origin) {
            share.batches.remove(&key(&spread));
            share.bytes -= spread.batch.raw().len();
        }
        Some(spread.batch)
    }

    /// The first free batch.
    pub(crate) fn head(&self) -> Option<Digest> {
        self.free.first().map(|(_, _, digest)| *digest)
    }

    /// Somebody proposes the batch in this slot.
    pub(crate) fn name(&mut self, digest: Digest, seq: SeqNo) {
        if self.proposed_in.entry(digest).or_default().insert(seq)
            && let Some(spread) = self.batches.get(&digest)
        {
            self.free.remove(&key(spread));
        }
    }

    /// The slot is over: the batch returns to the queue, if it is still in it.
    pub(crate) fn unname(&mut self, digest: &Digest, seq: SeqNo) {
        let Some(slots) = self.proposed_in.get_mut(digest) else {
            return;
        };
        slots.remove(&seq);
        if slots.is_empty() {
            self.proposed_in.remove(digest);
            if let Some(spread) = self.batches.get(digest) {
                self.free.insert(key(spread));
            }
        }
    }

    /// The slots under way in which the batch is proposed.
    pub(crate) fn proposed_in(&self, digest: &Digest) -> Vec<SeqNo> {
        let slots = self.proposed_in.get(digest);
        slots.into_iter().flatten().copied().collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }
}

fn key(spread: &Spread) -> Key {
    (spread.stamp, spread.origin, spread.batch.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::AgreedTime;
    use bytes::Bytes;

    fn spread(stamp: u64, origin: u32, bytes: usize) -> Spread {
        let bundle = Bytes::from(vec![origin as u8; bytes]);
        Spread {
            stamp,
            origin: NodeId(origin),
            batch: Batch::new(AgreedTime::from_unix_millis(stamp), &[bundle]),
        }
    }

    #[test]
    fn heads_are_equal_whatever_the_order_of_arrival() {
        let all: Vec<Spread> = [(5, 1), (3, 2), (3, 0), (9, 1), (4, 2)]
            .map(|(stamp, origin)| spread(stamp, origin, 8))
            .to_vec();
        let drain = |order: &[usize]| -> Vec<u64> {
            let mut queue = Queue::new(1 << 20, 3);
            for i in order {
                assert_eq!(queue.insert(all[*i].clone(), None), Insertion::Queued);
            }
            std::iter::from_fn(|| {
                let head = queue.head()?;
                let stamp = queue.get(&head)?.stamp;
                queue.remove(&head).map(|_| stamp)
            })
            .collect()
        };
        assert_eq!(drain(&[0, 1, 2, 3, 4]), [3, 3, 4, 5, 9]);
        assert_eq!(drain(&[4, 2, 0, 1, 3]), [3, 3, 4, 5, 9]);
    }

    /// Two replicas that were asked the same made the same batch.
    #[test]
    fn a_batch_with_several_makers_has_one_place_everywhere() {
        let made = spread(5, 1, 8);
        let again = |stamp, origin| Spread {
            stamp,
            origin: NodeId(origin),
            batch: made.batch.clone(),
        };
        let other = spread(6, 2, 8);
        let all = [again(7, 0), made.clone(), again(9, 3), other.clone()];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [1, 3, 2, 0]] {
            let mut queue = Queue::new(1 << 20, 4);
            for i in order {
                queue.insert(all[i].clone(), None);
            }
            assert_eq!(queue.len(), 2);
            assert_eq!(queue.head(), Some(made.batch.digest()), "{order:?}");
            assert_eq!(queue.insert(again(8, 0), None), Insertion::Later);
            assert_eq!(queue.get(&made.batch.digest()), Some(&made));
            // What is under way elsewhere stays so.
            queue.name(made.batch.digest(), SeqNo(1));
            queue.insert(again(4, 2), None);
            assert_eq!(queue.head(), Some(other.batch.digest()));
            queue.unname(&made.batch.digest(), SeqNo(1));
            assert_eq!(queue.head(), Some(made.batch.digest()));
            assert!(queue.remove(&made.batch.digest()).is_some());
            assert_eq!(queue.head(), Some(other.batch.digest()));
            assert_eq!(queue.insert(made.clone(), None), Insertion::Queued);
        }
    }

    #[test]
    fn a_batch_proposed_somewhere_is_not_free_even_if_it_comes_later_than_its_proposal() {
        let mut queue = Queue::new(1 << 20, 3);
        let (first, second) = (spread(1, 0, 8), spread(2, 1, 8));
        let digest = first.batch.digest();
        queue.name(digest, SeqNo(1));
        queue.name(digest, SeqNo(2));
        queue.insert(first, None);
        queue.insert(second.clone(), None);
        assert_eq!(queue.head(), Some(second.batch.digest()));
        queue.unname(&digest, SeqNo(1));
        assert_eq!(queue.proposed_in(&digest), [SeqNo(2)]);
        queue.unname(&digest, SeqNo(2));
        assert_eq!(queue.head(), Some(digest));
    }

    #[test]
    fn no_member_takes_more_than_its_share() {
        let mut queue = Queue::new(3000, 3);
        assert_eq!(queue.insert(spread(1, 0, 5000), None), Insertion::Queued);
        assert_eq!(queue.insert(spread(2, 0, 1), None), Insertion::Full);
        for stamp in 0..PER_ORIGIN_MAX as u64 {
            assert_eq!(queue.insert(spread(stamp, 1, 1), None), Insertion::Queued);
        }
        assert_eq!(queue.insert(spread(99, 1, 1), None), Insertion::Full);
        assert_eq!(queue.insert(spread(1, 1, 1), None), Insertion::Known);
        // An older one takes the place of the youngest.
        let youngest = spread(PER_ORIGIN_MAX as u64 - 1, 1, 1).batch.digest();
        assert_eq!(queue.insert(spread(0, 1, 2), None), Insertion::Queued);
        assert!(queue.get(&youngest).is_none());
        assert_eq!(queue.insert(spread(3, 2, 900), None), Insertion::Queued);
        assert_eq!(queue.insert(spread(4, 2, 900), None), Insertion::Full);
        assert_eq!(queue.len(), PER_ORIGIN_MAX + 2);
    }
}
