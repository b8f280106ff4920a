//! What of a state is still to be seen and fetched. Pure bookkeeping: whom to ask is not its concern.

use super::{FetchedState, LookedUp, Lookup};
use atlas_common::Digest;
use atlas_common::digest_map::{DigestMap, MapKey};
use atlas_common::parts::{Blob, PartRef, PartsError};
use std::collections::{BTreeMap, VecDeque};

/// Pages that are looked up or fetched at a time.
const PAGES_AT_ONCE: usize = 256;
/// While so many parts are looked up or fetched, no more pages are.
const PARTS_AT_ONCE: usize = 16_384;
/// Parts asked of the store in one question.
const LOOKUP_MAX: usize = 8192;

/// A part of some page that is not known to be here.
#[derive(Clone, Copy, Debug)]
struct Part {
    bytes: u32,
    /// In how many places of the state.
    times: u64,
}

/// A question to the store that is not answered.
#[derive(Debug)]
struct Question {
    ticket: u64,
    pages: Vec<Digest>,
    /// How many parts: the first of those that nothing is known about.
    parts: usize,
}

/// A state on its way.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) state: FetchedState,
    part_bytes_max: u32,
    /// The first page that was not looked up.
    next_page: usize,
    /// Pages that are looked up or fetched, and where each stands.
    pages: BTreeMap<Digest, Vec<usize>>,
    /// Parts that are looked up or fetched.
    parts: DigestMap<Part>,
    /// Of these, in order, what the store has not said anything about.
    unknown: VecDeque<PartRef>,
    /// What the store is being asked.
    question: Option<Question>,
    /// Bytes of all parts of the pages that were seen.
    bytes_seen: u64,
    /// Of these, what is here.
    bytes_here: u64,
    /// Whether anything was fetched for it.
    pub(super) begun: bool,
}

/// What the store said about a question.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) missing_pages: Vec<PartRef>,
    pub(super) missing_parts: Vec<PartRef>,
    pub(super) parts_here: u64,
    pub(super) bytes_here: u64,
}

impl Plan {
    pub(super) fn new(state: FetchedState, part_bytes_max: u32, key: MapKey) -> Self {
        Self {
            state,
            part_bytes_max,
            next_page: 0,
            pages: BTreeMap::new(),
            parts: DigestMap::new(key),
            unknown: VecDeque::new(),
            question: None,
            bytes_seen: 0,
            bytes_here: 0,
            begun: false,
        }
    }

    /// The bytes that are here, and all.
    pub(super) const fn progress(&self) -> (u64, u64) {
        (self.bytes_here, self.state.descriptor.total_bytes)
    }

    /// How many references are in memory.
    #[cfg(test)]
    pub(super) fn references(&self) -> usize {
        self.parts.len() + self.pages.values().map(Vec::len).sum::<usize>()
    }

    /// Whether every blob is here.
    pub(super) fn is_complete(&self) -> bool {
        self.next_page == self.state.descriptor.pages.len()
            && self.pages.is_empty()
            && self.parts.is_empty()
    }

    /// Whether the pages hold as much as the descriptor says, once all are here.
    pub(super) const fn adds_up(&self) -> bool {
        self.bytes_seen == self.state.descriptor.total_bytes
    }

    /// The next question to the store, unless there is none, or one is open.
    pub(super) fn question(&mut self, ticket: u64) -> Option<Lookup> {
        if self.question.is_some() {
            return None;
        }
        let mut pages = Vec::new();
        while self.pages.len() < PAGES_AT_ONCE
            && self.parts.len() < PARTS_AT_ONCE
            && let Some(page) = self.state.descriptor.pages.get(self.next_page)
        {
            let places = self.pages.entry(page.digest).or_default();
            if places.is_empty() {
                pages.push(page.digest);
            }
            places.push(self.next_page);
            self.next_page += 1;
        }
        let asked = self.unknown.iter().take(LOOKUP_MAX);
        let parts: Vec<Digest> = asked.map(|part| part.digest).collect();
        if pages.is_empty() && parts.is_empty() {
            return None;
        }
        self.question = Some(Question {
            ticket,
            pages: pages.clone(),
            parts: parts.len(),
        });
        Some(Lookup {
            ticket,
            pages,
            parts,
        })
    }

    /// The store's answer. `None` when it is one to another plan's question.
    ///
    /// # Errors
    /// When a page cannot be one of this state, whoever certified it.
    pub(super) fn on_answer(&mut self, found: LookedUp) -> Result<Option<Findings>, PartsError> {
        let asked = self.question.take_if(|asked| asked.ticket == found.ticket);
        let Some(asked) = asked else {
            return Ok(None);
        };
        let mut findings = Findings::default();
        let pages = found.pages.into_iter().chain(std::iter::repeat(None));
        for (digest, page) in asked.pages.iter().zip(pages) {
            match page {
                Some(page) => self.on_page(digest, &page)?,
                None => findings.missing_pages.extend(self.page_reference(digest)),
            }
        }
        let mut missing = found.missing.into_iter().peekable();
        for part in self.unknown.drain(..asked.parts) {
            if missing.next_if_eq(&part.digest).is_none() {
                let here = self.parts.remove(&part.digest);
                let times = here.map_or(0, |here| here.times);
                findings.parts_here += times;
                findings.bytes_here += times * u64::from(part.bytes);
            } else if self.parts.contains(&part.digest) {
                findings.missing_parts.push(part);
            }
        }
        self.bytes_here += findings.bytes_here;
        Ok(Some(findings))
    }

    fn page_reference(&self, digest: &Digest) -> Option<PartRef> {
        let place = self.pages.get(digest)?.first()?;
        self.state.descriptor.pages.get(*place).copied()
    }

    /// A fetched blob: a page, a part, or both.
    ///
    /// # Errors
    /// When it is a page that cannot be one of this state, whoever certified it.
    pub(super) fn on_blob(&mut self, blob: &Blob) -> Result<(), PartsError> {
        self.begun = true;
        let digest = blob.digest();
        if let Some(part) = self.parts.remove(&digest) {
            self.bytes_here += part.times * u64::from(part.bytes);
        }
        self.on_page(&digest, blob.bytes())
    }

    /// Checks a page in all its places, and takes up its parts.
    fn on_page(&mut self, digest: &Digest, page: &[u8]) -> Result<(), PartsError> {
        for place in self.pages.remove(digest).unwrap_or_default() {
            for part in self.state.descriptor.page(place, page)? {
                if part.bytes > self.part_bytes_max {
                    return Err(PartsError::Cut { index: place });
                }
                self.take_up(part);
            }
        }
        Ok(())
    }

    fn take_up(&mut self, part: PartRef) {
        self.bytes_seen = self.bytes_seen.saturating_add(u64::from(part.bytes));
        let bytes = part.bytes;
        let known = (self.parts).get_or_insert(part.digest, Part { bytes, times: 0 });
        known.times += 1;
        if known.times == 1 {
            self.unknown.push_back(part);
        }
    }
}
