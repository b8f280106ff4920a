//! Agreeing that a state is the right one: checkpoint votes become certificates.
//!
//! PBFT (OSDI'99, section 4.3), for any protocol: every replica signs the digest of its state after
//! each `checkpoint_interval` decisions; a quorum of equal votes is the certificate that lets
//! everybody discard what came before. In a crash cluster the own durable checkpoint is enough.

use atlas_common::crypto::Signature;
use atlas_common::{NodeId, SeqNo};
use atlas_core::{CheckpointCertificate, CheckpointId, Limits, Membership, Reject};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Collects votes. Memory: one vote per member for each checkpoint in the window.
#[derive(Debug)]
pub struct CheckpointKeeper {
    membership: Arc<Membership>,
    interval: u64,
    window: u64,
    stable: Option<Arc<CheckpointCertificate>>,
    /// Own checkpoints above the stable one, durable and published.
    own: BTreeMap<SeqNo, (CheckpointId, Signature)>,
    votes: BTreeMap<SeqNo, BTreeMap<NodeId, (CheckpointId, Signature)>>,
    /// Certificates of states that this replica has not reached.
    ahead: BTreeMap<SeqNo, CheckpointCertificate>,
}

/// What a vote or checkpoint led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// The own checkpoint is certified.
    Certified(Arc<CheckpointCertificate>),
    /// A quorum has a state that this replica has not reached.
    Ahead(SeqNo),
    /// A quorum certified another state than this replica's own: this one is wrong, and must not go
    /// on (row 20).
    Diverged {
        /// What this replica has.
        own: CheckpointId,
        /// What the quorum has.
        certified: CheckpointId,
    },
    /// Dropped.
    Rejected(Reject),
}

impl CheckpointKeeper {
    /// A keeper that starts from the newest certified checkpoint.
    #[must_use]
    pub fn new(
        membership: Arc<Membership>,
        limits: &Limits,
        stable: Option<Arc<CheckpointCertificate>>,
    ) -> Self {
        Self {
            membership,
            interval: limits.checkpoint_interval,
            window: limits.window,
            stable,
            own: BTreeMap::new(),
            votes: BTreeMap::new(),
            ahead: BTreeMap::new(),
        }
    }

    /// The newest certified checkpoint that is durable here.
    #[must_use]
    pub fn stable(&self) -> Option<&Arc<CheckpointCertificate>> {
        self.stable.as_ref()
    }

    /// Its sequence number.
    #[must_use]
    pub fn stable_seq(&self) -> SeqNo {
        self.stable
            .as_ref()
            .map_or(SeqNo::ZERO, |certificate| certificate.id.seq)
    }

    /// This replica's own checkpoints that still lack a certificate: their votes are to be sent
    /// again.
    pub fn unsettled(&self) -> impl Iterator<Item = &(CheckpointId, Signature)> {
        self.own.values()
    }

    /// The own checkpoint is durable, as are the decisions before it.
    pub fn taken(&mut self, me: NodeId, id: CheckpointId, signature: Signature) -> Outcome {
        if id.seq <= self.stable_seq() {
            return Outcome::Pending;
        }
        if !self.membership.quorums().signed() {
            return self.settle(CheckpointCertificate::unsigned(id));
        }
        self.own.insert(id.seq, (id, signature));
        if let Some(certificate) = self.ahead.remove(&id.seq) {
            return self.judge(certificate);
        }
        if self.membership.is_voter(me) {
            return self.vote(me, id, signature);
        }
        self.count(id.seq)
    }

    /// A checked vote of a member (or the own one).
    pub fn vote(&mut self, from: NodeId, id: CheckpointId, signature: Signature) -> Outcome {
        if id.seq <= self.stable_seq() {
            return Outcome::Rejected(Reject::Stale);
        }
        let distance = id.seq.since(self.stable_seq());
        if !id.seq.0.is_multiple_of(self.interval) {
            return Outcome::Rejected(Reject::OutOfWindow);
        }
        // Beyond the window only the newest vote of each member is kept: enough to learn that this
        // replica is far behind, and no more than n votes.
        if distance > self.window {
            self.forget_far_vote_of(from, id.seq);
        }
        let votes = self.votes.entry(id.seq).or_default();
        if let Some((earlier, _)) = votes.get(&from) {
            let reason = if *earlier == id {
                Reject::Duplicate
            } else {
                Reject::Equivocation
            };
            return Outcome::Rejected(reason);
        }
        votes.insert(from, (id, signature));
        self.count(id.seq)
    }

    fn forget_far_vote_of(&mut self, from: NodeId, except: SeqNo) {
        let far = self.stable_seq().plus(self.window);
        for (_, votes) in self
            .votes
            .range_mut(far.next()..)
            .filter(|(seq, _)| **seq != except)
        {
            votes.remove(&from);
        }
        self.votes
            .retain(|seq, votes| *seq <= far || *seq == except || !votes.is_empty());
    }

    /// A checked certificate from a peer.
    pub fn certificate(&mut self, certificate: CheckpointCertificate) -> Outcome {
        if certificate.id.seq <= self.stable_seq() {
            return Outcome::Rejected(Reject::Stale);
        }
        self.judge(certificate)
    }

    fn count(&mut self, seq: SeqNo) -> Outcome {
        let Some(votes) = self.votes.get(&seq) else {
            return Outcome::Pending;
        };
        let quorum = self.membership.quorums().quorum();
        let mut tally: BTreeMap<CheckpointId, Vec<(NodeId, Signature)>> = BTreeMap::new();
        for (voter, (id, signature)) in votes {
            tally.entry(*id).or_default().push((*voter, *signature));
        }
        match tally.into_iter().find(|(_, votes)| votes.len() >= quorum) {
            Some((id, votes)) => self.judge(CheckpointCertificate { id, votes }),
            None => Outcome::Pending,
        }
    }

    fn judge(&mut self, certificate: CheckpointCertificate) -> Outcome {
        let certified = certificate.id;
        match self.own.get(&certified.seq) {
            Some((own, _)) if *own == certified => self.settle(certificate),
            Some((own, _)) => Outcome::Diverged {
                own: *own,
                certified,
            },
            None => {
                let seq = certified.seq;
                // One certificate above the window is as good as many: the newest.
                let far = self.stable_seq().plus(self.window);
                self.ahead.retain(|kept, _| *kept <= far || *kept > seq);
                if seq <= far || self.ahead.range(seq..).next().is_none() {
                    self.ahead.insert(seq, certificate);
                }
                Outcome::Ahead(seq)
            }
        }
    }

    fn settle(&mut self, certificate: CheckpointCertificate) -> Outcome {
        let certificate = Arc::new(certificate);
        self.installed(Arc::clone(&certificate));
        Outcome::Certified(certificate)
    }

    /// The state of this certificate is the replica's own now.
    pub fn installed(&mut self, certificate: Arc<CheckpointCertificate>) {
        let seq = certificate.id.seq;
        if seq <= self.stable_seq() {
            return;
        }
        self.stable = Some(certificate);
        self.own.retain(|own, _| *own > seq);
        self.votes.retain(|voted, _| *voted > seq);
        self.ahead.retain(|ahead, _| *ahead > seq);
    }
}
