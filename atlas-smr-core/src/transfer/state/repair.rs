//! Fetching single blobs of a state that is here, to put them in the place of damaged ones.

use super::fetch::Fetch;
use super::{Out, StateTransferEffect};
use atlas_common::parts::{Blob, PartRef};
use atlas_common::{Digest, Time};
use std::time::Duration;

/// Damaged blobs that are known at a time.
const REPAIRS_MAX: usize = 4096;
/// How often peers that were left alone are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

impl Fetch {
    pub(super) fn is_repairing(&self) -> bool {
        !self.repairs.is_empty()
    }

    pub(super) fn request_parts(&mut self, now: Time, parts: &[PartRef], out: &mut Out) {
        for part in parts {
            if self.repairs.len() < REPAIRS_MAX {
                self.repairs.insert(part.digest, part.bytes);
            }
        }
        if !self.is_active() {
            self.repair_at = now;
            self.run_repairs(now, out);
        }
    }

    /// Asks everybody for what is damaged: blobs are found by their digests, so that whoever has one
    /// will do, of whatever checkpoint.
    pub(super) fn run_repairs(&mut self, now: Time, out: &mut Out) {
        if !self.is_repairing() {
            return;
        }
        for (digest, bytes) in &self.repairs {
            let (digest, bytes) = (*digest, *bytes);
            self.download.want(PartRef { digest, bytes }, false);
        }
        if self.repair_at <= now {
            self.repair_at = now.after(TRY_AGAIN);
            for id in self.download.others(now) {
                self.download.add_source(id);
            }
        }
        self.download.ask(now, out);
    }

    pub(super) fn repair(&mut self, now: Time, good: Vec<Blob>, out: &mut Out) {
        let wanted = |blob: Blob| {
            self.repairs.remove(&blob.digest())?;
            self.download.forget(&blob.digest());
            Some(blob)
        };
        let blobs: Vec<Blob> = good.into_iter().filter_map(wanted).collect();
        if !blobs.is_empty() {
            out.counters.parts_repaired += blobs.len() as u64;
            out.effects.push_back(StateTransferEffect::Repair { blobs });
        }
        self.end_repairs();
        self.run_repairs(now, out);
    }

    /// A peer has not got these. What no peer has is given up.
    pub(super) fn on_lacking(&mut self, gone: &[Digest], out: &mut Out) {
        let nowhere = |digest: &Digest| self.download.is_nowhere(digest);
        let digests: Vec<Digest> = gone.iter().copied().filter(nowhere).collect();
        for digest in &digests {
            self.repairs.remove(digest);
            self.download.forget(digest);
        }
        if !digests.is_empty() {
            out.effects
                .push_back(StateTransferEffect::Unrepairable { digests });
        }
        self.end_repairs();
    }

    fn end_repairs(&mut self) {
        if !self.is_repairing() && !self.is_active() {
            self.download.clear();
        }
    }
}
