//! Reading blobs: one by one with care, or many that lie behind each other in one go.

use super::error::{Damage, Damaged, StoreError};
use super::index::Located;
use super::pack;
use super::record::{self, Entry};
use super::store::PartStore;
use crate::storage::StorageError;
use atlas_common::Digest;
use atlas_common::parts::Blob;
use bytes::Bytes;

/// Bytes that are read in one go at most, where a blob is not larger.
const RUN_BYTES: u64 = 1 << 20;
/// Bytes that are read in vain before a blob rather than reading twice, as long as what is read in vain is
/// no more than what is wanted.
const GAP_BYTES: u64 = 32 << 10;

/// Several blobs out of their records; fewer checks make it cheaper.
type Restore<T> = fn(Vec<(Entry, Bytes)>) -> Vec<Option<T>>;

/// A blob that is wanted, and where it lies.
#[derive(Clone, Copy)]
struct Wanted {
    /// Which of those that are asked for.
    index: usize,
    digest: Digest,
    located: Located,
    incoming: bool,
}

impl Wanted {
    const fn start(&self) -> u64 {
        self.located.place.offset as u64
    }

    const fn end(&self) -> u64 {
        self.start() + self.located.place.record_bytes() as u64
    }
}

impl PartStore {
    /// A blob, checked.
    ///
    /// # Errors
    /// When it is not here, it is damaged (it counts as missing from then on), or the storage fails.
    pub fn read_part(&self, digest: &Digest) -> Result<Blob, StoreError> {
        let mut tried = None;
        loop {
            let Some((located, incoming)) = self.inner.index.read().locate(digest) else {
                return Err(StoreError::NoSuchBlob { digest: *digest });
            };
            let file = pack::name(located.pack);
            let entry = located.entry(*digest);
            let read = |file: &str| pack::read_record(self.storage(), located.pack, file, &entry);
            let mut stored = match incoming {
                true => read(&pack::incoming_name(located.pack)),
                false => read(&file),
            };
            // It may have been given its name in this moment.
            if incoming && stored.as_ref().is_err_and(StorageError::is_not_found) {
                stored = read(&file);
            }
            let stored = match stored {
                // Its blobs have another place before a pack is deleted.
                Err(error) if error.is_not_found() && tried != Some(located.pack) => {
                    tried = Some(located.pack);
                    continue;
                }
                Err(error) if error.is_not_found() => None,
                other => other?,
            };
            let blob = stored.and_then(|stored| record::restore(&entry, stored));
            // The file of a pack that is gone may be another's while it is read.
            if blob.is_none() && !self.inner.index.read().lies_in(digest, located.pack) {
                continue;
            }
            return blob.ok_or_else(|| self.damaged(digest, &located, file));
        }
    }

    pub(super) fn damaged(&self, digest: &Digest, located: &Located, file: String) -> StoreError {
        let mut index = self.inner.index.write();
        index.set_damaged(digest, located.pack);
        let damage = Damage {
            file,
            offset: u64::from(located.place.offset),
            what: Damaged::Record,
            digest: Some(*digest),
            bytes: Some(located.place.plain),
        };
        tracing::error!(%damage, "damage found");
        damage.into()
    }

    /// Blobs as by [`Self::read_part`], in the order given: as many as together have at most `bytes_max`
    /// bytes, but at least one where any is asked for. Those that lie close to each other are read
    /// together, and share memory.
    #[must_use]
    pub fn read_parts(&self, digests: &[Digest], bytes_max: u64) -> Vec<Result<Blob, StoreError>> {
        self.read_many(digests, bytes_max, record::restore_all, |blob| blob)
    }

    /// Blobs as by [`Self::read_parts`], for a peer, which checks their digests: here they are checked by
    /// the shorter checksums with which they were written, so that the peer gets no damaged ones.
    #[must_use]
    pub fn read_for_peer(
        &self,
        digests: &[Digest],
        bytes_max: u64,
    ) -> Vec<Result<Bytes, StoreError>> {
        let restore = |records: Vec<(Entry, Bytes)>| {
            let records = records.into_iter();
            records
                .map(|(entry, stored)| record::plain(&entry, stored))
                .collect()
        };
        self.read_many(digests, bytes_max, restore, Blob::into_bytes)
    }

    fn read_many<T: Clone>(
        &self,
        digests: &[Digest],
        bytes_max: u64,
        restore: Restore<T>,
        single: fn(Blob) -> T,
    ) -> Vec<Result<T, StoreError>> {
        let (count, mut wanted) = self.locate(digests, bytes_max);
        wanted.sort_unstable_by_key(|one| (one.located.pack, one.start()));
        let mut found = vec![None; count];
        for run in wanted.chunk_by(reads_together()) {
            let (places, records) = self
                .read_run(run)
                .into_iter()
                .unzip::<_, _, Vec<usize>, _>();
            for (place, blob) in places.into_iter().zip(restore(records)) {
                found[place] = blob;
            }
        }
        // What is not where it was, or not what it was, is looked at by itself.
        let each = digests.iter().zip(found);
        let alone = |digest| self.read_part(digest).map(single);
        each.map(|(digest, blob)| blob.map_or_else(|| alone(digest), Ok))
            .collect()
    }

    /// How many of these blobs have so many bytes together, and where those of them lie that are here.
    fn locate(&self, digests: &[Digest], bytes_max: u64) -> (usize, Vec<Wanted>) {
        let (mut bytes, mut wanted) = (0, Vec::with_capacity(digests.len()));
        let blobs = self.inner.index.read();
        for (index, digest) in digests.iter().enumerate() {
            let Some((located, incoming)) = blobs.locate(digest) else {
                continue;
            };
            bytes += u64::from(located.place.plain);
            if bytes > bytes_max && index > 0 {
                return (index, wanted);
            }
            wanted.push(Wanted {
                index,
                digest: *digest,
                located,
                incoming,
            });
        }
        (digests.len(), wanted)
    }

    /// Reads records of one pack that lie behind each other: those that are whole, each with the place of
    /// its blob among those that are asked for.
    fn read_run(&self, run: &[Wanted]) -> Vec<(usize, (Entry, Bytes))> {
        let (Some(first), Some(end)) = (run.first(), run.iter().map(Wanted::end).max()) else {
            return Vec::new();
        };
        let (pack, start) = (first.located.pack, first.start());
        let file = match first.incoming {
            true => pack::incoming_name(pack),
            false => pack::name(pack),
        };
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let Ok(bytes) = self.storage().read_past_cache(&file, start, length) else {
            return Vec::new();
        };
        let record = |one: &Wanted| {
            let (from, to) = ((one.start() - start) as usize, (one.end() - start) as usize);
            let entry = one.located.entry(one.digest);
            let record = (to <= bytes.len()).then(|| bytes.slice(from..to))?;
            let stored = pack::stored_in(pack, &entry, record)?;
            Some((one.index, (entry, stored)))
        };
        run.iter().filter_map(record).collect()
    }
}

/// Whether a blob is read together with the one before it.
fn reads_together() -> impl FnMut(&Wanted, &Wanted) -> bool {
    let (mut start, mut in_vain) = (None, 0);
    move |before, next| {
        let first = *start.get_or_insert(before.start());
        let same_pack = before.located.pack == next.located.pack;
        // The same blob twice begins before its end.
        let gap = next.start().saturating_sub(before.end());
        let wanted = (before.end() - first).saturating_sub(in_vain) + (next.end() - next.start());
        let together = same_pack
            && gap <= GAP_BYTES
            && in_vain + gap <= wanted
            && next.end() - first <= RUN_BYTES;
        (start, in_vain) = match together {
            true => (Some(first), in_vain + gap),
            false => (None, 0),
        };
        together
    }
}
