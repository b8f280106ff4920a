//! Reading checkpoints for peers.

use super::{StoreEvent, StoreKeeper};
use crate::recovery::{StoredCertificate, read_certified};
use atlas_common::{Digest, NodeId, SeqNo};
use atlas_persistent_log::StoreError;
use atlas_smr_core::transfer::StateTransferMessage;
use atlas_smr_core::transfer::state::{ANSWER_DIGESTS_MAX, answer};

impl StoreKeeper {
    pub(super) fn offer(&self, to: NodeId, above: SeqNo) -> Result<StoreEvent, StoreError> {
        let list = self.store.list()?.into_iter();
        let mut newer = list.rev().take_while(|seq| *seq > above);
        let offer = newer.find_map(|seq| {
            let found = read_certified(&self.store, seq).ok()??;
            let StoredCertificate {
                certificate,
                frontier,
            } = found.stored;
            Some(StateTransferMessage::Offer {
                certificate,
                frontier,
                descriptor: found.descriptor,
            })
        });
        let messages = offer.into_iter().collect();
        Ok(StoreEvent::Read { to, messages })
    }

    /// A blob that is damaged is as good as gone for the peer, which asks another; and this replica
    /// asks for it too.
    pub(super) fn parts(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<StoreEvent>, StoreError> {
        let (mut damage, mut failure) = (Vec::new(), None);
        let digests = digests.get(..ANSWER_DIGESTS_MAX).unwrap_or(digests);
        let read = self.store.read_for_peer(digests, self.answer_bytes as u64);
        let (asked, _) = digests.split_at(read.len());
        let mut read = read.into_iter();
        let messages = answer(asked, self.answer_bytes, |_| {
            match read.next()? {
                Ok(blob) => return Some(blob),
                Err(StoreError::Damaged(found)) => damage.push(found),
                Err(StoreError::NoSuchBlob { .. }) => {}
                Err(error) => failure = Some(error),
            }
            None
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let damaged = self.damaged(&damage);
        let damaged = (!damaged.is_empty()).then_some(StoreEvent::Damaged(damaged));
        let read = StoreEvent::Read { to, messages };
        Ok([read].into_iter().chain(damaged).collect())
    }
}
