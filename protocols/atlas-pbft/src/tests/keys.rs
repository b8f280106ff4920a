//! Signatures that cost a hash: keyed, so that only who has the key can sign.

use atlas_common::Digest;
use atlas_common::crypto::{PublicKey, Signature, Signed, Signer, Verifier};
use atlas_common::digest::DigestBuilder;

#[derive(Clone, Debug)]
pub(super) struct Key([u8; 32]);

impl Signer for Key {
    fn public_key(&self) -> PublicKey {
        PublicKey(DigestBuilder::new("rig key").bytes(&self.0).finish().0)
    }

    fn sign(&self, digest: &Digest) -> Signature {
        let half = DigestBuilder::new("rig signature")
            .bytes(&self.0)
            .digest(digest)
            .finish()
            .0;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&half);
        signature[32..].copy_from_slice(&half);
        Signature(signature)
    }
}

/// The keys of a cluster; the verifier knows them all.
#[derive(Clone, Debug)]
pub(super) struct Keys(pub(super) Vec<Key>);

impl Keys {
    pub(super) fn new(n: usize) -> Self {
        Self((0..n).map(|i| Key([i as u8 + 1; 32])).collect())
    }
}

impl Verifier for Keys {
    fn verify(&self, signed: &Signed) -> bool {
        let key = self.0.iter().find(|key| key.public_key() == signed.key);
        key.is_some_and(|key| key.sign(&signed.digest) == signed.signature)
    }
}
