//! Proofs as files: what a cluster decided, which state it certified, who contradicted himself.
//!
//! Whoever has the cluster file can check one, on any machine and at any time; nobody has to be
//! asked, or believed. A proof file is a magic, a version, the genesis digest of its cluster, a digest
//! of what follows, and a [`Proven`] in the project's encoding.
//!
//! Only Byzantine protocols sign what they say. A crash cluster's word cannot be shown to third
//! parties, and there are no proofs of it.

use crate::config::ClusterConfig;
use crate::registry::{ProtocolRegistry, ProtocolSettings};
use atlas_common::crypto::{Ed25519, KeyPair};
use atlas_common::digest::DigestBuilder;
use atlas_common::{Digest, NodeId, SeqNo, wire};
use atlas_core::{Batch, CheckpointCertificate, Limits, Membership, Reject};
use atlas_smr_core::bundle::RequestBundle;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

const MAGIC: [u8; 8] = *b"atlasprf";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 32 + 32;
/// The longest proof file, in bytes: 64 MiB.
pub const PROOF_BYTES_MAX: usize = 64 << 20;

/// What a proof file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proven {
    /// A slot and what was decided in it.
    Decision {
        /// The protocol that decided.
        protocol: String,
        /// The slot.
        seq: SeqNo,
        /// The batch.
        batch: Batch,
        /// The protocol's proof, encoded.
        proof: Bytes,
    },
    /// A state that a quorum vouches for.
    Checkpoint(CheckpointCertificate),
    /// Two messages of one replica that no correct replica sends both of.
    Contradiction {
        /// The protocol that both are messages of.
        protocol: String,
        /// Who signed them.
        culprit: NodeId,
        /// One, encoded.
        first: Bytes,
        /// The other, encoded.
        second: Bytes,
    },
}

/// A proof, and the cluster it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofFile {
    /// The cluster's genesis digest.
    pub genesis: Digest,
    /// What it proves.
    pub proven: Proven,
}

/// A file that proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The bytes are no proof file.
    #[error("this is not a proof file: export one with `atlas export-proof`")]
    NotAProof,
    /// Another version of Atlas wrote it.
    #[error("the proof file has format version {found}; this program reads version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The bytes are not those that were written.
    #[error("the proof file is damaged: export it again, or take another copy")]
    Damaged,
    /// It is about another cluster.
    #[error("the proof is about cluster {found}, the cluster file is that of {expected}")]
    OtherCluster {
        /// The genesis digest in the proof.
        found: Digest,
        /// That of the cluster file.
        expected: Digest,
    },
    /// The protocol is not one that is known here.
    #[error("the proof is one of protocol `{0}`, which this program does not know")]
    UnknownProtocol(String),
    /// Nothing is signed, so nothing is proven.
    #[error(
        "protocol `{0}` signs nothing: its replicas are trusted, and there are no proofs for others"
    )]
    NothingSigned(String),
    /// The signatures do not prove what the file says.
    #[error("the proof does not hold: {0}")]
    Invalid(#[from] Reject),
    /// A client's signature in the batch does not hold.
    #[error("the proof does not hold: a request in the batch is not signed by its client")]
    Client,
    /// The two messages may both come from a correct replica.
    #[error("the two messages do not contradict each other: they prove nothing against {0}")]
    NoContradiction(NodeId),
}

impl ProofFile {
    /// The bytes of the file.
    #[must_use]
    #[expect(clippy::expect_used, reason = "numbers and byte strings encode")]
    pub fn encode(&self) -> Vec<u8> {
        let body = wire::encode(&self.proven).expect("numbers and byte strings encode");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.genesis.0);
        bytes.extend_from_slice(&seal(&self.genesis, &body).0);
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When the bytes are no proof file, of another version, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProofError> {
        let (head, body) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or(ProofError::NotAProof)?;
        let (magic, head) = head.split_at(8);
        let (version, head) = head.split_at(4);
        let (genesis, digest) = head.split_at(32);
        if magic != MAGIC {
            return Err(ProofError::NotAProof);
        }
        let version = version.try_into().map(u32::from_le_bytes);
        match version {
            Ok(VERSION) => {}
            Ok(found) => return Err(ProofError::Version { found }),
            Err(_) => return Err(ProofError::NotAProof),
        }
        let genesis = genesis.try_into().map(Digest);
        let genesis = genesis.map_err(|_| ProofError::NotAProof)?;
        if seal(&genesis, body).0 != *digest {
            return Err(ProofError::Damaged);
        }
        let proven = wire::decode(body, PROOF_BYTES_MAX).map_err(|_| ProofError::Damaged)?;
        Ok(Self { genesis, proven })
    }

    /// Checks the proof against a cluster, and says what it proves.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn verify(
        &self,
        cluster: &ClusterConfig,
        registry: &ProtocolRegistry,
    ) -> Result<Statement, ProofError> {
        let (found, expected) = (self.genesis, *cluster.genesis());
        if found != expected {
            return Err(ProofError::OtherCluster { found, expected });
        }
        let own = cluster.protocol();
        let membership = cluster.membership(Arc::new(Ed25519));
        if !membership.quorums().signed() {
            return Err(ProofError::NothingSigned(own.name.to_owned()));
        }
        let tools = |name: &str| {
            let tools = registry.tools(name);
            tools.ok_or_else(|| ProofError::UnknownProtocol(name.to_owned()))
        };
        match &self.proven {
            Proven::Decision {
                protocol,
                seq,
                batch,
                proof,
            } => {
                let settings = settings(cluster, Arc::clone(&membership));
                tools(protocol)?.verify_decision(&settings, *seq, batch, proof)?;
                decision(*seq, batch, &membership, cluster.limits())
            }
            Proven::Checkpoint(certificate) => {
                certificate.verify(&membership)?;
                Ok(Statement::Checkpoint(certificate.clone()))
            }
            Proven::Contradiction {
                protocol,
                culprit,
                first,
                second,
            } => {
                let settings = settings(cluster, Arc::clone(&membership));
                let contradict =
                    tools(protocol)?.verify_contradiction(&settings, *culprit, first, second)?;
                match contradict {
                    true => Ok(Statement::Contradiction(*culprit)),
                    false => Err(ProofError::NoContradiction(*culprit)),
                }
            }
        }
    }
}

fn seal(genesis: &Digest, body: &[u8]) -> Digest {
    DigestBuilder::new("atlas v1 proof file")
        .number(u64::from(VERSION))
        .digest(genesis)
        .bytes(body)
        .finish()
}

/// A protocol's settings, for a node that checks and never signs.
fn settings(cluster: &ClusterConfig, membership: Arc<Membership>) -> ProtocolSettings {
    ProtocolSettings {
        membership,
        limits: cluster.limits().clone(),
        timeouts: *cluster.timeouts(),
        signer: Arc::new(KeyPair::from_seed(&[0; 32])),
        lease_reads: cluster.lease_reads(),
        unordered_reads: cluster.unordered_reads(),
    }
}

/// The quorum's word covers the batch; whether each client really asked is in its own signature.
fn decision(
    seq: SeqNo,
    batch: &Batch,
    membership: &Membership,
    limits: &Limits,
) -> Result<Statement, ProofError> {
    let decode =
        |raw: &Bytes| RequestBundle::decode(raw.clone(), membership.genesis(), limits).ok();
    let bundles: Option<Vec<RequestBundle>> = batch.bundles().iter().map(decode).collect();
    let bundles = bundles.ok_or(ProofError::Client)?;
    let signed: Vec<_> = bundles.iter().map(RequestBundle::signed).collect();
    if !membership.verifier().verify_all(&signed) {
        return Err(ProofError::Client);
    }
    let clients: BTreeSet<_> = bundles.iter().map(RequestBundle::client).collect();
    Ok(Statement::Decision {
        seq,
        batch: batch.digest(),
        operations: bundles.iter().map(|b| b.operations().len()).sum(),
        clients: clients.len(),
    })
}

/// What a proof says, once it has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// This was decided.
    Decision {
        /// The slot.
        seq: SeqNo,
        /// The digest of the batch.
        batch: Digest,
        /// Operations in it, each signed by its client.
        operations: usize,
        /// How many clients they are of.
        clients: usize,
    },
    /// This state was certified.
    Checkpoint(CheckpointCertificate),
    /// This replica lied.
    Contradiction(NodeId),
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decision {
                seq,
                batch,
                operations,
                clients,
            } => write!(
                f,
                "decision {seq}: {operations} operations of {clients} clients, batch {batch}; a \
                 quorum of replicas has committed it, and every request is signed by its client"
            ),
            Self::Checkpoint(certificate) => {
                let voters: Vec<String> = certificate
                    .votes
                    .iter()
                    .map(|(id, _)| id.to_string())
                    .collect();
                write!(
                    f,
                    "state {state} after decision {seq}: certified by replicas {voters}",
                    state = certificate.id.state,
                    seq = certificate.id.seq,
                    voters = voters.join(", ")
                )
            }
            Self::Contradiction(culprit) => write!(
                f,
                "replica {culprit} has signed two messages that no correct replica signs both of"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{InitOptions, KnownProtocol, NodeConfig, init};
    use atlas_common::View;
    use atlas_common::crypto::Signer as _;
    use atlas_common::rng::SeededRng;
    use atlas_pbft::Pbft;
    use atlas_pbft::message::{Message, Phase, Vote, prepare_digest};

    struct Nodes {
        cluster: ClusterConfig,
        keys: Vec<KeyPair>,
    }

    fn nodes() -> Nodes {
        let dir = tempfile::tempdir().unwrap();
        let pbft = KnownProtocol::of::<Pbft>();
        let made = init(
            &InitOptions::new(dir.path().join("c"), 4, pbft),
            &|_| Ok(()),
        )
        .unwrap();
        let key = |path: &std::path::PathBuf| NodeConfig::load(path, &[pbft]).unwrap().key;
        Nodes {
            keys: made.replicas.iter().map(key).collect(),
            cluster: made.cluster,
        }
    }

    impl Nodes {
        fn vote(&self, by: usize, batch: &[u8]) -> Bytes {
            let membership = self.cluster.membership(Arc::new(Ed25519));
            let (view, seq, digest) = (View(3), SeqNo(7), Digest::of(batch));
            let signed = prepare_digest(&membership, view, seq, &digest);
            let vote = Vote {
                phase: Phase::Prepare,
                view,
                seq,
                digest,
                signature: self.keys[by].sign(&signed),
            };
            wire::encode(&Message::Vote(vote)).unwrap().into()
        }

        fn verdict(
            &self,
            culprit: u32,
            first: Bytes,
            second: Bytes,
        ) -> Result<Statement, ProofError> {
            let file = ProofFile {
                genesis: *self.cluster.genesis(),
                proven: Proven::Contradiction {
                    protocol: "pbft".to_owned(),
                    culprit: NodeId(culprit),
                    first,
                    second,
                },
            };
            let read = ProofFile::decode(&file.encode()).unwrap();
            assert_eq!(read, file);
            read.verify(&self.cluster, &ProtocolRegistry::default())
        }
    }

    #[test]
    fn row_1_two_signed_votes_for_different_batches_convict_their_signer_and_nobody_else() {
        let nodes = nodes();
        let (one, other) = (nodes.vote(2, b"one"), nodes.vote(2, b"other"));
        let guilty = nodes.verdict(2, one.clone(), other.clone());
        assert_eq!(guilty, Ok(Statement::Contradiction(NodeId(2))));
        let same = nodes.verdict(2, one.clone(), one.clone());
        assert_eq!(same, Err(ProofError::NoContradiction(NodeId(2))));
        let framed = nodes.verdict(1, one.clone(), other);
        assert_eq!(framed, Err(ProofError::Invalid(Reject::BadSignature)));
        let mixed = nodes.verdict(2, one, nodes.vote(1, b"other"));
        assert_eq!(mixed, Err(ProofError::Invalid(Reject::BadSignature)));
    }

    #[test]
    fn no_bytes_are_more_than_a_refusal() {
        let nodes = nodes();
        let file = ProofFile {
            genesis: *nodes.cluster.genesis(),
            proven: Proven::Contradiction {
                protocol: "pbft".to_owned(),
                culprit: NodeId(9),
                first: nodes.vote(0, b"a"),
                second: Bytes::from_static(b"no message"),
            },
        };
        let bytes = file.encode();
        let mut rng = SeededRng::new(7);
        for length in 0..bytes.len() {
            assert!(ProofFile::decode(&bytes[..length]).is_err());
            let mut flipped = bytes.clone();
            flipped[length] ^= 1 << rng.below(8);
            // The genesis digest is not a part of the body, but it is sealed with it.
            assert!(ProofFile::decode(&flipped).is_err(), "byte {length}");
        }
        let verdict = file.verify(&nodes.cluster, &ProtocolRegistry::default());
        assert!(
            matches!(verdict, Err(ProofError::Invalid(_))),
            "{verdict:?}"
        );
    }
}
