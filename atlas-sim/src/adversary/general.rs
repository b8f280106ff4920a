//! Adversaries that need no knowledge of the ordering protocol.

use super::{Adversary, Power};
use crate::faults::FaultKind;
use crate::protocol::SimProtocol;
use atlas_common::parts::StateDescriptor;
use atlas_common::{Digest, NodeId, SeqNo, View};
use atlas_core::{Batch, CheckpointId};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{LeaderHint, OperationResult, Reply, ReplyMessage};
use atlas_smr_core::message::SystemMessage;
use atlas_smr_core::transfer::{LogTransferMessage, StateTransferMessage};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// Their names.
pub const GENERAL: &[&str] = &[
    "mute",
    "half-mute",
    "slow",
    "censor",
    "garbage",
    "replay",
    "bad-checkpoints",
    "bad-transfers",
    "wrong-parts",
    "forged-replies",
    "late-reads",
];

pub(super) fn by_name<P: SimProtocol>(name: &str) -> Option<Box<dyn Adversary<P>>> {
    Some(match name {
        "mute" => Box::new(Mute { share: 1.0 }),
        "half-mute" => Box::new(Mute { share: 0.4 }),
        "slow" => Box::new(Slow(Duration::from_millis(120))),
        "censor" => Box::new(Censor { victim: 0 }),
        "garbage" => Box::new(Garbage),
        "replay" => Box::new(Replay(VecDeque::new())),
        "bad-checkpoints" => Box::new(BadCheckpoints),
        "bad-transfers" => Box::new(BadTransfers),
        "wrong-parts" => Box::<WrongParts>::default(),
        "forged-replies" => Box::new(ForgedReplies),
        "late-reads" => Box::new(LateReads),
        _ => return None,
    })
}

/// Says nothing, or only some of it.
#[derive(Debug)]
struct Mute {
    share: f64,
}

impl<P: SimProtocol> Adversary<P> for Mute {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<P>, power: &mut Power<'_, P>) {
        if power.rng.chance(self.share) {
            power.did(FaultKind::Mute);
        } else {
            power.send(to, message);
        }
    }

    fn on_reply(&mut self, reply: ReplyMessage, power: &mut Power<'_, P>) -> Option<ReplyMessage> {
        let withheld = power.rng.chance(self.share);
        (!withheld).then_some(reply)
    }
}

/// Says everything late.
#[derive(Debug)]
struct Slow(Duration);

impl<P: SimProtocol> Adversary<P> for Slow {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<P>, power: &mut Power<'_, P>) {
        power.did(FaultKind::Slow);
        power.send_after(self.0, to, message);
    }
}

/// Never lets one client's requests reach its replica, so that a leader leaves them out.
#[derive(Debug)]
struct Censor {
    victim: usize,
}

impl Censor {
    fn is_victims<P: SimProtocol>(&self, raw: &Bytes, power: &Power<'_, P>) -> bool {
        let genesis = power.membership.genesis();
        RequestBundle::decode(raw.clone(), genesis, power.limits)
            .is_ok_and(|bundle| bundle.client().instance == self.victim as u64)
    }
}

impl<P: SimProtocol> Adversary<P> for Censor {
    fn on_receive(
        &mut self,
        _from: NodeId,
        message: &SystemMessage<P>,
        power: &mut Power<'_, P>,
    ) -> bool {
        // All of a frame goes with one of its requests; the rest is sent again.
        let hit = match message {
            SystemMessage::ForwardedRequests(raws) => {
                raws.iter().any(|raw| self.is_victims(raw, power))
            }
            _ => false,
        };
        if hit {
            power.did(FaultKind::Censorship);
        }
        !hit
    }

    fn on_request(&mut self, client: usize, _request: &Bytes, power: &mut Power<'_, P>) -> bool {
        let hit = client == self.victim;
        if hit {
            power.did(FaultKind::Censorship);
        }
        !hit
    }
}

/// Sends bytes that are no messages: noise, lengths of 2⁶², the start of something true.
#[derive(Debug)]
struct Garbage;

impl<P: SimProtocol> Adversary<P> for Garbage {
    fn on_tick(&mut self, power: &mut Power<'_, P>) {
        for to in power.others() {
            let bytes: Vec<u8> = match power.rng.below(3) {
                0 => {
                    let mut bomb = vec![power.rng.below(8) as u8, 253];
                    bomb.extend_from_slice(&(1u64 << 62).to_le_bytes());
                    bomb
                }
                1 => (0..power.rng.below(200))
                    .map(|_| power.rng.next_u64() as u8)
                    .collect(),
                _ => {
                    let batch = SystemMessage::<P>::Body(Batch::null());
                    let mut bytes = atlas_common::wire::encode(&batch).unwrap_or_default();
                    bytes.truncate(power.rng.below(bytes.len() as u64) as usize);
                    bytes
                }
            };
            power.did(FaultKind::Garbage);
            power.send_raw(to, bytes.into());
        }
    }
}

/// Sends everything that it has ever sent or received again, also to others and in its own name.
#[derive(Debug)]
struct Replay<P: SimProtocol>(VecDeque<SystemMessage<P>>);

const REPLAYED_MAX: usize = 400;

impl<P: SimProtocol> Replay<P> {
    fn keep(&mut self, message: &SystemMessage<P>, power: &mut Power<'_, P>) {
        if power.rng.chance(0.3) {
            if self.0.len() >= REPLAYED_MAX {
                let victim = power.rng.below(REPLAYED_MAX as u64) as usize;
                self.0.swap_remove_back(victim);
            }
            self.0.push_back(message.clone());
        }
    }
}

impl<P: SimProtocol> Adversary<P> for Replay<P> {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<P>, power: &mut Power<'_, P>) {
        self.keep(&message, power);
        power.send(to, message);
    }

    fn on_receive(
        &mut self,
        _from: NodeId,
        message: &SystemMessage<P>,
        power: &mut Power<'_, P>,
    ) -> bool {
        self.keep(message, power);
        true
    }

    fn on_tick(&mut self, power: &mut Power<'_, P>) {
        for _ in 0..3 {
            let index = power.rng.below(self.0.len() as u64) as usize;
            let others = power.others();
            let to = power.rng.pick(&others).copied();
            if let (Some(message), Some(to)) = (self.0.get(index), to) {
                power.did(FaultKind::Replay);
                power.send(to, message.clone());
            }
        }
    }
}

/// Vouches for wrong states, to each replica for another one.
#[derive(Debug)]
struct BadCheckpoints;

impl<P: SimProtocol> Adversary<P> for BadCheckpoints {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<P>, power: &mut Power<'_, P>) {
        let SystemMessage::CheckpointVote { id, .. } = message else {
            return power.send(to, message);
        };
        let (genesis, signer) = (power.membership.genesis(), power.signer);
        let wrong = match power.rng.below(3) {
            0 => Digest::of(b"a wrong state"),
            1 => Digest::of(&to.0.to_le_bytes()),
            _ => id.state,
        };
        let seq = match power.rng.below(3) {
            0 => id
                .seq
                .plus(power.limits.checkpoint_interval * power.rng.below(1000)),
            1 => SeqNo(u64::MAX),
            _ => id.seq,
        };
        let id = CheckpointId {
            seq,
            state: wrong,
            ..id
        };
        let signature = id.sign(genesis, signer);
        power.did(FaultKind::BadCheckpoint);
        power.send(to, SystemMessage::CheckpointVote { id, signature });
    }
}

/// Lies to replicas that are behind.
#[derive(Debug)]
struct BadTransfers;

impl BadTransfers {
    fn log<P: SimProtocol>(
        message: LogTransferMessage<P::Proof>,
        power: &mut Power<'_, P>,
    ) -> Option<LogTransferMessage<P::Proof>> {
        Some(match message {
            LogTransferMessage::Request { .. } => message,
            LogTransferMessage::Decisions {
                first,
                mut decisions,
                decided,
            } => match power.rng.below(5) {
                0 => return None,
                1 => LogTransferMessage::Decisions {
                    first,
                    decisions: Vec::new(),
                    decided,
                },
                2 => LogTransferMessage::Decisions {
                    first: first.next(),
                    decisions,
                    decided,
                },
                3 => {
                    // Somebody's batch under somebody else's proof.
                    if let Some((batch, _)) = decisions.last_mut() {
                        *batch = Batch::new(power.wall, &[Bytes::from_static(b"mine")]);
                    }
                    LogTransferMessage::Decisions {
                        first,
                        decisions,
                        decided,
                    }
                }
                _ => LogTransferMessage::Decisions {
                    first,
                    decisions,
                    decided: SeqNo(u64::MAX),
                },
            },
            LogTransferMessage::Unavailable { .. } => LogTransferMessage::Unavailable {
                oldest: Some(SeqNo(u64::MAX)),
                decided: SeqNo(u64::MAX),
                checkpoint: None,
            },
        })
    }

    /// Altered, too large, too many, unasked for, or none.
    fn parts<P: SimProtocol>(blobs: &mut Vec<Bytes>, power: &mut Power<'_, P>) {
        match power.rng.below(6) {
            0 => blobs.clear(),
            1 => blobs.push(Bytes::new()),
            2 => blobs.push(Bytes::from(vec![7; 2 << 20])),
            3 => blobs.resize(300, Bytes::from_static(b"mine")),
            4 => blobs.truncate(1),
            _ => {
                if let Some(first) = blobs.first_mut() {
                    let mut wrong = first.to_vec();
                    if let Some(byte) = wrong.first_mut() {
                        *byte ^= 1;
                    }
                    *first = wrong.into();
                }
            }
        }
    }

    fn state<P: SimProtocol>(
        message: StateTransferMessage,
        power: &mut Power<'_, P>,
    ) -> Option<StateTransferMessage> {
        Some(match message {
            StateTransferMessage::Parts { mut blobs } => {
                Self::parts(&mut blobs, power);
                if power.rng.chance(0.2) {
                    return None;
                }
                StateTransferMessage::Parts { blobs }
            }
            StateTransferMessage::Offer {
                mut certificate,
                frontier,
                mut descriptor,
            } => {
                match power.rng.below(5) {
                    0 => certificate.id.seq = certificate.id.seq.plus(1000),
                    1 => descriptor.total_bytes = u64::MAX,
                    2 => descriptor.parts = 1 << 60,
                    3 => descriptor.pages.reverse(),
                    // A true offer, whose parts will be wrong.
                    _ => {}
                }
                StateTransferMessage::Offer {
                    certificate,
                    frontier,
                    descriptor,
                }
            }
            // It has nothing of what it was asked for, or everything.
            StateTransferMessage::Gone { .. } => StateTransferMessage::Parts { blobs: Vec::new() },
            other => other,
        })
    }
}

impl<P: SimProtocol> Adversary<P> for BadTransfers {
    fn on_send(&mut self, to: NodeId, message: SystemMessage<P>, power: &mut Power<'_, P>) {
        let lie = match message {
            SystemMessage::LogTransfer(message) => {
                Self::log::<P>(message, power).map(SystemMessage::LogTransfer)
            }
            SystemMessage::StateTransfer(message) => {
                Self::state::<P>(message, power).map(SystemMessage::StateTransfer)
            }
            SystemMessage::Body(_) => Some(SystemMessage::Body(Batch::null())),
            other => return power.send(to, other),
        };
        power.did(FaultKind::BadTransfer);
        if let Some(lie) = lie {
            power.send(to, lie);
        }
    }
}

/// Serves true parts of states, but others than it was asked for; and describes states with lengths and
/// counts that do not fit.
#[derive(Debug, Default)]
struct WrongParts {
    served: VecDeque<Bytes>,
}

/// More than a state of a simulation has.
const SERVED_MAX: usize = 64;

impl WrongParts {
    /// In place of one part, another one.
    fn exchange<P: SimProtocol>(&mut self, blobs: &mut [Bytes], power: &mut Power<'_, P>) {
        let true_ones = blobs.to_vec();
        if let Some(blob) = blobs.first_mut() {
            let another = self.served.iter().find(|other| *other != blob);
            let foreign = Bytes::from_static(b"a part of another cluster's state");
            *blob = another.cloned().unwrap_or(foreign);
            power.did(FaultKind::WrongPart);
        }
        self.served.extend(true_ones);
        while self.served.len() > SERVED_MAX {
            self.served.pop_front();
        }
    }

    fn describe<P: SimProtocol>(descriptor: &mut StateDescriptor, power: &mut Power<'_, P>) {
        match power.rng.below(6) {
            0 => descriptor.parts += 1,
            1 => descriptor.total_bytes = descriptor.total_bytes.saturating_sub(1),
            2 => descriptor
                .pages
                .truncate(descriptor.pages.len().saturating_sub(1)),
            3 => descriptor
                .pages
                .extend_from_within(..1.min(descriptor.pages.len())),
            4 => {
                if let Some(page) = descriptor.pages.first_mut() {
                    page.bytes += 36;
                }
            }
            // A true one, so that it is asked for the parts.
            _ => return,
        }
        power.did(FaultKind::WrongLength);
    }
}

impl<P: SimProtocol> Adversary<P> for WrongParts {
    fn on_send(&mut self, to: NodeId, mut message: SystemMessage<P>, power: &mut Power<'_, P>) {
        match &mut message {
            SystemMessage::StateTransfer(StateTransferMessage::Parts { blobs }) => {
                self.exchange(blobs, power);
            }
            SystemMessage::StateTransfer(StateTransferMessage::Offer { descriptor, .. }) => {
                Self::describe(descriptor, power);
            }
            _ => {}
        }
        power.send(to, message);
    }
}

/// Tells clients wrong results and wrong leaders.
#[derive(Debug)]
struct ForgedReplies;

impl<P: SimProtocol> Adversary<P> for ForgedReplies {
    fn on_reply(
        &mut self,
        mut message: ReplyMessage,
        power: &mut Power<'_, P>,
    ) -> Option<ReplyMessage> {
        power.did(FaultKind::ForgedReply);
        message.hint = LeaderHint {
            view: View(u64::MAX),
            leader: Some(power.me),
        };
        match &mut message.reply {
            Reply::Results { results, first, .. } => {
                let wrong = OperationResult::Ok(Bytes::from_static(b"a lie"));
                results
                    .iter_mut()
                    .for_each(|result| *result = wrong.clone());
                if power.rng.chance(0.2) {
                    *first = first.prev();
                }
            }
            Reply::Opened(session) => session.0 += 1,
            Reply::SessionExpired(session) => session.0 += 1,
            Reply::Read { result, .. } => *result = OperationResult::InvalidRequest,
            Reply::ReadRefused(_) | Reply::Status { .. } => {}
        }
        Some(message)
    }
}

/// Acknowledges writes with everybody else, and answers reads from the state before them.
#[derive(Debug)]
struct LateReads;

impl<P: SimProtocol> Adversary<P> for LateReads {
    fn reads_late(&self) -> bool {
        true
    }
}
