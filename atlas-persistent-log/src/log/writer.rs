//! Writing the log.

use super::format::{self, HEADER_BYTES, RESERVE_BYTES};
use super::recover::{self, SEGMENT_BYTES_CAP};
use super::segments::Segments;
use super::{LogError, LogOptions, RECORD_BYTES_CAP, Recovered};
use crate::mode::Durability;
use crate::remedy::Remedy;
use crate::storage::{Storage, StorageError};
use atlas_common::Lsn;
use std::sync::Arc;

/// The writing end of a log. Everything happens on the calling thread: [`Self::append`] any number
/// of records, then [`Self::commit`] them with one write and one sync.
///
/// After an error of the storage the writer has failed for good: every later call returns
/// [`LogError::Failed`], and nothing more counts as durable. Open the log anew.
#[derive(Debug)]
pub struct LogWriter {
    options: LogOptions,
    /// `None` in mode `memory`.
    segments: Option<Segments>,
    next: Lsn,
    /// The last record that the operating system has.
    written: Lsn,
    /// The last record that a power cut leaves.
    durable: Lsn,
    failed: Option<(String, Remedy)>,
}

impl LogWriter {
    /// Opens a log and reads all its records, or begins an empty one where there is none. A torn
    /// tail is cut off and everything that is reported is durable on return.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when records that were durable are not whole: nothing has been changed
    /// then. Otherwise when the log belongs to another cluster or version, or the storage fails.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: LogOptions,
    ) -> Result<(Self, Recovered), LogError> {
        let options = clamp(options);
        if options.durability == Durability::Memory {
            return Self::open_in_memory(&*storage, options);
        }
        let (segments, recovered) = match recover::read(&*storage, &options)? {
            Some(found) => {
                let segments = Segments::resume(storage, options.clone(), &found)?;
                let recovered = Recovered {
                    last: found.tail.last,
                    records: found.records,
                    existed: true,
                    torn: found.torn,
                };
                (segments, recovered)
            }
            None => (
                Segments::begin(storage, options.clone())?,
                Recovered::default(),
            ),
        };
        let mut writer = Self {
            options,
            segments: Some(segments),
            next: recovered.last.next(),
            written: recovered.last,
            durable: recovered.last,
            failed: None,
        };
        writer.mark_tail()?;
        Ok((writer, recovered))
    }

    fn open_in_memory(
        storage: &dyn Storage,
        options: LogOptions,
    ) -> Result<(Self, Recovered), LogError> {
        let mut names = storage.list()?.into_iter();
        if let Some(file) = names.find(|name| format::first_lsn_of(name).is_some()) {
            return Err(LogError::ExistingLog { file });
        }
        let writer = Self {
            options,
            segments: None,
            next: Lsn(1),
            written: Lsn::ZERO,
            durable: Lsn::ZERO,
            failed: None,
        };
        Ok((writer, Recovered::default()))
    }

    /// The options, after they were brought within their bounds.
    #[must_use]
    pub const fn options(&self) -> &LogOptions {
        &self.options
    }

    /// The number of the next record.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The last record that counts as durable under the chosen [`Durability`].
    #[must_use]
    pub const fn acknowledged(&self) -> Lsn {
        match self.options.durability {
            Durability::Sync => self.durable,
            Durability::Async | Durability::Memory => self.written,
        }
    }

    /// Whether something is written that a power cut may take.
    #[must_use]
    pub fn needs_sync(&self) -> bool {
        self.segments.is_some() && self.durable < self.written
    }

    /// The first record that is kept: [`Self::truncate_below`] moves it, by whole segments.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.segments.as_ref().map_or(Lsn(1), Segments::low)
    }

    /// Whether `record` may be appended under this number.
    ///
    /// # Errors
    /// As [`Self::append`], except for failures of the storage.
    pub fn check(&self, lsn: Lsn, record: &[u8]) -> Result<(), LogError> {
        if let Some((cause, remedy)) = &self.failed {
            return Err(LogError::Failed {
                cause: cause.clone(),
                remedy: *remedy,
            });
        }
        if record.len() > self.options.record_bytes_max {
            return Err(LogError::RecordTooLong {
                lsn,
                found_bytes: record.len(),
                limit_bytes: self.options.record_bytes_max,
            });
        }
        if lsn != self.next {
            return Err(LogError::OutOfOrder {
                expected: self.next,
                found: lsn,
            });
        }
        Ok(())
    }

    /// Adds a record to the group that the next [`Self::commit`] writes. (Where it fills a segment,
    /// the group so far is written and synced at once.)
    ///
    /// # Errors
    /// When the number is not the next one, the record too long, or the storage fails or has
    /// failed.
    pub fn append(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), LogError> {
        self.check(lsn, record)?;
        let segments = self.segments.as_ref();
        if segments.is_some_and(|segments| segments.is_full_for(record.len())) {
            self.guarded(Self::rotate)?;
        }
        if let Some(segments) = &mut self.segments {
            segments.append(lsn, record);
        }
        self.next = lsn.next();
        Ok(())
    }

    /// Writes what was appended, and in mode `sync` syncs it. Returns the last record that counts as
    /// durable.
    ///
    /// # Errors
    /// When the storage fails or has failed.
    pub fn commit(&mut self) -> Result<Lsn, LogError> {
        self.guarded(Self::write)?;
        if self.options.durability == Durability::Sync && self.needs_sync() {
            self.guarded(Self::sync_file)?;
        }
        Ok(self.acknowledged())
    }

    /// Makes everything written durable, in any mode but `memory`.
    ///
    /// # Errors
    /// When the storage fails or has failed.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.guarded(|log| {
            log.write()?;
            log.sync_file()
        })
    }

    /// Writes, without a sync, that the last group is durable, if that is so and no frame says it
    /// yet: from then on damage to it is never taken for a torn write. Worth calling when there is
    /// nothing else to do for a moment. Returns whether it wrote.
    ///
    /// # Errors
    /// When the storage fails or has failed.
    pub fn mark_tail(&mut self) -> Result<bool, LogError> {
        self.guarded(|log| match &mut log.segments {
            Some(segments) => segments.mark_tail(log.next.prev()),
            None => Ok(false),
        })
    }

    /// Removes what lies wholly below `lsn`, by whole segments.
    ///
    /// # Errors
    /// When the storage fails or has failed.
    pub fn truncate_below(&mut self, lsn: Lsn) -> Result<(), LogError> {
        let useless = self.release_below(lsn)?;
        self.guarded(|log| {
            let Some(segments) = &log.segments else {
                return Ok(());
            };
            delete(&**segments.storage(), &useless)
        })
    }

    /// As [`Self::truncate_below`], but gives the files that are to be deleted, at any time, since file
    /// systems may take long for it; an opening would do it as well.
    pub(crate) fn release_below(&mut self, lsn: Lsn) -> Result<Vec<String>, LogError> {
        self.guarded(|log| {
            let last = log.next.prev();
            let Some(segments) = &mut log.segments else {
                return Ok(Vec::new());
            };
            let released = segments.release_below(lsn, last)?;
            if released.is_some() {
                log.written = last;
                log.durable = last;
            }
            Ok(released.unwrap_or_default())
        })
    }

    /// Where the log is; `None` in mode `memory`.
    pub(crate) fn storage(&self) -> Option<&Arc<dyn Storage>> {
        self.segments.as_ref().map(Segments::storage)
    }

    /// Writes and syncs everything, with a marker that says so. Returns the last record.
    ///
    /// # Errors
    /// When the storage fails or has failed.
    pub fn close(mut self) -> Result<Lsn, LogError> {
        self.settle()
    }

    /// What [`Self::close`] does.
    pub(crate) fn settle(&mut self) -> Result<Lsn, LogError> {
        self.sync()?;
        if self.mark_tail()? {
            self.guarded(Self::sync_file)?;
        }
        Ok(self.acknowledged())
    }

    /// Runs a step after which, if it fails, nothing more is done.
    fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, LogError> {
        if let Some((cause, remedy)) = &self.failed {
            return Err(LogError::Failed {
                cause: cause.clone(),
                remedy: *remedy,
            });
        }
        step(self).map_err(|error| {
            self.failed = Some((error.to_string(), error.remedy()));
            error.into()
        })
    }

    fn write(&mut self) -> Result<(), StorageError> {
        if let Some(segments) = &mut self.segments {
            segments.write()?;
        }
        self.written = self.next.prev();
        Ok(())
    }

    fn sync_file(&mut self) -> Result<(), StorageError> {
        if let Some(segments) = &mut self.segments {
            segments.sync()?;
            self.durable = self.written;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), StorageError> {
        if let Some(segments) = &mut self.segments {
            segments.rotate(self.next)?;
            self.written = self.next.prev();
            self.durable = self.written;
        }
        Ok(())
    }
}

/// Deletes files of segments that were let go. That need not be durable: an opening finishes it.
pub(crate) fn delete(storage: &dyn Storage, names: &[String]) -> Result<(), StorageError> {
    names.iter().try_for_each(|name| storage.delete(name))
}

fn clamp(options: LogOptions) -> LogOptions {
    let record_bytes_max = options.record_bytes_max.min(RECORD_BYTES_CAP);
    let smallest = (HEADER_BYTES + RESERVE_BYTES) as u64;
    LogOptions {
        segment_bytes: options.segment_bytes.clamp(smallest, SEGMENT_BYTES_CAP / 2),
        fill_bytes: options.fill_bytes.min(SEGMENT_BYTES_CAP / 8),
        record_bytes_max,
        ..options
    }
}
