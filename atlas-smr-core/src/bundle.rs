//! Request bundles: the unit that a client signs, and that is ordered, deduplicated, logged and
//! replied to.

use atlas_common::crypto::{Signature, Signed, Signer};
use atlas_common::digest::DigestBuilder;
use atlas_common::wire::{self, DecodeError};
use atlas_common::{ClientId, Digest, NodeId, OpNumber, ReplicaSet, SessionId};
use atlas_core::Limits;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Consecutive operations of one client session under one signature (or a request to open a
/// session), immutable once made.
///
/// The signature covers the encoded body as it was received, with the cluster's genesis digest, and
/// no epoch: a bundle outlives one. It is *not* checked by [`RequestBundle::decode`]; a bundle whose
/// [`RequestBundle::signed`] was not verified must not be acted on.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestBundle {
    raw: Bytes,
    digest: Digest,
    signature: Signature,
    client: ClientId,
    session: SessionId,
    first: OpNumber,
    acknowledged: OpNumber,
    repliers: ReplicaSet,
    operations: Vec<Bytes>,
}

/// What a client says in a bundle, before it signs it.
#[derive(Clone, Copy, Debug)]
pub struct UnsignedBundle<'a> {
    /// Who says it.
    pub client: ClientId,
    /// In which session.
    pub session: SessionId,
    /// The number of the first operation.
    pub first: OpNumber,
    /// The client has seen the replies of all operations up to here.
    pub acknowledged: OpNumber,
    /// The replicas that are to answer as soon as the bundle is executed; empty for all of them. The
    /// others answer when the client asks them itself, by sending them the bundle.
    pub repliers: ReplicaSet,
    /// The operations, opaque here.
    pub operations: &'a [Bytes],
}

/// `RequestMessage` is the field's wider word for what is a signed bundle here.
pub type RequestMessage = RequestBundle;

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    body: &'a [u8],
    signature: Signature,
}

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    client: ClientId,
    session: SessionId,
    first: OpNumber,
    acknowledged: OpNumber,
    repliers: ReplicaSet,
    #[serde(borrow)]
    operations: Vec<&'a [u8]>,
}

/// A bundle that is not one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// The bytes are no bundle.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It has no operations, or operations in a request to open a session.
    #[error("a bundle holds at least one operation, and a request to open a session none")]
    Empty,
    /// Operation numbers count from 1 and stay within 64 bits.
    #[error("operation numbers {first} and on are out of range")]
    Numbers {
        /// The first of them.
        first: OpNumber,
    },
    /// More operations, or larger ones, than allowed.
    #[error("{what} is {found}, at most {limit} allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: usize,
        /// How large it may be.
        limit: usize,
    },
}

impl RequestBundle {
    /// A signed request to open a session for `client`.
    #[must_use]
    pub fn open(client: ClientId, genesis: &Digest, signer: &dyn Signer) -> Self {
        let open = UnsignedBundle {
            client,
            session: SessionId::ZERO,
            first: OpNumber::ZERO,
            acknowledged: OpNumber::ZERO,
            repliers: ReplicaSet::default(),
            operations: &[],
        };
        Self::new(&open, genesis, signer)
    }

    /// Signs a bundle for the cluster of this genesis.
    #[must_use]
    #[expect(clippy::expect_used, reason = "numbers and byte strings always encode")]
    pub fn new(says: &UnsignedBundle<'_>, genesis: &Digest, signer: &dyn Signer) -> Self {
        let body = Body {
            client: says.client,
            session: says.session,
            first: says.first,
            acknowledged: says.acknowledged,
            repliers: says.repliers,
            operations: says.operations.iter().map(AsRef::as_ref).collect(),
        };
        let body = wire::encode(&body).expect("numbers and byte strings encode");
        let digest = signing_digest(genesis, &body);
        let signature = signer.sign(&digest);
        let envelope = Envelope {
            body: &body,
            signature,
        };
        let raw = Bytes::from(wire::encode(&envelope).expect("byte strings encode"));
        Self {
            raw,
            digest,
            signature,
            client: says.client,
            session: says.session,
            first: says.first,
            acknowledged: says.acknowledged,
            repliers: says.repliers,
            operations: says.operations.to_vec(),
        }
    }

    /// Reads a bundle from its bytes and checks every rule but the signature.
    ///
    /// # Errors
    /// When the bytes are no bundle, or it breaks a limit.
    pub fn decode(raw: Bytes, genesis: &Digest, limits: &Limits) -> Result<Self, BundleError> {
        let envelope: Envelope<'_> = wire::decode_borrowed(&raw, limits.bundle_bytes_max)?;
        let body: Body<'_> = wire::decode_borrowed(envelope.body, limits.bundle_bytes_max)?;
        check(&body, limits)?;
        Ok(Self {
            digest: signing_digest(genesis, envelope.body),
            signature: envelope.signature,
            client: body.client,
            session: body.session,
            first: body.first,
            acknowledged: body.acknowledged,
            repliers: body.repliers,
            operations: body.operations.iter().map(|op| raw.slice_ref(op)).collect(),
            raw,
        })
    }

    /// The encoded bundle.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// What names the bundle: the digest that its client signed.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What to check for its signature.
    #[must_use]
    pub fn signed(&self) -> Signed {
        Signed {
            key: self.client.key,
            digest: self.digest,
            signature: self.signature,
        }
    }

    /// Whose bundle it is.
    #[must_use]
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// The session; [`SessionId::ZERO`] in a request to open one.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Whether it asks to open a session.
    #[must_use]
    pub fn opens_session(&self) -> bool {
        self.session == SessionId::ZERO
    }

    /// The number of its first operation.
    #[must_use]
    pub fn first(&self) -> OpNumber {
        self.first
    }

    /// The number of its last operation.
    #[must_use]
    pub fn last(&self) -> OpNumber {
        self.first.plus(self.operations.len() as u64).prev()
    }

    /// The client has seen the replies of all operations up to here.
    #[must_use]
    pub fn acknowledged(&self) -> OpNumber {
        self.acknowledged
    }

    /// Whom the client asks to answer at once; empty for all.
    #[must_use]
    pub fn repliers(&self) -> ReplicaSet {
        self.repliers
    }

    /// Whether this replica is to answer as soon as the bundle is executed.
    #[must_use]
    pub fn is_answered_by(&self, replica: NodeId) -> bool {
        self.repliers.is_empty() || self.repliers.contains(replica)
    }

    /// The operations, opaque here.
    #[must_use]
    pub fn operations(&self) -> &[Bytes] {
        &self.operations
    }

    /// The operations with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (OpNumber, &Bytes)> {
        (0..).map(|i| self.first.plus(i)).zip(&self.operations)
    }
}

impl fmt::Debug for RequestBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.opens_session() {
            return write!(f, "open for {:?}", self.client);
        }
        write!(f, "{:?} {:?}..={:?}", self.session, self.first, self.last())
    }
}

fn signing_digest(genesis: &Digest, body: &[u8]) -> Digest {
    DigestBuilder::new("atlas v1 request bundle")
        .digest(genesis)
        .bytes(body)
        .finish()
}

fn check(body: &Body<'_>, limits: &Limits) -> Result<(), BundleError> {
    let count = body.operations.len();
    if (body.session == SessionId::ZERO) != (count == 0) {
        return Err(BundleError::Empty);
    }
    if count == 0 {
        return Ok(());
    }
    let end = body.first.0.checked_add(count as u64);
    if body.first == OpNumber::ZERO || end.is_none() {
        return Err(BundleError::Numbers { first: body.first });
    }
    let limit = limits.bundle_operations_max;
    if count > limit {
        return Err(BundleError::TooLarge {
            what: "the operation count",
            found: count,
            limit,
        });
    }
    let largest = body.operations.iter().map(|op| op.len()).max().unwrap_or(0);
    let limit = limits.operation_bytes_max;
    if largest > limit {
        return Err(BundleError::TooLarge {
            what: "an operation",
            found: largest,
            limit,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::crypto::{Ed25519, KeyPair, Verifier};

    fn made(operations: &[Bytes]) -> (RequestBundle, Digest) {
        let key = KeyPair::from_seed(&[1; 32]);
        let client = ClientId {
            key: key.public_key(),
            instance: 7,
        };
        let genesis = Digest::of(b"cluster");
        let session = if operations.is_empty() {
            SessionId::ZERO
        } else {
            SessionId(3)
        };
        let first = if operations.is_empty() {
            OpNumber(0)
        } else {
            OpNumber(5)
        };
        let says = UnsignedBundle {
            client,
            session,
            first,
            acknowledged: first.prev(),
            repliers: ReplicaSet::only(NodeId(99)),
            operations,
        };
        (RequestBundle::new(&says, &genesis, &key), genesis)
    }

    #[test]
    fn a_bundle_survives_the_wire_and_its_signature_holds() {
        let (bundle, genesis) = made(&[Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        let read = RequestBundle::decode(bundle.raw().clone(), &genesis, &Limits::default());
        assert_eq!(read.as_ref(), Ok(&bundle));
        assert!(Ed25519.verify(&bundle.signed()));
        assert_eq!(bundle.last(), OpNumber(6));
    }

    #[test]
    fn row_9_a_bundle_of_another_cluster_does_not_verify() {
        let (bundle, _) = made(&[Bytes::from_static(b"a")]);
        let other = Digest::of(b"another cluster");
        let read = RequestBundle::decode(bundle.raw().clone(), &other, &Limits::default()).unwrap();
        assert!(!Ed25519.verify(&read.signed()));
    }

    #[test]
    fn limits_hold_on_operations() {
        let (bundle, genesis) = made(&[Bytes::from_static(b"abc"), Bytes::new()]);
        let decode = |limits: &Limits| {
            RequestBundle::decode(bundle.raw().clone(), &genesis, limits).unwrap_err()
        };
        let few = Limits {
            bundle_operations_max: 1,
            ..Limits::default()
        };
        assert!(matches!(
            decode(&few),
            BundleError::TooLarge {
                found: 2,
                limit: 1,
                ..
            }
        ));
        let small = Limits {
            operation_bytes_max: 2,
            ..Limits::default()
        };
        assert!(matches!(
            decode(&small),
            BundleError::TooLarge {
                found: 3,
                limit: 2,
                ..
            }
        ));
    }
}
