//! Who the replicas of an epoch are.

use atlas_common::crypto::{PublicKey, Signature, Signed, Verifier};
use atlas_common::quorum::{ClusterSizeError, FaultModel, Quorums};
use atlas_common::{Digest, Epoch, NodeId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes, and may lead.
    Voter,
    /// Receives decisions and serves reads, without a vote.
    Learner,
}

/// One replica of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Its identity.
    pub key: PublicKey,
    /// Whether it votes.
    pub role: Role,
}

/// The fixed membership of one epoch, and how to check its members' signatures.
#[derive(Clone, Debug)]
pub struct Membership {
    genesis: Digest,
    epoch: Epoch,
    members: Vec<Member>,
    quorums: Quorums,
    verifier: Arc<dyn Verifier>,
}

/// A list of members that cannot be a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// Too few or too many voters.
    #[error(transparent)]
    Size(#[from] ClusterSizeError),
    /// Members do not count from 0 without gaps.
    #[error("member number {position} has id {found}; ids count from 0 without gaps")]
    Gap {
        /// The position in the list.
        position: usize,
        /// The id found there.
        found: NodeId,
    },
    /// Two members with one key.
    #[error("members {first} and {second} have the same public key")]
    SharedKey {
        /// The first of the two.
        first: NodeId,
        /// The second of the two.
        second: NodeId,
    },
    /// A learner before a voter.
    #[error("learner {learner} comes before a voter; voters come first")]
    LearnerFirst {
        /// The learner.
        learner: NodeId,
    },
}

impl Membership {
    /// The membership of `epoch` in the cluster named by `genesis`.
    ///
    /// # Errors
    /// When ids have gaps, keys repeat, a learner precedes a voter, or the number of voters is
    /// impossible.
    pub fn new(
        genesis: Digest,
        epoch: Epoch,
        model: FaultModel,
        members: Vec<Member>,
        verifier: Arc<dyn Verifier>,
    ) -> Result<Self, MembershipError> {
        let voters = members.iter().take_while(|m| m.role == Role::Voter).count();
        for (position, member) in members.iter().enumerate() {
            if member.id.index() != position {
                return Err(MembershipError::Gap {
                    position,
                    found: member.id,
                });
            }
            if position >= voters && member.role == Role::Voter {
                return Err(MembershipError::LearnerFirst {
                    learner: members[voters].id,
                });
            }
            if let Some(first) = members[..position].iter().find(|m| m.key == member.key) {
                return Err(MembershipError::SharedKey {
                    first: first.id,
                    second: member.id,
                });
            }
        }
        let quorums = Quorums::new(model, voters)?;
        Ok(Self {
            genesis,
            epoch,
            members,
            quorums,
            verifier,
        })
    }

    /// The digest of the cluster's first configuration: it names the cluster, and everything signed
    /// is bound to it.
    #[must_use]
    pub fn genesis(&self) -> &Digest {
        &self.genesis
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// All members, voters first.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The quorum sizes of the voters.
    #[must_use]
    pub fn quorums(&self) -> &Quorums {
        &self.quorums
    }

    /// The voters' ids, in order.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members[..self.quorums.n()].iter().map(|m| m.id)
    }

    /// Whether `id` is a member with a vote.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        id.index() < self.quorums.n()
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(id.index())
    }

    /// What checks the members' (and clients') signatures.
    #[must_use]
    pub fn verifier(&self) -> &Arc<dyn Verifier> {
        &self.verifier
    }

    /// What to check for `id`'s signature over `digest`, or `None` when `id` is no voter.
    #[must_use]
    pub fn signed_by_voter(
        &self,
        id: NodeId,
        digest: Digest,
        signature: Signature,
    ) -> Option<Signed> {
        let member = self.member(id).filter(|m| m.role == Role::Voter)?;
        Some(Signed {
            key: member.key,
            digest,
            signature,
        })
    }
}
