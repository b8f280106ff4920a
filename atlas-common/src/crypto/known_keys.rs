//! Checking the signatures of keys that come again and again.

use super::{OsRandomness, PublicKey, Signed, Verifier};
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use parking_lot::Mutex;
use rand_core::TryRng;
use sha2::{Digest as _, Sha512};
use std::collections::HashMap;
use std::fmt;
use std::iter::once;

/// Keys remembered in each of two generations: with some 200 bytes each, 4 MiB at the most.
const GENERATION_MAX: usize = 1 << 13;

/// [`Ed25519`](super::Ed25519) with a memory for keys: the same verdict on every signature, without
/// decompressing the signer's point each time, which is a fifth of the work in a batch.
///
/// The rules are ZIP 215: `s` is canonical, points may be encoded non-canonically, and the equation is
/// multiplied by the cofactor (`docs/adr/0002-signatures.md`).
#[derive(Default)]
pub struct KnownKeys {
    points: Mutex<Generations>,
}

impl fmt::Debug for KnownKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownKeys").finish_non_exhaustive()
    }
}

/// Points of keys: when the young generation is full, the old one is forgotten.
#[derive(Default)]
struct Generations {
    young: HashMap<PublicKey, EdwardsPoint>,
    old: HashMap<PublicKey, EdwardsPoint>,
}

impl Generations {
    /// The point of a key, or `None` when the key is none.
    fn point(&mut self, key: &PublicKey) -> Option<EdwardsPoint> {
        if let Some(point) = self.young.get(key) {
            return Some(*point);
        }
        let known = self.old.get(key).copied();
        let point = known.or_else(|| CompressedEdwardsY(key.0).decompress())?;
        self.add(*key, point);
        Some(point)
    }

    fn add(&mut self, key: PublicKey, point: EdwardsPoint) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, point);
    }
}

/// A signature taken apart: `s·B = R + k·A` is to hold, up to the cofactor.
struct Equation {
    key: PublicKey,
    r: EdwardsPoint,
    s: Scalar,
    k: Scalar,
}

impl Equation {
    /// `None` when `R` is no point or `s` is not canonical.
    fn of(signed: &Signed) -> Option<Self> {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        r.copy_from_slice(&signed.signature.0[..32]);
        s.copy_from_slice(&signed.signature.0[32..]);
        let hash = Sha512::new()
            .chain_update(r)
            .chain_update(signed.key.0)
            .chain_update(signed.digest.as_bytes());
        Some(Self {
            key: signed.key,
            r: CompressedEdwardsY(r).decompress()?,
            s: Option::from(Scalar::from_canonical_bytes(s))?,
            k: Scalar::from_hash(hash),
        })
    }
}

impl KnownKeys {
    /// One signature: `[8](R + kA − sB) = 0`.
    fn holds(&self, signed: &Signed) -> Option<bool> {
        let equation = Equation::of(signed)?;
        let point = self.points.lock().point(&signed.key)?;
        let negated =
            EdwardsPoint::vartime_double_scalar_mul_basepoint(&equation.k, &-point, &equation.s);
        Some((equation.r - negated).mul_by_cofactor().is_identity())
    }

    /// Many signatures: `[8](Σ zᵢRᵢ + Σ zᵢkᵢAᵢ − (Σ zᵢsᵢ)B) = 0` for random 128-bit `zᵢ` (Bernstein
    /// et al., "High-speed high-security signatures", section 5). The terms of one key are added up
    /// first.
    fn all_hold(&self, signed: &[Signed]) -> Option<bool> {
        let coefficients = random_coefficients(signed.len());
        let mut keys: HashMap<PublicKey, Scalar> = HashMap::with_capacity(signed.len());
        let mut points = Vec::with_capacity(2 * signed.len() + 1);
        let mut scalars = Vec::with_capacity(2 * signed.len() + 1);
        let mut base = Scalar::ZERO;
        for (one, z) in signed.iter().zip(coefficients) {
            let equation = Equation::of(one)?;
            base -= z * equation.s;
            *keys.entry(equation.key).or_insert(Scalar::ZERO) += z * equation.k;
            points.push(equation.r);
            scalars.push(z);
        }
        {
            let mut known = self.points.lock();
            for (key, scalar) in keys {
                points.push(known.point(&key)?);
                scalars.push(scalar);
            }
        }
        let sum = EdwardsPoint::vartime_multiscalar_mul(
            scalars.iter().chain(once(&base)),
            points.iter().chain(once(&ED25519_BASEPOINT_POINT)),
        );
        Some(sum.mul_by_cofactor().is_identity())
    }
}

/// Coefficients that whoever made the signatures cannot have known.
fn random_coefficients(count: usize) -> impl Iterator<Item = Scalar> {
    let mut bytes = vec![0; 16 * count];
    let Ok(()) = OsRandomness.try_fill_bytes(&mut bytes);
    (0..count).map(move |i| {
        let mut one = [0; 16];
        one.copy_from_slice(&bytes[16 * i..16 * (i + 1)]);
        Scalar::from(u128::from_le_bytes(one))
    })
}

impl Verifier for KnownKeys {
    fn verify(&self, signed: &Signed) -> bool {
        self.holds(signed).unwrap_or(false)
    }

    fn verify_all(&self, signed: &[Signed]) -> bool {
        match signed {
            [] => true,
            [one] => self.verify(one),
            _ => self.all_hold(signed).unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Ed25519, KeyPair, Signature, Signer};
    use crate::digest::Digest;
    use crate::rng::SeededRng;

    fn signed(seed: u8, text: &[u8]) -> Signed {
        let pair = KeyPair::from_seed(&[seed; 32]);
        let digest = Digest::of(text);
        Signed {
            key: pair.public_key(),
            digest,
            signature: pair.sign(&digest),
        }
    }

    /// The eight points of small order in all their encodings, canonical or not (ZIP 215's test
    /// vectors are made of these).
    fn small_order_encodings() -> Vec<[u8; 32]> {
        let torsion = curve25519_dalek::constants::EIGHT_TORSION;
        let mut all: Vec<[u8; 32]> = torsion.iter().map(|p| p.compress().0).collect();
        // y = p and y = p + 1 stand for 0 and 1; either sign bit.
        for low in [0xed, 0xee] {
            for high in [0x7f, 0xff] {
                let mut bytes = [0xff; 32];
                bytes[0] = low;
                bytes[31] = high;
                all.push(bytes);
            }
        }
        all
    }

    #[test]
    fn row_25_every_small_order_signature_gets_the_verdict_of_the_reference() {
        let known = KnownKeys::default();
        let mut valid = 0;
        for key in small_order_encodings() {
            for r in small_order_encodings() {
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(&r);
                let odd = Signed {
                    key: PublicKey(key),
                    digest: Digest::of(b"Zcash"),
                    signature: Signature(signature),
                };
                let expected = Ed25519.verify(&odd);
                valid += usize::from(expected);
                assert_eq!(known.verify(&odd), expected, "{odd:?}");
                let batch = [signed(1, b"a"), odd, signed(2, b"b")];
                assert_eq!(known.verify_all(&batch), expected, "{odd:?}");
            }
        }
        assert!(valid > 0, "ZIP 215 accepts them");
    }

    #[test]
    fn damaged_signatures_get_the_verdict_of_the_reference() {
        let seed = 0xA71A5;
        let mut rng = SeededRng::new(seed);
        let known = KnownKeys::default();
        for round in 0..300 {
            let mut one = signed(rng.below(4) as u8, &[rng.below(9) as u8]);
            if rng.chance(0.7) {
                let bit = rng.below(512) as usize;
                one.signature.0[bit / 8] ^= 1 << (bit % 8);
            }
            if rng.chance(0.2) {
                one.key.0[rng.below(32) as usize] ^= 1;
            }
            let expected = Ed25519.verify(&one);
            assert_eq!(known.verify(&one), expected, "seed {seed}, round {round}");
            let batch = [one, signed(1, b"x"), signed(1, b"y")];
            assert_eq!(
                known.verify_all(&batch),
                expected,
                "seed {seed}, round {round}"
            );
        }
    }

    #[test]
    fn an_s_that_is_not_canonical_is_refused() {
        let mut one = signed(3, b"malleable");
        // s + ℓ, the group's order.
        let order = Scalar::ZERO - Scalar::ONE;
        let mut carry = 1u16;
        for (byte, add) in one.signature.0[32..].iter_mut().zip(order.to_bytes()) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        assert!(!Ed25519.verify(&one));
        assert!(!KnownKeys::default().verify(&one));
        assert!(!KnownKeys::default().verify_all(&[one, signed(1, b"x")]));
    }

    #[test]
    fn the_memory_for_keys_is_bounded() {
        let mut generations = Generations::default();
        let point = ED25519_BASEPOINT_POINT;
        for i in 0..3 * GENERATION_MAX as u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&i.to_le_bytes());
            generations.add(PublicKey(key), point);
        }
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_MAX);
    }
}
