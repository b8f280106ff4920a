//! How a state is cut, so that what did not change is neither stored nor sent again.
//!
//! A state is a list of **parts**, each some bytes under the digest of them. Consecutive references to
//! parts make **pages**, and a page's encoding is a blob under its digest like any part. The
//! [`StateDescriptor`] lists the pages; its [`root`](StateDescriptor::root) is what replicas certify.
//! It is a Merkle tree of three levels: whoever believes a root can check descriptor, pages and parts
//! one by one, from anybody.
//!
//! Where a page ends follows from the digest in its last reference, not from its place: a part that
//! appears or goes changes one page or two, and not all that follow (content-defined cutting, as in
//! LBFS, SOSP'01, section 3.1). One list of parts has one valid cut, and so one root.

mod blob;

pub use blob::Blob;

use crate::Digest;
use crate::digest::DigestBuilder;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A blob by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartRef {
    /// The digest of its bytes, [`Digest::of`].
    pub digest: Digest,
    /// How many bytes it has, at least 1.
    pub bytes: u32,
}

/// References in a page, at most.
pub const PAGE_PARTS_MAX: usize = 128;
/// One page in so many references, on average.
const PAGE_PARTS_MEAN: u8 = 32;
/// The bytes of an encoded reference: the digest, and the length in little endian.
const REF_BYTES: usize = 32 + 4;

impl PartRef {
    /// The reference to these bytes, of which there are at most `u32::MAX`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            digest: Digest::of(bytes),
            bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        }
    }

    /// Whether these are the bytes that are meant.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == u64::from(self.bytes) && Digest::of(bytes) == self.digest
    }

    const fn ends_page(&self) -> bool {
        self.digest.0[0].is_multiple_of(PAGE_PARTS_MEAN)
    }
}

/// A state by its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDescriptor {
    /// The bytes of all parts together.
    pub total_bytes: u64,
    /// How many parts there are.
    pub parts: u64,
    /// The encoded pages, in order.
    pub pages: Vec<PartRef>,
}

/// A descriptor or a page that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PartsError {
    /// The numbers of a descriptor contradict each other, or are too large.
    #[error("{pages} pages cannot hold {parts} parts of {total_bytes} bytes")]
    Descriptor {
        /// How many pages it lists.
        pages: usize,
        /// How many parts it says there are.
        parts: u64,
        /// How many bytes it says they have.
        total_bytes: u64,
    },
    /// There is no page of this number.
    #[error("page {index} of {pages}")]
    NoSuchPage {
        /// The number, from 0.
        index: usize,
        /// How many pages there are.
        pages: usize,
    },
    /// The bytes of a page are not those the descriptor means.
    #[error("page {index} has the wrong digest")]
    Digest {
        /// The page, from 0.
        index: usize,
    },
    /// A page does not end where it should, or refers to an empty part.
    #[error("page {index} is cut in the wrong place, or refers to an empty part")]
    Cut {
        /// The page, from 0.
        index: usize,
    },
    /// There are more parts than a descriptor can list.
    #[error(
        "{parts} parts need more than {} pages: make parts larger",
        StateDescriptor::PAGES_MAX
    )]
    TooMany {
        /// How many parts there are.
        parts: usize,
    },
}

impl StateDescriptor {
    /// The most pages of a state. With the 32 references that a page has on average and parts of
    /// 4 KiB, 32 GiB.
    pub const PAGES_MAX: usize = 1 << 18;

    /// Cuts a list of parts into encoded pages, and describes them.
    ///
    /// # Errors
    /// [`PartsError::TooMany`].
    pub fn cut(parts: &[PartRef]) -> Result<(Self, Vec<Bytes>), PartsError> {
        let (mut cutter, mut pages) = (PageCutter::default(), Vec::new());
        for part in parts {
            pages.extend(cutter.push(*part)?);
        }
        let (descriptor, last) = cutter.finish()?;
        pages.extend(last);
        Ok((
            descriptor,
            pages.into_iter().map(|(_, page)| page).collect(),
        ))
    }

    /// The digest of the state.
    #[must_use]
    pub fn root(&self) -> Digest {
        let head = DigestBuilder::new("atlas v1 state root")
            .number(self.total_bytes)
            .number(self.parts)
            .number(self.pages.len() as u64);
        let add = |builder: DigestBuilder, page: &PartRef| {
            builder.digest(&page.digest).number(u64::from(page.bytes))
        };
        self.pages.iter().fold(head, add).finish()
    }

    /// Checks that the numbers fit each other, before anything is allocated for them.
    ///
    /// # Errors
    /// [`PartsError::Descriptor`].
    pub fn check(&self) -> Result<(), PartsError> {
        let lengths = self.pages.iter().map(|page| page.bytes as usize);
        let good = |bytes: usize| {
            bytes > 0 && bytes.is_multiple_of(REF_BYTES) && bytes <= PAGE_PARTS_MAX * REF_BYTES
        };
        let fits = self.pages.len() <= Self::PAGES_MAX
            && lengths.clone().all(good)
            && lengths.sum::<usize>() as u64 == self.parts.saturating_mul(REF_BYTES as u64)
            && self.parts <= self.total_bytes
            && self.total_bytes <= self.parts.saturating_mul(u64::from(u32::MAX));
        let error = PartsError::Descriptor {
            pages: self.pages.len(),
            parts: self.parts,
            total_bytes: self.total_bytes,
        };
        if fits { Ok(()) } else { Err(error) }
    }

    /// Decodes a page and checks that it is the one of this number, of a descriptor that passed
    /// [`Self::check`].
    ///
    /// # Errors
    /// What does not fit.
    pub fn page(&self, index: usize, encoded: &[u8]) -> Result<Vec<PartRef>, PartsError> {
        let pages = self.pages.len();
        let page = self.pages.get(index);
        let page = page.ok_or(PartsError::NoSuchPage { index, pages })?;
        if !page.matches(encoded) {
            return Err(PartsError::Digest { index });
        }
        let refs = decode(encoded).ok_or(PartsError::Cut { index })?;
        let last = index + 1 == pages;
        let whole = refs.split_last().is_some_and(|(end, inner)| {
            let ends = end.ends_page() || refs.len() == PAGE_PARTS_MAX || last;
            ends && !inner.iter().any(PartRef::ends_page)
        });
        if whole && refs.iter().all(|part| part.bytes > 0) {
            Ok(refs)
        } else {
            Err(PartsError::Cut { index })
        }
    }
}

/// Cuts parts into pages as they come, so that no list of all parts need be in memory.
#[derive(Clone, Debug, Default)]
pub struct PageCutter {
    /// The parts of the page that has not ended.
    open: Vec<PartRef>,
    descriptor: StateDescriptor,
}

impl PageCutter {
    /// The next part; and the page that ends with it, as it is referred to and encoded.
    ///
    /// # Errors
    /// [`PartsError::TooMany`].
    pub fn push(&mut self, part: PartRef) -> Result<Option<(PartRef, Bytes)>, PartsError> {
        self.open.push(part);
        self.descriptor.parts += 1;
        self.descriptor.total_bytes += u64::from(part.bytes);
        if part.ends_page() || self.open.len() == PAGE_PARTS_MAX {
            return self.end_page().map(Some);
        }
        Ok(None)
    }

    /// The state that was cut; and its last page, where that ends only with the state.
    ///
    /// # Errors
    /// [`PartsError::TooMany`].
    pub fn finish(mut self) -> Result<(StateDescriptor, Option<(PartRef, Bytes)>), PartsError> {
        let last = match self.open.is_empty() {
            true => None,
            false => Some(self.end_page()?),
        };
        Ok((self.descriptor, last))
    }

    fn end_page(&mut self) -> Result<(PartRef, Bytes), PartsError> {
        let pages = &mut self.descriptor.pages;
        if pages.len() == StateDescriptor::PAGES_MAX {
            let parts = usize::try_from(self.descriptor.parts).unwrap_or(usize::MAX);
            return Err(PartsError::TooMany { parts });
        }
        let page = encode(&self.open);
        self.open.clear();
        let reference = PartRef::of(&page);
        pages.push(reference);
        Ok((reference, page))
    }
}

fn encode(page: &[PartRef]) -> Bytes {
    let mut bytes = Vec::with_capacity(page.len() * REF_BYTES);
    for part in page {
        bytes.extend_from_slice(&part.digest.0);
        bytes.extend_from_slice(&part.bytes.to_le_bytes());
    }
    bytes.into()
}

fn decode(page: &[u8]) -> Option<Vec<PartRef>> {
    let (refs, []) = page.as_chunks::<REF_BYTES>() else {
        return None;
    };
    let decode = |encoded: &[u8; REF_BYTES]| {
        let (digest, bytes) = encoded.split_at(32);
        Some(PartRef {
            digest: Digest(digest.try_into().ok()?),
            bytes: u32::from_le_bytes(bytes.try_into().ok()?),
        })
    };
    (refs.len() <= PAGE_PARTS_MAX).then(|| refs.iter().map(decode).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(count: u32) -> Vec<PartRef> {
        (0..count).map(|i| PartRef::of(&i.to_le_bytes())).collect()
    }

    #[test]
    fn pages_give_back_the_parts_they_were_cut_from() {
        for count in [0, 1, 2, 31, 500, 5000] {
            let parts = parts(count);
            let (descriptor, pages) = StateDescriptor::cut(&parts).unwrap();
            assert_eq!(descriptor.check(), Ok(()));
            assert_eq!(descriptor.parts, u64::from(count));
            assert_eq!(descriptor.total_bytes, 4 * u64::from(count));
            let read = pages.iter().enumerate();
            let read = read.flat_map(|(i, page)| descriptor.page(i, page).unwrap());
            assert_eq!(read.collect::<Vec<_>>(), parts);
        }
    }

    #[test]
    fn a_part_that_comes_or_goes_changes_only_the_pages_around_it() {
        let before = parts(5000);
        let mut after = before.clone();
        after.remove(1000);
        after.insert(3000, PartRef::of(b"new"));
        after[4000] = PartRef::of(b"changed");
        let (old, _) = StateDescriptor::cut(&before).unwrap();
        let (new, _) = StateDescriptor::cut(&after).unwrap();
        let fresh = new.pages.iter().filter(|page| !old.pages.contains(page));
        assert!((1..=6).contains(&fresh.count()));
        assert_ne!(old.root(), new.root());
    }

    #[test]
    fn equal_digests_in_a_row_still_end_pages() {
        let same = vec![PartRef::of(b"a part whose digest ends no page, or does"); 1000];
        let (descriptor, pages) = StateDescriptor::cut(&same).unwrap();
        assert!(pages.len() >= 1000 / PAGE_PARTS_MAX);
        for (i, page) in pages.iter().enumerate() {
            descriptor.page(i, page).unwrap();
        }
    }

    #[test]
    fn row_22_a_page_counts_only_in_its_own_place() {
        let (descriptor, pages) = StateDescriptor::cut(&parts(500)).unwrap();
        assert_eq!(
            descriptor.page(0, &pages[1]),
            Err(PartsError::Digest { index: 0 })
        );
        let none = PartsError::NoSuchPage {
            index: pages.len(),
            pages: pages.len(),
        };
        assert_eq!(descriptor.page(pages.len(), &pages[0]), Err(none));
        assert_eq!(
            descriptor.page(0, &pages[0][1..]),
            Err(PartsError::Digest { index: 0 })
        );
    }

    /// One state has one root: a liar cannot have the same parts certified under another one.
    #[test]
    fn pages_that_are_cut_elsewhere_are_refused() {
        let whole = parts(500);
        let (good, _) = StateDescriptor::cut(&whole).unwrap();
        let page = |refs: &[PartRef]| encode(refs);
        let first = good.pages[0].bytes as usize / REF_BYTES;
        for split in [first - 1, first + 1] {
            let pages = [page(&whole[..split]), page(&whole[split..first + 2])];
            let bad = StateDescriptor {
                pages: pages.iter().map(|page| PartRef::of(page)).collect(),
                ..good.clone()
            };
            assert_eq!(bad.page(0, &pages[0]), Err(PartsError::Cut { index: 0 }));
        }
        let empty = PartRef {
            bytes: 0,
            ..whole[0]
        };
        let pages = [page(&[empty])];
        let bad = StateDescriptor {
            pages: vec![PartRef::of(&pages[0])],
            ..good
        };
        assert_eq!(bad.page(0, &pages[0]), Err(PartsError::Cut { index: 0 }));
    }

    #[test]
    fn row_22_a_descriptor_whose_numbers_contradict_each_other_is_refused() {
        let (good, _) = StateDescriptor::cut(&parts(500)).unwrap();
        let break_it = |change: &dyn Fn(&mut StateDescriptor)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(matches!(bad.check(), Err(PartsError::Descriptor { .. })));
            assert_ne!(bad.root(), good.root());
        };
        break_it(&|d| d.parts += 1);
        break_it(&|d| d.parts = u64::MAX);
        break_it(&|d| d.total_bytes = 7);
        break_it(&|d| d.total_bytes = u64::MAX);
        break_it(&|d| d.pages[0].bytes += 1);
        break_it(&|d| d.pages[0].bytes = 0);
        break_it(&|d| d.pages[0].bytes = u32::MAX);
        break_it(&|d| d.pages.truncate(1));
    }
}
