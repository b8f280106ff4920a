//! Signatures that cost a hash instead of an elliptic curve.
//!
//! A signature is a keyed BLAKE3 hash under a secret that only the signer and the verifier know.
//! Whoever holds only public keys and signatures made by others (an adversary in the simulator)
//! can forge one no better than it could guess 256 bits. The rules that a signature enforces are
//! therefore the real ones; only the price differs. A share of all seeds runs real ed25519.

use atlas_common::Digest;
use atlas_common::crypto::{Ed25519, KeyPair, PublicKey, Signature, Signed, Signer, Verifier};
use atlas_common::digest::DigestBuilder;
use std::sync::Arc;

/// The keys of a simulated cluster and what checks their signatures.
#[derive(Clone, Debug)]
pub struct Keys {
    signers: Vec<Arc<dyn Signer>>,
    verifier: Arc<dyn Verifier>,
}

impl Keys {
    /// `count` keys made from `seed`: stand-ins, or real ones.
    #[must_use]
    pub fn new(count: usize, seed: u64, real: bool) -> Self {
        let secret = |i: usize| {
            DigestBuilder::new("atlas v1 sim key")
                .number(seed)
                .number(i as u64)
                .finish()
                .0
        };
        let secrets = (0..count).map(secret);
        if real {
            let signer = |secret| Arc::new(KeyPair::from_seed(&secret)) as Arc<dyn Signer>;
            return Self {
                signers: secrets.map(signer).collect(),
                verifier: Arc::new(Ed25519),
            };
        }
        let stand_ins: Vec<_> = (0..)
            .zip(secrets)
            .map(|(i, s)| StandIn::new(i, s))
            .collect();
        let signer = |one: &StandIn| Arc::new(one.clone()) as Arc<dyn Signer>;
        Self {
            signers: stand_ins.iter().map(signer).collect(),
            verifier: Arc::new(StandInVerifier(stand_ins)),
        }
    }

    /// The signer with this number.
    #[must_use]
    pub fn signer(&self, index: usize) -> Arc<dyn Signer> {
        Arc::clone(&self.signers[index])
    }

    /// What checks the signatures of all of them.
    #[must_use]
    pub fn verifier(&self) -> Arc<dyn Verifier> {
        Arc::clone(&self.verifier)
    }
}

/// One stand-in key.
#[derive(Clone)]
struct StandIn {
    secret: [u8; 32],
    public: PublicKey,
}

impl std::fmt::Debug for StandIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StandIn({:?})", self.public)
    }
}

impl StandIn {
    fn new(index: u32, secret: [u8; 32]) -> Self {
        let mut public = DigestBuilder::new("atlas v1 sim public key")
            .bytes(&secret)
            .finish()
            .0;
        // The verifier finds the key by its first bytes.
        public[..4].copy_from_slice(&index.to_le_bytes());
        Self {
            secret,
            public: PublicKey(public),
        }
    }

    fn mac(&self, digest: &Digest) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(blake3::keyed_hash(&self.secret, digest.as_bytes()).as_bytes());
        bytes
    }
}

impl Signer for StandIn {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, digest: &Digest) -> Signature {
        Signature(self.mac(digest))
    }
}

#[derive(Debug)]
struct StandInVerifier(Vec<StandIn>);

impl Verifier for StandInVerifier {
    fn verify(&self, signed: &Signed) -> bool {
        let [a, b, c, d, ..] = signed.key.0;
        let index = u32::from_le_bytes([a, b, c, d]) as usize;
        self.0.get(index).is_some_and(|stand_in| {
            stand_in.public == signed.key && stand_in.mac(&signed.digest) == signed.signature.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_bind_a_signature_to_key_and_content() {
        for real in [false, true] {
            let keys = Keys::new(3, 7, real);
            let digest = Digest::of(b"content");
            let good = Signed {
                key: keys.signer(1).public_key(),
                digest,
                signature: keys.signer(1).sign(&digest),
            };
            let other_key = Signed {
                key: keys.signer(2).public_key(),
                ..good
            };
            let other_content = Signed {
                digest: Digest::of(b"other"),
                ..good
            };
            let verifier = keys.verifier();
            assert!(verifier.verify(&good));
            assert!(!verifier.verify(&other_key));
            assert!(!verifier.verify(&other_content));
        }
    }
}
