//! Voters that lie.

use crate::adversary::{Adversary, Power};
use crate::faults::FaultKind;
use atlas_common::crypto::Signature;
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::{Batch, Membership};
use atlas_pbft::Pbft;
use atlas_pbft::message::{Message, Phase, PrePrepare, Status, Vote, prepare_digest};
use atlas_smr_core::message::SystemMessage;
use std::sync::Arc;

fn signed(mut vote: Vote, power: &Power<'_, Pbft>) -> Message {
    let digest = vote.signing_digest(power.membership);
    vote.signature = power.signer.sign(&digest);
    Message::Vote(vote)
}

/// Votes that are not its own, with bad signatures, twice, and after the fact (row 8).
#[derive(Debug, Default)]
pub(super) struct Forge {
    heard: Option<Vote>,
}

impl Adversary<Pbft> for Forge {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        if let SystemMessage::Protocol(Message::Vote(vote)) = &message {
            let mut broken = *vote;
            broken.signature.0[5] ^= 1;
            power.did(FaultKind::ForgedVote);
            power.say(to, Message::Vote(broken));
            if let Some(others) = self.heard {
                // Somebody else's vote, as if it were its own.
                power.say(to, Message::Vote(others));
            }
            power.send(to, message.clone());
        }
        power.send(to, message);
    }

    fn on_receive(
        &mut self,
        _from: NodeId,
        message: &SystemMessage<Pbft>,
        _power: &mut Power<'_, Pbft>,
    ) -> bool {
        if let SystemMessage::Protocol(Message::Vote(vote)) = message {
            self.heard = Some(*vote);
        }
        true
    }
}

/// Votes for one thing with one half and for another with the other, in both phases, and commits
/// without having prepared (row 8).
#[derive(Debug)]
pub(super) struct Double;

impl Adversary<Pbft> for Double {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        let SystemMessage::Protocol(Message::Vote(vote)) = &message else {
            return power.send(to, message);
        };
        power.did(FaultKind::DoubleVote);
        let other = Vote {
            digest: Batch::null().digest(),
            ..*vote
        };
        let early = Vote {
            phase: Phase::Commit,
            ..*vote
        };
        if to.0.is_multiple_of(2) {
            power.say(to, signed(other, power));
        }
        power.say(to, signed(early, power));
        power.send(to, message);
    }
}

/// Slots, views and positions that nobody will ever reach (row 10).
#[derive(Debug)]
pub(super) struct FarFuture;

impl Adversary<Pbft> for FarFuture {
    fn on_tick(&mut self, power: &mut Power<'_, Pbft>) {
        let (view, _) = power.leader;
        let far = |power: &mut Power<'_, Pbft>| match power.rng.below(3) {
            0 => u64::MAX - power.rng.below(3),
            1 => 1 << 40 | power.rng.next_u64() >> 40,
            _ => power.limits.window + power.rng.below(1000),
        };
        for to in power.others() {
            let (seq, jump) = (SeqNo(far(power)), far(power));
            let n = power.membership.quorums().n() as u64;
            let vote = Vote {
                phase: Phase::Prepare,
                view: if power.rng.chance(0.5) {
                    view
                } else {
                    View(jump)
                },
                seq,
                digest: Digest::of(&seq.0.to_le_bytes()),
                signature: Signature([0; 64]),
            };
            power.say(to, signed(vote, power));
            // A view that it would lead.
            let mine = View((jump / n).saturating_sub(1) * n + u64::from(power.me.0));
            let batch = Batch::null();
            let digest = prepare_digest(power.membership, mine, seq, &batch.digest());
            power.say(
                to,
                Message::PrePrepare(PrePrepare {
                    view: mine,
                    seq,
                    batch,
                    signature: power.signer.sign(&digest),
                }),
            );
            let status = Status {
                view: View(jump),
                changing: power.rng.chance(0.5),
                low: SeqNo(jump),
                decided: seq,
                wants_help: true,
                asks: None,
                answers: None,
            };
            power.say(to, Message::Status(status));
            power.did(FaultKind::FarFuture);
        }
    }
}

/// Votes that would be right in another cluster or epoch, or for the other phase (row 9).
#[derive(Debug)]
pub(super) struct Foreign;

impl Adversary<Pbft> for Foreign {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        let SystemMessage::Protocol(Message::Vote(vote)) = &message else {
            return power.send(to, message);
        };
        let m = power.membership;
        let (genesis, epoch) = match power.rng.below(2) {
            0 => (Digest::of(b"another cluster"), m.epoch()),
            _ => (*m.genesis(), m.epoch().next()),
        };
        let (model, members) = (m.quorums().model(), m.members().to_vec());
        let verifier = Arc::clone(m.verifier());
        let mut foreign = *vote;
        if let Ok(elsewhere) = Membership::new(genesis, epoch, model, members, verifier)
            && power.rng.chance(0.7)
        {
            foreign.signature = power.signer.sign(&vote.signing_digest(&elsewhere));
        } else {
            foreign.phase = match vote.phase {
                Phase::Prepare => Phase::Commit,
                Phase::Commit => Phase::Prepare,
            };
        }
        power.did(FaultKind::ForeignDomain);
        power.say(to, Message::Vote(foreign));
    }
}
