//! Where the values of a map lie: in pieces that stay where they are when there come more.

use crate::Digest;

/// Slots of a piece.
const PIECE: usize = 256;

/// Digests and values by numbers, which are used again.
#[derive(Clone, Debug)]
pub(super) struct Slots<V> {
    pieces: Vec<Vec<(Digest, Option<V>)>>,
    free: Vec<u32>,
    /// The first number that was never used, or not since all were removed.
    next: u32,
}

const fn place(slot: u32) -> (usize, usize) {
    (slot as usize / PIECE, slot as usize % PIECE)
}

impl<V> Slots<V> {
    pub(super) const fn new() -> Self {
        Self {
            pieces: Vec::new(),
            free: Vec::new(),
            next: 0,
        }
    }

    /// A number that is free, and no longer so.
    pub(super) fn next(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let slot = self.next;
            self.next += 1;
            slot
        })
    }

    /// Of a number in use.
    pub(super) fn digest(&self, slot: u32) -> &Digest {
        let (piece, at) = place(slot);
        &self.pieces[piece][at].0
    }

    pub(super) fn get(&self, slot: u32) -> Option<&V> {
        let (piece, at) = place(slot);
        self.pieces.get(piece)?.get(at)?.1.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut V> {
        let (piece, at) = place(slot);
        self.pieces.get_mut(piece)?.get_mut(at)?.1.as_mut()
    }

    /// Numbers from this one on are not in use.
    pub(super) const fn used(&self) -> usize {
        self.next as usize
    }

    /// What lies at a number, if that is in use.
    pub(super) fn entry_mut(&mut self, slot: u32) -> Option<(&Digest, &mut V)> {
        let (piece, at) = place(slot);
        let (digest, value) = self.pieces.get_mut(piece)?.get_mut(at)?;
        Some((digest, value.as_mut()?))
    }

    /// The value of a number in use.
    pub(super) fn value(&mut self, slot: u32, otherwise: impl FnOnce() -> V) -> &mut V {
        let (piece, at) = place(slot);
        self.pieces[piece][at].1.get_or_insert_with(otherwise)
    }

    /// Fills a number that [`Self::next`] gave. They are given in order, so that pieces grow at their ends.
    pub(super) fn put(&mut self, slot: u32, digest: Digest, value: V) -> &mut V {
        let (piece, at) = place(slot);
        if piece == self.pieces.len() {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let piece = &mut self.pieces[piece];
        if at == piece.len() {
            piece.push((digest, None));
        }
        let slot = &mut piece[at];
        slot.0 = digest;
        slot.1.insert(value)
    }

    /// Empties a number, which is free then.
    pub(super) fn take(&mut self, slot: u32) -> Option<V> {
        let (piece, at) = place(slot);
        self.free.push(slot);
        self.pieces.get_mut(piece)?.get_mut(at)?.1.take()
    }

    /// Empties all, and keeps the memory.
    pub(super) fn clear(&mut self) {
        for piece in &mut self.pieces {
            piece.clear();
        }
        self.free.clear();
        self.next = 0;
    }
}
