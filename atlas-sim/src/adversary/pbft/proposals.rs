//! Leaders that propose what they should not.

use crate::adversary::{Adversary, Power};
use crate::faults::FaultKind;
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::Batch;
use atlas_pbft::Pbft;
use atlas_pbft::message::{Message, PrePrepare, Vote, prepare_digest};
use atlas_smr_core::message::SystemMessage;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// A proposal in the adversary's name.
fn propose(view: View, seq: SeqNo, batch: Batch, power: &Power<'_, Pbft>) -> Message {
    let digest = prepare_digest(power.membership, view, seq, &batch.digest());
    Message::PrePrepare(PrePrepare {
        view,
        seq,
        batch,
        signature: power.signer.sign(&digest),
    })
}

/// Whether a replica belongs to the half that is told the other thing.
const fn other_half(replica: NodeId) -> bool {
    replica.0 % 2 == 1
}

/// Two proposals for one view and slot, to different halves, each backed by votes of its own (row 1).
#[derive(Debug, Default)]
pub(super) struct Equivocate {
    /// For each slot what was proposed, and what the other half is told.
    twins: BTreeMap<(View, SeqNo), (Digest, Batch)>,
}

/// How many slots are remembered.
const TWINS_MAX: usize = 64;

impl Equivocate {
    fn twin_of(&mut self, proposal: &PrePrepare) -> Batch {
        let (_, twin) = self
            .twins
            .entry((proposal.view, proposal.seq))
            .or_insert_with(|| {
                // The same requests in another order, a millisecond later: as valid as the first.
                let mut bundles = proposal.batch.bundles().to_vec();
                bundles.reverse();
                let mut time = proposal.batch.time();
                time.unix_millis += 1;
                (proposal.batch.digest(), Batch::new(time, &bundles))
            });
        let twin = twin.clone();
        while self.twins.len() > TWINS_MAX {
            self.twins.pop_first();
        }
        twin
    }
}

impl Adversary<Pbft> for Equivocate {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        match &message {
            SystemMessage::Protocol(Message::PrePrepare(proposal)) if !proposal.batch.is_null() => {
                let twin = self.twin_of(proposal);
                let other = propose(proposal.view, proposal.seq, twin, power);
                if other_half(to) {
                    power.did(FaultKind::Equivocation);
                    power.say(to, other);
                } else {
                    power.send(to, message);
                    // Now and then it is careless, and somebody holds both in his hands.
                    if power.rng.chance(0.3) {
                        power.say(to, other);
                    }
                }
            }
            SystemMessage::Protocol(Message::Vote(vote)) if other_half(to) => {
                let twin = self.twins.get(&(vote.view, vote.seq));
                match twin.filter(|(first, _)| *first == vote.digest) {
                    Some((_, twin)) => {
                        let mut vote = Vote {
                            digest: twin.digest(),
                            ..*vote
                        };
                        let digest = vote.signing_digest(power.membership);
                        vote.signature = power.signer.sign(&digest);
                        power.say(to, Message::Vote(vote));
                    }
                    None => power.send(to, message),
                }
            }
            _ => power.send(to, message),
        }
    }
}

/// Proposals reach only f+1 replicas, the leader among them (rows 6 and 24).
#[derive(Debug)]
pub(super) struct Partial;

impl Adversary<Pbft> for Partial {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        if matches!(message, SystemMessage::Protocol(Message::PrePrepare(_))) {
            let others = power.others();
            let favoured = others.iter().take(power.membership.quorums().faults());
            if !favoured.into_iter().any(|favoured| *favoured == to) {
                return power.did(FaultKind::PartialProposal);
            }
        }
        // Bodies are not to be had from it either.
        if !matches!(message, SystemMessage::Body(_)) {
            power.send(to, message);
        }
    }
}

/// Requests that nobody signed, and ones that are repeated or out of order (row 4).
#[derive(Debug)]
pub(super) struct Bad;

impl Adversary<Pbft> for Bad {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        let SystemMessage::Protocol(Message::PrePrepare(proposal)) = &message else {
            return power.send(to, message);
        };
        if proposal.batch.is_null() {
            return power.send(to, message);
        }
        let mut bundles = proposal.batch.bundles().to_vec();
        // The same for all recipients of a slot, so that some of it can be decided.
        match proposal.seq.0 % 5 {
            0 => bundles.push(Bytes::from_static(b"nobody's request")),
            1 => {
                let mut forged = bundles[0].to_vec();
                if let Some(byte) = forged.last_mut() {
                    *byte ^= 1;
                }
                bundles.insert(0, forged.into());
            }
            2 => bundles.extend(bundles.clone()),
            3 => bundles.reverse(),
            _ => return power.send(to, message),
        }
        power.did(FaultKind::BadProposal);
        let batch = Batch::new(proposal.batch.time(), &bundles);
        let proposal = propose(proposal.view, proposal.seq, batch, power);
        power.say(to, proposal);
    }

    fn on_tick(&mut self, power: &mut Power<'_, Pbft>) {
        // A time far ahead of everybody's clock.
        let (view, leader) = power.leader;
        if leader == Some(power.me) && power.rng.chance(0.1) {
            let ahead = power
                .wall
                .after(Duration::from_millis(power.limits.clock_skew_ms_max * 2));
            let batch = Batch::new(ahead, &[Bytes::from_static(b"from the future")]);
            let proposal = propose(view, SeqNo(power.rng.between(1, 100)), batch, power);
            for to in power.others() {
                power.did(FaultKind::BadProposal);
                power.say(to, proposal.clone());
            }
        }
    }
}

/// Batches larger than the cluster allows (row 5).
#[derive(Debug)]
pub(super) struct Oversized;

impl Adversary<Pbft> for Oversized {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        let oversized = match &message {
            SystemMessage::Protocol(Message::PrePrepare(proposal))
                if proposal.seq.0.is_multiple_of(4) && !proposal.batch.is_null() =>
            {
                let bundles = proposal.batch.bundles();
                let bytes = bundles.iter().map(Bytes::len).sum::<usize>().max(1);
                let times = power.limits.batch_bytes_max / bytes + 2;
                let many: Vec<Bytes> = bundles
                    .iter()
                    .cycle()
                    .take(bundles.len() * times)
                    .cloned()
                    .collect();
                let batch = Batch::new(proposal.batch.time(), &many);
                Some(propose(proposal.view, proposal.seq, batch, power))
            }
            _ => None,
        };
        match oversized {
            Some(oversized) => {
                power.did(FaultKind::Oversized);
                power.say(to, oversized);
            }
            None => power.send(to, message),
        }
    }
}

/// As slow as a leader can be without being caught by a time-out (row 3).
#[derive(Debug)]
pub(super) struct Slow;

impl Adversary<Pbft> for Slow {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        if matches!(message, SystemMessage::Protocol(Message::PrePrepare(_))) {
            power.did(FaultKind::Slow);
            power.send_after(power.patience * 9 / 10, to, message);
        } else {
            power.send(to, message);
        }
    }
}

/// One replica hears of each proposal long after the others' votes for it (row 7).
#[derive(Debug)]
pub(super) struct Late;

impl Adversary<Pbft> for Late {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<Pbft>, power: &mut Power<'_, Pbft>) {
        let last = power.others().pop();
        if last == Some(to) && matches!(message, SystemMessage::Protocol(Message::PrePrepare(_))) {
            power.did(FaultKind::LateProposal);
            power.send_after(power.patience / 4, to, message);
        } else {
            power.send(to, message);
        }
    }
}
