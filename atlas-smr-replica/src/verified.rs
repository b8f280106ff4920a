//! Remembering signatures that were found valid.
//!
//! The same vote reaches a replica alone, in the prepared certificates of view changes, in the new
//! view that repeats those, and again when they are retransmitted. Each signature is checked once;
//! without that a view change under load costs more than its own time-out.

use atlas_common::Digest;
use atlas_common::crypto::{PublicKey, Signature, Signed, Signer, Verifier, random_number};
use atlas_common::digest_map::{DigestMap, MapKey};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

/// Signatures remembered in each of two generations, at least and at most.
const GENERATION_MIN: u64 = 1 << 10;
const GENERATION_MAX: u64 = 1 << 17;
/// What remembering one takes: a digest, its place in a table that is half full, and what the allocator adds.
const ENTRY_BYTES: u64 = 64;

/// How many signatures a generation holds: those of two windows, in each slot a proposal and two votes of
/// each member. That is what view changes repeat; older ones are of no use.
fn generation(window: u64, members: u64) -> usize {
    let wanted = window.saturating_mul(2).saturating_mul(2 * members + 1);
    // It fits any address space.
    wanted.clamp(GENERATION_MIN, GENERATION_MAX) as usize
}

/// What all remembered signatures take at most.
pub(crate) fn bytes_max(window: u64, members: u64) -> u64 {
    2 * generation(window, members) as u64 * ENTRY_BYTES
}

/// The digest of key, content and signature together.
fn entry(key: &PublicKey, digest: &Digest, signature: &Signature) -> Digest {
    let mut bytes = [0; 32 + 32 + 64];
    bytes[..32].copy_from_slice(&key.0);
    bytes[32..64].copy_from_slice(&digest.0);
    bytes[64..].copy_from_slice(&signature.0);
    Digest::of(&bytes)
}

fn entry_of(signed: &Signed) -> Digest {
    entry(&signed.key, &signed.digest, &signed.signature)
}

/// Valid signatures in two generations: when the young one is full, the old one is forgotten. Their memory
/// is used again, and nothing in it moves while they fill: all replicas of a cluster fill theirs at the same
/// time, and would stand still together.
struct Generations {
    young: DigestMap<()>,
    old: DigestMap<()>,
    generation_max: usize,
}

impl Generations {
    fn holds(&self, entry: &Digest) -> bool {
        self.young.contains(entry) || self.old.contains(entry)
    }

    fn add(&mut self, entry: Digest) {
        if self.young.len() >= self.generation_max {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.remove_all();
        }
        self.young.insert(entry, ());
    }
}

/// A verifier that checks each signature once. What it says never differs from what the verifier
/// inside it says: only valid signatures are remembered, with their key and content.
pub(crate) struct CachingVerifier {
    inner: Arc<dyn Verifier>,
    known: Mutex<Generations>,
}

impl fmt::Debug for CachingVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachingVerifier").field(&self.inner).finish()
    }
}

impl CachingVerifier {
    /// For a cluster with this window and so many members.
    pub(crate) fn new(inner: Arc<dyn Verifier>, window: u64, members: u64) -> Self {
        let key = MapKey::new(random_number());
        let known = Generations {
            young: DigestMap::new(key),
            old: DigestMap::new(key),
            generation_max: generation(window, members),
        };
        Self {
            inner,
            known: Mutex::new(known),
        }
    }

    fn unknown(&self, signed: &[Signed]) -> Vec<Signed> {
        let known = self.known.lock();
        let new = signed.iter().filter(|one| !known.holds(&entry_of(one)));
        new.copied().collect()
    }

    /// A signer whose signatures need no check when they come back.
    pub(crate) fn signer(self: &Arc<Self>, inner: Arc<dyn Signer>) -> Arc<dyn Signer> {
        Arc::new(RememberedSigner {
            inner,
            verifier: Arc::clone(self),
        })
    }
}

impl Verifier for CachingVerifier {
    fn verify(&self, signed: &Signed) -> bool {
        let entry = entry_of(signed);
        if self.known.lock().holds(&entry) {
            return true;
        }
        let valid = self.inner.verify(signed);
        if valid {
            self.known.lock().add(entry);
        }
        valid
    }

    fn verify_all(&self, signed: &[Signed]) -> bool {
        let unknown = self.unknown(signed);
        let valid = self.inner.verify_all(&unknown);
        if valid && !unknown.is_empty() {
            let mut known = self.known.lock();
            unknown.iter().for_each(|one| known.add(entry_of(one)));
        }
        valid
    }

    fn prepare(&self, signed: &[Signed]) {
        let unknown = self.unknown(signed);
        // By halves: one bad signature among them does not spoil the others.
        let verdicts = self.inner.verify_each(&unknown);
        let mut known = self.known.lock();
        for (one, valid) in unknown.iter().zip(verdicts) {
            if valid {
                known.add(entry_of(one));
            }
        }
    }
}

#[derive(Debug)]
struct RememberedSigner {
    inner: Arc<dyn Signer>,
    verifier: Arc<CachingVerifier>,
}

impl Signer for RememberedSigner {
    fn public_key(&self) -> PublicKey {
        self.inner.public_key()
    }

    fn sign(&self, digest: &Digest) -> Signature {
        let signature = self.inner.sign(digest);
        let entry = entry(&self.public_key(), digest, &signature);
        self.verifier.known.lock().add(entry);
        signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::crypto::{Ed25519, KeyPair};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl Verifier for Counting {
        fn verify(&self, signed: &Signed) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ed25519.verify(signed)
        }
    }

    #[test]
    fn each_valid_signature_is_checked_once_and_nothing_else_is_believed() {
        let counting = Arc::new(Counting::default());
        let cache = Arc::new(CachingVerifier::new(
            Arc::clone(&counting) as Arc<dyn Verifier>,
            100,
            4,
        ));
        let (alice, bob) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
        let digest = Digest::of(b"vote");
        let signed = Signed {
            key: alice.public_key(),
            digest,
            signature: alice.sign(&digest),
        };
        assert!(cache.verify(&signed) && cache.verify(&signed) && cache.verify_all(&[signed; 3]));
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        // The same signature in another's name, or over something else.
        assert!(!cache.verify(&Signed {
            key: bob.public_key(),
            ..signed
        }));
        assert!(!cache.verify(&Signed {
            digest: Digest::of(b"other"),
            ..signed
        }));
        let mut pair = [signed, signed];
        pair[0].digest = Digest::of(b"prepared");
        pair[0].signature = alice.sign(&pair[0].digest);
        pair[1].digest = Digest::of(b"bad");
        cache.prepare(&pair);
        let before = counting.0.load(Ordering::Relaxed);
        assert!(cache.verify(&pair[0]));
        assert_eq!(counting.0.load(Ordering::Relaxed), before);
        assert!(!cache.verify(&pair[1]));
        let own = cache.signer(Arc::new(bob.clone()));
        let signature = own.sign(&digest);
        let before = counting.0.load(Ordering::Relaxed);
        assert!(cache.verify(&Signed {
            key: bob.public_key(),
            digest,
            signature
        }));
        assert_eq!(counting.0.load(Ordering::Relaxed), before);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_is_among_it() {
        let cache = CachingVerifier::new(Arc::new(Ed25519), 100, 4);
        let generation = generation(100, 4);
        assert_eq!(generation, 1800);
        let entry = |n: u64| {
            let digest = Digest::of(&n.to_le_bytes());
            super::entry(&PublicKey([1; 32]), &digest, &Signature([0; 64]))
        };
        let mut known = cache.known.lock();
        for n in 0..10_000 {
            known.add(entry(n));
            assert!(known.young.len() + known.old.len() <= 2 * generation);
            assert!(known.holds(&entry(n.saturating_sub(1799))));
        }
    }
}
