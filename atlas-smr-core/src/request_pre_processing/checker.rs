//! The checks that every bundle passes before anything is done with it.

use super::VerifiedCache;
use crate::bundle::{BundleError, RequestBundle};
use atlas_common::crypto::{PublicKey, Signed, Verifier};
use atlas_common::{ClientId, Digest};
use atlas_core::{Batch, Limits, Membership, Reject};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bundles that are remembered as verified.
const CACHE_ENTRIES_MAX: usize = 1 << 16;

/// Who may be a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAdmission {
    /// Anybody.
    Any,
    /// Holders of these keys.
    Listed(BTreeSet<PublicKey>),
}

impl ClientAdmission {
    /// Whether the holder of this key may be a client.
    #[must_use]
    pub fn admits(&self, key: &PublicKey) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(keys) => keys.contains(key),
        }
    }
}

/// Decodes bundles, and checks limits, admission and signatures. It depends on no state of the core,
/// so that any thread may use it, and all replicas judge the same bundle alike.
#[derive(Debug)]
pub struct BundleChecker {
    genesis: Digest,
    limits: Limits,
    verifier: Arc<dyn Verifier>,
    admission: ClientAdmission,
    trust_peers: bool,
    cache: VerifiedCache,
}

impl BundleChecker {
    /// A checker for one cluster.
    ///
    /// Where replicas do not lie (a crash cluster), what they pass on is believed to be checked.
    #[must_use]
    pub fn new(membership: &Membership, limits: &Limits, admission: ClientAdmission) -> Self {
        Self {
            genesis: *membership.genesis(),
            limits: limits.clone(),
            verifier: Arc::clone(membership.verifier()),
            admission,
            trust_peers: !membership.quorums().signed(),
            cache: VerifiedCache::new(CACHE_ENTRIES_MAX),
        }
    }

    /// Who may be a client.
    #[must_use]
    pub const fn admission(&self) -> &ClientAdmission {
        &self.admission
    }

    /// Which signatures were found valid.
    #[must_use]
    pub const fn cache(&self) -> &VerifiedCache {
        &self.cache
    }

    /// Checks a bundle that came over the connection of client `from`.
    ///
    /// # Errors
    /// [`Reject::Malformed`], [`Reject::TooLarge`], [`Reject::WrongSender`] for another client's
    /// bundle, [`Reject::BadRequest`] for a client that is not admitted, [`Reject::BadSignature`].
    pub fn check_client(&self, from: &ClientId, raw: Bytes) -> Result<RequestBundle, Reject> {
        let mut verdicts = self.check_clients(vec![(*from, raw)]);
        verdicts.pop().unwrap_or(Err(Reject::Malformed))
    }

    /// Checks bundles that came over the connections of these clients, their signatures together. A
    /// bundle that comes twice is [`Reject::Duplicate`] the second time.
    #[must_use]
    pub fn check_clients(
        &self,
        frames: Vec<(ClientId, Bytes)>,
    ) -> Vec<Result<RequestBundle, Reject>> {
        let mut seen = BTreeSet::new();
        let verdicts = frames.into_iter().map(|(from, raw)| {
            let bundle = self.decode(raw)?;
            if bundle.client() != from {
                return Err(Reject::WrongSender);
            }
            let new = seen.insert((bundle.digest(), bundle.signed().signature.0));
            if new {
                Ok(bundle)
            } else {
                Err(Reject::Duplicate)
            }
        });
        let verdicts = verdicts.collect();
        self.check_signatures(verdicts)
    }

    /// Checks bundles that another replica passed on. Those that came twice are given once.
    ///
    /// # Errors
    /// The first rule that one of them breaks: a correct replica passes on only what it has checked.
    pub fn check_forwarded(&self, raws: Vec<Bytes>) -> Result<Vec<RequestBundle>, Reject> {
        let mut seen = BTreeSet::new();
        let mut bundles = Vec::with_capacity(raws.len());
        for raw in raws {
            let bundle = self.decode(raw)?;
            if seen.insert(bundle.digest()) {
                bundles.push(bundle);
            }
        }
        if !self.trust_peers {
            self.all_signed(&bundles)?;
        }
        Ok(bundles)
    }

    /// Checks all bundles of a batch: for [`Verified::check`](atlas_core::Verified::check). A bundle
    /// that is there twice, or was executed before, is no fault: it is skipped at execution.
    ///
    /// # Errors
    /// [`Reject::BadRequest`] when one is malformed, too large, not its client's, or its client not
    /// admitted; [`Reject::TooLarge`] when the batch is.
    pub fn check_batch(&self, batch: &Batch) -> Result<(), Reject> {
        if batch.raw().len() > self.limits.batch_bytes_max {
            return Err(Reject::TooLarge);
        }
        let decoded = batch.bundles().iter().map(|raw| self.decode(raw.clone()));
        let bundles: Vec<RequestBundle> = decoded
            .collect::<Result<_, _>>()
            .map_err(|_| Reject::BadRequest)?;
        self.all_signed(&bundles).map_err(|_| Reject::BadRequest)
    }

    /// The signatures in a batch that [`Self::check_batch`] would have to check.
    #[must_use]
    pub fn unchecked(&self, batch: &Batch) -> Vec<Signed> {
        let bundles = batch.bundles().iter();
        bundles
            .filter_map(|raw| Some(self.decode(raw.clone()).ok()?.signed()))
            .filter(|signed| !self.known(signed))
            .collect()
    }

    fn decode(&self, raw: Bytes) -> Result<RequestBundle, Reject> {
        let bundle =
            RequestBundle::decode(raw, &self.genesis, &self.limits).map_err(
                |error| match error {
                    BundleError::TooLarge { .. } => Reject::TooLarge,
                    _ => Reject::Malformed,
                },
            )?;
        if self.admission.admits(&bundle.client().key) {
            Ok(bundle)
        } else {
            Err(Reject::BadRequest)
        }
    }

    fn known(&self, signed: &Signed) -> bool {
        self.cache.contains(&signed.digest, &signed.signature)
    }

    fn all_signed(&self, bundles: &[RequestBundle]) -> Result<(), Reject> {
        let new: Vec<Signed> = bundles
            .iter()
            .map(RequestBundle::signed)
            .filter(|s| !self.known(s))
            .collect();
        if !self.verifier.verify_all(&new) {
            return Err(Reject::BadSignature);
        }
        for signed in new {
            self.cache.insert(signed.digest, signed.signature);
        }
        Ok(())
    }

    fn check_signatures(
        &self,
        mut verdicts: Vec<Result<RequestBundle, Reject>>,
    ) -> Vec<Result<RequestBundle, Reject>> {
        let decoded = verdicts.iter().enumerate();
        let (positions, signed): (Vec<usize>, Vec<Signed>) = decoded
            .filter_map(|(i, verdict)| Some((i, verdict.as_ref().ok()?.signed())))
            .filter(|(_, signed)| !self.known(signed))
            .unzip();
        let valid = self.verifier.verify_each(&signed);
        for ((position, signed), valid) in positions.into_iter().zip(signed).zip(valid) {
            if valid {
                self.cache.insert(signed.digest, signed.signature);
            } else {
                verdicts[position] = Err(Reject::BadSignature);
            }
        }
        verdicts
    }
}
