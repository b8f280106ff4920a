//! Validity: what is ordered was sent by a client.

use super::Violation;
use atlas_common::{Digest, SeqNo};
use atlas_core::Batch;
use std::collections::HashSet;

/// Every bundle that a client (correct or not) has signed and sent.
#[derive(Debug, Default)]
pub struct Validity {
    sent: HashSet<Digest>,
}

impl Validity {
    /// A client has sent this encoded bundle.
    pub fn sent(&mut self, bundle: &[u8]) {
        self.sent.insert(Digest::of(bundle));
    }

    /// A batch was decided.
    ///
    /// # Errors
    /// When a bundle in it was sent by nobody.
    pub fn decided(&self, seq: SeqNo, batch: &Batch) -> Result<(), Violation> {
        let digests = batch.bundles().iter().map(|bundle| Digest::of(bundle));
        match digests
            .into_iter()
            .find(|digest| !self.sent.contains(digest))
        {
            Some(bundle) => Err(Violation::Validity { seq, bundle }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::AgreedTime;
    use bytes::Bytes;

    #[test]
    fn what_nobody_sent_is_found() {
        let mut validity = Validity::default();
        validity.sent(b"bundle");
        let batch = |bundle| {
            let bundles = [Bytes::from_static(b"bundle"), Bytes::from_static(bundle)];
            Batch::new(AgreedTime::default(), &bundles)
        };
        assert_eq!(validity.decided(SeqNo(1), &batch(b"bundle")), Ok(()));
        assert!(validity.decided(SeqNo(1), &batch(b"other")).is_err());
        assert_eq!(validity.decided(SeqNo(1), &Batch::null()), Ok(()));
    }
}
