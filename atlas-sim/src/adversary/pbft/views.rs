//! Replicas that lie when views change.

use crate::adversary::{Adversary, Power};
use crate::faults::FaultKind;
use atlas_common::crypto::Signature;
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::{CheckpointCertificate, CheckpointId};
use atlas_pbft::Pbft;
use atlas_pbft::message::{
    Message, NewView, Phase, Prepared, Proof, SignedViewChange, ViewChange, Vote, new_view_digest,
    view_change_digest,
};
use atlas_pbft::sealed::Sealed;
use atlas_smr_core::message::SystemMessage;

/// A view change in the adversary's name.
fn change(content: ViewChange, power: &Power<'_, Pbft>) -> SignedViewChange {
    let change = Sealed::new(content);
    let digest = view_change_digest(power.membership, &change);
    SignedViewChange {
        from: power.me,
        change,
        signature: power.signer.sign(&digest),
    }
}

/// A new view in the adversary's name.
fn new_view(view: View, changes: Vec<SignedViewChange>, power: &Power<'_, Pbft>) -> Message {
    let digest = new_view_digest(power.membership, view, &changes);
    Message::NewView(NewView {
        view,
        changes,
        signature: power.signer.sign(&digest),
    })
}

/// Certificates made of whatever votes are at hand: of different views and slots, its own several
/// times, of voters that do not exist (rows 11 and 12).
#[derive(Debug, Default)]
pub(super) struct FakeCertificates {
    heard: Vec<(NodeId, Vote)>,
}

const HEARD_MAX: usize = 64;

impl FakeCertificates {
    fn votes(&self, power: &mut Power<'_, Pbft>) -> Vec<(NodeId, Signature)> {
        let quorum = power.membership.quorums().quorum();
        let own = power.signer.sign(&Digest::of(b"something"));
        match power.rng.below(4) {
            0 => vec![(power.me, own); quorum],
            1 => (0..quorum as u32)
                .map(|i| (NodeId(i + 1000), own))
                .collect(),
            2 => (0..quorum as u32).map(|i| (NodeId(i), own)).collect(),
            // True votes, of whatever views and slots they were.
            _ => {
                let mut votes: Vec<(NodeId, Signature)> = Vec::new();
                for (from, vote) in self.heard.iter().rev() {
                    if votes.len() < quorum && votes.iter().all(|(voter, _)| voter != from) {
                        votes.push((*from, vote.signature));
                    }
                }
                votes
            }
        }
    }
}

impl Adversary<Pbft> for FakeCertificates {
    fn on_receive(
        &mut self,
        from: NodeId,
        message: &SystemMessage<Pbft>,
        _power: &mut Power<'_, Pbft>,
    ) -> bool {
        if let SystemMessage::Protocol(Message::Vote(vote)) = message
            && vote.phase == Phase::Prepare
        {
            if self.heard.len() >= HEARD_MAX {
                self.heard.remove(0);
            }
            self.heard.push((from, *vote));
        }
        true
    }

    fn on_tick(&mut self, power: &mut Power<'_, Pbft>) {
        let (view, _) = power.leader;
        let seq = self.heard.last().map_or(SeqNo(1), |(_, vote)| vote.seq);
        let digest = Digest::of(b"what the adversary would like decided");
        for to in power.others() {
            power.did(FaultKind::FakeCertificate);
            let votes = self.votes(power);
            let prepared = vec![Prepared {
                seq,
                view,
                digest,
                votes: votes.clone(),
            }];
            let stable = power.rng.chance(0.3).then(|| CheckpointCertificate {
                id: CheckpointId {
                    epoch: power.membership.epoch(),
                    seq,
                    state: digest,
                },
                votes: votes.clone(),
            });
            if let Some(certificate) = &stable {
                power.send(
                    to,
                    SystemMessage::CheckpointCertificate(certificate.clone()),
                );
            }
            let content = ViewChange {
                view: view.next(),
                stable,
                prepared,
            };
            power.say(to, Message::ViewChange(change(content, power)));
            let proof = Proof {
                view,
                digest,
                votes,
            };
            power.say(to, Message::Committed { seq, proof });
        }
    }
}

/// New views that do not follow from what was sent: with too few changes, one twice, one altered,
/// and, quite validly, with another change of its own for each half (row 13).
#[derive(Debug)]
pub(super) struct BadNewView;

impl Adversary<Pbft> for BadNewView {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        let SystemMessage::Protocol(Message::NewView(true_one)) = &message else {
            return power.send(to, message);
        };
        power.did(FaultKind::BadNewView);
        let view = true_one.view;
        let mut changes = true_one.changes.clone();
        match view.0 % 4 {
            0 => {
                changes.pop();
            }
            1 => {
                let first = changes[0].clone();
                if let Some(last) = changes.last_mut() {
                    *last = first;
                }
            }
            2 => {
                // Another's change without what it had prepared, under its old signature.
                for signed in changes.iter_mut().filter(|signed| signed.from != power.me) {
                    signed.change = Sealed::new(ViewChange {
                        prepared: Vec::new(),
                        ..(*signed.change).clone()
                    });
                }
            }
            _ if to.0.is_multiple_of(2) => {
                for signed in changes.iter_mut().filter(|signed| signed.from == power.me) {
                    let forgotten = ViewChange {
                        prepared: Vec::new(),
                        ..(*signed.change).clone()
                    };
                    *signed = change(forgotten, power);
                }
            }
            _ => {}
        }
        power.say(to, new_view(view, changes, power));
    }
}

/// Never has prepared anything, when a view changes.
#[derive(Debug)]
pub(super) struct Forgetful;

impl Adversary<Pbft> for Forgetful {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        let SystemMessage::Protocol(Message::ViewChange(signed)) = &message else {
            return power.send(to, message);
        };
        let forgotten = ViewChange {
            prepared: Vec::new(),
            stable: None,
            view: signed.change.view,
        };
        if !signed.change.prepared.is_empty() {
            power.did(FaultKind::BadNewView);
        }
        power.say(to, Message::ViewChange(change(forgotten, power)));
    }
}

/// Wants another view, all the time (row 17).
#[derive(Debug)]
pub(super) struct Storm;

impl Adversary<Pbft> for Storm {
    fn on_tick(&mut self, power: &mut Power<'_, Pbft>) {
        let (view, _) = power.leader;
        let content = ViewChange {
            view: View(view.0 + power.rng.between(1, 3)),
            stable: None,
            prepared: Vec::new(),
        };
        let change = change(content, power);
        for to in power.others() {
            power.did(FaultKind::ViewChangeStorm);
            power.say(to, Message::ViewChange(change.clone()));
        }
    }
}
