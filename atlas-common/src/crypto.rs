//! Keys and signatures: ed25519 under the ZIP 215 rules.
//!
//! ZIP 215 defines exactly which signatures are valid, the same for one at a time as for a batch, so
//! that all replicas agree whichever way each of them checks (other ed25519 libraries differ here;
//! `docs/adr/0002-signatures.md`).
//!
//! Whatever is signed in Atlas is a 32-byte [`Digest`] made by a
//! [`DigestBuilder`](crate::digest::DigestBuilder) under a context naming the kind of message, so a
//! signature made for one purpose serves no other.
//!
//! [`Signer`] and [`Verifier`] are traits because the simulator, which signs a billion times, uses a
//! stand-in of its own; production uses [`KeyPair`] and [`KnownKeys`], or
//! [`Ed25519`] where few signatures are checked.

mod known_keys;

pub use known_keys::KnownKeys;

use crate::bytes_serde::byte_string;
use crate::digest::Digest;
use ed25519_zebra::{
    Signature as ZebraSignature, SigningKey, VerificationKey, VerificationKeyBytes,
};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// An ed25519 public key, 32 bytes. It names a node: holding the private half is the identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PublicKey(pub [u8; 32]);

byte_string!(PublicKey, 32);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key:{}…", hex::encode(&self.0[..4]))
    }
}

/// A key in text was not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a key is 64 hexadecimal digits, found {found} characters")]
pub struct KeyFormatError {
    /// How many characters there were.
    pub found: usize,
}

impl FromStr for PublicKey {
    type Err = KeyFormatError;

    fn from_str(text: &str) -> Result<Self, KeyFormatError> {
        parse_hex_32(text).map(Self)
    }
}

fn parse_hex_32(text: &str) -> Result<[u8; 32], KeyFormatError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyFormatError {
        found: text.chars().count(),
    })?;
    Ok(bytes)
}

/// A signature over a [`Digest`], 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sig:{}…", hex::encode(&self.0[..4]))
    }
}

byte_string!(Signature, 64);

/// Makes signatures under one key.
pub trait Signer: Send + Sync + fmt::Debug {
    /// The public half of the key.
    fn public_key(&self) -> PublicKey;

    /// Signs a digest. Deterministic: the same digest gives the same signature.
    fn sign(&self, digest: &Digest) -> Signature;
}

/// One signature to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Whose signature it claims to be.
    pub key: PublicKey,
    /// What it claims to sign.
    pub digest: Digest,
    /// The claim.
    pub signature: Signature,
}

/// Checks signatures.
pub trait Verifier: Send + Sync + fmt::Debug {
    /// Whether this signature is valid.
    fn verify(&self, signed: &Signed) -> bool;

    /// Whether all of these signatures are valid. Faster than one by one; does not say which is bad.
    fn verify_all(&self, signed: &[Signed]) -> bool {
        signed.iter().all(|one| self.verify(one))
    }

    /// These signatures are about to be asked for: a verifier with a memory checks them together now.
    /// Changes no verdict.
    fn prepare(&self, _signed: &[Signed]) {}

    /// Which of these signatures are valid, in their order: all at once where all are, and by halves
    /// where some are not, so that one bad signature costs its batch a logarithm, not a second pass.
    fn verify_each(&self, signed: &[Signed]) -> Vec<bool> {
        let mut verdicts = vec![false; signed.len()];
        verify_by_halves(self, signed, &mut verdicts);
        verdicts
    }
}

fn verify_by_halves<V: Verifier + ?Sized>(verifier: &V, signed: &[Signed], verdicts: &mut [bool]) {
    match signed {
        [] => {}
        [one] => verdicts[0] = verifier.verify(one),
        _ if verifier.verify_all(signed) => verdicts.fill(true),
        _ => {
            let middle = signed.len() / 2;
            let (low, high) = verdicts.split_at_mut(middle);
            verify_by_halves(verifier, &signed[..middle], low);
            verify_by_halves(verifier, &signed[middle..], high);
        }
    }
}

/// An ed25519 key pair.
#[derive(Clone)]
pub struct KeyPair {
    signing: SigningKey,
    public: PublicKey,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// The operating system gave no random bytes.
#[derive(Debug, Error)]
#[error("the operating system gave no random bytes for a new key: {0}")]
pub struct EntropyError(getrandom::Error);

impl KeyPair {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, EntropyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(EntropyError)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key with this secret seed (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let public = PublicKey(VerificationKeyBytes::from(&signing).into());
        Self { signing, public }
    }

    /// The secret seed, which wipes itself when dropped.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_bytes())
    }

    /// The secret seed as text, for a key file.
    #[must_use]
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.seed().as_ref()))
    }

    /// Reads what [`Self::to_secret_text`] wrote.
    ///
    /// # Errors
    /// When the text is not 64 hexadecimal digits.
    pub fn from_secret_text(text: &str) -> Result<Self, KeyFormatError> {
        let mut seed = parse_hex_32(text)?;
        let pair = Self::from_seed(&seed);
        seed.zeroize();
        Ok(pair)
    }
}

impl Signer for KeyPair {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, digest: &Digest) -> Signature {
        Signature(self.signing.sign(digest.as_bytes()).to_bytes())
    }
}

/// Checks ed25519 signatures under the ZIP 215 rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ed25519;

impl Verifier for Ed25519 {
    fn verify(&self, signed: &Signed) -> bool {
        VerificationKey::try_from(signed.key.0).is_ok_and(|key| {
            let signature = ZebraSignature::from_bytes(&signed.signature.0);
            key.verify(&signature, signed.digest.as_bytes()).is_ok()
        })
    }

    fn verify_all(&self, signed: &[Signed]) -> bool {
        // Below this a batch costs more than its parts.
        const WORTH_A_BATCH: usize = 3;
        if signed.len() < WORTH_A_BATCH {
            return signed.iter().all(|one| self.verify(one));
        }
        let mut batch = ed25519_zebra::batch::Verifier::new();
        for one in signed {
            let key = VerificationKeyBytes::from(one.key.0);
            let signature = ZebraSignature::from_bytes(&one.signature.0);
            batch.queue((key, signature, one.digest.as_bytes()));
        }
        batch.verify(OsRandomness).is_ok()
    }
}

/// A number from the operating system that nobody else can guess.
#[must_use]
pub fn random_number() -> u64 {
    let Ok(number) = rand_core::TryRng::try_next_u64(&mut OsRandomness);
    number
}

/// The random coefficients of a batch check. They must be unknown to whoever made the signatures, so
/// they come from the operating system; the verdict does not depend on them (but for one chance in
/// 2¹²⁸), so determinism is kept.
struct OsRandomness;

impl rand_core::TryRng for OsRandomness {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[expect(
        clippy::expect_used,
        reason = "without randomness a forger could pass the check"
    )]
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        getrandom::fill(bytes).expect("the operating system gives random bytes once it has booted");
        Ok(())
    }
}

impl rand_core::TryCryptoRng for OsRandomness {}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(seed: u8, text: &[u8]) -> Signed {
        let pair = KeyPair::from_seed(&[seed; 32]);
        let digest = Digest::of(text);
        Signed {
            key: pair.public_key(),
            digest,
            signature: pair.sign(&digest),
        }
    }

    #[test]
    fn a_signature_is_bound_to_key_and_content() {
        let good = signed(1, b"pay 5");
        assert!(Ed25519.verify(&good));
        assert!(!Ed25519.verify(&Signed {
            digest: Digest::of(b"pay 6"),
            ..good
        }));
        assert!(!Ed25519.verify(&Signed {
            key: signed(2, b"").key,
            ..good
        }));
        assert!(!Ed25519.verify(&Signed {
            key: PublicKey([0xff; 32]),
            ..good
        }));
    }

    #[test]
    fn verify_each_finds_exactly_the_bad_ones() {
        let mut all: Vec<Signed> = (0..20).map(|i| signed(i, &[i; 9])).collect();
        assert!(Ed25519.verify_all(&all));
        for bad in [0, 7, 19] {
            all[bad].signature.0[3] ^= 1;
        }
        assert!(!Ed25519.verify_all(&all));
        let verdicts = Ed25519.verify_each(&all);
        let bad: Vec<usize> = (0..20).filter(|i| !verdicts[*i]).collect();
        assert_eq!(bad, [0, 7, 19]);
    }

    #[test]
    fn keys_survive_text() {
        let pair = KeyPair::from_seed(&[9; 32]);
        let again = KeyPair::from_secret_text(&pair.to_secret_text()).unwrap();
        assert_eq!(pair.public_key(), again.public_key());
        let public: PublicKey = pair.public_key().to_string().parse().unwrap();
        assert_eq!(public, pair.public_key());
        assert_eq!("12".parse::<PublicKey>(), Err(KeyFormatError { found: 2 }));
    }

    /// Row 25: a signature whose points carry a small-order part passes a cofactored batch check and
    /// fails a cofactorless single one. Under ZIP 215 both must agree.
    #[test]
    fn row_25_small_order_points_get_one_verdict_alone_and_in_a_batch() {
        // The identity point, as key and as R, with s = 0: [8]R + [8]kA = [8]sB holds.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let odd = Signed {
            key: PublicKey(identity),
            digest: Digest::of(b"anything"),
            signature: Signature(signature),
        };
        let alone = Ed25519.verify(&odd);
        let mut batch: Vec<Signed> = (0..5).map(|i| signed(i, b"x")).collect();
        batch.push(odd);
        assert_eq!(Ed25519.verify_all(&batch), alone);
    }
}
