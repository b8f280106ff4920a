//! Checkpoint certificates: a quorum's word on a state.

use crate::membership::Membership;
use crate::verified::Reject;
use atlas_common::crypto::{Signature, Signer};
use atlas_common::digest::DigestBuilder;
use atlas_common::{Digest, Epoch, NodeId, SeqNo};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a checkpoint is a checkpoint of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckpointId {
    /// The epoch that decided `seq`.
    pub epoch: Epoch,
    /// The last decision whose effects the state holds.
    pub seq: SeqNo,
    /// The digest of application state and session table.
    pub state: Digest,
}

impl CheckpointId {
    /// What a replica signs to vouch for this checkpoint in the cluster named by `genesis`.
    #[must_use]
    pub fn signing_digest(&self, genesis: &Digest) -> Digest {
        DigestBuilder::new("atlas v1 checkpoint vote")
            .digest(genesis)
            .number(self.epoch.0)
            .number(self.seq.0)
            .digest(&self.state)
            .finish()
    }

    /// This replica's vote for the checkpoint.
    #[must_use]
    pub fn sign(&self, genesis: &Digest, signer: &dyn Signer) -> Signature {
        signer.sign(&self.signing_digest(genesis))
    }
}

/// A checkpoint with the votes of a quorum: transferable evidence that the state is the right one.
///
/// In a crash cluster, where nobody lies, it is the local durable checkpoint without votes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointCertificate {
    /// What is certified.
    pub id: CheckpointId,
    /// Who vouches for it.
    pub votes: Vec<(NodeId, Signature)>,
}

impl CheckpointCertificate {
    /// The certificate of a crash cluster.
    #[must_use]
    pub const fn unsigned(id: CheckpointId) -> Self {
        Self {
            id,
            votes: Vec::new(),
        }
    }

    /// Checks the certificate: a quorum of different voters of this epoch, every signature valid. In
    /// a crash cluster only the epoch is checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, membership: &Membership) -> Result<(), Reject> {
        if self.id.epoch != membership.epoch() {
            return Err(Reject::WrongEpoch);
        }
        if !membership.quorums().signed() {
            return Ok(());
        }
        let digest = self.id.signing_digest(membership.genesis());
        verify_votes(membership, &self.votes, |_| digest)
    }
}

/// Checks that `votes` are at least a quorum of different voters' valid signatures, each over the
/// digest that `digest_of` gives for the voter. The one rule for every certificate.
///
/// # Errors
/// [`Reject::BadCertificate`] for too few, too many or repeated voters, [`Reject::NotAMember`] or
/// [`Reject::BadSignature`] for one that is invalid.
pub fn verify_votes(
    membership: &Membership,
    votes: &[(NodeId, Signature)],
    digest_of: impl Fn(NodeId) -> Digest,
) -> Result<(), Reject> {
    let quorums = membership.quorums();
    if votes.len() < quorums.quorum() || votes.len() > quorums.n() {
        return Err(Reject::BadCertificate);
    }
    let voters: BTreeSet<NodeId> = votes.iter().map(|(id, _)| *id).collect();
    if voters.len() != votes.len() {
        return Err(Reject::BadCertificate);
    }
    let signed = votes
        .iter()
        .map(|(id, signature)| membership.signed_by_voter(*id, digest_of(*id), *signature))
        .collect::<Option<Vec<_>>>()
        .ok_or(Reject::NotAMember)?;
    if membership.verifier().verify_all(&signed) {
        Ok(())
    } else {
        Err(Reject::BadSignature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Member, Role};
    use atlas_common::crypto::{Ed25519, KeyPair};
    use atlas_common::quorum::FaultModel;
    use std::sync::Arc;

    fn four() -> (Vec<KeyPair>, Membership) {
        let keys: Vec<_> = (0..5).map(|i| KeyPair::from_seed(&[i; 32])).collect();
        let member = |i: usize, role| Member {
            id: NodeId(i as u32),
            key: keys[i].public_key(),
            role,
        };
        let mut members: Vec<_> = (0..4).map(|i| member(i, Role::Voter)).collect();
        members.push(member(4, Role::Learner));
        let membership = Membership::new(
            Digest::of(b"genesis"),
            Epoch(0),
            FaultModel::Byzantine,
            members,
            Arc::new(Ed25519),
        );
        (keys, membership.unwrap())
    }

    fn certificate(keys: &[KeyPair], genesis: &Digest, signers: &[u32]) -> CheckpointCertificate {
        let id = CheckpointId {
            epoch: Epoch(0),
            seq: SeqNo(8),
            state: Digest::of(b"state"),
        };
        let vote = |i: &u32| (NodeId(*i), id.sign(genesis, &keys[*i as usize]));
        CheckpointCertificate {
            id,
            votes: signers.iter().map(vote).collect(),
        }
    }

    #[test]
    fn votes_are_counted_per_voter_and_not_per_message() {
        let (keys, membership) = four();
        let verdict =
            |signers: &[u32]| certificate(&keys, membership.genesis(), signers).verify(&membership);
        assert_eq!(verdict(&[0, 1, 3]), Ok(()));
        assert_eq!(verdict(&[0, 1]), Err(Reject::BadCertificate));
        assert_eq!(verdict(&[0, 1, 1]), Err(Reject::BadCertificate));
        assert_eq!(verdict(&[0, 1, 4]), Err(Reject::NotAMember));
    }

    #[test]
    fn row_9_a_certificate_of_another_cluster_or_epoch_is_refused() {
        let (keys, membership) = four();
        let other = Digest::of(b"another cluster");
        let foreign = certificate(&keys, &other, &[0, 1, 2]);
        assert_eq!(foreign.verify(&membership), Err(Reject::BadSignature));
        let mut later = certificate(&keys, membership.genesis(), &[0, 1, 2]);
        later.id.epoch = Epoch(1);
        assert_eq!(later.verify(&membership), Err(Reject::WrongEpoch));
    }

    #[test]
    fn row_12_every_signature_of_a_certificate_is_verified() {
        let (keys, membership) = four();
        let mut forged = certificate(&keys, membership.genesis(), &[0, 1, 2]);
        forged.votes[2].0 = NodeId(3);
        assert_eq!(forged.verify(&membership), Err(Reject::BadSignature));
    }
}
