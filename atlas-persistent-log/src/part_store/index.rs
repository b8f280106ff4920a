//! What is in memory of a store: where each blob lies.

use super::pack::Finished;
use super::record::{Entry, Place};
use atlas_common::digest_map::{DigestMap, MapKey};
use atlas_common::{Digest, crypto};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Where a blob lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located {
    pub(super) pack: u64,
    pub(super) place: Place,
    /// The last collection that found it in use.
    mark: u32,
}

impl Located {
    pub(super) const fn entry(&self, digest: Digest) -> Entry {
        Entry {
            digest,
            place: self.place,
        }
    }
}

/// A pack file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pack {
    pub(super) bytes: u64,
    /// Blobs of a transfer are still added to it.
    pub(super) incoming: bool,
    /// Header or index are damaged: it is to be written anew.
    pub(super) renew: bool,
}

/// What became of marking a blob.
#[derive(Clone, Copy, Debug)]
pub(super) enum Marked {
    /// It is not here.
    Absent,
    /// It was marked already.
    Before,
    /// It is marked now.
    Now {
        /// Where it lies.
        pack: u64,
        /// The bytes of its record.
        bytes: u64,
    },
}

/// A key for maps that nobody else knows.
pub(super) fn secret_key() -> MapKey {
    MapKey::new(crypto::random_number())
}

/// All blobs and packs.
#[derive(Debug)]
pub(super) struct Index {
    blobs: DigestMap<Located>,
    pub(super) packs: BTreeMap<u64, Pack>,
    /// Blobs whose records are known to be damaged.
    damaged: BTreeSet<Digest>,
    next_pack: u64,
    mark: u32,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            blobs: DigestMap::new(secret_key()),
            packs: BTreeMap::new(),
            damaged: BTreeSet::new(),
            next_pack: 0,
            mark: 0,
        }
    }
}

impl Index {
    pub(super) fn take_number(&mut self) -> u64 {
        let number = self.next_pack;
        self.next_above(number);
        number
    }

    /// Numbers up to this one are not given any more.
    pub(super) fn next_above(&mut self, number: u64) {
        self.next_pack = self.next_pack.max(number.saturating_add(1));
    }

    pub(super) fn add_pack(&mut self, number: u64, pack: Pack) {
        self.next_above(number);
        self.packs.insert(number, pack);
    }

    /// Adds a pack and what lies in it.
    pub(super) fn add_finished(&mut self, finished: &Finished) {
        self.set_finished(finished);
        for entry in finished.entries() {
            self.add_blob(finished.pack, *entry);
        }
    }

    /// Adds a pack, or says of one whose blobs are known already that no more will come.
    pub(super) fn set_finished(&mut self, finished: &Finished) {
        let pack = Pack {
            bytes: finished.bytes,
            incoming: false,
            renew: false,
        };
        self.add_pack(finished.pack, pack);
    }

    /// Makes room for so many blobs more, where that is known before: a table that grows is filled anew.
    pub(super) fn reserve(&mut self, blobs: usize) {
        self.blobs.reserve(blobs);
    }

    /// Of several copies of a blob the newest counts: an older one may be damaged.
    pub(super) fn add_blob(&mut self, pack: u64, entry: Entry) {
        let new = Located {
            pack,
            place: entry.place,
            mark: 0,
        };
        let known = self.blobs.get_or_insert(entry.digest, new);
        if known.pack > pack {
            return;
        }
        *known = new;
        self.damaged.remove(&entry.digest);
    }

    /// Forgets packs and what lies in them.
    pub(super) fn remove_packs(&mut self, packs: &BTreeSet<u64>) {
        self.packs.retain(|number, _| !packs.contains(number));
        self.forget(0..self.places(), packs);
    }

    /// The places of all blobs, see [`Self::forget`].
    pub(super) fn places(&self) -> usize {
        self.blobs.places()
    }

    /// Forgets of the blobs in these places those that lie in these packs.
    pub(super) fn forget(&mut self, places: Range<usize>, packs: &BTreeSet<u64>) {
        let Self { blobs, damaged, .. } = self;
        blobs.retain_some(places, |digest, located| {
            let stays = !packs.contains(&located.pack);
            if !stays {
                damaged.remove(digest);
            }
            stays
        });
    }

    /// Where a blob lies, and whether that is the incoming pack.
    pub(super) fn locate(&self, digest: &Digest) -> Option<(Located, bool)> {
        let located = *self.blobs.get(digest)?;
        let pack = self.packs.get(&located.pack)?;
        Some((located, pack.incoming))
    }

    /// Whether a blob lies in this pack.
    pub(super) fn lies_in(&self, digest: &Digest, pack: u64) -> bool {
        let found = self.locate(digest);
        found.is_some_and(|(located, _)| located.pack == pack)
    }

    /// Whether a blob is here, and not known to be damaged.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        let is_damaged = !self.damaged.is_empty() && self.damaged.contains(digest);
        !is_damaged && self.blobs.contains(digest)
    }

    /// Remembers that the copy in this pack is damaged.
    pub(super) fn set_damaged(&mut self, digest: &Digest, pack: u64) {
        let known = self.blobs.get(digest);
        if known.is_some_and(|known| known.pack == pack) {
            self.damaged.insert(*digest);
        }
    }

    /// Whether there is such a pack still.
    pub(super) fn set_renew(&mut self, pack: u64) -> bool {
        let pack = self.packs.get_mut(&pack);
        pack.map(|pack| pack.renew = true).is_some()
    }

    /// Begins to look for blobs in use.
    pub(super) const fn begin_marking(&mut self) {
        self.mark = self.mark.wrapping_add(1);
        // 0 is the mark of what was never seen.
        if self.mark == 0 {
            self.mark = 1;
        }
    }

    /// Marks a blob as in use.
    pub(super) fn mark(&mut self, digest: &Digest) -> Marked {
        let Some(located) = self.blobs.get_mut(digest) else {
            return Marked::Absent;
        };
        if located.mark == self.mark {
            return Marked::Before;
        }
        located.mark = self.mark;
        Marked::Now {
            pack: located.pack,
            bytes: located.place.record_bytes() as u64,
        }
    }

    /// Whether the copy of a blob in this pack is the one in use.
    pub(super) fn is_marked(&self, digest: &Digest, pack: u64) -> bool {
        let found = self.blobs.get(digest);
        found.is_some_and(|located| located.mark == self.mark && located.pack == pack)
    }

    pub(super) fn blobs(&self) -> u64 {
        self.blobs.len() as u64
    }

    /// How many are known to be damaged.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged.len() as u64
    }
}
