//! What can be done with a protocol's records and proofs by name, without a replica.

use super::{ProtocolSettings, SettingsError};
use crate::proof::ProofError;
use atlas_common::{Digest, NodeId, SeqNo, wire};
use atlas_core::protocol::Recorded;
use atlas_core::{Batch, OrderingProtocol, Reject};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Decisions of a log, as far as its records hold them.
#[derive(Clone, Debug, Default)]
pub struct RecordedDecisions {
    /// Batches by their digests.
    pub batches: BTreeMap<Digest, Batch>,
    /// What was decided in each slot, with the encoded proof where the protocol has proofs.
    pub decided: BTreeMap<SeqNo, (Digest, Bytes)>,
}

/// A protocol's records and proofs as bytes.
pub trait ProtocolTools: Send + Sync {
    /// A record in a line of text, for people.
    ///
    /// # Errors
    /// When the bytes are no record of this protocol.
    fn describe(&self, record: &[u8]) -> Result<String, wire::DecodeError>;

    /// Adds what a record says about decisions.
    ///
    /// # Errors
    /// When the bytes are no record of this protocol.
    fn read(&self, record: &[u8], into: &mut RecordedDecisions) -> Result<(), wire::DecodeError>;

    /// Checks the proof of a decision.
    ///
    /// # Errors
    /// Why it does not hold.
    fn verify_decision(
        &self,
        settings: &ProtocolSettings,
        seq: SeqNo,
        batch: &Batch,
        proof: &[u8],
    ) -> Result<(), ProofError>;

    /// Checks that both messages are the culprit's, and says whether they contradict each other.
    ///
    /// # Errors
    /// When one of them is not his.
    fn verify_contradiction(
        &self,
        settings: &ProtocolSettings,
        culprit: NodeId,
        first: &[u8],
        second: &[u8],
    ) -> Result<bool, ProofError>;
}

/// The tools of protocol `P`, whose configuration is made by `F`.
pub(super) struct Tools<P, F> {
    pub(super) settings: F,
    pub(super) protocol: std::marker::PhantomData<fn() -> P>,
}

impl<P, F> Tools<P, F>
where
    P: OrderingProtocol,
    F: Fn(&ProtocolSettings) -> Result<P::Config, SettingsError> + Send + Sync,
{
    /// Settings that a replica would refuse make nothing valid.
    fn config(&self, settings: &ProtocolSettings) -> Result<P::Config, ProofError> {
        (self.settings)(settings).map_err(|_| ProofError::Invalid(Reject::Malformed))
    }
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ProofError> {
    wire::decode(bytes, wire::ENCODED_BYTES_MAX).map_err(|_| ProofError::Invalid(Reject::Malformed))
}

impl<P, F> ProtocolTools for Tools<P, F>
where
    P: OrderingProtocol,
    F: Fn(&ProtocolSettings) -> Result<P::Config, SettingsError> + Send + Sync,
{
    fn describe(&self, record: &[u8]) -> Result<String, wire::DecodeError> {
        let record: P::Record = wire::decode(record, wire::ENCODED_BYTES_MAX)?;
        Ok(format!("{record:?}"))
    }

    fn read(&self, record: &[u8], into: &mut RecordedDecisions) -> Result<(), wire::DecodeError> {
        let record: P::Record = wire::decode(record, wire::ENCODED_BYTES_MAX)?;
        match P::recorded(&record) {
            Recorded::Batch(batch) => {
                into.batches.insert(batch.digest(), batch.clone());
            }
            Recorded::Decision { seq, batch, proof } => {
                let proof = proof.and_then(|proof| wire::encode(proof).ok());
                let proof = Bytes::from(proof.unwrap_or_default());
                into.decided.insert(seq, (batch, proof));
            }
            Recorded::Other => {}
        }
        Ok(())
    }

    fn verify_decision(
        &self,
        settings: &ProtocolSettings,
        seq: SeqNo,
        batch: &Batch,
        proof: &[u8],
    ) -> Result<(), ProofError> {
        let (config, proof) = (self.config(settings)?, decode::<P::Proof>(proof)?);
        P::verify_decision(&config, &settings.membership, seq, &batch.digest(), &proof)?;
        Ok(())
    }

    fn verify_contradiction(
        &self,
        settings: &ProtocolSettings,
        culprit: NodeId,
        first: &[u8],
        second: &[u8],
    ) -> Result<bool, ProofError> {
        let config = self.config(settings)?;
        let (first, second): (P::Message, P::Message) = (decode(first)?, decode(second)?);
        for message in [&first, &second] {
            P::verify(&config, &settings.membership, culprit, message)?;
        }
        Ok(P::contradict(&first, &second))
    }
}
