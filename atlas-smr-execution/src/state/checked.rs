//! The parts of a certified state, from wherever they are.

use super::{PartError, PartReader, PartUnavailable};
use crate::pool::ExecutionPool;
use atlas_common::Digest;
use atlas_common::parts::{Blob, PartRef, StateDescriptor};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Where the pages and parts of a checkpoint are: a store, a file, memory.
pub trait PartSource: Send + Sync {
    /// The bytes with this digest, in memory of their own.
    ///
    /// # Errors
    /// When they cannot be had.
    fn part(&self, digest: &Digest) -> Result<Blob, PartUnavailable>;

    /// As [`PartSource::part`] for several, in the order given; for sources to which that is less work.
    fn parts(&self, digests: &[Digest]) -> Vec<Result<Blob, PartUnavailable>> {
        digests.iter().map(|digest| self.part(digest)).collect()
    }
}

impl PartSource for BTreeMap<Digest, Bytes> {
    fn part(&self, digest: &Digest) -> Result<Blob, PartUnavailable> {
        let missing = || PartUnavailable("it is not among the parts".to_owned());
        self.get(digest).cloned().map(Blob::of).ok_or_else(missing)
    }
}

impl<T: PartSource + ?Sized> PartSource for Arc<T> {
    fn part(&self, digest: &Digest) -> Result<Blob, PartUnavailable> {
        (**self).part(digest)
    }

    fn parts(&self, digests: &[Digest]) -> Vec<Result<Blob, PartUnavailable>> {
        (**self).parts(digests)
    }
}

/// Bytes of parts that one job reads, where a part is not larger.
const JOB_BYTES: u64 = 1 << 20;
/// Parts that one job reads.
const JOB_PARTS: usize = 1024;
/// Bytes of parts that are read ahead, where a part is not larger.
const AHEAD_BYTES: u64 = 16 << 20;
/// Pages that are read in one go: a few thousand references.
const PAGES_AT_ONCE: usize = 64;

/// The parts of a described state, each checked against its digest. They are read ahead, in jobs for the
/// threads of a pool.
pub(crate) struct CheckedParts<'a> {
    descriptor: &'a StateDescriptor,
    source: &'a dyn PartSource,
    pool: &'a ExecutionPool,
    chunk_bytes: usize,
    next_page: usize,
    /// Parts of pages that were read.
    known: VecDeque<PartRef>,
    /// What was read ahead.
    ahead: VecDeque<Result<Blob, PartError>>,
    bytes_left: u64,
}

impl<'a> CheckedParts<'a> {
    /// Of a descriptor whose root was checked.
    pub(crate) fn new(
        descriptor: &'a StateDescriptor,
        source: &'a dyn PartSource,
        chunk_bytes: usize,
        pool: &'a ExecutionPool,
    ) -> Result<Self, PartError> {
        descriptor.check()?;
        Ok(Self {
            descriptor,
            source,
            pool,
            chunk_bytes,
            next_page: 0,
            known: VecDeque::new(),
            ahead: VecDeque::new(),
            bytes_left: descriptor.total_bytes,
        })
    }

    /// Reads the next pages.
    fn read_pages(&mut self) -> Result<(), PartError> {
        let first = self.next_page;
        let pages = self.descriptor.pages.iter().skip(first).take(PAGES_AT_ONCE);
        let digests: Vec<Digest> = pages.map(|page| page.digest).collect();
        let read = self.source.parts(&digests);
        for (page, (digest, encoded)) in (first..).zip(digests.into_iter().zip(read)) {
            let encoded = encoded.map_err(|cause| PartError::Unavailable { digest, cause })?;
            let refs = self.descriptor.page(page, encoded.bytes())?;
            self.known.extend(refs);
            self.next_page = page + 1;
        }
        Ok(())
    }

    /// Reads parts ahead.
    fn read_ahead(&mut self) -> Result<(), PartError> {
        if self.known.is_empty() && self.next_page < self.descriptor.pages.len() {
            self.read_pages()?;
        }
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while bytes < AHEAD_BYTES
            && let Some(job) = self.next_job()?
        {
            bytes += weight(&job);
            jobs.push(job);
        }
        let source = self.source;
        let read = self.pool.map(jobs, |job| read(source, &job));
        self.ahead.extend(read.into_iter().flatten());
        Ok(())
    }

    fn next_job(&mut self) -> Result<Option<Vec<PartRef>>, PartError> {
        let (mut job, mut bytes) = (Vec::new(), 0);
        while job.len() < JOB_PARTS
            && let Some(part) = self.known.front()
        {
            let PartRef { digest, bytes: of } = *part;
            if of as usize > self.chunk_bytes {
                return Err(PartError::TooLarge {
                    digest,
                    bytes: of,
                    chunk_bytes: self.chunk_bytes,
                });
            }
            bytes += u64::from(of);
            if bytes > JOB_BYTES && !job.is_empty() {
                break;
            }
            job.extend(self.known.pop_front());
        }
        Ok((!job.is_empty()).then_some(job))
    }
}

fn weight(parts: &[PartRef]) -> u64 {
    parts.iter().map(|part| u64::from(part.bytes)).sum()
}

fn read(source: &dyn PartSource, parts: &[PartRef]) -> Vec<Result<Blob, PartError>> {
    let digests: Vec<Digest> = parts.iter().map(|part| part.digest).collect();
    let check = |(part, found): (&PartRef, Result<Blob, PartUnavailable>)| {
        let digest = part.digest;
        let blob = found.map_err(|cause| PartError::Unavailable { digest, cause })?;
        if blob.is(part) {
            Ok(blob)
        } else {
            Err(PartError::Digest { digest })
        }
    };
    parts
        .iter()
        .zip(source.parts(&digests))
        .map(check)
        .collect()
}

impl PartReader for CheckedParts<'_> {
    fn next_part(&mut self) -> Result<Option<Blob>, PartError> {
        if self.ahead.is_empty() {
            self.read_ahead()?;
        }
        let Some(part) = self.ahead.pop_front().transpose()? else {
            return Ok(None);
        };
        let bytes = part.bytes().len() as u64;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        Ok(Some(part))
    }

    fn bytes_left(&self) -> u64 {
        self.bytes_left
    }
}
