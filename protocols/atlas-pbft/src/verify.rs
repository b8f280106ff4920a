//! The checks that depend on no state: signatures, senders, certificates, sizes.

use crate::config::PbftConfig;
use crate::message::{
    Message, NewView, Prepared, Proof, SignedViewChange, ViewChange, Vote, commit_digest,
    new_view_digest, prepare_digest, view_change_digest,
};
use atlas_common::crypto::{Signature, Signed};
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::certificate::verify_votes;
use atlas_core::{Membership, Reject};
use std::collections::BTreeSet;

/// The leader of a view: the voters take turns (OSDI'99, section 4).
pub(crate) fn leader_of(membership: &Membership, view: View) -> NodeId {
    // At most 100 voters, so the number fits.
    NodeId((view.0 % membership.quorums().n() as u64) as u32)
}

pub(crate) fn message(
    config: &PbftConfig,
    membership: &Membership,
    from: NodeId,
    message: &Message,
) -> Result<(), Reject> {
    match message {
        Message::PrePrepare(proposal) if proposal.batch.raw().len() > config.batch_bytes_max => {
            Err(Reject::TooLarge)
        }
        Message::PrePrepare(proposal) => {
            let (view, seq) = (proposal.view, proposal.seq);
            let digest = prepare_digest(membership, view, seq, &proposal.batch.digest());
            let leader = leader_of(membership, view);
            signature(membership, leader, digest, proposal.signature)
        }
        Message::Vote(vote) => self::vote(membership, from, vote),
        Message::ViewChange(change) if change.from != from => Err(Reject::WrongSender),
        Message::ViewChange(change) => view_change(config, membership, change),
        Message::NewView(new_view) => self::new_view(config, membership, new_view),
        Message::Committed { seq, proof } => self::proof(membership, *seq, &proof.digest, proof),
        Message::Status(_) => Ok(()),
    }
}

/// The signatures of the messages that come often.
pub(crate) fn signatures(membership: &Membership, from: NodeId, message: &Message) -> Vec<Signed> {
    let signed = match message {
        Message::PrePrepare(proposal) => {
            let (view, seq) = (proposal.view, proposal.seq);
            let digest = prepare_digest(membership, view, seq, &proposal.batch.digest());
            let leader = leader_of(membership, view);
            membership.signed_by_voter(leader, digest, proposal.signature)
        }
        Message::Vote(vote) => {
            membership.signed_by_voter(from, vote.signing_digest(membership), vote.signature)
        }
        _ => None,
    };
    signed.into_iter().collect()
}

fn signature(
    membership: &Membership,
    signer: NodeId,
    digest: Digest,
    signature: Signature,
) -> Result<(), Reject> {
    let signed = membership.signed_by_voter(signer, digest, signature);
    let signed = signed.ok_or(Reject::NotAMember)?;
    if membership.verifier().verify(&signed) {
        Ok(())
    } else {
        Err(Reject::BadSignature)
    }
}

/// A vote is its sender's own: nobody votes for another.
fn vote(membership: &Membership, from: NodeId, vote: &Vote) -> Result<(), Reject> {
    signature(
        membership,
        from,
        vote.signing_digest(membership),
        vote.signature,
    )
}

pub(crate) fn proof(
    membership: &Membership,
    seq: SeqNo,
    batch: &Digest,
    proof: &Proof,
) -> Result<(), Reject> {
    if proof.digest != *batch {
        return Err(Reject::BadCertificate);
    }
    let digest = commit_digest(membership, proof.view, seq, batch);
    verify_votes(membership, &proof.votes, |_| digest)
}

fn prepared(membership: &Membership, prepared: &Prepared) -> Result<(), Reject> {
    let Prepared {
        seq,
        view,
        digest,
        votes,
    } = prepared;
    let digest = prepare_digest(membership, *view, *seq, digest);
    verify_votes(membership, votes, |_| digest)
}

/// A view change (OSDI'99, section 4.4): every certificate in it is verified, none is of the wanted
/// view or later, and each slot is named once, within the window above the checkpoint.
fn view_change(
    config: &PbftConfig,
    membership: &Membership,
    signed: &SignedViewChange,
) -> Result<(), Reject> {
    let change: &ViewChange = &signed.change;
    let digest = view_change_digest(membership, &signed.change);
    signature(membership, signed.from, digest, signed.signature)?;
    if change.view == View::ZERO {
        return Err(Reject::BadCertificate);
    }
    if let Some(certificate) = &change.stable {
        certificate.verify(membership)?;
    }
    let mut last = change.low();
    // A replica that restarts may find an older checkpoint than the one above which it voted; so two
    // windows.
    let high = last.plus(config.window.saturating_mul(2));
    for certificate in &change.prepared {
        if certificate.seq <= last || certificate.seq > high {
            return Err(Reject::OutOfWindow);
        }
        if certificate.view >= change.view {
            return Err(Reject::BadCertificate);
        }
        last = certificate.seq;
        prepared(membership, certificate)?;
    }
    Ok(())
}

fn new_view(
    config: &PbftConfig,
    membership: &Membership,
    new_view: &NewView,
) -> Result<(), Reject> {
    let (view, changes) = (new_view.view, &new_view.changes);
    let quorums = membership.quorums();
    if changes.len() < quorums.quorum() || changes.len() > quorums.n() {
        return Err(Reject::BadNewView);
    }
    let senders: BTreeSet<NodeId> = changes.iter().map(|change| change.from).collect();
    if senders.len() != changes.len() || changes.iter().any(|c| c.change.view != view) {
        return Err(Reject::BadNewView);
    }
    let digest = new_view_digest(membership, view, changes);
    signature(
        membership,
        leader_of(membership, view),
        digest,
        new_view.signature,
    )?;
    changes
        .iter()
        .try_for_each(|change| view_change(config, membership, change))
}
